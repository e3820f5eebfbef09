"""The unit in which a scan has the size of a head."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.errors import InputError
from topohead.core.scans import Scan

METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "in": 0.0254}

HEAD = (0.11, 0.75)
"""Metres: the longest side of what a scan of a head shows, from a face alone to head and chest."""

GUESSED = ("m", "cm", "mm", "in")
"""In this order; a head in inches is as many units long as a face in centimetres."""


def find_unit(scan: Scan, name: str, metric: bool = False) -> tuple[str, tuple[str, ...]]:
    """The first unit in which the scan is as large as a head, and what is doubtful about it.

    `metric` says that the file's format has its unit fixed. Strays are left out of the size.
    """
    size = longest_side(scan.points)
    likely = _likely(size)
    if not likely:
        told = ", ".join(f"{1000 * size * METRES[unit]:.3g} mm if in {unit}" for unit in GUESSED)
        raise InputError(
            f"{name}: what it shows is {size:.4g} units long, no head in any unit ({told}); "
            "name it with --unit, or cut the head out of a larger scan"
        )
    unit = likely[0]
    if unit == "in":
        return unit, ("taken for inches, because no other unit gives the size of a head",)
    if metric and unit != "m":
        return unit, (f"its format is in metres, but a head of that size is in {unit}",)
    return unit, ()


def next_unit(scan: Scan, unit: str) -> str | None:
    """The unit after `unit` in which the scan is as large as a head; None where there is none."""
    later = GUESSED[GUESSED.index(unit) + 1 :]
    return next((other for other in _likely(longest_side(scan.points)) if other in later), None)


def _likely(size: float) -> list[str]:
    """The units in which what is `size` of them long may be a head."""
    return [unit for unit in GUESSED if HEAD[0] <= size * METRES[unit] <= HEAD[1]]


def longest_side(points: Float[Tensor, "N 3"]) -> float:
    """The longest side of the box around all but the outermost half percent each way."""
    ordered = points.double().sort(0).values
    drop = int(0.005 * len(points))
    return float((ordered[len(points) - 1 - drop] - ordered[drop]).max())


def in_metres(scan: Scan, unit: str) -> Scan:
    """The scan with its points in metres; all else as it was."""
    from dataclasses import replace

    scale = torch.tensor(METRES[unit], dtype=torch.float64)
    return replace(scan, points=(scan.points.double() * scale).float())
