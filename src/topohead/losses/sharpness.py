"""How much detail pictures hold: the contrast of Siemens stars by frequency, and MTF50.

The modulation transfer function (MTF) is the contrast that is left of a wave of each frequency;
MTF50 is the frequency at which it is halved (ISO 12233).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

FEWEST = 40
"""Samples that a ring must have."""


def star_contrast(
    values: Float[Tensor, " N"],
    places: Float[Tensor, "N 2"],
    spokes: int,
    rings: Float[Tensor, "R 2"],
) -> Float[Tensor, " R"]:
    """Contrast of a star of `spokes` cycles in rings (inner and outer radius) about the origin.

    In each ring, mean + slope · place + a cos(spokes φ) + b sin(spokes φ) is fitted by least
    squares; contrast is √(a² + b²) over the mean. NaN where a ring holds too few samples.
    """
    radius, angle = places.norm(dim=1), torch.atan2(places[:, 1], places[:, 0])
    one = torch.ones_like(angle)
    wave = [(spokes * angle).cos(), (spokes * angle).sin()]
    basis = torch.stack([one, angle.cos(), angle.sin(), *wave], 1).double()
    order = radius.argsort()
    basis, values, radius = basis[order], values[order].double(), radius[order].contiguous()
    bounds = torch.searchsorted(radius, rings.to(radius).contiguous())
    found = torch.full((len(rings),), math.nan, dtype=torch.float64)
    for ring, (first, last) in enumerate(bounds.tolist()):
        if last - first >= FEWEST:
            part = basis[first:last]
            solution = torch.linalg.lstsq(part, values[first:last, None]).solution[:, 0]
            found[ring] = solution[3:].norm() / solution[0].clamp(min=1e-9)
    return found


def star_offset(
    values: Float[Tensor, " N"],
    places: Float[Tensor, "N 2"],
    spokes: int,
    rings: Float[Tensor, "R 2"],
    reach: float,
) -> Float[Tensor, "2"]:
    """Where a star's centre is, up to `reach` from the origin: where its rings have most contrast.

    A texture may be a little out of place without being less sharp. Searched by halving steps; the
    rings should include coarse ones, whose contrast has one wide hill.
    """
    best, step = torch.zeros(2, dtype=torch.float64), reach / 2
    score = _total(values, places, spokes, rings)
    while step > reach / 200:
        moved = False
        for direction in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            trial = best + step * torch.tensor(direction, dtype=torch.float64)
            if float(trial.norm()) > reach:
                continue
            value = _total(values, places - trial, spokes, rings)
            if value > score:
                best, score, moved = trial, value, True
        if not moved:
            step /= 2
    return best


def _total(values: Tensor, places: Tensor, spokes: int, rings: Tensor) -> float:
    return float(star_contrast(values, places, spokes, rings).nan_to_num().sum())


def mtf50(frequency: Sequence[float], transfer: Sequence[float]) -> tuple[float, str]:
    """The frequency at which a transfer function falls below one half, and what that number is.

    Frequencies rise. "at" when they bracket it; "at least" when the last one is still above;
    "at most" when the first one is below already.
    """
    pairs = list(zip(frequency, transfer, strict=True))
    if pairs[0][1] < 0.5:
        return pairs[0][0], "at most"
    for (f0, t0), (f1, t1) in pairwise(pairs):
        if t1 < 0.5:
            return f0 + (f1 - f0) * (t0 - 0.5) / (t0 - t1), "at"
    return pairs[-1][0], "at least"


def pixel_mtf50(blur: float) -> float:
    """MTF50 in cycles a pixel of square pixels behind a Gaussian blur (deviation in pixels).

    Solves sinc(f) · exp(−2π²σ²f²) = ½ by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        f = (low + high) / 2
        aperture = math.sin(math.pi * f) / (math.pi * f)
        kept = aperture * math.exp(-2 * (math.pi * blur * f) ** 2)
        low, high = (f, high) if kept > 0.5 else (low, f)
    return low
