"""Two painted globes behind a plate with two openings, for tests of gaze and contact."""

import math

import torch

from planted_sphere import sphere
from topohead.core import Cameras, Mesh, Topology, Views
from topohead.geometry.globes import gaze_rotation
from topohead.rendering.shading import portrait_camera, render_mesh

RADIUS, APART, FRONT = 0.012, 0.031, 0.0125
"""Metres: of a globe, of its centre from the middle, of the plate before the globes' centres."""


def masked_eyes() -> Mesh:
    """The mesh: left globe (+x), right globe, plate; looking along +z, y up."""
    ball, points = sphere(40, 80, RADIUS)
    left, right = points + torch.tensor([APART, 0, 0]), points - torch.tensor([APART, 0, 0])
    # the texture's left half shows a globe from ahead, its right half is skin
    eye_uv = torch.stack([0.25 + 0.24 * points[:, 0], 0.5 + 0.48 * points[:, 1]], 1)
    eye_uv = torch.tensor([0.25, 0.5]) + (eye_uv - torch.tensor([0.25, 0.5])) / RADIUS
    plate, plate_faces = _plate()
    plate_uv = torch.stack([0.75 + 2.2 * plate[:, 0], 0.5 + 5 * plate[:, 1]], 1)
    count = len(points)
    faces = torch.cat([ball.faces, ball.faces + count, plate_faces + 2 * count])
    vertices = torch.cat([left, right, plate])
    number = torch.arange(len(vertices))
    x, y = plate[:, 0].abs() - APART, plate[:, 1]
    rim = torch.hypot(x, y) < 0.014
    regions = {"eyes": number[: 2 * count], "eyelids": number[2 * count :][rim]}
    uv = torch.cat([eye_uv, eye_uv, plate_uv])
    return Mesh(Topology(len(vertices), faces, uv, faces, regions), vertices)


def _plate() -> tuple[torch.Tensor, torch.Tensor]:
    """A sheet of 1 mm quads before both globes; quads within the openings are left out."""
    x, y = torch.meshgrid(torch.arange(-60, 61) / 1e3, torch.arange(-25, 26) / 1e3, indexing="xy")
    points = torch.stack([x, y, torch.full_like(x, FRONT)], -1).reshape(-1, 3)
    index = torch.arange(len(points)).reshape(x.shape)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    faces = torch.stack(corners, -1).reshape(-1, 4)
    middle = points[faces].mean(1)
    inside = ((middle[:, 0].abs() - APART) / 0.011) ** 2 + (middle[:, 1] / 0.0065) ** 2 < 1
    used, faces = torch.unique(faces[~inside], return_inverse=True)
    return points[used], faces


def eye_texture(size: int = 512) -> torch.Tensor:
    """Pupil, brown iris with a dark rim and white on the left; mottled skin on the right."""
    generator = torch.Generator().manual_seed(5)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    u, v = (column + 0.5) / size, 1 - (row + 0.5) / size
    ring = torch.hypot((u - 0.25) / 0.24, (v - 0.5) / 0.48) * RADIUS
    picture = torch.full((size, size, 3), 0.9)
    for radius, color in (
        (0.0055, (0.2, 0.13, 0.1)),
        (0.0048, (0.45, 0.3, 0.2)),
        (0.002, (0.06,) * 3),
    ):
        picture[ring < radius] = torch.tensor(color)
    blotch = torch.rand(1, 1, 24, 24, generator=generator)
    blotch = torch.nn.functional.interpolate(blotch, (size, size), mode="bicubic")[0, 0]
    skin = torch.tensor([0.75, 0.58, 0.5]) * (0.8 + 0.3 * blotch[..., None])
    return torch.where((u > 0.5)[..., None], skin, picture).clamp(0, 1)


def looking(mesh: Mesh, gaze: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """The vertices with both globes turned by a gaze [2 2], then all moved."""
    vertices = mesh.vertices.clone()
    globes = mesh.topology.regions["eyes"].reshape(2, -1)
    for side, (chosen, turn) in enumerate(zip(globes, gaze_rotation(gaze), strict=True)):
        center = torch.tensor([APART * (1 - 2 * side), 0, 0])
        vertices[chosen] = (vertices[chosen] - center) @ turn.T.float() + center
    return vertices @ motion[:3, :3].T.float() + motion[:3, 3].float()


def eye_cameras(size: tuple[int, int] = (300, 160)) -> Cameras:
    """Six cameras before the plate."""
    points, poses, lenses = masked_eyes().vertices, [], []
    for index, degrees in enumerate((-40, -25, -8, 8, 25, 40)):
        pitch = math.radians(12 if index % 2 else -10)
        pose, lens = portrait_camera(points, size, math.radians(degrees), pitch)
        poses.append(pose)
        lenses.append(lens)
    names = tuple(f"cam{index}" for index in range(6))
    return Cameras(names, torch.stack(poses), torch.stack(lenses), torch.tensor([list(size)] * 6))


def filmed_eyes(mesh: Mesh, vertices: torch.Tensor, frame: str = "000001", seed: int = 0) -> Views:
    """Pictures with gains of a few per cent and a little noise."""
    cameras, texture = eye_cameras(), eye_texture()
    generator = torch.Generator().manual_seed(seed)
    images = []
    for index in range(len(cameras)):
        pose, lens = cameras.world_to_camera[index], cameras.intrinsics[index]
        picture = render_mesh(
            vertices, mesh.topology, texture, pose, lens, cameras.size(index), 3, "texture"
        )
        gain = 1 + 0.04 * float(torch.randn((), generator=generator))
        grain = 0.01 * torch.randn(picture.shape, generator=generator)
        images.append((gain * picture + grain).clamp(0, 1))
    return Views(frame, cameras, tuple(images))
