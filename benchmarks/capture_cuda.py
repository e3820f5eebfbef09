"""Capture at production scale on CUDA: both solvers, accuracy, starts, drift, cost as work grows.

    python benchmarks/capture_cuda.py --performance PERFORMANCE.csv --work DIR --out results.json

Stages 24 cameras of 4096×3000 (two more held out) playing a real performance with head motion and
resolution charts in the skin, and captures it from JPEG files to OBJ and 8192² PNG files. Sections
can run one by one (`--sections`) and add to the same result file; takes and runs stay in DIR and
are resumed. Seeds are apart from those that numbers were tuned on.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from measured_on import commit, hardware
from safetensors.torch import load_file

from topohead.io.assets import reference_head
from topohead.io.runs import read_metrics
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.evaluate import measure
from topohead.workflows.stage import StageConfig, stage

MEASURED = {"surface": ("median_mm", "within_0.5_mm", "p95_mm"),
            "correspondence": ("median_mm", "p95_mm")}  # fmt: skip

TEST_SEED = 720
"""Seed of the test takes; tuning used seeds below 200."""


def main() -> None:
    """Run the chosen sections; the result file grows after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--performance", type=Path, help="Live Link CSV; default: scripted")
    parser.add_argument("--work", type=Path, default=Path("capture_cuda"))
    parser.add_argument("--out", type=Path, default=Path("capture_cuda.json"))
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seed", type=int, default=TEST_SEED)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--cameras", type=int, default=24)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--texture-size", type=int, default=8192)
    parser.add_argument("--skin", type=int, default=8192, help="edge of the staged skin's maps")
    parser.add_argument("--start-frames", type=int, default=20)
    parser.add_argument("--starts", default="exact,noisy,none")
    parser.add_argument("--solvers", default="newton,published", help="of `geometry`")
    parser.add_argument("--small-frames", type=int, default=6, help="of `geometry`, `kernels`")
    parser.add_argument("--long-frames", type=int, default=600)
    parser.add_argument("--long-cameras", type=int, default=12)
    parser.add_argument("--long-width", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=1, help="of `drift`: chunks at the same time")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {"benchmark": "capture_cuda", "commit": args.commit or commit(), "seed": args.seed,
               "hardware": hardware()}  # fmt: skip
    for name in args.sections.split(","):
        started = time.perf_counter()
        result[name] = SECTIONS[name](args, result)
        result[name]["section_seconds"] = round(time.perf_counter() - started, 1)
        result["ratios"] = ratios(result)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result[name]), flush=True)
    print("ratios", json.dumps(result["ratios"]), flush=True)


# sections


def stage_take(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """The take of all other sections but `drift`."""
    stage(
        StageConfig(
            args.work / "take", preset="standard", seed=args.seed, performance=args.performance,
            frames=args.frames, cameras=args.cameras, width=args.width,
            height=args.width * 3000 // 4096, images="jpg", charts=True, texture_size=args.skin,
            device=args.device,
        )
    )  # fmt: skip
    sizes = {"width": args.width, "skin": args.skin}
    return {"cameras": args.cameras, "held_out": 2, "frames": args.frames} | sizes


def newton(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """End to end: every frame's OBJ and texture, from an exact start; error of equal vertices.

    Two frames are captured before, so that the kernels are compiled, as from the second take on.
    """
    warm, _ = run_capture(args, "warm", textures="full", frames="1:2")  # compiles and caches
    found, _ = run_capture(args, "newton", textures="full", frames=f"1:{args.frames}")
    found["first_time_wall_seconds"] = warm["wall_seconds"]
    errors = vertex_errors(args.work / "newton", args.work / "take")
    return found | {"vertex_median_mm": median(errors[1:]), "vertex_worst_frame_mm": max(errors)}


def geometry(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Both methods' meshes on the same first frames of 24 × 512×375 pictures."""
    take = small_take(args)
    options: dict[str, Any] = {
        "source": take, "start": take / "start" / "exact.obj", "holdout": None,
    }  # fmt: skip
    found = {}
    for solver in args.solvers.split(","):
        found[solver] = captured(args, f"small-{solver}", **options, solver=solver)
        print(solver, json.dumps(found[solver]), flush=True)
    return found


def starts(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """An exact start mesh, one with 1 mm of noise, and none."""
    options: dict[str, dict[str, Any]] = {
        "exact": {},
        "noisy": {"start": args.work / "take" / "start" / "noisy.obj", "keep_start": False},
        "none": {"start": None, "no_start": True, "keep_start": False},
    }
    found = {}
    for name in args.starts.split(","):
        found[name] = captured(args, name, frames=f"1:{args.start_frames}", **options[name])
        print(name, json.dumps(found[name]), flush=True)
    return found


def drift(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Error of the same vertices at the end of a long take less that at its beginning, mm."""
    take, run = args.work / "long", args.work / "long-run"
    stage(
        StageConfig(
            take, preset="small", seed=args.seed + 1, performance=args.performance,
            frames=args.long_frames, fps=30.0, cameras=args.long_cameras, images="jpg",
            width=args.long_width, height=args.long_width * 375 // 512, device=args.device,
            texture_size=min(args.skin, 2048),
        )
    )  # fmt: skip
    capture(
        CaptureConfig(
            take, run, start=take / "start" / "exact.obj", keep_start=True, keep_cameras=True,
            height=375, textures="none", device=args.device, report=False, jobs=args.jobs,
        )
    )  # fmt: skip
    errors = vertex_errors(run, take)
    part = max(len(errors) // 10, 1)
    seconds = [row["seconds"] for row in tracked_rows(run)][2:]
    return {
        "frames": len(errors),
        "cameras": args.long_cameras,
        "width": args.long_width,
        "jobs": args.jobs,
        "doubtful": sum(row["doubtful"] for row in tracked_rows(run)),
        "median_mm": median(errors[1:]),
        "first_tenth_mm": median(errors[1 : part + 1]),
        "last_tenth_mm": median(errors[-part:]),
        "drift_mm": median(errors[-part:]) - median(errors[1 : part + 1]),
        "worst_frame_mm": max(errors),
        "seconds_per_frame": median(seconds),
        "every_tenth_frame_mm": errors[::10],
    }


def kernels(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Busy time and launches of a tracked frame (benchmarks/track_cuda.py), 24 × 512×375."""
    take, run = small_take(args), args.work / "small-first"
    capture(
        CaptureConfig(
            take, run, start=take / "start" / "exact.obj", keep_start=True, keep_cameras=True,
            height=375, frames="1:1", textures="none", device=args.device, report=False,
        )
    )  # fmt: skip
    options = ["--frames", "6", "--height", "375", "--device", args.device]
    return other(args, "track_cuda.py", [str(take), str(run)], options)


def grown(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds a tracked frame over cameras and vertices (benchmarks/scaling_cuda.py)."""
    options = ["--device", args.device, "--seed", str(args.seed + 2)]
    return other(args, "scaling_cuda.py", [], [*options, "--work", str(args.work / "grown")])


SECTIONS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]]] = {
    "stage": stage_take, "newton": newton, "kernels": kernels, "geometry": geometry,
    "starts": starts, "drift": drift, "grown": grown,
}  # fmt: skip


# helpers


def small_take(args: argparse.Namespace) -> Path:
    """A take of six instants, or as many as are asked for, by 24 cameras of 512×375."""
    take = args.work / "small"
    stage(
        StageConfig(
            take, preset="small", seed=args.seed + 3, performance=args.performance,
            frames=args.small_frames, cameras=args.cameras, images="jpg", device=args.device,
        )
    )  # fmt: skip
    return take


def run_capture(
    args: argparse.Namespace, name: str, textures: str = "none", **options: Any
) -> tuple[dict[str, Any], Path]:
    """One capture, and what it cost; frames a second do not count what is done once a take."""
    take, run = args.work / "take", args.work / name
    settings = {
        "start": take / "start" / "exact.obj", "keep_start": True, "keep_cameras": True,
        "holdout": "hold00,hold01", "height": 375, "textures": textures,
        "texture_size": args.texture_size, "device": args.device, "report": False,
    }  # fmt: skip
    settings |= options
    started = time.perf_counter()
    result = capture(CaptureConfig(settings.pop("source", take), run, **settings))
    whole = time.perf_counter() - started
    rows = read_metrics(run)
    once = sum(row["seconds"] for row in rows if row.get("stage") in ("ingest", "first"))
    found = {
        "frames": result.frames,
        "doubtful": len(result.doubtful),
        "wall_seconds": whole,
        "once_seconds": once,
        "end_to_end_frames_per_second": result.frames / max(whole - once, 1e-9),
    }
    for name_of_stage in ("track", "texture", "detail"):
        seconds = [
            row["seconds"]
            for row in rows
            if row.get("stage") == name_of_stage and row.get("frame") is not None
        ]
        if seconds:
            # the first is given and the second waits for compilation
            found[f"{name_of_stage}_seconds"] = median(seconds[2:] or seconds)
            found[f"{name_of_stage}_sum_seconds"] = sum(seconds)
    pace = paces(run)
    if pace:  # after those that wait for compilation; a frame's end overlaps the next one's begin
        found["seconds_between_frames"] = median(pace[2:] or pace)
    steady = [found.get(f"{name}_seconds", 0.0) for name in ("track", "texture")]
    if all(steady):
        found["steady_frames_per_second"] = 1 / sum(steady)
    return found, run


def paces(run: Path) -> list[float]:
    """Seconds from each frame's mesh to the next one's, by when their files were written."""
    written = sorted(path.stat().st_mtime_ns for path in run.glob("frames/*/state.safetensors"))
    return [(b - a) / 1e9 for a, b in itertools.pairwise(written)]


def captured(args: argparse.Namespace, name: str, **options: Any) -> dict[str, Any]:
    """One capture's cost and its measures against the truth, face region, later frames."""
    found, run = run_capture(args, name, **options)
    print(name, "captured", json.dumps(found), flush=True)
    evaluation = measure(run)
    table = evaluation.metrics
    for row, keys in MEASURED.items():
        if row in table:  # of later frames: a run of one has none
            found |= {f"{row}_{key}": table[row][key] for key in keys}
    found |= {
        "texture": evaluation.texture,
        "sharpness": evaluation.sharpness,
        "left_out_views": {
            k: {m: v[m] for m in ("psnr_db", "ssim")} for k, v in evaluation.left_out_views.items()
        },
    }
    extra = ("scan_to_mesh", "detail_surface", "detail_scan", "interiors")
    return found | {k: table[k] for k in extra if k in table}


def vertex_errors(run: Path, take: Path) -> list[float]:
    """Median distance (mm) of every frame's face vertices from the true ones of equal number."""
    face = reference_head(1).topology.region_mask("face")
    names = sorted(path.parent.name for path in run.glob("frames/*/state.safetensors"))
    errors = []
    for name in names:
        found = load_file(run / "frames" / name / "state.safetensors")["vertices"]
        true = load_file(take / "truth" / "frames" / f"{name}.safetensors")["vertices"]
        errors.append(float((found - true)[face].norm(dim=1).median() * 1e3))
    return errors


def tracked_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run) if row.get("stage") == "track"]


def other(
    args: argparse.Namespace, script: str, words: list[str], options: list[str]
) -> dict[str, Any]:
    """What another benchmark of this folder finds, in a process of its own."""
    out = args.work / f"{Path(script).stem}.json"
    command = [shutil.which("python3") or "python3", str(Path(__file__).parent / script), *words]
    given = ["--out", str(out), "--commit", args.commit or commit()]
    subprocess.run([*command, *options, *given], check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Published over newton, on the same frames of one take."""
    theirs, ours = (result.get("geometry", {}).get(name) for name in ("published", "newton"))
    if theirs is None or ours is None:
        return {}
    keys = (
        "track_seconds",
        "seconds_between_frames",
        "surface_median_mm",
        "correspondence_median_mm",
    )
    return {
        key: theirs[key] / max(ours[key], 1e-9) for key in keys if key in theirs and key in ours
    }


if __name__ == "__main__":
    main()
