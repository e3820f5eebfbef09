"""Laying UV islands out in the unit square."""

from jaxtyping import Float
from torch import Tensor


def fit_square(uv: Float[Tensor, "U 2"], margin: float) -> Float[Tensor, "U 2"]:
    low, high = uv.amin(0), uv.amax(0)
    return margin + (uv - low) / (high - low).max() * (1 - 2 * margin)
