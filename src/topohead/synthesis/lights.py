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

from topohead.core import Cameras
from topohead.geometry.cameras import look_at
from topohead.rendering.mesh import depth_maps
from topohead.rendering.stage_cpu import light_visibility

LightName = Literal["dome", "studio", "key"]

FAR = 30.0
"""Metres to the shadow cameras of the dome: far enough to be parallel light to 0.3°."""

BIAS = 0.0008
"""Metres by which an occluder must be in front; below the smallest fold that should shade."""

BOUNCE = (0.20, 0.11, 0.08)
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
        left = Lamp((1.1, 0.7, 1.2), 0.38, (9.0, 8.6, 8.0))
        right = Lamp((-1.3, 0.4, 0.9), 0.30, (6.0, 6.2, 6.6))
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

    `blockers` is a mesh (vertices, triangles) close to the surface; it may be coarser.
    """
    center = (blockers[0].amin(0) + blockers[0].amax(0)).double() / 2
    radius = float((blockers[0].double() - center).norm(dim=1).amax()) * 1.02
    total = _Totals(len(vertices), len(lighting.lamps))
    points = np.ascontiguousarray(vertices.double().numpy())
    facing = np.ascontiguousarray(normals.double().numpy())

    def shadow(position: Tensor) -> np.ndarray:
        return _shadow(position, center, radius, shadow_size, points, facing, blockers)

    for direction in _sphere(dome_samples):
        blend = 0.5 + 0.5 * direction[1]
        radiance = (1 - blend) * np.array(lighting.below) + blend * np.array(lighting.above)
        seen = shadow(center + FAR * torch.tensor(direction))
        weight = np.full(len(points), 4 * math.pi / dome_samples)
        total.add(np.broadcast_to(direction, points.shape), facing, seen, weight, radiance, None)
    for index, lamp in enumerate(lighting.lamps):
        for spot in _disk(lamp, center, lamp_samples):
            seen = shadow(torch.tensor(spot))
            offset = spot - points
            distance = np.linalg.norm(offset, axis=1, keepdims=True)
            axis = np.array(lamp.position) - center.numpy()
            # a disk element sends light by the cosine with its own normal
            cosine = np.clip((offset / distance) @ (axis / np.linalg.norm(axis)), 0, 1)
            area = math.pi * lamp.radius**2 / lamp_samples
            weight = area * cosine / distance[:, 0] ** 2
            total.add(offset / distance, facing, seen, weight, np.array(lamp.radiance), index)
    return total.result(lamp_samples)


class _Totals:
    """Running sums over light samples."""

    def __init__(self, count: int, lamps: int) -> None:
        self.seen = np.zeros((count, 3))
        self.blocked = np.zeros((count, 3))
        self.tilt = np.zeros((count, 3))
        self.sky = np.zeros((count, 2))
        self.lamp_seen = np.zeros((count, lamps))

    def add(
        self,
        direction: np.ndarray,
        normals: np.ndarray,
        seen: np.ndarray,
        weight: np.ndarray,
        radiance: np.ndarray,
        lamp: int | None,
    ) -> None:
        cosine = (direction * normals).sum(1)
        front = np.clip(cosine, 0, None) * weight
        self.seen += (front * seen)[:, None] * radiance
        self.blocked += (front * (1 - seen))[:, None] * radiance
        # without the clip, the derivative of max(0, n·ω) is ω itself on the lit side
        lit = weight * seen * (cosine > 0) * radiance.mean()
        self.tilt += lit[:, None] * direction
        if lamp is None:
            self.sky += np.stack([front * seen, front], 1)
        else:
            self.lamp_seen[:, lamp] += seen

    def result(self, lamp_samples: int) -> GatheredLight:
        total = self.seen + self.blocked * np.array(BOUNCE)
        steer = self.tilt / np.maximum(total.mean(1, keepdims=True), 1e-4)
        sky = self.sky[:, 0] / np.maximum(self.sky[:, 1], 1e-6)
        return GatheredLight(
            torch.tensor(total, dtype=torch.float32),
            torch.tensor(steer, dtype=torch.float32),
            torch.tensor(sky, dtype=torch.float32),
            torch.tensor(self.lamp_seen / lamp_samples, dtype=torch.float32),
        )


def _shadow(
    position: Float[Tensor, "3"],
    center: Float[Tensor, "3"],
    radius: float,
    size: int,
    points: np.ndarray,
    normals: np.ndarray,
    blockers: tuple[Float[Tensor, "B 3"], Int[Tensor, "T 3"]],
) -> np.ndarray:
    """The share of a point light that each point sees."""
    towards = center - position
    up = torch.tensor(
        [0.0, 0.0, 1.0] if abs(towards[1]) > 0.9 * towards.norm() else [0.0, 1.0, 0.0]
    )
    pose = look_at(position.double(), center, up.double())
    distance = float(towards.norm())
    focal = 0.5 * size * math.sqrt(max(distance**2 - radius**2, 1e-6)) / radius
    matrix = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).double()
    camera = Cameras(("light",), pose[None], matrix[None], torch.tensor([[size, size]]))
    depth = depth_maps(blockers[0], blockers[1], camera, cull=False)[0].numpy()
    projection = (matrix @ pose[:3]).numpy()
    # one texel of the map, in metres on a surface that faces the light
    texel = 2 * radius / size
    return light_visibility(points, normals, projection, depth, BIAS, texel)


def _sphere(count: int) -> np.ndarray:
    """Evenly spread unit directions (Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    angle = math.pi * (1 + math.sqrt(5)) * index
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], 1)


def _disk(lamp: Lamp, center: Float[Tensor, "3"], count: int) -> np.ndarray:
    """Evenly spread points of a lamp's disk, world metres."""
    position = np.array(lamp.position)
    axis = center.numpy() - position
    axis /= np.linalg.norm(axis)
    side = np.cross(axis, [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    index = np.arange(count) + 0.5
    ring = lamp.radius * np.sqrt(index / count)
    angle = math.pi * (1 + math.sqrt(5)) * index
    return position + ring[:, None] * (
        np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    )
