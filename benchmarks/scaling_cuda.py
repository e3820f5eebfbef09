"""What a tracked frame costs as work grows: 4 to 60 cameras, 5 to 75 thousand vertices.

    python benchmarks/scaling_cuda.py --work DIR --out results.json

Pictures are 512×375 and on the host before the clock starts. The head is the reference head on its
first three levels of subdivision; more cameras are added evenly over the same arc.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured_on import commit
from safetensors.torch import load_file

from topohead.core import Mesh, Views
from topohead.geometry.subdivision import catmull_clark
from topohead.io.assets import reference_head
from topohead.io.captures import open_capture, undistorted_views
from topohead.io.meshes import read_mesh
from topohead.solvers.tracking import TrackConfig, TrackState, advance, make_reference
from topohead.workflows.capturing.first import recognised
from topohead.workflows.stage import StageConfig, stage
from topohead.workflows.tracking_state import strides

CAMERAS = (4, 8, 16, 24, 40, 60)
CONFIG = TrackConfig()


def main() -> None:
    """Stage, track in all sizes; the result file grows after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("scaling_cuda"))
    parser.add_argument("--out", type=Path, default=Path("scaling_cuda.json"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seed", type=int, default=722)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--cameras", default=",".join(map(str, CAMERAS)))
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    counts = [int(count) for count in args.cameras.split(",")]
    take = args.work / "take"
    stage(
        StageConfig(
            take, preset="small", seed=args.seed, cameras=max(counts), frames=args.frames,
            images="jpg", device=args.device,
        )
    )  # fmt: skip
    pictures, truth = load(take, args.frames)
    head = recognised(read_mesh(take / "start" / "exact.obj"))
    result: dict[str, Any] = {
        "benchmark": "scaling_cuda",
        "commit": args.commit or commit(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else args.device,
        "seed": args.seed,
        "by_cameras": [],
        "by_vertices": [],
    }
    cases = [("by_cameras", count, head.mesh, head.basis) for count in counts]
    middle = min(24, max(counts))
    cases += [("by_vertices", middle, *level) for level in levels(head.mesh, head.basis)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name, count, mesh, basis in cases:
        row = {"cameras": count, "vertices": len(mesh.vertices)}
        views = [spread(one, count) for one in pictures]
        result[name].append(row | tracked(views, mesh, basis, truth, args))
        print(name, json.dumps(result[name][-1]), flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def load(take: Path, count: int) -> tuple[list[Views], list[torch.Tensor]]:
    """Pictures and true vertices of every frame."""
    capture = open_capture(take)
    names = [n for n in capture.rig.cameras.names if not n.startswith("hold")]
    frames = capture.frames[:count]
    return (
        [undistorted_views(capture, frame, names, 375) for frame in frames],
        [load_file(take / "truth" / "frames" / f"{f}.safetensors")["vertices"] for f in frames],
    )


def spread(views: Views, count: int) -> Views:
    """Evenly chosen cameras."""
    chosen = torch.linspace(0, len(views.images) - 1, count).round().long().tolist()
    names = [views.cameras.names[i] for i in chosen]
    masks = None if views.masks is None else tuple(views.masks[i] for i in chosen)
    images = tuple(views.images[i] for i in chosen)
    return replace(views, cameras=views.cameras.select(names), images=images, masks=masks)


def levels(mesh: Mesh, basis: torch.Tensor) -> list[tuple[Mesh, torch.Tensor]]:
    """The head coarser, as it is, and finer."""
    coarse = reference_head(0).topology
    count = coarse.vertex_count
    finer, refinement = catmull_clark(replace(mesh.topology, mirror=None))
    fine_basis = torch.stack([refinement @ shape for shape in basis])
    return [
        (Mesh(coarse, mesh.vertices[:count]), basis[:, :count]),
        (mesh, basis),
        (Mesh(finer, refinement @ mesh.vertices), fine_basis),
    ]


def tracked(
    pictures: list[Views],
    mesh: Mesh,
    basis: torch.Tensor,
    truth: list[torch.Tensor],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Milliseconds a frame, and how far the true vertices are from the tracked ones."""
    reference = make_reference(
        pictures[0], mesh, basis, CONFIG, torch.zeros(len(basis)), strides(), args.device
    )
    state = TrackState.first(len(mesh.vertices), len(basis))
    milliseconds, errors = [], []
    face = mesh.topology.region_mask("face")
    for views, true in zip(pictures[1:], truth[1:], strict=True):
        state, answer = advance(views, reference, state, CONFIG)
        milliseconds.append(1e3 * answer.seconds)
        same = min(len(true), len(answer.vertices))
        apart = (answer.vertices[:same] - true[:same]).norm(dim=1)[face[:same]]
        errors.append(float(apart.median()) * 1e3)
    # the first frame waits for compilation
    return {
        "frame_ms": statistics.median(milliseconds[1:] or milliseconds),
        "vertex_median_mm": statistics.median(errors),
    }


if __name__ == "__main__":
    main()
