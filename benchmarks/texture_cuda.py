"""Speed and fidelity of texture fusion on a CUDA device: 1K to 16K texels, 4 to 60 cameras.

    python benchmarks/texture_cuda.py --out texture_cuda.json

The views are rendered: a bumpy globe (36,864 triangles, islands over two thirds of the texture)
with a texture of random detail at all scales down to the texel, seen by 4096×3000 cameras all
around, each with its own lens and gain, 8 bits deep with noise. Images are on the device before
the clock starts, texels are there when it stops. `wall_ms` is what a caller waits for, the median
of the runs; `kernel_ms` the sum of the time of all kernels of one run; `parts_ms` waits for the
device after each part. Everything random follows `--seed`.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from measured_on import commit, hardware
from torch import Tensor
from torch.nn import functional

from topohead.core import Cameras, Distortion, Photographs, Rig, Topology
from topohead.geometry.cameras import distort, look_at
from topohead.io.images import write_image
from topohead.io.png import write_png
from topohead.losses.texture import psnr
from topohead.rendering import uv_cuda
from topohead.rendering.mesh import interpolate, rasterize
from topohead.rendering.shading import sample_texture
from topohead.solvers import fusion_cuda
from topohead.solvers.colors import CameraColors, solve_colors
from topohead.solvers.fusion import FusionConfig, fuse_texture

SIZE = (4096, 3000)
LENS = Distortion("brown", (-0.08, 0.05, 0.0, 0.0, 0.0004, -0.0003))
RINGS = 96
TRUE_SIZE = 8192


@dataclass(frozen=True)
class Scene:
    """A textured mesh and all cameras' pictures of it."""

    topology: Topology
    vertices: Tensor
    truth: Tensor
    pictures: Photographs

    def of(self, count: int) -> Photographs:
        """Pictures of `count` cameras spread over all."""
        names = self.pictures.cameras.names
        chosen = [round(i * (len(names) - 1) / (count - 1)) for i in range(count)]
        return replace(
            self.pictures,
            rig=self.pictures.rig.select([names[i] for i in chosen]),
            images=tuple(self.pictures.images[i] for i in chosen),
        )


def main() -> None:
    """Measure, print a line a row; the result file grows after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("texture_cuda.json"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cameras", type=int, nargs="+", default=[4, 8, 24, 60])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    scene = make_scene(max(args.cameras), args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "benchmark": "texture_cuda",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "seed": args.seed,
        "rows": [],
    }
    cases = [(count, 8192) for count in args.cameras]
    cases += [(24, size) for size in args.sizes if size != 8192 and 24 in args.cameras]
    for count, size in cases:
        result["rows"].append(measured(scene, count, size, args.runs))
        print(json.dumps(result["rows"][-1]), flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    result["writing"] = writing(scene)
    print(json.dumps(result["writing"]), flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def measured(scene: Scene, count: int, size: int, runs: int) -> dict[str, Any]:
    """One case: times, memory, and likeness to the truth."""
    pictures = scene.of(count)
    started = time.perf_counter()
    colors = solve_colors(pictures, scene.topology, scene.vertices)
    colors_ms = 1e3 * (time.perf_counter() - started)
    config = FusionConfig()

    def fuse():
        return fuse_texture(pictures, scene.topology, scene.vertices, size, config, colors=colors)

    fused = fuse()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    walls = [timed(fuse) for _ in range(runs)]
    peak = torch.cuda.max_memory_allocated() - held
    row: dict[str, Any] = {"cameras": count, "size": size, "wall_ms": statistics.median(walls)}
    row["kernel_ms"], row["kernels"] = kernel_times(fuse)
    with parts() as spent:
        fuse()
    row |= {"parts_ms": spent, "colors_ms": colors_ms, "working_gib": peak / 2**30}
    if size == TRUE_SIZE:
        row["psnr_db"] = likeness(scene, fused.srgb, fused.coverage)
        same = CameraColors.identity(pictures.cameras.names)
        plain = fuse_texture(pictures, scene.topology, scene.vertices, size, config, colors=same)
        row["psnr_uncorrected_db"] = likeness(scene, plain.srgb, plain.coverage)
    return row


def likeness(scene: Scene, srgb: Tensor, coverage: Tensor) -> float:
    """PSNR where two views or more count, after one gain a channel."""
    seen = coverage >= 1.5
    found, true = srgb[seen], scene.truth[seen]
    gain = (found * true).sum(0, dtype=torch.float64) / found.square().sum(0, dtype=torch.float64)
    return float(psnr(found * gain.float(), true))


def timed(work: Callable[[], object]) -> float:
    """Milliseconds until the device has finished."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def kernel_times(work: Callable[[], object]) -> tuple[float, dict[str, float]]:
    """Milliseconds of all kernels of a run, and of those that take longest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    spent = {e.key[:40]: e.self_device_time_total / 1e3 for e in profile.key_averages()}
    longest = sorted(spent.items(), key=lambda item: -item[1])[:14]
    return sum(spent.values()), {name: round(ms, 2) for name, ms in longest}


@contextmanager
def parts() -> Iterator[dict[str, float]]:
    """Milliseconds of each part of every fusion inside the block, the device waited for."""
    spent: dict[str, float] = {}

    def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            torch.cuda.synchronize()
            started = time.perf_counter()
            found = function(*arguments, **named)
            torch.cuda.synchronize()
            spent[name] = spent.get(name, 0.0) + 1e3 * (time.perf_counter() - started)
            return found

        return call

    names = ("_surfaces", "make_device_sights", "seen_cells", "_looked", "_blend", "fill_unseen")
    replaced: Any = {name: clocked(name.strip("_"), getattr(fusion_cuda, name)) for name in names}
    dilate = clocked("dilate", uv_cuda.DeviceTexels.dilate)
    with (
        mock.patch.multiple(fusion_cuda, **replaced),
        mock.patch.object(uv_cuda.DeviceTexels, "dilate", dilate),
    ):
        yield spent


def writing(scene: Scene) -> dict[str, float]:
    """Seconds to write the true texture as a PNG, by OpenCV and by this many threads."""
    started = time.perf_counter()
    codes = scene.truth.mul(255).round().to(torch.uint8).cpu().numpy()
    row = {"to_host_s": time.perf_counter() - started}
    with TemporaryDirectory() as folder, ThreadPoolExecutor() as workers:
        started = time.perf_counter()
        write_png(Path(folder) / "a.png", codes, workers)
        row["threads_s"] = time.perf_counter() - started
        row["threads_mb"] = (Path(folder) / "a.png").stat().st_size / 1e6
        floats = scene.truth.cpu()
        started = time.perf_counter()
        write_image(Path(folder) / "b.png", floats)
        row["opencv_s"] = time.perf_counter() - started
        row["opencv_mb"] = (Path(folder) / "b.png").stat().st_size / 1e6
    return row


def make_scene(cameras: int, seed: int) -> Scene:
    """The globe and its pictures, on the device."""
    generator = torch.Generator("cuda").manual_seed(seed)
    topology, vertices = globe(RINGS)
    truth = detail(TRUE_SIZE, generator)
    rig = all_around(vertices, cameras)
    images = tuple(photograph(topology, vertices, truth, rig, i, generator) for i in range(cameras))
    return Scene(topology, vertices, truth, Photographs("1", rig, images))


def globe(rings: int) -> tuple[Topology, Tensor]:
    """A bumpy sphere of quads, closed but for its poles, its UVs over two thirds of the square."""
    v, u = torch.meshgrid(
        torch.linspace(0.02, 0.98, rings + 1), torch.linspace(0, 1, 2 * rings + 1), indexing="ij"
    )
    latitude, longitude = (v - 0.5) * math.pi, u * 2 * math.pi
    radius = 0.1 + 0.01 * (5 * latitude).sin() * (3 * longitude).sin() * latitude.cos()
    x, z = latitude.cos() * longitude.sin(), latitude.cos() * longitude.cos()
    points = radius[..., None] * torch.stack([x, latitude.sin(), z], -1)
    index = torch.arange((rings + 1) * (2 * rings + 1)).reshape(rings + 1, -1)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    face_uv = torch.stack(corners, -1).reshape(-1, 4)
    joined = torch.arange((rings + 1) * 2 * rings).reshape(rings + 1, -1)
    joined = torch.cat([joined, joined[:, :1]], 1)
    uv = 0.09 + 0.82 * torch.stack([u, v], -1).reshape(-1, 2)
    vertices = points[:, :-1].reshape(-1, 3).contiguous()
    return Topology(len(vertices), joined.flatten()[face_uv], uv, face_uv), vertices


def detail(size: int, generator: torch.Generator) -> Tensor:
    """Skin-coloured noise, octave by octave down to the texel, srgb [S S 3]."""
    texture = torch.tensor([0.66, 0.52, 0.45], device="cuda").repeat(size, size, 1)
    for octave in range(3, int(math.log2(size)) + 1):
        noise = torch.randn(1, 3, 2**octave, 2**octave, generator=generator, device="cuda")
        wide = functional.interpolate(noise, (size, size), mode="bilinear")[0].permute(1, 2, 0)
        texture += 0.05 * 0.8 ** (octave - 3) * wide
    return texture.clamp_(0.02, 0.98)


def all_around(vertices: Tensor, count: int) -> Rig:
    """Cameras 1 m away on a spiral from above to below, with their lens."""
    poses = []
    up, center = torch.tensor([0.0, 1.0, 0.0]).double(), vertices.double().mean(0)
    for i in range(count):
        rise = 0.75 - 1.5 * i / max(count - 1, 1)
        turn = i * 2.399963  # the golden angle spreads any number evenly
        reach = math.cos(rise)
        eye = [reach * math.sin(turn), math.sin(rise), reach * math.cos(turn)]
        poses.append(look_at(torch.tensor(eye).double() + center, center, up))
    focal = 0.9 * SIZE[1] / 2 / math.tan(math.asin(0.11))
    matrix = [[focal, 0, SIZE[0] / 2 + 9], [0, focal, SIZE[1] / 2 - 7], [0, 0, 1]]
    cameras = Cameras(
        tuple(f"{i:02d}" for i in range(count)),
        torch.stack(poses),
        torch.tensor(matrix, dtype=torch.float64).repeat(count, 1, 1),
        torch.tensor(SIZE).repeat(count, 1),
    )
    return Rig(cameras, (LENS,) * count)


def photograph(
    topology: Topology,
    vertices: Tensor,
    truth: Tensor,
    rig: Rig,
    index: int,
    generator: torch.Generator,
) -> Tensor:
    """uint8 picture through the lens: the pinhole picture at twice the size, warped and pooled."""
    fine = rig.cameras.intrinsics[index].clone()
    fine[:2] *= 2
    width, height = 2 * SIZE[0], 2 * SIZE[1]
    raster = rasterize(
        vertices.cuda(), topology.triangles, rig.cameras.world_to_camera[index].cuda(),
        fine.cuda(), (width, height), cull=False,
    )  # fmt: skip
    uv = interpolate(topology.uv.cuda(), topology.triangle_uv, raster)
    picture = sample_texture(truth, uv) * raster.covered[..., None]
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    bent = torch.stack([x, y], -1).cuda().float() + 0.5
    scale, middle = fine[[0, 1], [0, 1]].cuda().float(), fine[:2, 2].cuda().float()
    bent = (bent - middle) / scale
    straight = bent
    for _ in range(6):
        straight = straight - (distort(straight, LENS) - bent)
    place = straight * scale + middle
    grid = 2 * place / torch.tensor([width, height], device="cuda") - 1
    moved = functional.grid_sample(
        picture.permute(2, 0, 1)[None], grid[None], mode="bicubic", align_corners=False
    )
    pooled = functional.avg_pool2d(moved, 2)[0].permute(1, 2, 0)
    gain = 1 + 0.03 * torch.randn(3, generator=generator, device="cuda")
    noise = 0.006 * torch.randn(pooled.shape, generator=generator, device="cuda")
    return (pooled * gain + noise).clamp(0, 1).mul(255).round().to(torch.uint8).contiguous()


if __name__ == "__main__":
    main()
