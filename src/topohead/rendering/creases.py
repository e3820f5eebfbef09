"""How much of the sky the bottom of a crease sees, from a picture's depths alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

REACH = 5e-3
"""How far along the picture horizons are looked for, metres: lips, lids and nostrils are as wide.
What is twice as far away shades nothing."""
DIRECTIONS, STEPS = 8, (0.12, 0.35, 1.0)
"""Ways along the picture, and shares of `REACH` along each at which the horizon is looked for."""
FLAT = 0.15
"""Sine of a horizon that counts as level: neighbouring triangles of a rounded surface."""


def openness(
    depth: Float[Tensor, "H W"],
    normals: Float[Tensor, "H W 3"],
    intrinsics: Float[Tensor, "3 3"],
    reach: float = REACH,
) -> Float[Tensor, "H W"]:
    """Share of the light from everywhere that reaches each pixel's surface, in [0, 1].

    `depth` is along the optical axis, infinite where nothing is seen; `normals` are unit, in the
    camera's frame, towards it. Horizons are searched in the picture (Bavoil, Sainz and Dimitrov
    2008), so what no pixel shows shades nothing. Found at half the size where that still tells.
    """
    covered = depth.isfinite()
    if not bool(covered.any()):
        return torch.ones_like(depth)
    pixels = reach * float(intrinsics[0, 0]) / float(depth[covered].median())
    stride = 2 if pixels > 12 else 1
    places = _places(depth, intrinsics)[:, ::stride, ::stride]
    facing = normals.permute(2, 0, 1)[:, ::stride, ::stride]
    pixels /= stride
    margin = math.ceil(pixels)
    around = functional.pad(places[None], (margin,) * 4, value=math.inf)[0]
    high, wide = places.shape[1:]
    hidden = torch.zeros(high, wide)
    level = 1 - facing[:2].norm(dim=0)
    for angle in torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS):
        horizon = torch.zeros(high, wide)
        for step in STEPS:
            x, y = (margin + round(pixels * step * float(w)) for w in (angle.cos(), angle.sin()))
            away = around[:, y : y + high, x : x + wide] - places
            far = away.square().sum(0).sqrt()
            rise = (away * facing).sum(0) / far.clamp(min=1e-9) - FLAT
            near = 1 - (far / (2 * reach)).square()
            risen = rise.clamp(min=0) * near.clamp(min=0)
            horizon = torch.maximum(horizon, torch.where(risen.isfinite(), risen, 0.0))
        # what faces sideways looks that way
        ahead = math.pi * (facing[0] * angle.cos() + facing[1] * angle.sin()).clamp(min=0)
        hidden += horizon.square() * (level + ahead) / DIRECTIONS
    light = (1 - hidden).clamp(min=0)[None, None]
    if stride > 1:
        light = functional.interpolate(light, size=tuple(depth.shape), mode="bilinear")
    return light[0, 0]


def _places(
    depth: Float[Tensor, "H W"], intrinsics: Float[Tensor, "3 3"]
) -> Float[Tensor, "3 H W"]:
    """Where each pixel's surface is, camera frame."""
    high, wide = depth.shape
    matrix = intrinsics.float()
    x = (torch.arange(wide) + 0.5 - matrix[0, 2]) / matrix[0, 0]
    y = (torch.arange(high) + 0.5 - matrix[1, 2]) / matrix[1, 1]
    depth = depth.float()
    return torch.stack([x * depth, y[:, None] * depth, depth])
