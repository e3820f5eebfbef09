"""Speed of the mesh rasteriser on a CUDA device: a rig's depth maps, one picture, a UV map.

    python benchmarks/raster_cuda.py --out raster_cuda.json

Milliseconds a call as a caller sees them (`eager_ms`: launches from Python, waited for at the end
of each run of calls) and of the device alone (`graph_ms`: the same work replayed as a CUDA graph,
where the call does not wait for the device), medians over runs. The mesh is a bumpy globe, closed
and with UVs, made by formula; there is nothing random.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measured_on import commit, hardware

from topohead.core import Cameras
from topohead.rendering import depth_triton, mesh, mesh_triton

CENTER = (0.0, 0.0, 0.9)
FOCAL = 3.5
"""Focal length over picture height: the globe fills two thirds of the height."""


def main() -> None:
    """Measure, write JSON, print a line a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("raster_cuda.json"))
    parser.add_argument("--calls", type=int, default=20, help="calls in a run")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    rows = [
        row | timings(work, args.calls, args.runs, row.pop("capturable")) for row, work in cases()
    ]
    result = {
        "benchmark": "raster_cuda",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))


def cases() -> list[tuple[dict[str, Any], Callable[[], object]]]:
    """What is measured: a description, and the call."""
    found: list[tuple[dict[str, Any], Callable[[], object]]] = []
    for views, rings in ((24, 96), (60, 96), (24, 132)):
        vertices, triangles, _ = globe(rings)
        arguments = rig_arguments(views, vertices, triangles, 512, 375)
        focal = torch.full((views,), FOCAL * 375, device="cuda")
        row = {"views": views, "size": [512, 375], "triangles": len(triangles), "capturable": True}
        found.append((row | {"what": "depth_stack"}, bound(mesh_triton.depth_stack, *arguments)))
        found.append((row | {"what": "usable depth"}, bound(usable, arguments, focal)))
    for rings, size in ((96, (4096, 3000)), (612, (4096, 3000)), (96, (512, 375))):
        vertices, triangles, _ = globe(rings)
        matrix = intrinsics(*size)
        pose = torch.eye(4, dtype=torch.float64, device="cuda")
        row = {"views": 1, "size": list(size), "triangles": len(triangles), "capturable": False}
        call = bound(mesh.rasterize, vertices, triangles, pose, matrix.cuda(), size)
        found.append((row | {"what": "rasterize"}, call))
    for side in (4096, 8192, 16384):
        _, triangles, uv = globe(96)
        row = {"views": 1, "size": [side, side], "triangles": len(triangles), "capturable": False}
        call = bound(mesh.rasterize_uv, uv, triangles, (side, side))
        found.append((row | {"what": "rasterize_uv"}, call))
    return found


def usable(arguments: tuple[Any, ...], focal: torch.Tensor) -> torch.Tensor:
    """Depth maps and what the tracker may use of them."""
    depth = mesh_triton.depth_stack(*arguments)
    return depth_triton.usable_depth(depth, 2, 3 * depth_triton.mean_depth(depth) / focal + 0.001)


def bound(function: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    """The call with its arguments."""
    return lambda: function(*arguments)


def timings(
    work: Callable[[], object], calls: int, runs: int, capturable: bool
) -> dict[str, float]:
    """Medians over runs, milliseconds a call; the first call, with compilation, apart."""
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    found = {"first_call_ms": 1e3 * first, "eager_ms": per_call(work, calls, runs)}
    if capturable:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = work()
        found["graph_ms"] = per_call(graph.replay, calls, runs)
        del kept
    return {name: round(value, 4) for name, value in found.items()}


def per_call(work: Callable[[], object], calls: int, runs: int) -> float:
    """Median over runs of a run's time over its calls, in milliseconds."""
    work()
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            work()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / calls)
    return 1e3 * statistics.median(times)


def globe(rings: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vertices, triangles (4 rings², outward) and UVs of a bumpy sphere of 0.1 m, on the device."""
    v, u = torch.meshgrid(
        torch.linspace(0, 1, rings + 1, dtype=torch.float64),
        torch.linspace(0, 1, 2 * rings + 1, dtype=torch.float64),
        indexing="ij",
    )
    latitude, longitude = v * math.pi, u * 2 * math.pi
    radius = 0.1 * (1 + 0.1 * (5 * latitude).sin() * (3 * longitude).sin() * latitude.sin())
    x, z = latitude.sin() * longitude.cos(), -latitude.sin() * longitude.sin()
    vertices = torch.stack([radius * x, radius * latitude.cos(), radius * z], -1).reshape(-1, 3)
    vertices += torch.tensor(CENTER, dtype=torch.float64)
    row = 2 * rings + 1
    a = (torch.arange(rings)[:, None] * row + torch.arange(2 * rings)).reshape(-1)
    b, c, d = a + row, a + row + 1, a + 1
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)]).int()
    uv = torch.stack([u, 1 - v], -1).reshape(-1, 2).float()
    return vertices.cuda(), triangles.cuda(), uv.cuda()


def rig_arguments(
    views: int, vertices: torch.Tensor, triangles: torch.Tensor, width: int, height: int
) -> tuple[Any, ...]:
    """Arguments of `depth_stack` for cameras on an arc of 200° around the globe."""
    center = torch.tensor(CENTER, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    for pose, angle in zip(poses, torch.linspace(-1.75, 1.75, views).tolist(), strict=True):
        cosine, sine = math.cos(angle), math.sin(angle)
        pose[:3, :3] = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        pose[:3, 3] = center - pose[:3, :3] @ center
    matrices = intrinsics(width, height).expand(views, 3, 3)
    sizes = torch.tensor([[width, height]]).expand(views, 2)
    cameras = Cameras(tuple(map(str, range(views))), poses, matrices, sizes)
    projections = cameras.intrinsics @ cameras.world_to_camera[:, :3]
    size = (width, height)
    return vertices, triangles, projections.cuda(), sizes.int().contiguous().cuda(), size


def intrinsics(width: int, height: int) -> torch.Tensor:
    """A camera that sees the globe whole."""
    focal = FOCAL * height
    return torch.tensor(
        [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64
    )


if __name__ == "__main__":
    main()
