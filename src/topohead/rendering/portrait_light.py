"""Light of portraits: shadow cameras, and what arrives at each vertex and each point of hair."""

import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from topohead.core import Strands
from topohead.rendering.portrait_batch import (
    PortraitHeads,
    PortraitMesh,
    SceneBatch,
)

BOUNCE = (0.36, 0.20, 0.15)
"""Radiance that a direction which skin blocks sends back, relative to the light there."""

DOME = 24
"""Directions from which the sky's reach into folds is found."""

DOME_MAP, LAMP_MAP = 128, 384
"""Texels a side of the shadow maps of a direction of the sky, and of a lamp."""

LAMP_TAPS = 12
"""Texels of a lamp's shadow map that a sample asks; those of a pixel ask different ones."""

FAR = 30.0
"""Metres to the shadow cameras of the sky."""


@dataclass(frozen=True)
class PortraitLight:
    """Light on a batch, ready for shading.

    `ambient`: share of the sky's irradiance that reaches a vertex. `hair`: ∫ L sin dω at points of
    strands. Lamps come with their shadow maps (a backend's own form), the views that made them,
    the size of a texel in metres, and the unit disk of texels that are asked.
    """

    ambient: Float[Tensor, "B V 3"]
    hair: Float[Tensor, "B S P 3"]
    sky: Float[Tensor, "B 16 3"]
    lamps: Float[Tensor, "B L 7"]
    lamp_views: Float[Tensor, "B L 3 4"]
    lamp_maps: Any
    lamp_texel: Float[Tensor, "B L"]
    disk: Float[Tensor, "K 2"]


def gather_light(
    backend: ModuleType,
    mesh: PortraitMesh,
    heads: PortraitHeads,
    normals: Float[Tensor, "B V 3"],
    scenes: SceneBatch,
    supersampling: int,
    drawn: Any,
) -> PortraitLight:
    """Shadow maps of the sky and the lamps, and the sky's light through them.

    On a CPU the latter only where pictures that are `drawn` show it.
    """
    vertices, points = backend.seen(drawn, mesh, heads)
    directions, rotations, basis, bounce, disk = _constants(
        str(heads.vertices.device), LAMP_TAPS * supersampling**2
    )
    head = heads.vertices[:, : mesh.head_vertices].double()
    low, high = head.amin(1), head.amax(1)
    center = (low + high) / 2
    radius = (head - center[:, None]).norm(dim=-1).amax(1) * 1.02
    views, focals = _sky_views(center, radius, directions, rotations)
    shape = (mesh.triangles, heads.vertices)
    maps = backend.draw(*shape, _sparse(heads.strands), views, focals, (DOME_MAP, DOME_MAP))
    # a plain sum: a matrix product may round a sky of a batch and a sky alone differently
    radiance = (basis[:, :, None] * scenes.sky[:, None]).sum(2).clamp(min=1e-4)
    texel = (2 * radius / DOME_MAP).float()
    ways = directions.float()
    ambient = backend.gather_mesh(
        heads.vertices, normals, views, maps, ways, radiance, texel, bounce, vertices
    )
    hair = backend.gather_hair(heads.strands, views, maps, ways, radiance, points)
    lamp_views, lamp_focals = _lamp_views(center, radius, scenes.lamps)
    lamp_maps = backend.draw(*shape, heads.strands, lamp_views, lamp_focals, (LAMP_MAP, LAMP_MAP))
    lamp_texel = (2 * radius / LAMP_MAP).float()[:, None].expand(lamp_views.shape[:2])
    return PortraitLight(
        ambient, hair, scenes.sky, scenes.lamps, lamp_views, lamp_maps, lamp_texel.contiguous(),
        disk,
    )  # fmt: skip


def _sparse(strands: Strands | None) -> Strands | None:
    """Half of the strands, twice as wide, in half as many pieces: enough for the sky."""
    if strands is None:
        return None
    count = strands.points.shape[2]
    kept = [round(k * (count - 1) / (count // 2)) for k in range(count // 2 + 1)]
    points, widths = strands.points[:, ::2], strands.widths[:, ::2]
    return Strands.loose(
        torch.stack([points[:, :, k] for k in kept], 2),
        torch.stack([2 * widths[:, :, k] for k in kept], 2),
        strands.colors,
    )


@cache
def _constants(device: str, taps: int) -> tuple[Tensor, ...]:
    """Directions of the sky, turns of cameras that look from there, harmonics, bounce, disk."""
    ways = sphere(DOME)
    turns = _facing(-ways)
    index = torch.arange(taps, dtype=torch.float64)
    ring, angle = ((index + 0.5) / taps).sqrt(), math.pi * (1 + math.sqrt(5)) * index
    disk = torch.stack([ring * angle.cos(), ring * angle.sin()], 1).float()
    parts = (ways, turns, harmonics(ways).float(), torch.tensor(BOUNCE), disk)
    return tuple(part.to(device) for part in parts)


def sphere(count: int) -> Float[Tensor, "N 3"]:
    """Evenly spread unit directions (Fibonacci lattice), float64."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = 1 - 2 * index / count
    angle, ring = math.pi * (1 + math.sqrt(5)) * index, (1 - height**2).sqrt()
    return torch.stack([ring * angle.cos(), height, ring * angle.sin()], 1)


def harmonics(directions: Float[Tensor, "*B 3"], count: int = 16) -> Float[Tensor, "*B K"]:
    """The first 1, 4, 9 or 16 real spherical harmonics of unit directions: (0, 0), (1, −1) …

    Order (l, m). Ramamoorthi & Hanrahan (2001), with the polar axis along z.
    """
    x, y, z = directions.unbind(-1)
    rows = [torch.full_like(x, 0.282095)]
    if count > 1:
        rows += [0.488603 * y, 0.488603 * z, 0.488603 * x]
    if count > 4:
        xx, yy, zz = x * x, y * y, z * z
        rows += [
            1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * zz - 1), 1.092548 * x * z,
            0.546274 * (xx - yy),
        ]  # fmt: skip
        if count > 9:
            rows += [
                0.590044 * y * (3 * xx - yy), 2.890611 * x * y * z, 0.457046 * y * (5 * zz - 1),
                0.373176 * z * (5 * zz - 3), 0.457046 * x * (5 * zz - 1),
                1.445306 * z * (xx - yy), 0.590044 * x * (xx - 3 * yy),
            ]  # fmt: skip
    return torch.stack(rows, -1)


def camera_projections(
    world_to_camera: Float[Tensor, "B 4 4"], intrinsics: Float[Tensor, "B 3 3"], factor: int
) -> tuple[Float[Tensor, "B 1 3 4"], Float[Tensor, "B 1"]]:
    """Matrices float64 to (u z, v z, z) in samples, `factor` a pixel a side; focal lengths."""
    scale = torch.ones(3, 1, dtype=torch.float64, device=intrinsics.device)
    scale[:2] *= factor
    fine = intrinsics.double() * scale
    return (fine @ world_to_camera.double()[:, :3])[:, None], fine[:, 0, :1].float()


def eyes(world_to_camera: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 3"]:
    """Where cameras are in the world."""
    pose = world_to_camera.double()
    return -(pose[:, :3, :3].transpose(1, 2) @ pose[:, :3, 3:])[..., 0].float()


def _facing(forward: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Turns into a camera's frame (x right, y down) that looks along unit `forward`."""
    steep = forward[..., 1:2].abs() > 0.9
    up = torch.cat([torch.zeros_like(steep), ~steep, steep], -1).to(forward)
    right = functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    return torch.stack([right, torch.linalg.cross(forward, right), forward], -2)


def _sky_views(
    center: Tensor, radius: Tensor, directions: Tensor, rotations: Tensor
) -> tuple[Float[Tensor, "B D 3 4"], Float[Tensor, "B D"]]:
    place = center[:, None] + FAR * directions
    turns = rotations.expand(len(center), -1, -1, -1)
    distance = torch.full_like(place[..., 0], FAR)
    return _views(turns, place, distance, radius, DOME_MAP)


def _lamp_views(
    center: Tensor, radius: Tensor, lamps: Tensor
) -> tuple[Float[Tensor, "B L 3 4"], Float[Tensor, "B L"]]:
    place = lamps[..., :3].double()
    away = place - center[:, None]
    distance = away.norm(dim=-1).clamp(min=1e-6)
    views, focals = _views(_facing(-away / distance[..., None]), place, distance, radius, LAMP_MAP)
    there = lamps[..., 3] > 0  # all is behind a lamp that is not: it sees nothing
    return torch.where(there[..., None, None], views, -views), focals * there


def _views(
    turns: Tensor, place: Tensor, distance: Tensor, radius: Tensor, size: int
) -> tuple[Float[Tensor, "B M 3 4"], Float[Tensor, "B M"]]:
    """Projections from places that see all of a ball of a radius in a square picture."""
    sine = (radius[:, None] / distance).clamp(max=0.95)
    focal = 0.5 * size * (1 - sine**2).sqrt() / sine
    pose = torch.cat([turns, -(turns @ place[..., None])], -1)
    depth = pose[..., 2:, :]
    picture = focal[..., None, None] * pose[..., :2, :] + 0.5 * size * depth
    return torch.cat([picture, depth], -2).contiguous(), focal.float().contiguous()
