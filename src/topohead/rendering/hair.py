"""Light on hair: two lobes and a diffuse term along strands, dimmed by the hair in between.

Diffuse after Kajiya and Kay (1989); the two highlights of Marschner et al. (2003), the white one
shifted to the root, the coloured one to the tip. Hair in between is a grid of density that rays
march through, as deep opacity maps do (Lokovic and Veach 2000). Hair shadows hair alone.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from topohead.core import Strands
from topohead.geometry.strands import tangents

CELLS = 48
STEPS, STRIDE = 8, 0.0055
"""Samples of a ray, and metres between them: through any head of hair."""

PASSED = 0.30
"""Share of a fibre's area that takes light out of a ray; the rest scatters on, forward."""

AXIS_TOP, AXIS_Z = 0.030, -0.080
"""The axis of head and neck from which "outwards" is told: its upper end, and how far back."""

SHIFT = 0.06
"""Tilt of a fibre's scales, radians: the highlights part by three times as much."""


@dataclass(frozen=True)
class HairLight:
    """A lamp far away: unit direction to it, and its irradiance, linear."""

    direction: tuple[float, float, float]
    irradiance: tuple[float, float, float]


@dataclass(frozen=True)
class _Density:
    grid: Float[Tensor, "B 1 D D D"]
    low: Float[Tensor, "B 3"]
    size: Float[Tensor, "B 3"]


def openness(strands: Strands) -> Float[Tensor, "*B S P"]:
    """How freely light reaches each point of hair from outside the shell, 0 to 1.

    Transmittance straight outwards from the axis of head and neck: no lamp and no camera in it.
    """
    points, widths = _batched(strands)
    axis = points.clone()
    axis[..., 0], axis[..., 2] = 0.0, AXIS_Z
    axis[..., 1] = axis[..., 1].clamp(max=AXIS_TOP)
    outwards = normalize(points - axis, dim=-1, eps=1e-6)
    passed = _transmittance(_density(points, widths), points, outwards)
    return passed.reshape(strands.widths.shape)


def darkened(strands: Strands, depth: float = 0.75) -> Strands:
    """Strands whose colours are dimmed by up to `depth` where they lie under others.

    What a renderer without shadows in hair can draw and still show its layers.
    """
    kept = 1 - depth * (1 - openness(strands))
    return replace(strands, colors=strands.colors * kept[..., None])


def shade(
    strands: Strands,
    lights: tuple[HairLight, ...],
    ambient: tuple[float, float, float],
    eye: Float[Tensor, "3"],
    gloss: float = 1.0,
) -> Float[Tensor, "*B S P 3"]:
    """Linear radiance of every point towards an eye in the head frame.

    `ambient` is light from all around, times openness. Lamps are seen through the hair in between.
    """
    along = tangents(strands.points)
    view = normalize(eye - strands.points, dim=-1)
    albedo = strands.colors
    points, widths = _batched(strands)
    density = _density(points, widths)
    total = openness(strands)[..., None] * albedo * albedo.new_tensor(ambient)
    for lamp in lights:
        way = albedo.new_tensor(lamp.direction)
        seen = _transmittance(density, points, way.expand(points.shape))
        radiance = seen.reshape(strands.widths.shape)[..., None] * albedo.new_tensor(
            lamp.irradiance
        )
        total = total + radiance * _scattered(along, way, view, albedo, gloss)
    return total


def _scattered(
    along: Tensor, light: Tensor, view: Tensor, albedo: Tensor, gloss: float
) -> Float[Tensor, "*B S P 3"]:
    """Share of a lamp's light that a fibre sends to the eye, per channel."""
    rise_in = (along * light).sum(-1).clamp(-1, 1)
    rise_out = (along * view).sum(-1).clamp(-1, 1)
    diffuse = (1 - rise_in.square()).clamp(min=0).sqrt() * 0.8 / torch.pi
    half = (torch.asin(rise_in) + torch.asin(rise_out)) / 2
    # light from behind the fibre is scattered forward, hardly back
    flat_in = normalize(light - rise_in[..., None] * along, dim=-1, eps=1e-6)
    flat_out = normalize(view - rise_out[..., None] * along, dim=-1, eps=1e-6)
    facing = (0.5 + 0.5 * (flat_in * flat_out).sum(-1)).clamp(0, 1)
    white = _lobe(half + SHIFT, 0.10) * facing.sqrt()
    colored = _lobe(half - 2 * SHIFT, 0.18) * facing
    tinted = (albedo + 0.02).sqrt()
    result = diffuse[..., None] * albedo * (0.35 + 0.65 * facing)[..., None]
    return result + gloss * (
        0.0045 * white[..., None]
        + 0.032 * colored[..., None] * tinted * albedo.clamp(min=0.02).sqrt()
    )


def _lobe(angle: Tensor, deviation: float) -> Tensor:
    return torch.exp(-0.5 * (angle / deviation).square()) / (deviation * (2 * torch.pi) ** 0.5)


def _batched(strands: Strands) -> tuple[Float[Tensor, "B S P 3"], Float[Tensor, "B S P"]]:
    points, widths = strands.points, strands.widths
    return points.reshape(-1, *points.shape[-3:]), widths.reshape(-1, *widths.shape[-2:])


def _density(points: Float[Tensor, "B S P 3"], widths: Float[Tensor, "B S P"]) -> _Density:
    """Fibre area a volume, 1/m, in a box of CELLS³ cells around the hair."""
    middle = (points[:, :, 1:] + points[:, :, :-1]) / 2
    area = points.diff(dim=2).norm(dim=-1) * (widths[:, :, 1:] + widths[:, :, :-1]) / 2
    there = (area > 0)[..., None]
    flat = middle.flatten(1, 2)
    lowest = torch.where(there, middle, torch.inf).flatten(1, 2).amin(1)
    highest = torch.where(there, middle, -torch.inf).flatten(1, 2).amax(1)
    empty = ~torch.isfinite(lowest)
    lowest, highest = lowest.masked_fill(empty, 0.0) - 0.01, highest.masked_fill(empty, 0.1) + 0.01
    size = highest - lowest
    at = ((flat - lowest[:, None]) / size[:, None] * CELLS - 0.5).clamp(0, CELLS - 1.001)
    corner = at.long()
    part = at - corner
    grid = points.new_zeros(len(points), CELLS**3)
    weight = area.flatten(1, 2)
    for x in (0, 1):
        for y in (0, 1):
            for z in (0, 1):
                step = torch.tensor([x, y, z], device=points.device)
                share = torch.where(step == 1, part, 1 - part).prod(-1)
                cell = (corner + step).clamp(max=CELLS - 1)
                row = (cell[..., 2] * CELLS + cell[..., 1]) * CELLS + cell[..., 0]
                grid.scatter_add_(1, row, share * weight)
    volume = (size / CELLS).prod(-1)
    grid = (grid / volume[:, None]).view(-1, 1, CELLS, CELLS, CELLS)
    return _Density(grid, lowest, size)


def _transmittance(
    density: _Density, points: Float[Tensor, "B S P 3"], way: Float[Tensor, "B S P 3"]
) -> Float[Tensor, "B S P"]:
    """exp(−∫ density) from each point along its way."""
    depth = points.new_zeros(points.shape[:3])
    low, size = density.low[:, None, None], density.size[:, None, None]
    for step in range(STEPS):
        # the first half cell is the strand's own
        ray = points + (0.8 + step) * STRIDE * way
        place = 2 * (ray - low) / size - 1
        value = grid_sample(density.grid, place[:, :, :, None], align_corners=False)
        depth = depth + value[:, 0, ..., 0]
    return torch.exp(-PASSED * STRIDE * depth)
