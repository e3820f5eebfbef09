"""The head in a scan whose unit may not be known before its head is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from topohead.core.errors import InputError
from topohead.core.scans import Scan, ScanFit
from topohead.io.assets import reference_head
from topohead.io.scans import ScanFile
from topohead.solvers.scan_quality import SEVERAL
from topohead.workflows.register import RegisterConfig
from topohead.workflows.registering.cutting import around_head, is_small, part_of
from topohead.workflows.registering.methods import Lost, another_head, fit_scan, judge_fit, means_of
from topohead.workflows.registering.network import load_people
from topohead.workflows.registering.units import (
    METRIC,
    Unit,
    in_metres,
    metres_in,
    next_unit,
    unit_name,
    units_of_head,
)

if TYPE_CHECKING:
    from topohead.solvers.scan_quality import ScanQuality


@dataclass(frozen=True)
class Prepared:
    """A scan in metres, its picture, the unit it was in, and what is odd about it."""

    file: ScanFile
    scan: Scan
    unit: Unit
    notes: tuple[str, ...]

    def taken_for(self, unit: Unit, *notes: str) -> "Prepared":
        """The same in another unit, and what is doubtful about that."""
        scan = in_metres(self.scan, metres_in(unit) / metres_in(self.unit))
        return replace(self, scan=scan, unit=unit, notes=(*self.notes, *notes))


Finding = tuple[Prepared, ScanFit, "ScanQuality", tuple[str, ...]]
"""The scan, the head in it, how good that is, and doubts about where it is."""


def found_in(prepared: Prepared, config: RegisterConfig) -> Finding:
    """The scan, the head in it, how good that is, and doubts about where it is.

    A bust in inches may pass for a small head in centimetres, until its face is measured: where a
    guessed unit makes a head that nobody has, others that may be meant are tried. A scan that is as
    large as a head in no unit, for there is more in it or it has none, gets that of its head. A
    head that is a small part of its scan is cut out and registered by itself.
    """
    found = _found_somewhere(prepared, config)
    seen, fit, quality, doubts = found
    whole = prepared.file.scan
    if quality.failures or len(seen.scan.points) == len(whole.points):
        return found
    inside = around_head(in_metres(whole, seen.unit), fit.pose)
    assert config.method is not None, "resolved"
    if not another_head(part_of(whole, ~inside), config.method, means_of(config)):
        return found
    return seen, fit, replace(quality, failures={"several heads": SEVERAL}), doubts


def _found_somewhere(prepared: Prepared, config: RegisterConfig) -> Finding:
    guessed = not isinstance(prepared.unit, str)
    if guessed and config.unit == "auto" and not _any_size(config):
        raise InputError(
            f"{config.source}: what it shows is as large as a head in no unit, and --method "
            f"{config.method} cannot tell; name it with --unit, or cut out the head with --crop"
        )
    first = _attempt(prepared, config)
    tried, fit, quality, _ = first
    if config.unit != "auto" or not (guessed or "size" in quality.failures):
        return first
    found = first
    for other in _others(tried, fit, _any_size(config)):
        found = _attempt(other, config)
        if not found[2].failures and (guessed or not found[3]):
            return found
    return found if guessed else first


def _attempt(prepared: Prepared, config: RegisterConfig) -> Finding:
    assert config.method is not None, "resolved"
    means, people, head = means_of(config), load_people(), reference_head(0)
    whole = prepared.scan
    fit, doubts = fit_scan(whole, people, config.method, means)
    inside = around_head(whole, fit.pose)
    # other methods find heads by their size, and may look elsewhere in another unit
    if _any_size(config) and is_small(whole, inside):
        prepared = replace(prepared, scan=part_of(whole, inside))
        fit, doubts = fit_scan(prepared.scan, people, config.method, means)
    quality = judge_fit(prepared.scan, fit, head, means.device)
    for doubt in doubts:
        if isinstance(doubt, Lost):
            quality = replace(quality, failures={"no head": doubt} | quality.failures)
    return prepared, fit, quality, tuple(d for d in doubts if not isinstance(d, Lost))


def _any_size(config: RegisterConfig) -> bool:
    """Whether the method finds heads of any size, and sees when there is none."""
    assert config.method is not None, "resolved"
    return config.method.startswith("network")


def _others(prepared: Prepared, fit: ScanFit, any_size: bool) -> Iterator[Prepared]:
    """The scan in other units, the likeliest first."""
    unit = next_unit(prepared.file.scan, prepared.unit)
    if unit is not None:
        note = f"in {unit_name(prepared.unit)} no human head would have its size"
        yield prepared.taken_for(unit, f"taken for {unit_name(unit)}: {note}")
    known = units_of_head(fit, prepared.unit)
    if prepared.unit in known or not any_size:
        return  # its head is as large as others: it is odd in another way
    for own in known:
        if not isinstance(own, str):
            note = f"one of its units taken for {unit_name(own)}, which makes its head the mean"
            yield prepared.taken_for(own, f"{note} one's size; --unit names a better one")
        elif own in METRIC and not isinstance(prepared.unit, str):
            yield prepared.taken_for(own)  # there is more in the scan, but its head has its size
        elif own != unit:
            yield prepared.taken_for(own, f"taken for {own}, by the size of the head in it")
