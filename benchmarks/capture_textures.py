"""Both methods' textures of one take: how sharp, how near the true skin, and what they cost.

    python benchmarks/capture_textures.py --performance TAKE.csv --work DIR --out results.json

Stages 24 cameras of 4096×3000 (two more held out) that film a skin of 8192² with resolution charts,
and captures it with `--solver published` (the first frame, all its iterations) and with ours. Both
are given the same true mesh of the first frame, on which textures are compared. `device_seconds`
are from pictures on the device to texels there, compiled before, nothing else running;
`texture_seconds` as the runs took them, with reading and writing. The result file is written after
every part. `--gaussians`, `--first-steps` and `--steps` are for trying this out on a CPU.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from capture_cuda import TEST_SEED, captured, run_capture, stage_take
from measured_on import commit, hardware
from safetensors.torch import load_file

from topohead.io.undistortion import photographs
from topohead.solvers import published, published_texture
from topohead.solvers.colors import solve_colors
from topohead.solvers.fusion import fuse_texture
from topohead.workflows import tracking_state
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing import open_take, read_head
from topohead.workflows.capturing import published_texture as published_stage

Clocked = dict[str, list[float]]


def main() -> None:
    """Stage, capture with both methods, compare; the result file grows after each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--performance", type=Path, help="Live Link CSV; default: scripted")
    parser.add_argument("--work", type=Path, default=Path("capture_textures"))
    parser.add_argument("--out", type=Path, default=Path("capture_textures.json"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seed", type=int, default=TEST_SEED)
    parser.add_argument("--frames", type=int, default=3, help="staged, and captured by ours")
    parser.add_argument("--cameras", type=int, default=24)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--texture-size", type=int, default=8192)
    parser.add_argument("--skin", type=int, default=8192, help="edge of the staged skin's maps")
    parser.add_argument("--gaussians", type=int, help="of the published dense stage")
    parser.add_argument("--first-steps", type=int, help="of the published first frame")
    parser.add_argument("--steps", type=int, help="of the published dense stage")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": "capture_textures", "commit": args.commit or commit(),
              "seed": args.seed, "hardware": hardware()}  # fmt: skip
    parts: dict[str, Callable[..., dict[str, Any]]] = {
        "stage": stage_take, "published": theirs, "newton": ours, "compared": compared,
    }  # fmt: skip
    begin = time.perf_counter()
    for name, part in parts.items():
        started = time.perf_counter()
        result[name] = part(args, result)
        result[name]["section_seconds"] = round(time.perf_counter() - started, 1)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"[{time.perf_counter() - begin:.0f} s]", name, json.dumps(result[name]), flush=True)


def theirs(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """The published method on the first frame; its two steps of the dense stage timed apart."""
    with published_settings(args), clocks() as seconds:
        found = captured(args, "published", textures="full", frames="1:1", solver="published")
    return found | {
        "device_seconds": sum(seconds["fit_colors"]) + sum(seconds["draw_texture"]),
        "drawing_seconds": sum(seconds["draw_texture"]),
        "layout_seconds_once": sum(seconds["make_layout"]),
        "gaussians": seconds["gaussians"][0],
        "steps": args.steps or published_texture.PublishedTextureConfig().steps,
        "first_frame_steps": args.first_steps or published.PublishedConfig().first_steps,
    }


def ours(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Ours on all frames, then fusion alone on pictures that are on the device."""
    # what was captured is measured on its first frame, as theirs is; the rest is for the times
    found = captured(args, "newton", textures="full", frames="1:1")
    whole, run = run_capture(args, "newton-frames", textures="full", frames=f"1:{args.frames}")
    return found | whole | fused_alone(args, run)


def fused_alone(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Seconds of our fusion, a run a frame after one that warms up, and of the colours once."""
    take = open_take(CaptureConfig(args.work / "take", run, holdout="hold00,hold01"))
    topology = read_head(run / "first" / "head.safetensors").mesh.topology
    colors, once, seconds = None, 0.0, []
    frames = take.capture.frames[: args.frames]
    with ThreadPoolExecutor() as workers:
        for frame in [frames[0], *frames]:
            if args.device == "cuda":
                pictures = photographs(take.capture, frame, workers, take.names, "cuda")
            else:
                pictures = take.views(frame, None)
            state = load_file(run / "frames" / frame / "state.safetensors")
            started = clock()
            colors = colors or solve_colors(pictures, topology, state["vertices"])
            solved = clock()
            once = once or solved - started
            fuse_texture(pictures, topology, state["vertices"], args.texture_size, colors=colors)
            seconds.append(clock() - solved)
    return {"device_seconds": median(seconds[1:]), "colors_seconds_once": once}


def compared(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Ours beside theirs: ratios are how many times less time, gains how much more."""
    published, newton = result["published"], result["newton"]
    found: dict[str, Any] = {
        f"times_less_{key}": published[key] / max(newton[key], 1e-9)
        for key in ("device_seconds", "texture_seconds")
    }
    found["psnr_gain_db"] = newton["texture"]["psnr_db"] - published["texture"]["psnr_db"]
    views = newton["left_out_views"]
    found["left_out_views_gain_db"] = median(
        views[name]["psnr_db"] - published["left_out_views"][name]["psnr_db"] for name in views
    )
    sharp = [method["sharpness"] for method in (published, newton)]
    if all(sharp):
        found["effective_size"] = {
            "published": sharp[0]["effective_size"], "newton": sharp[1]["effective_size"],
            "best camera": sharp[1]["camera_size"],
        }  # fmt: skip
    return found


@contextmanager
def published_settings(args: argparse.Namespace) -> Iterator[None]:
    """Fewer steps and Gaussians where they are asked for, and the dense stage on a CPU too."""
    dense = {"gaussians": args.gaussians, "steps": args.steps}
    dense = {key: value for key, value in dense.items() if value}
    config = published_texture.PublishedTextureConfig
    with ExitStack() as patched:
        patched.enter_context(mock.patch.object(published_stage, "is_wanted", lambda _: True))
        if dense:
            smaller = partial(config, **dense)
            patched.enter_context(
                mock.patch.object(published_texture, "PublishedTextureConfig", smaller)
            )
        if args.first_steps:
            patched.enter_context(
                mock.patch.object(tracking_state, "published_scene", partial(shorter_scene, args))
            )
        yield


def shorter_scene(args: argparse.Namespace, mesh: Any, seed: int) -> published.PublishedScene:
    """The published method's scene with fewer steps in the first frame."""
    return published.make_scene(
        mesh, published.PublishedConfig(first_steps=args.first_steps, seed=seed)
    )


@contextmanager
def clocks() -> Iterator[Clocked]:
    """Seconds of each call of the dense stage's parts inside the block, and its Gaussians."""
    seconds: Clocked = {"make_layout": [], "fit_colors": [], "draw_texture": [], "gaussians": []}
    fit = published_texture.fit_colors

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if name == "fit_colors":  # compiled before
                views, scene, state, layout, config, last = arguments
                fit(views, scene, state, layout, replace(config, steps=3), last)
                seconds["gaussians"].append(layout.grid.count)
            started = clock()
            found = function(*arguments)
            seconds[name].append(clock() - started)
            return found

        return call

    with ExitStack() as patched:
        for name in ("make_layout", "fit_colors", "draw_texture"):
            call = clocked(name, getattr(published_texture, name))
            patched.enter_context(mock.patch.object(published_texture, name, call))
        yield seconds


def clock() -> float:
    """Seconds, after the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
