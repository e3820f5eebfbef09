"""From a first guess of a scanned head to an accurate one: head model first, then free vertices."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from topohead.core import HeadModel, Scan, ScanFit
from topohead.core.derived import derived
from topohead.solvers.headfit import HeadArrays
from topohead.solvers.scan_followers import Followers
from topohead.solvers.scan_free import FreeConfig, fit_vertices
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_modes import (
    Modes,
    explained,
    fit_modes,
    population_prior,
    without_creases,
)
from topohead.solvers.scan_samples import ScanSamples, oriented, sample_scan
from topohead.solvers.scan_seen import on_head

POPULATION = 0.004
"""How far heads lie from the mean one along an axis, metres: a start that is better by a factor
keeps its modes' prior tighter by it."""
ACROSS = 0.1
"""Share of a start's variance that lies along the normal, a third if it were the same in all
directions: starts slide along the skin far more than they leave it. 0.08 to 0.11 for the network on
clean, one-sided and remeshed tuning scans (seed 140, `normal_share` of benchmarks/register.py)."""


@dataclass(frozen=True)
class RefineConfig:
    """Numbers of `refine`."""

    samples: int = 60_000
    """Points of the scan that are used."""
    reaches: tuple[float, ...] = (0.008, 0.006, 0.005, 0.004)
    """Farthest match in each step of the head model, metres."""
    free: FreeConfig = field(default_factory=FreeConfig)
    """The step of all vertices."""
    seed: int = 0
    """Chooses the samples."""


def refine(
    scan: Scan, start: ScanFit, head: HeadModel, config: RefineConfig | None = None
) -> ScanFit:
    """The head on the scan: its subdivided surface (`fitted_surface`) meets what the scan shows.

    First pose, identity and expression move about the start, whose deviation from the head model is
    kept; then all vertices. Skin alone is drawn to the scan; eyes, tongue, teeth and what the scan
    does not show follow. `sigma` shrinks where the scan shows the surface, along its normal.
    """
    config = config or RefineConfig()
    surface, arrays = ScanHead.of(head.topology), derived(head, HeadArrays)
    first = start.vertices.double().numpy()
    sigma = np.maximum(start.sigma.double().numpy(), 1e-4)
    samples = _trusted(scan, start, surface, first, config)
    modes = _model_step(arrays, surface, samples, start, sigma, config)
    guess = modes.vertices(arrays)
    vertices, known = fit_vertices(surface, samples, guess, sigma, config.free)
    vertices = Followers.of(head).follow(guess, vertices, modes.pose)
    error = _posterior(sigma, known)
    expression = modes.coefficients[arrays.identity_count :]
    return replace(
        start,
        vertices=torch.from_numpy(vertices).float(),
        sigma=torch.from_numpy(error).float(),
        pose=torch.from_numpy(modes.pose).float(),
        expression=torch.from_numpy(expression).float(),
        inliers=torch.from_numpy(on_head(scan, surface, vertices, 0.003)),
    )


def _trusted(
    scan: Scan, start: ScanFit, surface: ScanHead, vertices: np.ndarray, config: RefineConfig
) -> ScanSamples:
    """The samples that the start takes for head, with normals turned outward."""
    samples = sample_scan(scan, config.samples, config.seed)
    samples = samples.subset(start.inliers.numpy()[samples.source])
    points = surface.surface(vertices)
    return oriented(samples, points, surface.normals(points))


def _model_step(
    arrays: HeadArrays,
    surface: ScanHead,
    samples: ScanSamples,
    start: ScanFit,
    sigma: Float[np.ndarray, " V"],
    config: RefineConfig,
) -> Modes:
    """Pose, identity and expression, as tightly about the start as it is sure of itself."""
    rows = np.flatnonzero(surface.topology.region_mask("face").numpy())
    doubt = float(np.median(sigma[rows]))
    modes = explained(
        arrays,
        start.vertices.double().numpy(),
        start.pose.double().numpy(),
        start.expression.double().numpy(),
        rows,
        doubt,
    )
    modes = without_creases(modes, surface)
    share = min(1.0, doubt / POPULATION)
    prior = population_prior(arrays)
    prior = replace(
        prior,
        mean=modes.coefficients,
        precision=prior.precision / share**2,
        size=modes.size,
        size_spread=prior.size_spread * share,
    )
    return fit_modes(arrays, surface, samples, modes, prior, config.reaches, config.seed)


def _posterior(
    sigma: Float[np.ndarray, " V"], known: Float[np.ndarray, " V"]
) -> Float[np.ndarray, " V"]:
    """Error along an axis: along the normal less by what the scan says, sideways as it was."""
    before = 3 * ACROSS * sigma**2
    normal = before / (1 + before * known)
    return np.sqrt((normal + 3 * (1 - ACROSS) * sigma**2) / 3)
