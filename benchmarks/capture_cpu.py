"""Staged takes on the CPU: both solvers, three kinds of start, one table.

    python benchmarks/capture_cpu.py --out results.json

Stages a take (seeds apart from those that numbers were tuned on), captures it with `newton` and
with `published` from an exact start mesh, one with 1 mm of noise, and none, and measures each run
against the truth. Where there is no start mesh, or a noisy one, `published` gets the first frame
that `newton` found, because it has no means of its own.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from measured_on import commit, hardware

from topohead.io.runs import read_metrics
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.evaluate import measure
from topohead.workflows.stage import StageConfig, stage

TEST_SEED = 700
"""First seed of test takes; tuning used seeds below 200."""


def main() -> None:
    """Stage, capture, measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("capture_cpu.json"))
    parser.add_argument("--take", type=Path, help="a staged take to use instead of a new one")
    parser.add_argument("--performance", type=Path, help="Live Link CSV; default: scripted")
    parser.add_argument("--seed", type=int, default=TEST_SEED)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--cameras", type=int, default=12)
    parser.add_argument("--still-head", action="store_true", help="only the face moves")
    parser.add_argument(
        "--lit", action="store_true", help="gloss, soft lamps that stay, 6 mm of head motion"
    )
    parser.add_argument("--path-traced", action="store_true", help="--lit, drawn by Mitsuba 3")
    parser.add_argument("--head", default="reference", choices=("reference", "ict"))
    parser.add_argument("--ict", type=Path, help="ICT-FaceKit model file for --head ict")
    parser.add_argument("--starts", default="exact,noisy,none")
    parser.add_argument("--solvers", default="newton,published")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="topohead-benchmark-"))
    try:
        take = args.take or stage_take(folder / "take", args)
        rows = [
            row for start in args.starts.split(",") for row in run_start(take, start, args, folder)
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "benchmark": "capture_cpu",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "take": json.loads((take / "truth" / "truth.json").read_text())
        if args.take
        else settings(args),
        "runs": rows,
        "ratios": ratios(rows),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(rows)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was staged."""
    keys = ("seed", "frames", "cameras", "head", "still_head", "lit", "path_traced")
    known = {key: getattr(args, key) for key in keys}
    return known | {"performance": args.performance.name if args.performance else "scripted"}


def stage_take(out: Path, args: argparse.Namespace) -> Path:
    """A take of 512×384 pictures at ten frames a second, so that motion between frames is large."""
    light: dict[str, Any] = {}
    if args.lit or args.path_traced:
        light = {"gloss": 1.0, "light": "studio", "head_motion": 6.0}
    if args.path_traced:
        light |= {"renderer": "pathtrace", "samples": 64}
    stage(
        StageConfig(
            out,
            preset="small",
            seed=args.seed,
            head=args.head,
            ict=args.ict,
            cameras=args.cameras,
            frames=args.frames,
            width=512,
            height=384,
            fps=10.0,
            performance=args.performance,
            still_head=args.still_head,
            **light,
        )
    )
    return out


def run_start(
    take: Path, start: str, args: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    """Every solver from one kind of start."""
    rows, found = [], None
    for solver in args.solvers.split(","):
        run = folder / f"{start}-{solver}"
        options: dict[str, Any] = {"solver": solver, "textures": "none"}
        if start == "exact":
            options |= {"start": take / "start" / "exact.obj", "keep_start": True}
        elif found is not None:
            options |= {"start": found, "keep_start": True}
        elif start == "noisy":
            options |= {"start": take / "start" / "noisy.obj"}
        else:
            options |= {"no_start": True}
        rows.append({"start": start, "solver": solver, **measured(take, run, options)})
        if found is None and start != "exact":
            found = folder / f"{start}-first.obj"
            shutil.copy(run / "first" / "start.obj", found)
        print(json.dumps(rows[-1]), flush=True)
    return rows


def measured(take: Path, run: Path, options: dict[str, Any]) -> dict[str, Any]:
    """One capture's numbers, face region, frames after the first; millimetres and seconds."""
    result = capture(CaptureConfig(take, run, **options))
    # the first two frames: one is given or learnt, the other may wait for compilation
    seconds = [row["seconds"] for row in read_metrics(run) if row.get("stage") == "track"][2:]
    metrics = measure(run).metrics
    surface, slide = metrics["surface"], metrics["slide"]
    return {
        "seconds_per_frame": sum(seconds) / max(len(seconds), 1),
        "doubtful_frames": len(result.doubtful),
        "surface_median_mm": surface["median_mm"],
        "surface_p95_mm": surface["p95_mm"],
        "surface_within_0.5_mm": surface["within_0.5_mm"],
        "correspondence_median_mm": metrics["correspondence"]["median_mm"],
        "correspondence_p95_mm": metrics["correspondence"]["p95_mm"],
        "slide_median_mm": slide["median_mm"],
        "first_frame_surface_median_mm": metrics["first_frame"]["surface"]["median_mm"],
    }


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Published over newton, start by start: how many times slower, how many times the error."""
    found = {}
    for start in {row["start"] for row in rows}:
        by = {row["solver"]: row for row in rows if row["start"] == start}
        if len(by) == 2:
            ours, theirs = by["newton"], by["published"]
            found[start] = {
                key: theirs[key] / max(ours[key], 1e-9)
                for key in ("seconds_per_frame", "surface_median_mm", "correspondence_p95_mm")
            }
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows for people."""
    names = [key for key in rows[0] if key not in ("start", "solver")]
    for name in names:
        sys.stdout.write(f"{name:32s}" + "".join(f"{row[name]:>12.3f}" for row in rows) + "\n")


if __name__ == "__main__":
    main()
