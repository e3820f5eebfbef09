"""Relief from photographs: how near the displaced mesh comes to the true skin, and how fast.

    python benchmarks/detail.py --out results.json                # staged takes, CPU
    python benchmarks/detail.py --speed --device cuda --out s.json  # planted pictures, no take

Stages takes with deep relief (`--relief`, mm), captures them with `--detail maps`, and measures
tracked and displaced mesh against the true displaced surface. `--speed` times the solve and the
maps alone, on pictures of a textured sphere; bringing pictures to the device counts.
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measured_on import commit

from topohead.core import Cameras, Mesh, Topology, Views
from topohead.rendering.displacement import displacement_map, normal_map
from topohead.solvers.detail import ReliefSolver
from topohead.workflows.capture import CaptureConfig, capture
from topohead.workflows.evaluate import measure
from topohead.workflows.stage import StageConfig, stage

TEST_SEED = 740
"""First seed of test takes; tuning used 140 to 149."""

ROWS = ("surface", "scan_to_mesh", "detail_surface", "detail_scan")


def main() -> None:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("detail.json"))
    parser.add_argument("--seed", type=int, default=TEST_SEED)
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--frames", type=int, default=2, help="of each take, at least 1")
    parser.add_argument("--cameras", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--images", default="png", choices=("png", "jpg"))
    parser.add_argument("--relief", type=float, default=0.4)
    parser.add_argument("--gloss", type=float, default=0.0)
    parser.add_argument("--size", type=int, default=1024, help="edge of the maps")
    parser.add_argument("--skin", type=int, default=2048, help="edge of the staged skin's maps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speed", action="store_true", help="time the solve on planted pictures")
    parser.add_argument("--halvings", type=int, default=3, help="of the sphere's sides, --speed")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    result: dict[str, Any] = {
        "benchmark": "detail",
        "commit": args.commit or commit(),
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "commit")},
    }
    result |= speed(args) if args.speed else {"takes": [take(args, i) for i in range(args.takes)]}
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def take(args: argparse.Namespace, index: int) -> dict[str, Any]:
    """One staged take: the face's distances of its first and its later frames."""
    spent = {}
    with tempfile.TemporaryDirectory(prefix="topohead-benchmark-") as folder:
        source, run = Path(folder) / "take", Path(folder) / "run"
        seed = args.seed + index
        with clocked(spent, "stage"):
            stage(
                StageConfig(
                    source, preset="tiny", seed=seed, cameras=args.cameras, frames=args.frames,
                    gloss=args.gloss, width=args.width, height=args.height, relief=args.relief,
                    supersampling=2, texture_size=args.skin, images=args.images,
                    device=args.device,
                )
            )  # fmt: skip
        with clocked(spent, "capture"):
            capture(
                CaptureConfig(
                    source, run, keep_cameras=True, textures="none", detail="maps",
                    detail_size=args.size, device=args.device, report=False,
                )
            )  # fmt: skip
        with clocked(spent, "measure"):
            found = measure(run)
    kept = ("median_mm", "mean_mm", "p95_mm")
    first = found.metrics["first_frame"]
    rows = {"frame_1": {row: {k: first[row][k] for k in kept} for row in ROWS}}
    if args.frames > 1:
        rows["later"] = {row: {k: found.metrics[row][k] for k in kept} for row in ROWS}
    return {"seed": seed, **rows, "lowered_percent": lowered(rows), "cost": found.cost["detail"],
            "section_seconds": spent}  # fmt: skip


def lowered(rows: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Per cent by which relief lowers the distances, each way."""
    pairs = {"mesh_to_surface": ("surface", "detail_surface"),
             "surface_to_mesh": ("scan_to_mesh", "detail_scan")}  # fmt: skip
    return {
        when: {
            f"{way}_{key}": 100 * (1 - row[after][key] / row[before][key])
            for way, (before, after) in pairs.items()
            for key in ("median_mm", "mean_mm")
        }
        for when, row in rows.items()
    }


@contextmanager
def clocked(spent: dict[str, float], name: str) -> Iterator[None]:
    """Notes the seconds of its block, and tells them."""
    started = time.perf_counter()
    yield
    spent[name] = round(time.perf_counter() - started, 1)
    print(name, spent[name], "s", flush=True)


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the solve and of the maps; the first call compiles and stands apart."""
    mesh = sphere()
    views = noise_views(args.cameras, args.width, args.height)
    started = time.perf_counter()
    solver = ReliefSolver(mesh, args.halvings, device=args.device)
    prepared = time.perf_counter() - started

    def maps() -> None:
        relief = solver.solve(views, mesh.vertices)
        placed = mesh.vertices.to(args.device).double()
        displacement_map(relief.fine, relief.heights, args.size)
        normal_map(relief.fine, mesh.topology, placed, relief.heights.double(), args.size)

    return {
        "vertices": mesh.topology.vertex_count,
        "unknowns": solver.fine.finer.vertex_count,
        "prepare_s": prepared,
        "first_s": timed(maps),
        "solve_s": statistics.median(
            timed(lambda: solver.solve(views, mesh.vertices)) for _ in range(3)
        ),
        "solve_and_maps_s": statistics.median(timed(maps) for _ in range(3)),
    }


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def sphere(rows: int = 96, columns: int = 192, radius: float = 0.1) -> Mesh:
    """As many quads as the reference head has at level 1, its UVs the whole square."""
    v, u = torch.meshgrid(
        torch.linspace(0.03, 0.97, rows + 1), torch.linspace(0, 1, columns + 1), indexing="ij"
    )
    lat, lon = (v - 0.5) * math.pi, (u - 0.5) * 2 * math.pi
    points = radius * torch.stack([lat.cos() * lon.sin(), lat.sin(), lat.cos() * lon.cos()], -1)
    index = torch.arange(u.numel()).reshape(rows + 1, columns + 1)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    face_uv = torch.stack(corners, -1).reshape(-1, 4)
    around = torch.arange((rows + 1) * columns).reshape(rows + 1, columns)
    faces = torch.cat([around, around[:, :1]], 1).flatten()[face_uv]
    vertices = points[:, :-1].reshape(-1, 3)
    uv = torch.stack([u, v], -1).reshape(-1, 2)
    return Mesh(Topology(len(vertices), faces, uv, face_uv), vertices)


def noise_views(count: int, width: int, height: int) -> Views:
    """Pictures of nothing but smooth noise: what they show does not change the time."""
    random = torch.Generator().manual_seed(0)
    poses, images = [], []
    for angle in torch.linspace(-1.5, 1.5, count, dtype=torch.float64):
        cosine, sine = angle.cos(), angle.sin()
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.tensor([[cosine, 0, -sine], [0, -1, 0], [-sine, 0, -cosine]])
        pose[2, 3] = 1.0
        poses.append(pose)
        coarse = torch.rand((1, 3, height // 4, width // 4), generator=random)
        picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        images.append(picture[0].permute(1, 2, 0).contiguous())
    focal = 3.4 * height
    matrix = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).double()
    cameras = Cameras(
        tuple(f"cam{i:02d}" for i in range(count)),
        torch.stack(poses),
        matrix.repeat(count, 1, 1),
        torch.tensor([[width, height]]).repeat(count, 1),
    )
    return Views("000001", cameras, tuple(images))


if __name__ == "__main__":
    main()
