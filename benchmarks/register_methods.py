"""The ways from a scan to a head that stand side by side, and the linear heads they start from.

What is not there (a network whose weights are absent) is left out of the table, and said so.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from register_scans import Bench
from topohead.solvers.scan_baselines import nricp_fit, pca_fit, template_fit
from topohead.solvers.scan_network import network_fit
from topohead.solvers.scan_refine import refine
from topohead.workflows.registering.network import load_registration
from torch import Tensor

from topohead.core import Scan, ScanFit
from topohead.models.linear import LinearHead
from topohead.models.registration import Registration

log = logging.getLogger(__name__)

NAMES = ("template", "pca", "pca+refine", "nricp", "perceiver", "network", "network+refine")
TRAINING_SEED, HEADS, MODES = 20, 700, 200
"""Whose principal modes the linear heads are: people of a training seed."""

Method = Callable[[Scan], ScanFit]


@dataclass(frozen=True)
class Weights:
    """Files of trained networks; None for the shipped one, or for none where none is shipped."""

    network: Path | None = None
    perceiver: Path | None = None


def methods(names: Sequence[str], head: LinearHead, weights: Weights) -> dict[str, Method]:
    """Those of the names that there are; `head` is what baselines know of the population."""
    network = _loaded(weights.network) if {"network", "network+refine"} & {*names} else None
    perceiver = None
    if "perceiver" in names and weights.perceiver is not None:
        perceiver = _loaded(weights.perceiver)
    found: dict[str, Method] = {
        "template": lambda scan: template_fit(scan, head),
        "pca": lambda scan: pca_fit(scan, head),
        "pca+refine": lambda scan: refine(scan, pca_fit(scan, head), head),
        "nricp": lambda scan: nricp_fit(scan, head),
    }
    if network is not None:
        found["network"] = lambda scan: network_fit(scan, network, head)
        found["network+refine"] = lambda scan: refine(scan, network_fit(scan, network, head), head)
    if perceiver is not None:
        found["perceiver"] = lambda scan: network_fit(scan, perceiver, head)
    return {name: found[name] for name in names if name in found}


def _loaded(path: Path | None) -> Registration | None:
    try:
        return load_registration() if path is None else load_registration(path)
    except FileNotFoundError as error:
        log.warning("left out: %s", error)
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
