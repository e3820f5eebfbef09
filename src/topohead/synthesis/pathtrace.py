"""Staged pictures by path tracing: the same scene in Mitsuba 3, run in a child process.

Here light is as it is: reflected between skin and skin, glossy, soft, with grain. The lens is
applied afterwards: Mitsuba draws an ideal camera with twice the pixels, and every pixel of the
stored picture gathers from there along its own bent ray.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import map_coordinates
from torch import Tensor

from topohead.core import InputError
from topohead.geometry.cameras import undistort
from topohead.synthesis.render import LitHead
from topohead.synthesis.takes import Picture, Take, develop

OVERSIZE = 2
"""Pixels of the ideal camera for one of the stored picture, along each side."""


def film(take: Take, frame: int, samples: int) -> Iterator[Picture]:
    """The pictures of one frame, camera by camera, `samples` light paths a pixel."""
    if importlib.util.find_spec("mitsuba") is None:
        raise InputError(
            "--renderer pathtrace needs Mitsuba 3; install the extra: pip install "
            "'topohead[pathtrace]'"
        )
    if take.optics.shutter > 0:
        raise InputError("--shutter works with --renderer stage only; leave one of them out")
    _, lit = take.light(take.motion, frame)
    cameras = take.rig.exact.cameras
    with tempfile.TemporaryDirectory(prefix="topohead-pathtrace-") as folder:
        _write_job(Path(folder), take, lit, frame, samples)
        run_job(Path(folder))
        for index, name in enumerate(cameras.names):
            ideal = np.load(Path(folder) / f"{name}.npy")
            picture = torch.from_numpy(_through_lens(take, index, ideal))
            yield develop(take, frame, index, name, picture[..., :3], picture[..., 3])


def run_job(folder: Path) -> None:
    """Render the job in a process of its own; its compiled kernels and memory end with it."""
    command = [sys.executable, "-m", "topohead.synthesis.pathtrace_worker", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"the path tracer stopped with code {result.returncode}: {reason[0]}")


def _write_job(folder: Path, take: Take, lit: LitHead, frame: int, samples: int) -> None:
    """What the child needs: `scene.npz` and `job.json`."""
    used, uv, triangles = _split_seams(take, lit)
    textured = lit.textured
    maps = take.maps
    np.savez(
        folder / "scene.npz",
        skin_vertices=lit.vertices[used].numpy(),
        skin_normals=lit.normals[used].numpy(),
        skin_uv=uv,
        skin_triangles=triangles,
        prop_vertices=lit.vertices.numpy(),
        prop_triangles=lit.triangles[textured:].numpy(),
        prop_colors=lit.tint.numpy(),
        albedo=maps.albedo.numpy(),
        roughness=maps.roughness.numpy(),
        height=maps.height.numpy(),
    )
    cameras = take.rig.exact.cameras
    views = []
    for index, name in enumerate(cameras.names):
        focal, size = _ideal(take, index)
        pose = cameras.world_to_camera[index].tolist()
        views.append({"name": name, "world_to_camera": pose, "focal": focal, "size": size})
    job = {
        "cameras": views,
        "samples": max(1, round(samples / OVERSIZE**2)),
        "seed": take.seed * 100_003 + frame * 101,
        "gloss": take.optics.gloss,
        "light": asdict(take.lighting),
        "center": lit.vertices.mean(0).tolist(),
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def _split_seams(take: Take, lit: LitHead) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Vertices repeated where UVs differ: their old numbers, UVs, and triangles of the new ones."""
    topology = take.subject.finer
    pairs = torch.stack([topology.triangles, topology.triangle_uv], -1).reshape(-1, 2)
    unique, index = torch.unique(pairs, dim=0, return_inverse=True)
    uv = topology.uv[unique[:, 1]].float().numpy()
    return unique[:, 0], uv, index.reshape(-1, 3).numpy()


def _ideal(take: Take, index: int) -> tuple[float, tuple[int, int]]:
    """Focal length and (width, height), pixels, of a centred camera that sees it all."""
    rays = _rays(take, index, 1)
    reach = rays.abs().amax((0, 1)) * 1.01
    cameras = take.rig.exact.cameras
    focal = OVERSIZE * float(cameras.intrinsics[index, 0, 0])
    width, height = (2 * int(np.ceil(float(side) * focal)) for side in reach)
    return focal, (width, height)


def _rays(take: Take, index: int, factor: int) -> Float[Tensor, "H W 2"]:
    """Where the lens's pixels (`factor` a side for each) look, on the plane at z = 1."""
    cameras, lens = take.rig.exact.cameras, take.rig.exact.distortion[index]
    width, height = cameras.size(index)
    k = cameras.intrinsics[index]
    x = (torch.arange(width * factor).double() + 0.5) / factor
    y = (torch.arange(height * factor).double() + 0.5) / factor
    v = (y - k[1, 2]) / k[1, 1]
    grid = torch.stack(torch.broadcast_tensors((x - k[0, 2]) / k[0, 0], v[:, None]), -1)
    return undistort(grid.reshape(-1, 2), lens).reshape(grid.shape)


def _through_lens(take: Take, index: int, ideal: np.ndarray) -> np.ndarray:
    """The lens's picture [H W 4], gathered from the ideal one and averaged over its pixels."""
    focal, size = _ideal(take, index)
    places = _rays(take, index, OVERSIZE).numpy() * focal + np.array(size) / 2 - 0.5
    rows, columns = places[..., 1], places[..., 0]
    channels = [map_coordinates(ideal[..., c], [rows, columns], order=1) for c in range(4)]
    fine = np.stack(channels, -1)
    height, width = fine.shape[0] // OVERSIZE, fine.shape[1] // OVERSIZE
    mean = fine.reshape(height, OVERSIZE, width, OVERSIZE, 4).mean((1, 3))
    return mean.astype(np.float32)
