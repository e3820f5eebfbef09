"""Staged takes on the CPU: how well eyes, lids and lips are followed, and what finishing costs.

    python benchmarks/interiors.py --out results.json

Stages takes in which the scripted face looks around and blinks (seeds apart from those that numbers
were tuned on), captures each from an exact start mesh, and measures gaze, eyeballs and contact. The
same frames before they are finished (what the tracker alone says) are measured beside them.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measured_on import commit, hardware
from safetensors.torch import load_file

from topohead.core import TrackedFrame
from topohead.io.results import RunResult, Truth, find_truth, open_run
from topohead.solvers.contact import lid_contacts, lip_contact
from topohead.solvers.eyes import EyeConfig, Gaze, find_eyes
from topohead.solvers.interiors import find_interiors, finish_frame
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.capturing import Head, open_take, read_head
from topohead.workflows.evaluate import measure
from topohead.workflows.looking import frame_depths
from topohead.workflows.stage import StageConfig, stage

TEST_SEED = 752
"""First seed of test takes; tuning used 150 to 159, and 750, on which a fault was found."""

REGIONS = ("eyes", "eyelids", "lips", "face")


def main() -> None:
    """Stage, capture, measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("interiors.json"))
    parser.add_argument("--seeds", default=f"{TEST_SEED}")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--lit", action="store_true", help="gloss and soft lamps that stay")
    parser.add_argument("--noisy", action="store_true", help="a start mesh that is 1 mm off")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="topohead-benchmark-"))
    try:
        rows = [run_seed(int(seed), args, folder) for seed in args.seeds.split(",")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    keys = ("seeds", "frames", "cameras", "lit", "noisy")
    result = {
        "benchmark": "interiors",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "take": {key: getattr(args, key) for key in keys} | {"size": [512, 375], "fps": 5},
        "runs": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def run_seed(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One take's numbers, frames after the first; millimetres, degrees and seconds."""
    take, run = folder / f"take{seed}", folder / f"run{seed}"
    light: dict[str, Any] = {"gloss": 1.0, "light": "studio"} if args.lit else {}
    stage(
        StageConfig(
            take, preset="small", seed=seed, cameras=args.cameras, frames=args.frames,
            width=512, height=375, fps=5.0, texture_size=1024, **light,
        )
    )  # fmt: skip
    start = take / "start" / ("noisy.obj" if args.noisy else "exact.obj")
    capture(CaptureConfig(take, run, start=start, keep_start=not args.noisy, textures="none"))
    metrics = measure(run).metrics
    finished, truth = open_run(run), find_truth(open_run(run))
    head = read_head(run / "first" / "head.safetensors")
    assert truth is not None
    before = unfinished(finished, head)
    row = {
        "seed": seed,
        **metrics["interiors"],
        "before": depths(finished, head, before) | regions(finished, truth, head, before),
        "after": regions(finished, truth, head, finished.vertices),
        "seconds": seconds(finished, head, take),
    }
    sys.stdout.write(json.dumps(row) + "\n")
    return row


def unfinished(run: RunResult, head: Head) -> torch.Tensor:
    """What the tracker alone made of every frame [T V 3], from the states it left."""
    frames = [head.mesh.vertices.double()]
    origin = frames[0].mean(0)
    for name in run.frames[1:]:
        state = load_file(run.path / "frames" / name / "state.safetensors")
        shape = frames[0] + state["newton.deviation"]
        shape = shape + torch.einsum("k,kvc->vc", state["newton.expression"], head.basis.double())
        pose = state["newton.pose"]
        frames.append((shape - origin) @ pose[:3, :3].T + pose[:3, 3] + origin)
    return torch.stack(frames)


def depths(run: RunResult, head: Head, vertices: torch.Tensor) -> dict[str, float]:
    """How far lids lie inside the eyeballs and lips inside each other, worst frame."""
    eyes = find_eyes(head.mesh, head.upright, EyeConfig())
    lids, lips = lid_contacts(head.mesh, eyes), lip_contact(head.mesh, head.upright)
    assert run.gaze is not None
    rows = [
        frame_depths(
            eyes, lids, lips, vertices[i], run.poses[i].double(),
            Gaze(run.gaze[i], torch.ones(2).double()),
        )
        for i in range(1, len(run.frames))
    ]  # fmt: skip
    lid, lip = (max(column) for column in zip(*rows, strict=True))
    return {"lid_depth_max_mm": 1000 * lid, "lip_overlap_max_mm": 1000 * lip}


def regions(run: RunResult, truth: Truth, head: Head, vertices: torch.Tensor) -> dict[str, float]:
    """Distance of equal vertices by region, frames after the first, median and 95th percentile."""
    found = {}
    for name in REGIONS:
        index = head.mesh.topology.regions[name]
        apart = torch.cat(
            [
                (vertices[i] - truth.frame(frame).mesh.vertices)[index].norm(dim=1).double()
                for i, frame in enumerate(run.frames)
                if i
            ]
        )
        found[f"{name}_median_mm"] = 1000 * float(apart.median())
        found[f"{name}_p95_mm"] = 1000 * float(apart.quantile(0.95))
    return found


def seconds(run: RunResult, head: Head, folder: Path) -> dict[str, float]:
    """A frame's tracking and, of that, finishing; medians, compiled code."""
    take = open_take(CaptureConfig(folder, run.path))
    height = int(run.config["height"])
    interiors = find_interiors(take.views(run.frames[0], height), head.mesh, head.upright)
    gaze, spent = Gaze.first(), []
    for index in range(1, len(run.frames)):
        views = take.views(run.frames[index], height)
        count = len(views.cameras)
        answer = TrackedFrame(
            run.frames[index], run.vertices[index], run.poses[index].double(),
            torch.ones(count, 3), 0.0, False, 0.0,
        )  # fmt: skip
        answer, gaze = finish_frame(views, interiors, answer, gaze)
        spent.append(answer.seconds)
    rows = run.frame_rows()
    whole = [rows[name]["seconds"] for name in run.frames[2:]]
    return {
        "finishing": float(torch.tensor(spent).median()),
        "frame": float(torch.tensor(whole).median()),
    }


if __name__ == "__main__":
    main()
