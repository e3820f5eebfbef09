"""CIELAB of linear light, and the angle by which dermatology sorts skin."""

import torch
from jaxtyping import Float
from torch import Tensor

SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
               (0.0193339, 0.1191920, 0.9503041))  # fmt: skip
"""IEC 61966-2-1, white point D65."""


def cielab(linear: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3"]:
    """L*, a*, b* (CIE 1976, D65) of linear sRGB in which 1 is a perfect white diffuser."""
    matrix = linear.new_tensor(SRGB_TO_XYZ)
    relative = (linear @ matrix.T) / matrix.sum(1)
    bright = relative.clamp(min=1e-9) ** (1 / 3)
    f = torch.where(relative > 216 / 24389, bright, (24389 / 27 * relative + 16) / 116)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def typology_angle(lab: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B"]:
    """Individual typology angle, degrees: arctan((L* − 50) / b*) (Chardon et al. 1991).

    Above 55° very light, 41 light, 28 intermediate, 10 tan, −30 brown, below dark.
    """
    return torch.rad2deg(torch.atan2(lab[..., 0] - 50, lab[..., 2]))
