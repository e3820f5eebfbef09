"""From a first guess of a scanned head to an accurate one: head model first, then free vertices."""

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel, Scan, ScanFit
from topohead.solvers.scan_followers import Followers
from topohead.solvers.scan_free import FreeConfig, fit_vertices
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_modes import (
    HeadModes,
    Modes,
    explained,
    fit_modes,
    population_prior,
    without_creases,
)
from topohead.solvers.scan_samples import ScanSamples, oriented, sample_scan
from topohead.solvers.scan_seen import on_head

UNEXPLAINED, TIGHTEST = 1.2e-3, 0.01
"""What modes leave of a start on the face, rms, metres: they are held about it as much tighter than
people spread as the square of this is smaller, at most to a hundredth. It is 0.2 mm for people that
the modes know, and vertices, free next, then tell more of the scan than they do: on tuning people
(seed 150) tight ones bring 0.014 mm in voxels of 2 mm; and 0.6 mm for strangers, who need them."""
LEAST = 1e-4
"""A start's σ is not taken for less, metres."""
ACROSS = 0.1
"""Share of a start's variance that lies along the normal, a third if it were the same in all
directions: starts slide along the skin far more than they leave it. 0.07 for the network on clean
tuning scans, 0.10 on one-sided ones (seed 140, `normal_share` of benchmarks/register.py)."""


@dataclass(frozen=True)
class RefineConfig:
    """Numbers of `refine`."""

    samples: int = 60_000
    """Points of the scan that are used."""
    reaches: tuple[float, ...] = (0.008, 0.006, 0.005, 0.004)
    """Farthest match in each step of the head model, metres."""
    free: FreeConfig = field(default_factory=FreeConfig)
    """The step of all vertices."""
    held: float | None = None
    """Share of how people spread within which modes are held about the start; None: the tighter the
    better they explain it, which says nothing of a start that was made of them."""
    seed: int = 0
    """Chooses the samples."""


def refine(
    scan: Scan, start: ScanFit, head: HeadModel, config: RefineConfig | None = None
) -> ScanFit:
    """The head on the scan: its subdivided surface (`fitted_surface`) meets what the scan shows.

    First pose, identity and expression move about the start, whose deviation from the head model is
    kept; then all vertices. Skin alone is drawn to the scan; eyes, tongue, teeth and what the scan
    does not show follow. `sigma` shrinks where the scan shows the surface, along its normal. All on
    the scan's device; on CUDA what costs little stays with the CPU.
    """
    config = config or RefineConfig()
    device, known = scan.points.device, start.to("cpu")
    start = start.to(device)
    model = HeadModes.of(head, device)
    surface = model.surface
    sigma = start.sigma.double().clamp(min=LEAST)
    samples = _trusted(scan, start, surface, config)
    modes = _model_step(model, samples, known, config)
    guess = modes.vertices(model)
    vertices, precision = fit_vertices(surface, samples, guess, sigma, config.free)
    vertices = Followers.of(head, device).follow(guess, vertices, modes.pose)
    expression = torch.from_numpy(modes.coefficients[model.arrays.identity_count :])
    return replace(
        start,
        vertices=vertices.float(),
        sigma=_posterior(sigma, precision).float(),
        pose=torch.from_numpy(modes.pose).float().to(device),
        expression=expression.float().to(device),
        inliers=on_head(scan, surface, vertices, 0.003, again=True),
    )


def _trusted(scan: Scan, start: ScanFit, surface: ScanHead, config: RefineConfig) -> ScanSamples:
    """The samples that the start takes for head, with normals turned outward."""
    samples = sample_scan(scan, config.samples, config.seed).padded(config.samples)
    samples = samples.only(start.inliers[samples.source])
    work = partial(_oriented, surface)
    inputs = start.vertices.double(), *samples.parts
    return replace(samples, normals=surface.recordings("oriented", work, *inputs)[0])


def _oriented(
    surface: ScanHead, vertices: Float[Tensor, "V 3"], *samples: Tensor
) -> tuple[Float[Tensor, "S 3"]]:
    points = surface.surface(vertices)
    return (oriented(ScanSamples(*samples), points, surface.normals(points)).normals,)


def _model_step(
    model: HeadModes,
    samples: ScanSamples,
    start: ScanFit,
    config: RefineConfig,
) -> Modes:
    """Pose, identity and expression, held about the start as `RefineConfig.held` says.

    `start` is the CPU's, so that a device may still be at work on the samples.
    """
    arrays, topology = model.arrays, model.surface.topology
    rows = np.flatnonzero(topology.region_mask("face").numpy())
    parts = (start.vertices, start.pose, start.expression, start.sigma.double().clamp(min=LEAST))
    vertices, pose, expression, sigma = (part.double().numpy() for part in parts)
    doubt = float(np.median(sigma[rows]))
    modes = without_creases(explained(arrays, vertices, pose, expression, doubt), topology)
    share = config.held
    if share is None:
        left = float(np.sqrt(np.square(modes.remainder[rows]).sum(1).mean()))
        share = float(np.clip((left / UNEXPLAINED) ** 2, TIGHTEST, 1.0))
    prior = population_prior(arrays)
    prior = replace(
        prior,
        mean=modes.coefficients,
        precision=prior.precision / share**2,
        size=modes.size,
        size_spread=prior.size_spread * share,
    )
    return fit_modes(model, samples, modes, prior, config.reaches, config.seed)


def _posterior(sigma: Float[Tensor, " V"], known: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
    """Error along an axis: along the normal less by what the scan says, sideways as it was."""
    before = 3 * ACROSS * sigma**2
    normal = before / (1 + before * known)
    return ((normal + 3 * (1 - ACROSS) * sigma**2) / 3).sqrt()
