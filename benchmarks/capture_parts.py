"""Where the time of a steady frame of `topohead capture` goes, from JPEG files to OBJ and PNG.

    python benchmarks/capture_parts.py --performance PERFORMANCE.csv --work DIR --out parts.json

Stages a take of small pictures once and enlarges them to `--width`, grain added, which costs a
tenth of filming them so; or takes `--take`. Then captures it with a stopwatch around every part:
wall and processor seconds of a call (of parts of a part, too; the device is not waited for) and
calls a frame, between the third finished texture and the last; with `--textures none`, mesh.
`--variants` captures again with one thing as it was before: JPEG files decoded by the cores
(`cores_decode`), or Python's lock given back only after 5 ms (`slow_switch`).
"""

import argparse
import importlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from measured_on import commit, hardware

from topohead.io import jpegs_cuda, stored_pictures
from topohead.solvers import eyes, fusion_cuda, gaze, interiors
from topohead.workflows import tracking_state
from topohead.workflows.background import Behind
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.stage import StageConfig, stage

# the package has functions of the same names
texture, tracker, tracking, taken = (
    importlib.import_module(f"topohead.workflows.capturing.{name}")
    for name in ("texture", "tracker", "tracking", "take")
)

TEST_SEED = 724
SMALL = 512
"""Width of the pictures that are staged."""
MESH = "write OBJ, state"
WARM = 3
"""Frames that wait for compilers, recordings and the first pictures."""
PARTS: dict[str, tuple[Any, str]] = {
    "read a file": (stored_pictures, "_file"),
    "read a mask": (stored_pictures, "_mask"),
    "decode JPEG": (jpegs_cuda, "decoded"),
    "bring over": (stored_pictures, "brought"),
    "pictures in all": (tracker, "views_and_photographs"),
    "small pictures": (taken, "undistorted_views"),
    "track": (tracking_state.tracking, "advance"),
    "eyes, lids, lips": (tracking_state, "finish_frame"),
    "eyes: cut out": (eyes, "patches_around"),
    "eyes: search": (gaze, "_searched"),
    "lids": (interiors, "lids_outside"),
    "lips": (interiors, "lips_apart"),
    "mouth's wall": (interiors, "wall_behind"),
    "fuse": (texture.Fusion, "of_frame"),
    "fuse: surface": (fusion_cuda, "_surfaces"),
    "fuse: sights": (fusion_cuda, "make_device_sights"),
    "fuse: look, blend": (fusion_cuda, "_gather"),
    "fuse: fill": (fusion_cuda, "fill_unseen"),
    "fetch": (texture, "_codes"),
    "wait for writer": (Behind, "do"),
    "write PNG": (texture, "write_png"),
    MESH: (tracking, "_write_frame"),
}


def main() -> None:
    """Stage, capture, print a table a variant; the result file grows after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--performance", type=Path)
    parser.add_argument("--work", type=Path, default=Path("capture_parts"))
    parser.add_argument("--out", type=Path, default=Path("capture_parts.json"))
    parser.add_argument("--take", type=Path, help="a take of large pictures that is there already")
    parser.add_argument("--holdout", help="its cameras to leave out")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--cameras", type=int, default=24)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--texture-size", type=int, default=8192)
    parser.add_argument("--textures", default="full", choices=("full", "none"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--variants", default="now")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no variant after these")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    begun = time.perf_counter()
    take = args.take or large_take(args)
    print(f"take {time.perf_counter() - begun:.1f} s", flush=True)
    warm = run(args, take, "warm", 3)
    print(f"warm {time.perf_counter() - begun:.1f} s", json.dumps(warm), flush=True)
    result: dict[str, Any] = {
        "benchmark": "capture_parts", "commit": args.commit or commit(), "seed": TEST_SEED,
        "hardware": hardware(), "cameras": args.cameras, "width": args.width,
        "texture_size": args.texture_size, "textures": args.textures,
        "decodes_on_device": jpegs_cuda.is_there(), "variants": {},
    }  # fmt: skip
    for name in args.variants.split(","):
        if time.perf_counter() - begun > args.seconds:
            print(f"no time for {name}")
            break
        found = run(args, take, name, args.frames)
        result["variants"][name] = found
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        if "parts" not in found:
            print(f"{name}: {args.frames} frames are too few to tell", flush=True)
            continue
        rate, cores = found["frames_per_second"], found["cores_busy"]
        print(f"{name}: {rate:.2f} frames/s, {cores:.1f} cores busy", flush=True)
        for part, row in found["parts"].items():
            print(
                f"  {part:18} {1e3 * row['seconds']:8.1f} ms a call {1e3 * row['cpu']:8.1f} ms cpu"
                f" {row['calls']:6.1f} calls a frame",
                flush=True,
            )


def large_take(args: argparse.Namespace) -> Path:
    """A take of `--width`, enlarged from a small one."""
    small, large = args.work / "small", args.work / "large"
    if args.width == SMALL:
        large = small
    stage(
        StageConfig(
            small, preset="small", seed=TEST_SEED, performance=args.performance, fps=60.0,
            frames=args.frames, cameras=args.cameras, images="jpg", texture_size=1024,
            device=args.device,
        )
    )  # fmt: skip
    if large == small:
        return small
    (large / "start").mkdir(parents=True, exist_ok=True)
    for name in ("cameras.json", "start/exact.obj"):
        shutil.copy(small / name, large / name)
    files = [*small.glob("frames/*/*.jpg"), *small.glob("masks/*/*.png")]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda p: enlarge(p, large / p.relative_to(small), args.width), files))
    return large


def enlarge(small: Path, large: Path, width: int) -> None:
    """A picture made larger, with grain; a mask made larger."""
    large.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.imread(str(small), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    factor = width / max(pixels.shape[:2])
    pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if pixels.ndim == 3:
        grain = np.zeros_like(pixels, np.int8)
        cv2.randn(grain, 0, 2)
        pixels = cv2.add(pixels, grain, dtype=cv2.CV_8U)
        options = [cv2.IMWRITE_JPEG_QUALITY, 93]
    cv2.imwrite(str(large), pixels, options)


@dataclass
class Watch:
    """What every part took: when a call ended, its wall and its processor seconds."""

    calls: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            found = call(*args, **options)
            if name == "fuse" and torch.cuda.is_available():
                torch.cuda.current_stream().synchronize()  # as fetching its answer would at once
            self.add(name, wall, cpu)
            return found

        return timed

    def waiting(self, pictures: Iterable[Any]) -> Iterator[Any]:
        """Pictures, and how long each was waited for."""
        turns = iter(pictures)
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            views = next(turns, None)
            if views is None:
                return
            self.add("wait for pictures", wall, cpu)
            yield views

    def add(self, name: str, wall: float, cpu: float) -> None:
        now = time.perf_counter()
        row = (now, now - wall, time.thread_time() - cpu)
        self.calls.setdefault(name, []).append(row)


def run(args: argparse.Namespace, take: Path, variant: str, frames: int) -> dict[str, Any]:
    """One capture under the stopwatch."""
    out = args.work / f"run-{variant}"
    shutil.rmtree(out, ignore_errors=True)
    config = CaptureConfig(
        take, out, start=take / "start" / "exact.obj", keep_start=True, keep_cameras=True,
        holdout=args.holdout, height=375, textures=args.textures, texture_size=args.texture_size,
        frames=f"1:{frames}", device=args.device, report=False,
    )  # fmt: skip
    watch, shown = Watch(), tracker._shown
    process: list[tuple[float, float]] = []

    def told(*arguments: Any) -> None:
        made(*arguments)
        process.append((time.perf_counter(), time.process_time()))

    with ExitStack() as patches:
        for name, (place, word) in PARTS.items():
            patches.enter_context(
                patch.object(place, word, watch.around(name, getattr(place, word)))
            )
        patches.enter_context(
            patch.object(tracker, "_shown", lambda pictures: watch.waiting(shown(pictures)))
        )
        # after the watches: a frame is done when this is
        last = (texture.OnTheWay, "tracked") if args.textures == "full" else PARTS[MESH]
        made = getattr(*last)
        patches.enter_context(patch.object(*last, told))
        if variant == "cores_decode":
            patches.enter_context(patch.object(jpegs_cuda, "is_there", lambda: False))
        if variant == "slow_switch":
            slow = partial(sys.setswitchinterval, 0.005)
            patches.enter_context(patch("sys.setswitchinterval", lambda _: slow()))
        started = time.perf_counter()
        capture(config)
        whole = time.perf_counter() - started
    found: dict[str, Any] = {"wall_seconds": whole, "frames": frames}
    if len(process) <= WARM + 1:
        return found
    (begin, cpu), (end, cpu_end) = process[WARM - 1], process[-1]
    count = len(process) - WARM
    found |= {
        "frames_per_second": count / (end - begin),
        "cores_busy": (cpu_end - cpu) / (end - begin),
        "parts": {},
    }
    for name in [*PARTS, "wait for pictures"]:
        rows = [row for row in watch.calls.get(name, []) if begin < row[0] <= end]
        if rows:
            found["parts"][name] = {
                "seconds": statistics.median(row[1] for row in rows),
                "cpu": statistics.median(row[2] for row in rows),
                "calls": len(rows) / count,
            }
    return found


if __name__ == "__main__":
    main()
