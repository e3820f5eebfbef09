"""The ways from a scan to a head that stand side by side, and the linear heads they start from.

What is not there (a network whose weights are absent) is left out of the table, and said so.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from register_scans import Bench
from torch import Tensor

from topohead.core import InputError, Scan, ScanFit
from topohead.models.linear import LinearHead
from topohead.models.registration import Registration
from topohead.solvers.scan_baselines import nricp_fit, pca_fit, template_fit
from topohead.solvers.scan_known import KnownPeople, widened
from topohead.solvers.scan_network import network_fit
from topohead.solvers.scan_refine import refine
from topohead.workflows.registering.network import load_registration

log = logging.getLogger(__name__)

NAMES = ("template", "pca", "pca+refine", "nricp", "perceiver", "network", "network+refine")
TRAINING_SEED, HEADS, MODES = 20, 700, 200
"""Whose principal modes the linear heads are: people of a training seed."""


@dataclass(frozen=True)
class Method:
    """From a scan, or from what the method `start` found of it, to a head."""

    run: Callable[[Scan, ScanFit | None], ScanFit]
    start: str | None = None

    def __call__(self, scan: Scan, others: "Mapping[str, Method]") -> ScanFit:
        """The whole way from the scan."""
        first = None if self.start is None else others[self.start](scan, others)
        return self.run(scan, first)


@dataclass(frozen=True)
class Weights:
    """Files of trained networks; None for the shipped one, or for none where none is shipped."""

    network: Path | None = None
    perceiver: Path | None = None


def methods(names: Sequence[str], head: LinearHead, weights: Weights) -> dict[str, Method]:
    """Those of the names that there are, and what they start from, starts first.

    `head` is what baselines know of the population.
    """
    drawn_on = {"pca+refine": "pca", "network+refine": "network"}
    wanted = {*names, *(drawn_on[name] for name in names if name in drawn_on)}
    found = {
        "template": Method(lambda scan, _: template_fit(scan, head)),
        "pca": Method(lambda scan, _: pca_fit(scan, head)),
        "nricp": Method(lambda scan, _: nricp_fit(scan, head)),
    }
    networks = {"network": weights.network, "perceiver": weights.perceiver}
    for name, file in networks.items():
        if name in wanted and (network := _loaded(file, name)) is not None:
            found[name] = Method(lambda scan, _, net=network: network_fit(scan, net, head))
    known = KnownPeople.of(head.topology, head.template, head.identity_basis)
    for name, start in drawn_on.items():
        if start in found:
            judge = known if start == "network" else None
            found[name] = Method(lambda scan, first, k=judge: _drawn(scan, first, head, k), start)
    return {name: found[name] for name in NAMES if name in wanted and name in found}


def _drawn(
    scan: Scan, start: ScanFit | None, head: LinearHead, known: KnownPeople | None
) -> ScanFit:
    """A start drawn onto the scan; with σ as people deserve who are unlike those that are known."""
    assert start is not None
    found = refine(scan, start, head)
    return found if known is None else widened(found, start, head, known)


def _loaded(path: Path | None, name: str) -> Registration | None:
    """The network of a file; without one the shipped one, where that is of the kind."""
    if path is None and name == "perceiver":
        log.warning("perceiver is left out: give --perceiver")
        return None
    try:
        return load_registration() if path is None else load_registration(path)
    except InputError as error:
        log.warning("%s is left out: %s", name, error)
        return None


def linear_head(bench: Bench, sources: Sequence[str], work: Path) -> LinearHead:
    """Mean and principal modes of training people of these sources, each one deviation.

    Kept in `work`, for drawing the people takes longest.
    """
    head = bench.shapes.head
    file = work / f"linear-{'-'.join(sources)}-{HEADS}-{MODES}.npz"
    if not file.exists():
        people = bench.people(HEADS, sources, TRAINING_SEED, moving=False)
        shapes = torch.stack([person.vertices for person in people])
        mean, modes = principal(shapes, MODES)
        work.mkdir(parents=True, exist_ok=True)
        np.savez(file, mean=mean.numpy(), modes=modes.numpy())
    stored = np.load(file)
    mean, modes = (torch.from_numpy(stored[name]) for name in ("mean", "modes"))
    return LinearHead(head.topology, mean, modes, head.expression_basis)


def principal(
    shapes: Float[Tensor, "N V 3"], count: int
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "K V 3"]]:
    """Mean and the first principal components, scaled to one standard deviation."""
    mean = shapes.mean(0)
    flat = (shapes - mean).flatten(1).double()
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    chosen = vectors.flip(1)[:, :count]
    modes = (chosen.T @ flat) / (len(shapes) - 1) ** 0.5
    assert values[-1] > 0
    return mean, modes.reshape(-1, *mean.shape).float()
