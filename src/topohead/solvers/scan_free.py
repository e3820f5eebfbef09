"""The free remainder of a registration: every vertex moves, held by elasticity and by the start."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.geometry.point_tree import PointTree
from topohead.solvers.elasticity import ElasticConfig
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_lips import LipLine
from topohead.solvers.scan_matching import (
    MatchConfig,
    Matches,
    joined,
    match_all,
    on_skin,
    ramp,
    within,
)
from topohead.solvers.scan_samples import ScanSamples
from topohead.solvers.scan_system import FreeSystem, free_system

NEAR, TURNED = 4, 0.1
"""Places looked at for skin close to skin; and the cosine from above zero to below it over which
that is opposed."""


@dataclass(frozen=True)
class FreeStep:
    """One Gauss–Newton step: the farthest match, metres, and a factor of the stiffness."""

    reach: float
    stiffness: float


@dataclass(frozen=True)
class FreeConfig:
    """Numbers of the free fit; energies have no unit."""

    steps: tuple[FreeStep, ...] = (
        FreeStep(0.008, 30.0),
        FreeStep(0.006, 10.0),
        FreeStep(0.005, 3.0),
        FreeStep(0.004, 1.0),
        FreeStep(0.003, 0.4),
        FreeStep(0.003, 0.4),
    )
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    noise: float = 1.5e-4
    """Least deviation of the scan from the surface, metres; more where the scan is rougher."""
    chords: float = 1.5
    """Besides, triangles with sides h are off a surface of curvature k by so many times h²k/8: they
    are chords, and what is measured over their length fills folds. Only a start with σ below `sure`
    knows better: real scans would lose 0.1 mm of their surface to one that does not."""
    prior_share: float = 0.02
    """What one vertex counts in the prior about the start, whose errors neighbours share."""
    cut: float = 3e-3
    """Gaps of bare smooth skin count a quarter from here on, metres, whatever the others are."""
    sure: float = 6e-4
    """On lids, lips, ears and nose a match counts as σ² in this squared, metres: it may be another
    fold's, and a start that is surer is not improved by it."""
    folded: float = 0.1
    """The least of that; and what is left of it where skin lies close to skin."""
    close: float = 1.5e-3
    """How close, in front of the skin or behind it, metres."""
    hair: float = 0.002
    """Scan farther outside a scalp than this and twice its σ is taken for hair, metres."""
    iterations: int = 80
    """Conjugate-gradient steps."""


def fit_vertices(
    surface: ScanHead,
    samples: ScanSamples,
    start: Float[Tensor, "V 3"],
    sigma: Float[Tensor, " V"],
    config: FreeConfig,
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, " V"]]:
    """Vertices [V 3] whose finer surface lies on the samples, and the data's precision [V], 1/m².

    Minimises point-to-plane distances + as-rigid-as-possible energy (`Elasticity`) about the start
    + |v − start|²/σ² by Gauss–Newton. Where the scan shows nothing the surface follows smoothly.
    All float64, on the device of `start`; on CUDA all steps are recorded once for each number of
    samples.
    """
    system = free_system(surface, config.elastic, config.iterations)
    work = partial(_fitted, surface, LipLine.of(surface), system, config)
    vertices, known = surface.recordings(("free", config), work, start, sigma, *samples.parts)
    return vertices, known


def _fitted(
    surface: ScanHead,
    lips: LipLine,
    system: FreeSystem,
    config: FreeConfig,
    start: Float[Tensor, "V 3"],
    sigma: Float[Tensor, " V"],
    *parts: Tensor,
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, " V"]]:
    samples = ScanSamples(*parts)
    rest = system.about(start, config.prior_share / sigma**2)
    finer_sigma = surface.matrix @ sigma
    allowed = config.hair + 2 * finer_sigma
    trust = trust_by_place(surface, start, finer_sigma, config)
    curved = surface.surface(start)
    curved = surface.curvature(curved, surface.normals(curved))
    surer = ramp((finer_sigma / config.sure).square(), 1.0, 0.0)
    vertices = start
    known = torch.zeros_like(allowed)
    outer = samples
    for number, step in enumerate(config.steps):
        points = surface.surface(vertices)
        normals = surface.normals(points)
        if number % 3 == 0:
            outer = samples.only(on_skin(points, normals, surface.skin, samples))
        found = match_all(points, normals, surface.skin_rows, outer, MatchConfig(step.reach))
        found = _bare_trusted(found, surface, config.cut)
        spread = torch.maximum(found.spread, samples.noise).clamp(min=config.noise)
        closing = lips.closing(points, normals, outer)
        believed = torch.cat([trust[found.rows], torch.ones_like(closing.gap)])
        found = joined(found, closing)
        chord = config.chords / 8 * curved[found.rows] * found.side**2
        variance = spread**2 + surer[found.rows] * chord**2
        weight = _weights(surface, found, allowed, variance) * believed
        known = torch.zeros_like(known).index_put((found.rows,), weight, accumulate=True)
        vertices = vertices + system.step(rest, vertices, found, weight, step.stiffness)
    return vertices, surface.shares @ known


def _bare_trusted(found: Matches, surface: ScanHead, cut: float) -> Matches:
    """Gaps of bare smooth skin are the shape's own up to about `cut`, however well others fit.

    A patch of cheek or neck that the start has wrong would else be left as an outlier for good.
    """
    known = 1 / (1 + (found.gap / cut) ** 2) ** 2
    bare = torch.where(surface.bare[found.rows], found.belief * known, 0.0)
    weights = torch.maximum(found.weights, bare)
    return replace(found, weights=weights)


def _weights(
    surface: ScanHead,
    found: Matches,
    allowed: Float[Tensor, " S"],
    variance: Float[Tensor, " M"],
) -> Float[Tensor, " M"]:
    """1/variance of every match that counts fully; none where hair stands off the scalp."""
    skin = torch.where(surface.scalp[found.rows], within(found.gap, allowed[found.rows]), 1.0)
    return skin * found.weights / variance


def trust_by_place(
    surface: ScanHead, start: Float[Tensor, "V 3"], sigma: Float[Tensor, " S"], config: FreeConfig
) -> Float[Tensor, " S"]:
    """What a match with the scan counts for its place alone; `sigma` is the finer vertices'."""
    points = surface.surface(start)
    normals = surface.normals(points)
    rows = surface.skin_rows
    tree = PointTree(points[rows])
    close = torch.zeros_like(points[:, 0])
    for way in (config.close, -config.close):
        distance, index = tree.query(points + way * normals, min(NEAR, len(rows)))
        opposed = ramp((normals[rows[index]] * normals[:, None]).sum(2), TURNED, -TURNED)
        near = within(distance, 0.8 * config.close)
        # only what is about as near as the nearest
        nearest, last = distance[:, :1], distance[:, -1:]
        nearly = ramp(distance, torch.minimum(1.1 * nearest, last) + 1e-12, nearest)
        close = torch.maximum(close, (opposed * near * nearly).amax(1))
    unsure = (sigma / config.sure).square().clamp(config.folded, 1.0)
    trust = torch.where(surface.bare | surface.scalp, 1.0, unsure)
    return trust * (1 - close + config.folded * close)
