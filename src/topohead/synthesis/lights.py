"""Soft light on a staged head, fixed in the world while the head turns.

A white dome (the sky of a light stage) and disk-shaped area lamps. Light is gathered per vertex
of the finest mesh: diffuse irradiance varies slowly enough for that, and its dependence on small
bumps is kept as a derivative with respect to the normal.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.cameras import look_at
from topohead.rendering.light_cpu import receive, shadow_map

LightName = Literal["dome", "studio", "key"]

FAR = 30.0
"""Metres to the shadow cameras of the dome: far enough to be parallel light to 0.3°."""

BIAS = 0.0008
"""Metres by which an occluder must be in front; below the smallest fold that should shade."""

BOUNCE = (0.36, 0.20, 0.15)
"""Radiance that a skin-covered direction sends back, relative to the light that it blocks."""


@dataclass(frozen=True)
class Lamp:
    """A disk that faces the head: world metres, radiance in linear light."""

    position: tuple[float, float, float]
    radius: float
    radiance: tuple[float, float, float]


@dataclass(frozen=True)
class Lighting:
    """The dome's radiance straight below and straight above (between: linear in height), lamps."""

    below: tuple[float, float, float]
    above: tuple[float, float, float]
    lamps: tuple[Lamp, ...] = ()


@dataclass(frozen=True)
class GatheredLight:
    """Light per vertex. Irradiance is linear; `steer` is ∂ log(irradiance) / ∂ normal.

    `open_sky` is the cosine-weighted share of the dome that a vertex sees, `lamp_seen` the share
    of each lamp.
    """

    irradiance: Float[Tensor, "V 3"]
    steer: Float[Tensor, "V 3"]
    open_sky: Float[Tensor, " V"]
    lamp_seen: Float[Tensor, "V L"]


def preset(name: LightName) -> Lighting:
    """`dome`: an even white sphere. `studio`: two soft boxes. `key`: one small lamp."""
    if name == "dome":
        return Lighting((0.55, 0.56, 0.58), (1.05, 1.05, 1.04))
    if name == "studio":
        left = Lamp((1.1, 0.7, 1.2), 0.38, (13.0, 12.4, 11.6))
        right = Lamp((-1.3, 0.4, 0.9), 0.30, (9.0, 9.3, 9.9))
        return Lighting((0.25, 0.25, 0.26), (0.42, 0.43, 0.45), (left, right))
    lamp = Lamp((0.75, 0.85, 1.25), 0.12, (95.0, 90.0, 82.0))
    return Lighting((0.13, 0.13, 0.14), (0.2, 0.21, 0.23), (lamp,))


def gather(
    lighting: Lighting,
    vertices: Float[Tensor, "V 3"],
    normals: Float[Tensor, "V 3"],
    blockers: tuple[Float[Tensor, "B 3"], Int[Tensor, "T 3"]],
    dome_samples: int = 72,
    lamp_samples: int = 10,
    shadow_size: int = 224,
) -> GatheredLight:
    """What arrives at each vertex through the shadow maps of many points of the dome and lamps.

    `blockers` is a mesh (vertices, triangles) close to the surface; it may be coarser. All tensors
    are on one device.
    """
    center = (blockers[0].amin(0) + blockers[0].amax(0)).double() / 2
    solid, points = blockers[0].double() - center, vertices.double() - center
    radius = float(solid.norm(dim=1).max()) * 1.02
    sources = _sources(lighting, center.cpu().numpy(), dome_samples, lamp_samples)
    projections = np.stack([_shadow_projection(x[:3], radius, shadow_size) for x in sources])
    lamps, texel = len(lighting.lamps), 2 * radius / shadow_size
    scene = (points, normals.double(), (solid, blockers[1].int()))
    if vertices.is_cuda:
        from topohead.rendering import light_triton  # noqa: PLC0415 -- only where CUDA is

        tables = [torch.from_numpy(x).to(vertices.device) for x in (projections, sources)]
        sums, seen = light_triton.receive_all(
            *scene, tables[0], tables[1], lamps, shadow_size, BIAS, texel
        )
    else:
        sums, seen = _received(scene, projections, sources, lamps, shadow_size, texel)
    return _summed(sums, seen.T / max(lamp_samples, 1))


def _sources(
    lighting: Lighting, center: Float[np.ndarray, "3"], dome_samples: int, lamp_samples: int
) -> Float[np.ndarray, "L 11"]:
    """Points of light about `center` as `rendering.light_triton.receive_all` takes them."""
    rows = []
    for direction in _sphere(dome_samples):
        blend = 0.5 + 0.5 * direction[1]
        radiance = (1 - blend) * np.array(lighting.below) + blend * np.array(lighting.above)
        rows.append([*FAR * direction, 4 * math.pi / dome_samples, 0, 0, 0, *radiance, -1])
    for index, lamp in enumerate(lighting.lamps):
        axis = center - np.array(lamp.position)
        axis /= np.linalg.norm(axis)
        area = math.pi * lamp.radius**2 / lamp_samples
        for spot in _disk(lamp, axis, lamp_samples):
            rows.append([*(spot - center), area, *axis, *lamp.radiance, index])
    return np.array(rows)


def _received(
    scene: tuple[Tensor, Tensor, tuple[Tensor, Tensor]],
    projections: Float[np.ndarray, "L 3 4"],
    sources: Float[np.ndarray, "L 11"],
    lamps: int,
    shadow_size: int,
    texel: float,
) -> tuple[Float[Tensor, "V 11"], Float[Tensor, "N V"]]:
    """Sums over all sources, and how many points of each lamp a vertex sees, on CPU cores."""
    points, facing, solid, corners = (x.contiguous().numpy() for x in (*scene[:2], *scene[2]))
    sums, seen = np.zeros((len(points), 11)), np.zeros((lamps, len(points)))
    for projection, source in zip(projections, sources, strict=True):
        depth = shadow_map(solid, corners, projection, shadow_size)
        light, axis, radiance, lamp = source[:4], source[4:7], source[7:10], int(source[10])
        target = seen[lamp] if lamp >= 0 else np.empty(0)
        receive(points, facing, projection, depth, BIAS, texel, light, axis, radiance, sums, target)
    return torch.from_numpy(sums), torch.from_numpy(seen)


def _summed(sums: Float[Tensor, "V 11"], lamp_seen: Float[Tensor, "V L"]) -> GatheredLight:
    """What blocked directions send back is added to what open ones send."""
    sky = sums[:, 9] / sums[:, 10].clamp(min=1e-6)
    # what hides a vertex is lit about as well as the vertex itself: dark deep inside a mouth
    total = sums[:, :3] + sky.sqrt()[:, None] * sums[:, 3:6] * sums.new_tensor(BOUNCE)
    steer = sums[:, 6:9] / total.mean(1, keepdim=True).clamp(min=1e-4)
    return GatheredLight(*(part.float() for part in (total, steer, sky, lamp_seen)))


def _shadow_projection(place: np.ndarray, radius: float, size: int) -> Float[np.ndarray, "3 4"]:
    """A camera at `place` that sees all of a ball about the origin in a square picture."""
    distance = float(np.linalg.norm(place))
    up = [0.0, 0.0, 1.0] if abs(place[1]) > 0.9 * distance else [0.0, 1.0, 0.0]
    pose = look_at(torch.tensor(place), torch.zeros(3).double(), torch.tensor(up).double())
    focal = 0.5 * size * math.sqrt(max(distance**2 - radius**2, 1e-6)) / radius
    matrix = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return matrix @ pose[:3].numpy()


def _sphere(count: int) -> np.ndarray:
    """Evenly spread unit directions (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], 1)


def _disk(lamp: Lamp, axis: np.ndarray, count: int) -> np.ndarray:
    """Evenly spread points of a lamp's disk, which faces along `axis`, world metres."""
    position = np.array(lamp.position)
    side = np.cross(axis, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    index = np.arange(count) + 0.5
    ring = lamp.radius * np.sqrt(index / count)
    angle = math.pi * (1 + math.sqrt(5)) * index
    return position + ring[:, None] * (
        np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    )
