"""The ways from a scan in metres to a registered head, by name."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from topohead.core import HeadModel
from topohead.core.scans import Scan, ScanFit

if TYPE_CHECKING:
    from topohead.solvers.scan_quality import ScanQuality

Fitter = Callable[[Scan, HeadModel, int, torch.device], ScanFit]
"""Scan, level-0 head, seed, device for networks."""


def fit_scan(scan: Scan, head: HeadModel, method: str, seed: int, device: torch.device) -> ScanFit:
    """What a method of `RegisterConfig` finds."""
    start, _, refined = method.partition("+")
    fit = STARTS[start](scan, head, seed, device)
    return refine_fit(scan, fit, head) if refined else fit


def refine_fit(scan: Scan, start: ScanFit, head: HeadModel) -> ScanFit:
    """The fit drawn onto the scan."""
    from topohead.solvers.scan_refine import refine

    return refine(scan, start, head)


def judge_fit(scan: Scan, fit: ScanFit, head: HeadModel) -> "ScanQuality":
    """How well a fit lies on its scan, and whether the scan shows a head at all."""
    from topohead.solvers.scan_quality import judge

    return judge(scan, fit, head)


def _network(scan: Scan, head: HeadModel, seed: int, device: torch.device) -> ScanFit:
    from topohead.solvers.scan_network import network_fit
    from topohead.workflows.registering.network import load_registration

    return network_fit(scan, load_registration().to(device), head, seed)


def _template(scan: Scan, head: HeadModel, seed: int, device: torch.device) -> ScanFit:
    from topohead.solvers.scan_baselines import template_fit

    return template_fit(scan, head, seed)


def _pca(scan: Scan, head: HeadModel, seed: int, device: torch.device) -> ScanFit:
    from topohead.solvers.scan_baselines import pca_fit

    return pca_fit(scan, head, seed)


def _nricp(scan: Scan, head: HeadModel, seed: int, device: torch.device) -> ScanFit:
    from topohead.solvers.scan_baselines import nricp_fit

    return nricp_fit(scan, head, seed)


STARTS: Mapping[str, Fitter] = {
    "network": _network,
    "pca": _pca,
    "template": _template,
    "nricp": _nricp,
}
