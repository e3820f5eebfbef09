"""Random head rigs for tests: off-centre principal points, two formats, any lens."""

import numpy as np
import torch

from topohead.core import Cameras, Distortion, Rig
from topohead.geometry.cameras import look_at, project_through_lens


def make_rig(
    count: int = 5, seed: int = 0, skew: float = 0.0, lenses: tuple[Distortion, ...] | None = None
) -> Rig:
    """Cameras around a head at the origin, off-centre principal points, portrait and landscape."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return float(low + (high - low) * torch.rand((), generator=random, dtype=torch.float64))

    poses, matrices, sizes = [], [], []
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for _ in range(count):
        angle = uniform(-1.5, 1.5)
        eye = torch.tensor([np.sin(angle), uniform(-0.3, 0.3), np.cos(angle)]) * uniform(0.6, 1.2)
        poses.append(look_at(eye, torch.randn(3, generator=random).double() * 0.02, up))
        width, height = (640, 480) if uniform(0, 1) < 0.7 else (480, 640)
        fx = uniform(700, 1100)
        center = (width / 2 + uniform(-60, 60), height / 2 + uniform(-60, 60))
        matrices.append(
            [[fx, skew * uniform(-1, 1), center[0]], [0, fx * 1.01, center[1]], [0, 0, 1]]
        )
        sizes.append([width, height])
    cameras = Cameras(
        tuple(f"cam{n:02d}" for n in range(count)),
        torch.stack(poses),
        torch.tensor(matrices, dtype=torch.float64),
        torch.tensor(sizes),
    )
    if lenses is None:
        lenses = tuple(
            Distortion("brown", tuple(uniform(-0.1, 0.1) * f for f in (1, 1, 0.3, 0.1, 0.03, 0.03)))
            for _ in range(count)
        )
    return Rig(cameras, lenses)


def head_points(count: int = 50, seed: int = 3) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=random, dtype=torch.float64) * 0.06


POINTS = head_points()


def pixels(rig: Rig) -> torch.Tensor:
    return project_through_lens(rig, POINTS)[0]


def brown(*numbers: float) -> Distortion:
    return Distortion("brown", tuple(float(n) for n in numbers))


def lenses_for(name: str, count: int = 12) -> tuple[Distortion, ...]:
    """Lenses that a format can hold, mixed."""
    random = torch.Generator().manual_seed(5)

    def draw(size: int, scale: float) -> list[float]:
        return (torch.randn(size, generator=random, dtype=torch.float64) * scale).tolist()

    lenses = []
    for index in range(count):
        k, p, above = draw(4, 0.05), draw(2, 0.003), draw(3, 0.02)
        k[3] = k[3] if name in ("ours", "metashape", "nerfstudio") else 0.0
        kinds = [brown(*k, *p), Distortion()]
        if name in ("ours", "colmap", "opencv"):
            kinds.append(Distortion("rational", (k[0], k[1], *p, k[2], *above)))
            kinds.append(Distortion("fisheye", tuple(draw(4, 0.01))))
        if name == "colmap":
            kinds.append(brown(k[0], k[1], 0, 0, *p))
        lenses.append(kinds[index % len(kinds)])
    return tuple(lenses)


def small_rig(count: int = 3) -> Rig:
    """640×480 cameras, without the portrait ones of `make_rig`."""
    rig = make_rig(count)
    sizes = torch.tensor([[640, 480]]).expand(count, 2).clone()
    center = torch.tensor([[330.0, 225.0], [300.0, 260.0], [350.0, 250.0]], dtype=torch.float64)
    intrinsics = rig.cameras.intrinsics.clone()
    intrinsics[:, :2, 2] = center[:count]
    return Rig(
        Cameras(rig.cameras.names, rig.cameras.world_to_camera, intrinsics, sizes), rig.distortion
    )
