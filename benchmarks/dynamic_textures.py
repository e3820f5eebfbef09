"""Textures that change: what deltas cost and lose, and how well wrinkle maps play unseen frames.

    python benchmarks/dynamic_textures.py --out benchmarks/results/dynamic_textures.json

Two staged takes: `light` is a head that moves under one lamp, so that its shading changes with pose
and expression; `blood` holds still under an even sky while blood moves with expression. Each is
captured once with a picture a frame, then with deltas and with wrinkle maps from the same meshes.
For unseen frames the maps are made again without a third of the frames, every third one or a run of
them, and played there from the capture's own expression coefficients and head angles.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import commit, hardware

from topohead.io.expressions import read_live_link
from topohead.io.images import read_pixels
from topohead.io.results import open_run
from topohead.io.runs import read_metrics
from topohead.io.texture_deltas import DeltaFile
from topohead.io.textures import BASE, WRINKLES, delta_file, picture_file, read_codes, read_texture
from topohead.rendering.uv import texel_map
from topohead.rendering.wrinkle_maps import encode_map, play_maps
from topohead.solvers import dynamic_texture as solver
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.capturing.dynamic import skin_share
from topohead.workflows.evaluate import EvaluateConfig, evaluate
from topohead.workflows.stage import StageConfig, stage

TAKES: dict[str, dict[str, Any]] = {
    "light": {"light": "key", "head_motion": 4.0},
    "blood": {"blood_flow": 1.0, "still_head": True},
}


def main() -> None:
    """Stage, capture, measure, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keep takes and runs here; goes on if they are")
    parser.add_argument("--takes", default=",".join(TAKES))
    parser.add_argument("--seed", type=int, default=730)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--size", type=int, default=1024)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="topohead-benchmark-"))
    try:
        takes = {name: measured(name, work / name, args) for name in args.takes.split(",")}
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    result = {
        "benchmark": "dynamic_textures",
        "commit": commit(),
        "hardware": hardware(),
        "settings": {k: getattr(args, k) for k in ("seed", "cameras", "frames", "size")},
        "takes": takes,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(takes, indent=1) + "\n")


def measured(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One take in every way of keeping its textures."""
    take = folder / "take"
    if not (take / "truth" / "frames" / f"{args.frames:06d}.safetensors").exists():
        stage(
            StageConfig(
                take, preset="tiny", seed=args.seed, cameras=args.cameras, frames=args.frames,
                held_out=1, width=512, height=384, fps=10.0, texture_size=args.size, **TAKES[name],
            )
        )  # fmt: skip
    full = CaptureConfig(
        take, folder / "full", start=take / "start" / "exact.obj", keep_start=True,
        keep_cameras=True, holdout="hold00", textures="full", texture_size=args.size,
    )  # fmt: skip
    if not (full.out / "sequence.glb").exists():
        capture(full)
    runs = {"full": full.out}
    for textures in ("delta", "wrinkle"):
        out = runs[textures] = folder / textures
        if not out.exists():
            shutil.copytree(full.out, out)
            capture(replace(full, out=out, textures=textures, restart="texture"))
    return {
        "delta": of_deltas(runs["full"], runs["delta"]),
        "wrinkle": of_wrinkles(runs["wrinkle"], runs["delta"]),
        "unseen_frames": of_unseen(runs["delta"]),
        "left_out_view_db": {key: left_out_view(out) for key, out in runs.items()},
        "seconds_per_frame": {key: seconds(out) for key, out in runs.items()},
    }


def of_deltas(full: Path, delta: Path) -> dict[str, float]:
    """Bytes, and codes off the pictures of `full` in texels that the frame saw."""
    run = open_run(full)
    size = len(read_codes(delta / BASE))
    inside = texel_map(run.topology, size).inside
    bytes_full = [(full / picture_file(f)).stat().st_size for f in run.frames]
    bytes_delta = [(delta / delta_file(f)).stat().st_size for f in run.frames]
    squares, worst, changed = [], [], []
    for frame in run.frames:
        codes = read_codes(full / picture_file(frame)).astype(int)
        coverage = read_pixels(full / "frames" / frame / "coverage.png")
        seen = inside & (coverage > 0)
        off = np.abs(decoded(delta, frame) - codes)[seen]
        squares.append(np.square(off).mean())
        worst.append(int(off.max()))
        changed.append(DeltaFile(delta / delta_file(frame)).kept_share)
    return {
        "full_bytes": float(np.mean(bytes_full)),
        "delta_bytes": float(np.mean(bytes_delta)),
        "base_bytes": (delta / BASE).stat().st_size,
        "tiles_kept": float(np.mean(changed)),
        "psnr_db": decibels(float(np.mean(squares)) / 255**2),
        "largest_error_codes": max(worst),
    }


def decoded(run: Path, frame: str) -> np.ndarray:
    """A frame's texture as codes."""
    texture = read_texture(run, frame)
    assert texture is not None
    return (texture * 255).round().numpy().astype(int)


def of_wrinkles(wrinkle: Path, delta: Path) -> dict[str, Any]:
    """What the capture itself reports, and bytes for the whole take."""
    document = json.loads((wrinkle / WRINKLES).read_text())
    files = [wrinkle / "textures" / one["file"] for one in document["maps"]]
    frames = open_run(delta).frames
    return {
        "maps": len(files),
        "map_bytes": sum(path.stat().st_size for path in files),
        "delta_bytes_of_take": sum((delta / delta_file(f)).stat().st_size for f in frames),
        **document["fit"],
    }


def of_unseen(delta: Path) -> dict[str, dict[str, float]]:
    """PSNR on skin in frames that had no part in the maps: the base, and maps played there."""
    run = open_run(delta)
    base = read_codes(delta / BASE)
    played = read_live_link(delta / "expression.csv")
    drivers = torch.cat([played.coefficients, played.head_rotation], 1).numpy()
    size, count = len(base), len(run.frames)
    counts = texel_map(run.topology, size).inside & (skin_share(run.topology, size) > 0.5)
    frames = [decoded(delta, f).astype(np.uint8)[counts] for f in run.frames]
    parts = {
        "every_third": [np.arange(first, count, 3) for first in range(3)],
        "a_third_in_a_row": np.array_split(np.arange(count), 3),
    }
    return {name: of_parts(out, frames, base[counts], drivers) for name, out in parts.items()}


def of_parts(
    parts: Sequence[np.ndarray],
    frames: Sequence[np.ndarray],
    base: np.ndarray,
    drivers: np.ndarray,
) -> dict[str, float]:
    """Each part of the frames played by maps and drivers of the others; codes [N 3] of skin."""
    errors: dict[str, list[float]] = {"base": [], "drivers": [], "best_weights": []}
    for out in parts:
        known = np.setdiff1d(np.arange(len(frames)), out)
        ratios = [solver.log_ratios(frames[t], base) for t in known]
        gram = solver.gram_matrix([r[None] for r in ratios], np.ones((1, len(base)), bool))
        wrinkles = solver.factor(gram)
        maps = solver.mixed(wrinkles.mixture, (r.ravel() for r in ratios))
        wrinkles = solver.localised(wrinkles, maps[:, ::17])
        maps = solver.mixed(wrinkles.mixture, ratios)
        drive = solver.fit_drivers(drivers[known], wrinkles.weights)
        scales = [float(np.abs(one).max()) for one in maps]
        codes = [encode_map(one, scale)[None] for one, scale in zip(maps, scales, strict=True)]
        flat = maps.reshape(len(maps), -1).astype(np.float64)
        lowest, highest = wrinkles.weights.min(0), wrinkles.weights.max(0)
        for t in out:
            told = np.clip(drivers[t] @ drive.matrix + drive.intercept, lowest, highest)
            target = solver.log_ratios(frames[t], base).ravel().astype(np.float64)
            best = np.linalg.solve(flat @ flat.T, flat @ target)
            for kind, weights in (("base", told * 0), ("drivers", told), ("best_weights", best)):
                colors = play_maps(base[None], zip(codes, scales, weights, strict=True))[0]
                errors[kind].append(float(np.square(colors - frames[t] / 255).mean()))
    found = {f"{kind}_db": decibels(float(np.mean(e))) for kind, e in errors.items()}
    return found | {"gain_db": found["drivers_db"] - found["base_db"]}


def left_out_view(run: Path) -> float:
    """PSNR in the left-out camera's pictures, with textures as the run keeps them."""
    return evaluate(EvaluateConfig(run, report=False)).left_out_views["hold00"]["psnr_db"]


def seconds(run: Path) -> float:
    """Fusing one frame's texture; the first waits for compilation."""
    rows = [r["seconds"] for r in read_metrics(run) if r["stage"] == "texture" and "frame" in r]
    return float(np.median(rows))


def decibels(error: float) -> float:
    """PSNR of a mean squared error of colours in [0, 1]."""
    return float(-10 * np.log10(max(error, 1e-12)))


if __name__ == "__main__":
    main()
