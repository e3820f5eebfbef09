"""Eyeballs: pupil, iris with fibres, collarette and a dark rim, and a sclera with veins."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering.fields import Fields

PUPIL, IRIS = 0.0019, 0.0060
"""Radii in metres: much the same in all people, whatever the size of a head model's eyeballs."""

RIM = 0.0008
"""Width in metres of the dark ring around the iris."""


@dataclass(frozen=True)
class IrisColors:
    """Linear albedos: near the pupil, in the iris, and of its rim; and the pattern.

    `fibres` is their contrast, `collarette` the zigzag ring's radius as a share of the iris, `ring`
    the darkness of the limbal ring, `crypts` the strength of dark gaps, all 0 to 1; `pupil` is its
    radius in metres.
    """

    inner: tuple[float, float, float]
    middle: tuple[float, float, float]
    rim: tuple[float, float, float]
    fibres: float = 0.6
    collarette: float = 0.35
    ring: float = 0.7
    crypts: float = 0.4
    pupil: float = PUPIL

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

    def varied(self, random: np.random.Generator) -> "IrisColors":
        """The same colours in a pattern of one's own."""
        fibres, collarette, ring, crypts, pupil = random.random(5).tolist()
        return replace(
            self,
            fibres=0.3 + 0.7 * fibres,
            collarette=0.28 + 0.16 * collarette,
            ring=0.3 + 0.7 * ring,
            crypts=crypts,
            pupil=0.0014 + 0.0012 * pupil,
        )


def paint_globe(
    points: Float[Tensor, "N 3"],
    globe: Float[Tensor, "G 3"],
    colors: IrisColors,
    fields: Fields,
    yellow: float = 0.2,
    veins: float = 0.3,
) -> Float[Tensor, "N 3"]:
    """Linear albedo of points on an eyeball that looks along +z; `globe` are its vertices.

    `yellow` and `veins` are strengths of what age and tiredness do to the sclera.
    """
    center = (globe.amin(0) + globe.amax(0)) / 2
    # an eyeball's side and height are round even where its cornea bulges or its back is missing
    radius = (globe.amax(0) - globe.amin(0))[:2].amax() / 2
    offset = (points - center)[:, :2]
    ring, angle = offset.norm(dim=1), torch.atan2(offset[:, 1], offset[:, 0])
    front = points[:, 2] > center[2]
    sclera = _sclera(points, ring / radius, fields, yellow, veins)
    iris = _iris(ring, angle, center, colors, fields)
    # the sclera grows softly over the iris's border
    wave = 0.00005 * fields.octaves(_around(ring, angle, center, 0.0), 0.9, 0.3, "limbus")
    outside = ((ring + wave - IRIS) / 0.0009 + 0.5).clamp(0, 1)[:, None]
    outside = outside * outside * (3 - 2 * outside)
    color = torch.lerp(iris, sclera, outside)
    ragged = 0.00005 * fields.octaves(_around(ring, angle, center, 0.0), 0.35, 0.1, "pupil")
    pupil = ((colors.pupil + ragged - ring) / 0.00022 + 0.5).clamp(0, 1)[:, None]
    color = torch.lerp(color, torch.full_like(color, 0.006), pupil)
    return torch.where(front[:, None], color, sclera)


def _around(ring: Tensor, angle: Tensor, center: Tensor, radial: float) -> Float[Tensor, "N 3"]:
    """Places in which noise is long across the iris: the unit circle, and `radial` · radius."""
    shift = 3.0 * center[0].sign()  # both eyes differ
    return torch.stack([angle.cos() + shift, angle.sin(), radial * ring / IRIS], 1)


def _iris(
    ring: Float[Tensor, " N"],
    angle: Float[Tensor, " N"],
    center: Float[Tensor, "3"],
    colors: IrisColors,
    fields: Fields,
) -> Float[Tensor, "N 3"]:
    """Fibres run outward from the pupil, coarser beyond the collarette; crypts gape between."""
    inner, middle, rim = (ring.new_tensor(c) for c in (colors.inner, colors.middle, colors.rim))
    share = ((ring - colors.pupil) / (IRIS - colors.pupil)).clamp(0, 1)
    coarse = fields.octaves(_around(ring, angle, center, 0.5), 0.34, 0.08, "iris-coarse", 0.75)
    fine = fields.octaves(_around(ring, angle, center, 0.9), 0.085, 0.04, "iris-fine", 0.8)
    zigzag = 0.05 * fields.octaves(_around(ring, angle, center, 0.0), 0.4, 0.15, "collarette")
    edge = share - colors.collarette - zigzag
    beyond = torch.sigmoid(edge / 0.03)
    tint = torch.lerp(inner, middle, (0.25 + 0.75 * beyond)[:, None])
    light = 1 + colors.fibres * (0.26 * coarse + 0.20 * fine)
    light = light + 0.35 * torch.exp(-((edge / 0.045) ** 2))  # the collarette itself is bright
    gap = fields.octaves(_around(ring, angle, center, 2.2), 0.55, 0.3, "crypts")
    light = light * (1 - 0.55 * colors.crypts * ((gap - 0.7) / 0.6).clamp(0, 1) * beyond)
    color = tint * light.clamp(0.25, 2.2)[:, None]
    dark = ((share - 0.80) / 0.20).clamp(0, 1) ** 1.5
    color = torch.lerp(color, rim, (colors.ring * dark)[:, None])
    # the ruff at the pupil's margin
    ruff = torch.exp(-(((ring - colors.pupil) / 0.00022) ** 2))[:, None]
    return torch.lerp(color, ring.new_tensor([0.03, 0.018, 0.010]), 0.7 * ruff)


def _sclera(
    points: Float[Tensor, "N 3"],
    ring: Float[Tensor, " N"],
    fields: Fields,
    yellow: float,
    veins: float,
) -> Float[Tensor, "N 3"]:
    """White, yellower and redder towards the corners, with thin veins that run level."""
    edge = ((ring - 0.45) / 0.45).clamp(0, 1)
    level = points * points.new_tensor([0.55, 1.0, 1.0])
    bent = level + 0.0006 * fields.octaves(points, 0.003, 0.001, "eye-bend")[:, None]
    thick = fields.octaves(bent, 0.0050, 0.0020, "eye-veins", 0.6).abs()
    thin = fields.octaves(bent, 0.0022, 0.0009, "eye-threads", 0.7).abs()
    vein = torch.exp(-((thick / 0.05) ** 2)) * 0.8 + torch.exp(-((thin / 0.06) ** 2)) * 0.45
    patch = (0.5 + 0.5 * fields.octaves(points, 0.008, 0.004, "eye-patch")).clamp(0, 1.2)
    white = points.new_tensor([0.60, 0.55, 0.51])
    aged = points.new_tensor([0.56, 0.47, 0.33])
    color = torch.lerp(white, aged, (yellow * (0.35 + 0.65 * edge * patch)).clamp(0, 1)[:, None])
    red = points.new_tensor([0.50, 0.15, 0.12])
    weight = 0.06 * edge + (0.20 + 0.60 * veins) * vein * patch * (0.10 + 0.9 * edge)
    return torch.lerp(color, red, weight.clamp(max=0.8)[:, None])


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
