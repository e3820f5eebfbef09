"""Classical ways from a scan to a registered head; learned ones have to beat these."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Scan, ScanFit
from topohead.geometry.meshes import connected_parts
from topohead.solvers.nonrigid_icp import NonrigidConfig, deform
from topohead.solvers.scan_followers import Followers
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import MatchConfig, match
from topohead.solvers.scan_modes import HeadModes, Modes, fit_modes, held_prior, population_prior
from topohead.solvers.scan_samples import ScanSamples, median, oriented, sample_scan
from topohead.solvers.scan_search import SIZE_SPREAD, find_head, skull_of
from topohead.solvers.scan_seen import on_head, spread_sigma

SAMPLES = 30_000
LEAST_SIGMA, SIGMA_PER_GAP, NONRIGID_SIGMA = 1.5e-4, 2.3, 1.3e-3
"""A vertex errs along an axis by the first, metres, and so many times the median distance that is
left between face and scan; nonrigid ICP leaves no distance that would tell. On made heads with
seeds under 200."""
UNSEEN_SLOPE = 0.04
"""How much the error grows for each metre away from what the scan shows."""
POSE_REACHES = (0.02, 0.02, 0.015, 0.015, 0.012, 0.012)
REACHES = (0.025, 0.02, 0.015, 0.012, 0.01, 0.008, 0.007, 0.006, 0.005, 0.005, 0.004, 0.004)


def template_fit(scan: Scan, head: HeadModel, seed: int = 0) -> ScanFit:
    """The mean head in the pose and size that fit best, from anywhere and any orientation.

    The scan is in metres. Always answers: whether there is a head is for `scan_quality.judge`.
    """
    model = HeadModes.of(head, scan.points.device)
    samples, modes = _placed(scan, model, seed)
    return _fit(scan, model.surface, samples, modes, modes.vertices(model))


def pca_fit(scan: Scan, head: HeadModel, seed: int = 0) -> ScanFit:
    """`template_fit`, then the model's identity modes and expressions by iterated closest points.

    Nearly exact for heads of the model's own population, lost where it has no shape.
    """
    model = HeadModes.of(head, scan.points.device)
    samples, modes = _placed(scan, model, seed)
    prior = population_prior(model.arrays)
    modes = fit_modes(model, samples.padded(SAMPLES), modes, prior, REACHES, seed)
    return _fit(scan, model.surface, samples, modes, modes.vertices(model))


def nricp_fit(
    scan: Scan, head: HeadModel, seed: int = 0, config: NonrigidConfig | None = None
) -> ScanFit:
    """`template_fit`, then nonrigid ICP of the mean head: no head model, no expressions.

    Optimal-step nonrigid ICP (Amberg et al. 2007), which knows of faces what the template has.
    """
    model = HeadModes.of(head, scan.points.device)
    samples, modes = _placed(scan, model, seed)
    placed = modes.vertices(model)
    moving = (connected_parts(head.topology) == 0).numpy()
    vertices = deform(model.surface, placed, samples, moving, config or NonrigidConfig())
    vertices = torch.from_numpy(vertices).to(placed)
    vertices = Followers.of(head, placed.device).follow(placed, vertices, modes.pose)
    return _fit(scan, model.surface, samples, modes, vertices, NONRIGID_SIGMA)


def _placed(scan: Scan, model: HeadModes, seed: int) -> tuple[ScanSamples, Modes]:
    surface, arrays = model.surface, model.arrays
    samples = sample_scan(scan, SAMPLES, seed)
    placed = find_head(samples, *skull_of(ScanHead.of(surface.topology), arrays), seed)
    modes = Modes(placed.pose(), np.zeros(arrays.basis.shape[2]), np.zeros_like(arrays.template))
    there = surface.surface(modes.vertices(model))
    samples = oriented(samples, there, surface.normals(there))
    held = held_prior(arrays, SIZE_SPREAD)
    return samples, fit_modes(model, samples.padded(SAMPLES), modes, held, POSE_REACHES, seed)


def _fit(
    scan: Scan,
    surface: ScanHead,
    samples: ScanSamples,
    modes: Modes,
    vertices: Float[Tensor, "V 3"],
    sigma: float | None = None,
) -> ScanFit:
    if sigma is None:
        sigma = LEAST_SIGMA + SIGMA_PER_GAP * _median_gap(surface, vertices, samples)
    return ScanFit(
        vertices.float(),
        spread_sigma(surface, vertices, samples, sigma, UNSEEN_SLOPE).float(),
        torch.from_numpy(modes.pose).float().to(vertices.device),
        torch.from_numpy(modes.coefficients[-len(ARKIT_52) :]).float().to(vertices.device),
        on_head(scan, surface, vertices, max(3 * sigma, 0.006)),
    )


def _median_gap(surface: ScanHead, vertices: Float[Tensor, "V 3"], samples: ScanSamples) -> float:
    """Of the face to the scan, metres; the search's reach where nothing is near."""
    points, face = surface.surface(vertices), (surface.face & surface.skin).nonzero()[:, 0]
    found = match(points, surface.normals(points), face, samples, MatchConfig(POSE_REACHES[0]))
    return float(median(found.gap.abs())) if len(found.gap) else POSE_REACHES[0]
