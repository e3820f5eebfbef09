"""The unit in which a scan has the size of a head."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.errors import InputError
from topohead.core.scans import Scan, ScanFit

UnitName = Literal["m", "dm", "cm", "mm", "in", "ft"]

Unit = UnitName | float
"""By name, or so many metres."""

METRES: Mapping[UnitName, float] = {
    "m": 1.0, "dm": 0.1, "cm": 1e-2, "mm": 1e-3, "in": 0.0254, "ft": 0.3048,
}  # fmt: skip

METRIC = ("m", "cm", "mm")
"""Those that scanners and programs write."""

HEAD = (0.11, 0.75)
"""Metres: the longest side of what a scan of a head shows, from a face alone to head and chest."""

GUESSED: tuple[UnitName, ...] = ("m", "cm", "mm", "in")
"""In this order; a head in inches is as many units long as a face in centimetres."""

USUAL = 0.3
"""Metres that a scan's longest side is taken for while nothing better is known."""

ALIKE = 1.2
"""A named unit is meant in which the head that was found is larger or smaller than the mean one by
no more than this factor."""


def metres_in(unit: Unit) -> float:
    """How long one of them is."""
    return METRES[unit] if isinstance(unit, str) else unit


def unit_name(unit: Unit) -> str:
    """In words."""
    return unit if isinstance(unit, str) else f"{unit:.4g} m"


def named(metres: float, alike: float = 1 + 1e-6) -> Unit:
    """The unit of that length, up to a factor, or the length itself."""
    name = min(METRES, key=lambda known: _apart(METRES[known], metres))
    return name if _apart(METRES[name], metres) <= alike else metres


def find_unit(scan: Scan, name: str, metric: bool = False) -> tuple[Unit, tuple[str, ...]]:
    """The first unit in which the scan is as large as a head, and what is doubtful about it.

    Where there is none it is a length that brings the scan to `USUAL`: `units_of_head` knows more
    once the head is found. `metric` says that the file's format has its unit fixed. Strays are left
    out of the size.
    """
    size = longest_side(scan.points)
    likely = _likely(size)
    if not likely:
        if size < HEAD[0]:
            raise InputError(
                f"{name}: what it shows is {size:.4g} units long, no head even in metres; "
                "name its unit with --unit"
            )
        return USUAL / size, ()
    unit = likely[0]
    if unit == "in":
        return unit, ("taken for inches, because no other unit gives the size of a head",)
    if metric and unit != "m":
        return unit, (f"its format is in metres, but a head of that size is in {unit}",)
    return unit, ()


def next_unit(scan: Scan, unit: Unit) -> Unit | None:
    """The unit after `unit` in which the scan is as large as a head; None where there is none."""
    if unit not in GUESSED:
        return None
    later = GUESSED[GUESSED.index(unit) + 1 :]
    return next((other for other in _likely(longest_side(scan.points)) if other in later), None)


def units_of_head(fit: ScanFit, unit: Unit) -> tuple[Unit, ...]:
    """What a scan's unit may be by the head that was found in it when it was taken for `unit`.

    The named one in which that is about as large as the mean head, if there is one; then, for scans
    of no unit, the length that makes it just as large.
    """
    size = float(torch.linalg.det(fit.pose[:3, :3].double())) ** (1 / 3)
    metres = metres_in(unit) / size
    name = named(metres, ALIKE)
    return (name, metres) if isinstance(name, str) else (metres,)


def _apart(one: float, other: float) -> float:
    return max(one / other, other / one)


def _likely(size: float) -> list[Unit]:
    """The units in which what is `size` of them long may be a head."""
    return [unit for unit in GUESSED if HEAD[0] <= size * METRES[unit] <= HEAD[1]]


def longest_side(points: Float[Tensor, "N 3"]) -> float:
    """The longest side of the box around all but the outermost half percent each way."""
    ordered = points.double().sort(0).values
    drop = int(0.005 * len(points))
    return float((ordered[len(points) - 1 - drop] - ordered[drop]).max())


def in_metres(scan: Scan, unit: Unit) -> Scan:
    """The scan with its points in metres; all else as it was."""
    from dataclasses import replace

    scale = torch.tensor(metres_in(unit), dtype=torch.float64)
    return replace(scan, points=(scan.points.double() * scale).float())
