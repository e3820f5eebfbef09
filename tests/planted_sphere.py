"""A textured sphere and cameras around it, for tests of texture."""

import math

import cv2
import numpy as np
import torch

from topohead.core import Cameras, Topology, Views
from topohead.rendering.shading import portrait_camera, render_mesh


def sphere(rows: int = 24, columns: int = 48, radius: float = 0.1) -> tuple[Topology, torch.Tensor]:
    """A UV sphere of quads, y up; the seam looks away from +z."""
    v, u = torch.meshgrid(
        torch.linspace(0.03, 0.97, rows + 1), torch.linspace(0, 1, columns + 1), indexing="ij"
    )
    latitude, longitude = (v - 0.5) * math.pi, (u - 0.5) * 2 * math.pi
    points = radius * torch.stack(
        [
            latitude.cos() * longitude.sin(),
            latitude.sin(),
            latitude.cos() * longitude.cos(),
        ],
        -1,
    )
    index = torch.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    face_uv = torch.stack(corners, -1).reshape(-1, 4)
    joined = torch.arange((rows + 1) * columns).reshape(rows + 1, columns)
    joined = torch.cat([joined, joined[:, :1]], 1)
    faces = joined.flatten()[face_uv]
    uv = torch.stack([u, v], -1).reshape(-1, 2)
    vertices = points[:, :-1].reshape(-1, 3)
    return Topology(len(vertices), faces, uv, face_uv), vertices


def symmetric_sphere() -> tuple[Topology, torch.Tensor]:
    """The sphere with its mirror map (x → −x)."""
    topology, vertices = sphere()
    flipped = vertices * torch.tensor([-1.0, 1.0, 1.0])
    mirror = torch.cdist(flipped, vertices).argmin(1)
    plain = topology
    return Topology(len(vertices), plain.faces, plain.uv, plain.face_uv, mirror=mirror), vertices


def skin_texture(size: int, seed: int = 0, symmetric: bool = False) -> torch.Tensor:
    """Skin-coloured noise of several scales, continuous across u = 0 and u = 1."""
    generator = np.random.default_rng(seed)
    texture = np.full((size, size, 3), (0.66, 0.52, 0.45), np.float32)
    for cells, strength in ((6, 0.08), (16, 0.06), (48, 0.04), (120, 0.03)):
        noise = generator.standard_normal((cells, cells, 1)).astype(np.float32)
        noise = noise + 0.3 * generator.standard_normal((cells, cells, 3)).astype(np.float32)
        if symmetric:
            noise = noise + noise[:, ::-1]
        wrapped = np.concatenate([noise, noise, noise], 1)
        wide = cv2.resize(wrapped, (3 * size, size), interpolation=cv2.INTER_CUBIC)
        texture += strength * wide[:, size : 2 * size]
    return torch.from_numpy(texture).clamp(0.02, 0.98)


def ring_of_cameras(vertices: torch.Tensor, yaws: list[float]) -> Cameras:
    """Cameras of different sizes, focal lengths and principal points around a mesh."""
    generator = torch.Generator().manual_seed(3)
    poses, intrinsics, sizes = [], [], []
    for index, yaw in enumerate(yaws):
        size = (220, 250) if index % 2 else (256, 224)
        pose, matrix = portrait_camera(vertices, size, yaw, [0.1, -0.35, 0.4][index % 3])
        matrix[0, 0] *= 1 + 0.03 * (index % 3)
        matrix[:2, 2] += 6 * torch.rand(2, generator=generator).double() - 3
        poses.append(pose)
        intrinsics.append(matrix)
        sizes.append(size)
    names = tuple(f"camera{index}" for index in range(len(yaws)))
    return Cameras(names, torch.stack(poses), torch.stack(intrinsics), torch.tensor(sizes))


def photograph(
    cameras: Cameras,
    topology: Topology,
    vertices: torch.Tensor,
    texture: torch.Tensor,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Views:
    """Unlit pictures of the textured mesh, 8 bits deep."""
    images = []
    for index in range(len(cameras)):
        picture = render_mesh(
            vertices,
            topology,
            texture,
            cameras.world_to_camera[index],
            cameras.intrinsics[index],
            cameras.size(index),
            supersample=4,
            shading="texture",
            background=background,
        )
        images.append((picture * 255).round() / 255)
    return Views("000001", cameras, tuple(images))


def disc_of(
    cameras: Cameras, index: int, center: tuple[float, float], radius: float
) -> torch.Tensor:
    """Pixels within a radius of a place given as a share of the image, bool [H W]."""
    width, height = cameras.size(index)
    x = torch.arange(width) + 0.5 - center[0] * width
    y = torch.arange(height) + 0.5 - center[1] * height
    return torch.hypot(x[None], y[:, None]) < radius


SHARED_YAWS = [math.radians(degrees) for degrees in (-75, -45, -15, 15, 45, 75)]
