"""The published method on one GPU: seconds a frame for geometry and for the dense texture stage.

    python benchmarks/published_cuda.py TAKE --out results.json

TAKE is a staged take (24 cameras; its pictures are brought to 375 rows for geometry). Geometry is
timed from pictures on the device to vertices on the host; the dense stage from pictures on the
device to a finished texture there. Where the take's own pictures are smaller than 4096×3000, the
dense stage gets them enlarged, which changes what it shows but not what it costs.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measured_on import commit, hardware
from torch.nn.functional import interpolate

from topohead.core import Capture, Mesh, Views
from topohead.io.assets import reference_head
from topohead.io.captures import open_capture, undistorted_views
from topohead.io.meshes import read_mesh
from topohead.solvers import published, published_texture

DEVICE = torch.device("cuda")
TEXTURE_HEIGHT = 3000
"""Rows of the dense stage's pictures [P]: 4096×3000."""


def main() -> None:
    """Time both stages, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("take", type=Path)
    parser.add_argument("--out", type=Path, default=Path("published_cuda.json"))
    parser.add_argument("--frames", type=int, default=3, help="timed frames, after the first")
    parser.add_argument("--first-steps", type=int, default=7000)
    parser.add_argument("--texture-frames", type=int, default=1, help="0: no dense stage")
    parser.add_argument("--gaussians", type=int, default=6_500_000)
    parser.add_argument("--texture-size", type=int, default=8192)
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, found none")
    capture = open_capture(args.take)
    first = start_mesh(args.take)
    scene = published.make_scene(first, published.PublishedConfig(first_steps=args.first_steps))
    warm_up(capture, scene)
    geometry, states = time_geometry(capture, scene, args.frames)
    result = {
        "benchmark": "published_cuda",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "geometry": geometry,
    }
    if args.texture_frames:
        result["texture"] = time_texture(capture, scene, states, args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def start_mesh(take: Path) -> Mesh:
    """The take's exact start, with the regions of the reference head where it is one."""
    mesh = read_mesh(take / "start" / "exact.obj")
    known = reference_head(1).topology
    same = known.vertex_count == mesh.topology.vertex_count
    if same and torch.equal(known.faces, mesh.topology.faces):
        return Mesh(replace(mesh.topology, regions=known.regions), mesh.vertices)
    return mesh


def views_of(capture: Capture, frame: int, height: int) -> Views:
    """One frame's undistorted pictures and masks on the device."""
    names = capture.rig.cameras.names
    return undistorted_views(capture, capture.frames[frame], names, height).to(DEVICE)


def warm_up(capture: Capture, scene: published.PublishedScene) -> None:
    """Compile everything that a frame needs."""
    short = replace(scene, config=replace(scene.config, first_steps=5, steps=5, color_steps=2))
    views = views_of(capture, 0, 375)
    state = published.learn_first_frame(views, short)
    published.advance(views, short, state)
    torch.cuda.synchronize()


def time_geometry(
    capture: Capture, scene: published.PublishedScene, frames: int
) -> tuple[dict[str, Any], list[published.PublishedState]]:
    """Seconds of the first frame and of each later one, and the states that they end in."""
    started = time.perf_counter()
    states = [published.learn_first_frame(views_of(capture, 0, 375), scene)]
    first_seconds = time.perf_counter() - started
    seconds, residuals = [], []
    for frame in range(1, min(frames, len(capture.frames) - 1) + 1):
        views = views_of(capture, frame, 375)
        torch.cuda.synchronize()
        state, answer = published.advance(views, scene, states[-1])
        states.append(state)
        seconds.append(answer.seconds)
        residuals.append(answer.residual)
    config = scene.config
    return {
        "seconds_per_frame": median(seconds),
        "seconds": seconds,
        "ms_per_step": 1e3 * median(seconds) / (config.steps + config.color_steps),
        "steps": config.steps + config.color_steps,
        "first_frame_seconds": first_seconds,
        "first_frame_steps": config.first_steps,
        "residuals": residuals,
        "vertices": scene.mesh.topology.vertex_count,
        "cameras": len(views.cameras),
        "picture": list(views.cameras.size(0)),
        "reference_twin_seconds_per_frame": 7.1,
    }, states


def time_texture(
    capture: Capture,
    scene: published.PublishedScene,
    states: list[published.PublishedState],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Seconds of the dense stage for each frame."""
    config = published_texture.PublishedTextureConfig(
        gaussians=args.gaussians, size=args.texture_size
    )
    started = time.perf_counter()
    layout = published_texture.make_layout(scene, config, DEVICE)
    torch.cuda.synchronize()
    layout_seconds = time.perf_counter() - started
    torch.cuda.reset_peak_memory_stats()
    seconds, drawing, last = [], [], None
    enlarged = False
    for frame in range(min(args.texture_frames, len(states))):
        views, was_enlarged = large_views(capture, frame)
        enlarged = enlarged or was_enlarged
        if last is None:
            published_texture.fit_colors(
                views, scene, states[frame], layout, replace(config, steps=3)
            )
        torch.cuda.synchronize()
        started = time.perf_counter()
        last = published_texture.fit_colors(views, scene, states[frame], layout, config, last)
        torch.cuda.synchronize()
        fitted = time.perf_counter()
        published_texture.draw_texture(last, layout)
        torch.cuda.synchronize()
        drawing.append(time.perf_counter() - fitted)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds_per_frame": median(seconds),
        "seconds": seconds,
        "ms_per_step": 1e3 * (median(seconds) - median(drawing)) / config.steps,
        "steps": config.steps,
        "drawing_seconds": median(drawing),
        "layout_seconds_once": layout_seconds,
        "gaussians": layout.grid.count,
        "split": layout.grid.split,
        "faces": len(layout.grid.corners),
        "texels": config.size,
        "picture": list(views.cameras.size(0)),
        "pictures_enlarged": enlarged,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reference_twin_seconds_per_frame": 16.8,
    }


def large_views(capture: Capture, frame: int) -> tuple[Views, bool]:
    """A frame's pictures with 3000 rows, and whether they had to be enlarged for that."""
    views = views_of(capture, frame, TEXTURE_HEIGHT)
    # sensors may be turned: the median picture gets that height, as in undistorted_views
    factor = TEXTURE_HEIGHT / float(views.cameras.sizes[:, 1].double().quantile(0.5))
    if factor <= 1.01:
        return views, False
    sizes = (views.cameras.sizes * factor).round().long()
    cameras = views.cameras.resized(sizes)
    images, masks = [], []
    for index, image in enumerate(views.images):
        width, height = cameras.size(index)
        large = interpolate(image.permute(2, 0, 1)[None], (height, width), mode="bilinear")
        images.append(large[0].permute(1, 2, 0).contiguous())
        if views.masks is not None:
            masks.append(interpolate(views.masks[index][None, None], (height, width))[0, 0])
    kept = None if views.masks is None else tuple(masks)
    return Views(views.frame, cameras, tuple(images), kept), True


if __name__ == "__main__":
    main()
