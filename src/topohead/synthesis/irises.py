"""Eyeballs: pupil, iris with fibres and a dark rim, and a sclera with veins."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.synthesis.noise import Noise

PUPIL, IRIS = 0.0019, 0.0060
"""Radii in metres: much the same in all people, whatever the size of a head model's eyeballs."""

RIM = 0.0008
"""Width in metres of the dark ring around the iris."""


@dataclass(frozen=True)
class IrisColors:
    """Linear albedos: near the pupil, in the iris, and of its rim."""

    inner: tuple[float, float, float]
    middle: tuple[float, float, float]
    rim: tuple[float, float, float]

    @staticmethod
    def random(random: np.random.Generator, dark: float) -> "IrisColors":
        """Brown, hazel, green, blue or grey; dark skin makes brown likely (`dark` in 0–1)."""
        kinds = np.array(
            [[0.10, 0.045, 0.02], [0.16, 0.10, 0.035], [0.12, 0.14, 0.07], [0.13, 0.20, 0.30],
             [0.18, 0.20, 0.22]]
        )  # fmt: skip
        light = (1 - dark) ** 2
        odds = np.array([1.0, 0.5 * light, 0.3 * light, 0.6 * light, 0.3 * light])
        middle = kinds[random.choice(5, p=odds / odds.sum())] * random.uniform(0.8, 1.2)
        inner = 0.6 * middle + 0.4 * np.array([0.16, 0.09, 0.03])
        return IrisColors(_triple(inner), _triple(middle), _triple(0.25 * middle))


def paint_globe(
    points: Float[Tensor, "N 3"], globe: Float[Tensor, "G 3"], colors: IrisColors, noise: Noise
) -> Float[Tensor, "N 3"]:
    """Linear albedo of points on an eyeball that looks along +z; `globe` are its vertices."""
    center = (globe.amin(0) + globe.amax(0)) / 2
    # an eyeball's side and height are round even where its cornea bulges or its back is missing
    radius = (globe.amax(0) - globe.amin(0))[:2].amax() / 2
    offset = (points - center)[:, :2]
    ring, angle = offset.norm(dim=1), torch.atan2(offset[:, 1], offset[:, 0])
    front = points[:, 2] > center[2]
    fibres = torch.stack([angle.cos(), angle.sin(), 30 * ring], 1)
    streak = noise.octaves(fibres, 0.5, 0.06, "iris", 0.8)
    blend = ((ring - PUPIL) / (IRIS - PUPIL)).clamp(0, 1)[:, None]
    iris = torch.lerp(
        torch.tensor(colors.inner), torch.tensor(colors.middle), (2 * blend).clamp(max=1)
    )
    iris = iris * (1 + 0.25 * streak[:, None])
    rim = ((ring - IRIS + RIM) / RIM).clamp(0, 1)[:, None]
    iris = torch.lerp(iris, torch.tensor(colors.rim).expand_as(iris), rim)
    sclera = _sclera(points, ring / radius, noise)
    outside = ((ring - IRIS) / 0.0004 + 0.5).clamp(0, 1)[:, None]
    color = torch.lerp(iris, sclera, outside)
    pupil = ((PUPIL - ring) / 0.0003 + 0.5).clamp(0, 1)[:, None]
    color = torch.lerp(color, torch.full_like(color, 0.006), pupil)
    return torch.where(front[:, None], color, sclera)


def _sclera(
    points: Float[Tensor, "N 3"], ring: Float[Tensor, " N"], noise: Noise
) -> Float[Tensor, "N 3"]:
    """White, yellower and redder towards the corners, with thin veins."""
    vein = 1 - (noise.octaves(points, 0.004, 0.0015, "eye-veins").abs() / 0.10).clamp(max=1)
    edge = ((ring - 0.6) / 0.4).clamp(0, 1)
    white = torch.tensor([0.58, 0.54, 0.51])
    red = torch.tensor([0.52, 0.25, 0.20])
    weight = (0.10 * edge + 0.35 * vein * (0.2 + edge)).clamp(max=1)
    return torch.lerp(white, red, weight[:, None])


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
