"""The ways from a scan in metres to a registered head, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel
from topohead.core.scans import Scan, ScanFit
from topohead.workflows.register import RegisterConfig

if TYPE_CHECKING:
    from topohead.models.registration import Registration
    from topohead.solvers.scan_known import KnownPeople
    from topohead.solvers.scan_quality import ScanQuality

UNSURE = 1.2e-3
"""Metres that the network expects to be off by on the face (median) where it may well be lost."""

LOST = 2.25e-3
"""And where it sees no head: 47 of 71 lost heads of tuning scans (seed 161), none of 178 good."""

ALIKE = 1.5
"""Another way in which a head may stand is worth a word when the network expects to be off by less
than so many times as much there."""


@dataclass(frozen=True)
class Means:
    """What methods work with beside the scan and the level-0 head."""

    seed: int = 0
    device: str = "cpu"
    weights: Path | None = None
    """The network's, where they are not those that ship."""


def means_of(config: RegisterConfig) -> Means:
    """As the command line names them."""
    return Means(config.seed, config.device, config.weights)


class Lost(str):
    """A doubt so great that a caller should refuse the fit."""


Found = tuple[ScanFit, tuple[str, ...]]
"""A fit and what is doubtful about it, as sentences; some of them `Lost`."""

Fitter = Callable[[Scan, HeadModel, Means], Found]


def fit_scan(scan: Scan, head: HeadModel, method: str, means: Means) -> Found:
    """What a method of `RegisterConfig` finds in a scan in metres."""
    start, _, refined = method.partition("+")
    fit, notes = STARTS[start](scan, head, means)
    if not refined:
        return fit, notes
    found = refine_fit(scan, fit, head, means.device)
    return (widen_fit(found, fit, head) if start == "network" else found), notes


def refine_fit(
    scan: Scan, start: ScanFit, head: HeadModel, device: str = "cpu", held: float | None = None
) -> ScanFit:
    """The fit drawn onto the scan, by a device; `held` as `RefineConfig` has it."""
    from topohead.solvers.scan_refine import RefineConfig, refine

    config = RefineConfig(held=held)
    return refine(scan.to(device), start, head, config).to(scan.points.device)


def widen_fit(found: ScanFit, start: ScanFit, head: HeadModel) -> ScanFit:
    """σ as the people deserve whom training has not shown."""
    from topohead.solvers.scan_known import widened

    return widened(found, start, head, _known_people())


def fine_vertices(
    scan: Scan, fit: ScanFit, head: HeadModel, method: str, level: int, device: str = "cpu"
) -> Float[Tensor, "V 3"] | None:
    """Level-1 vertices drawn onto the scan where that level is wanted and the fit was refined."""
    if level != 1 or not method.endswith("+refine"):
        return None
    from topohead.solvers.scan_detail import refine_level1

    return refine_level1(scan.to(device), fit, head).vertices.to(scan.points.device)


def judge_fit(scan: Scan, fit: ScanFit, head: HeadModel, device: str = "cpu") -> "ScanQuality":
    """How well a fit lies on its scan, and whether the scan shows a head at all."""
    from topohead.solvers.scan_quality import judge

    return judge(scan.to(device), fit, head)


@cache
def _known_people() -> "KnownPeople":
    from topohead.solvers.scan_known import KnownPeople
    from topohead.workflows.registering.network import load_people

    people = load_people()
    return KnownPeople.of(people.topology, people.template, people.identity_basis)


@cache
def _registration(weights: Path | None, device: str) -> "Registration":
    from topohead.workflows.registering.network import load_registration

    return load_registration(weights).to(device)


def _network(scan: Scan, head: HeadModel, means: Means) -> Found:
    from topohead.core.derived import derived
    from topohead.solvers.scan_network import judged_fit, shown_face

    network = _registration(means.weights, means.device)
    fit, ways = judged_fit(scan, network, head, means.seed)
    doubt = float(fit.sigma[derived(head, shown_face)].median())
    if doubt > LOST:
        told = (
            f"no head was found: the network expects to be off by {1e3 * doubt:.1f} mm on the face"
        )
        return fit, (Lost(f"{told}; check what the scan shows, or crop it"),)
    if doubt > UNSURE:
        return fit, (
            f"the network expects to be off by {1e3 * doubt:.1f} mm on the face: "
            "there may be no head here, or too little of its face",
        )
    if len(ways) > 1 and ways[1].sigma < ALIKE * ways[0].sigma:
        up, front = (ways[1].pose[:3, axis].tolist() for axis in (1, 2))
        told = ", ".join(
            f"{what} along ({x:.1f}, {y:.1f}, {z:.1f})"
            for what, (x, y, z) in (("up", up), ("face", front))
        )
        return fit, (f"the head may as well stand another way, {told}",)
    return fit, ()


def another_head(rest: Scan, method: str, means: Means) -> bool:
    """Whether what lies away from a head shows one as well; False without the network."""
    from topohead.io.assets import reference_head
    from topohead.solvers.scan_network import shows_head

    if not method.startswith("network"):
        return False
    network = _registration(means.weights, means.device)
    return shows_head(rest, network, reference_head(0), means.seed)


def _template(scan: Scan, head: HeadModel, means: Means) -> Found:
    from topohead.solvers.scan_baselines import template_fit

    return template_fit(scan, head, means.seed), ()


def _pca(scan: Scan, head: HeadModel, means: Means) -> Found:
    from topohead.solvers.scan_baselines import pca_fit

    return pca_fit(scan, head, means.seed), ()


def _nricp(scan: Scan, head: HeadModel, means: Means) -> Found:
    from topohead.solvers.scan_baselines import nricp_fit

    return nricp_fit(scan, head, means.seed), ()


STARTS: Mapping[str, Fitter] = {
    "network": _network,
    "pca": _pca,
    "template": _template,
    "nricp": _nricp,
}
