"""Which point of a scan a point of the head's surface belongs to, and how far it has to go."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import fixed
from topohead.solvers.scan_samples import ScanSamples, median

NEIGHBOURS = 8
"""Samples that tell where the scan's surface is, but for the last, which counts nothing."""
ALIKE = 0.02
"""Cosines so far above what normals must agree in count fully, so far below it nothing."""
LEAST_ALIKE = 0.002
"""Share of the samples around that must face alike for a match to count fully."""
TINY = 1e-6
"""What the farthest sample counts: all where all are equally far."""


@dataclass(frozen=True)
class Matches:
    """Where surface points `rows` want to go: by `gap` metres along unit `normals`.

    `belief` in [0, 1] says how far each has a match at all, `weights` how much it counts: belief
    times a robust weight. All of them move by little when the surface or the scan does, so that
    rounding stays what it is. Rows that are not `found` have no belief: gap and weight are 0.
    `side` is how long the sides of the scan's triangles are there, metres; 0 of bare points.
    """

    rows: Int[Tensor, " M"]
    normals: Float[Tensor, "M 3"]
    gap: Float[Tensor, " M"]
    weights: Float[Tensor, " M"]
    belief: Float[Tensor, " M"]
    side: Float[Tensor, " M"]

    @property
    def found(self) -> Bool[Tensor, " M"]:
        """Which have a match."""
        return self.belief > 0

    @property
    def spread(self) -> Float[Tensor, ""]:
        """The gaps' deviation, by their median; 0 without any."""
        return 1.4826 * median(self.gap.abs(), self.found)

    def those(self, kept: Bool[Tensor, " M"]) -> "Matches":
        """Some of them."""
        return Matches(*(getattr(self, entry.name)[kept] for entry in fields(self)))


@dataclass(frozen=True)
class MatchConfig:
    """What counts as a match; at each limit half of it does."""

    reach: float
    """Farthest sample, metres."""
    agreement: float = 0.5
    """Least cosine between normals."""
    cut: float = 3.0
    """Gaps this many times their spread count a quarter (Geman–McClure)."""
    finest: float = 1e-4
    """The spread is not taken for less, metres."""
    edge: float = 2.5
    """Sideways distance to the samples around, in spacings, from which on a point is beyond the
    scan's edge or over a hole."""


def ramp(
    values: Float[Tensor, "*N"], none: float | Tensor, full: float | Tensor
) -> Float[Tensor, "*N"]:
    """0 at `none` and beyond, 1 at `full` and beyond, linear between; either may be the greater."""
    return ((values - none) / (full - none)).clamp(0, 1)


def within(values: Float[Tensor, "*N"], limit: float | Tensor) -> Float[Tensor, "*N"]:
    """1 below a limit and 0 above it, linear from 0.9 to 1.1 of it: a decision that rounding cannot
    turn over."""
    return ramp(values, 1.1 * limit, 0.9 * limit)


def match(
    points: Float[Tensor, "P 3"],
    normals: Float[Tensor, "P 3"],
    rows: Int[Tensor, " R"],
    samples: ScanSamples,
    config: MatchConfig,
) -> Matches:
    """Matches of those rows of a surface with normals that have one; see `match_all`."""
    every = match_all(points, normals, rows, samples, config)
    return every.those(every.found)


def match_all(
    points: Float[Tensor, "P 3"],
    normals: Float[Tensor, "P 3"],
    rows: Int[Tensor, " R"],
    samples: ScanSamples,
    config: MatchConfig,
) -> Matches:
    """The given rows of a surface with normals, matched or not.

    Where work is recorded it is all of them; elsewhere some without a match are left out.

    The gap is measured along the mean of both sides' normals, which is exact on any surface of
    second order (Rusinkiewicz 2019), and averaged over near samples that face alike, which takes
    out noise. Neither rims nor holes attract: there the samples around lie sideways.
    """
    here, own = points[rows], normals[rows]
    reach = 1.1 * config.reach
    distance, index = samples.tree.query(here, NEIGHBOURS, reach)
    theirs = samples.normals[index]
    cosine = (theirs * own[:, None]).sum(2)
    alike = ramp(cosine, config.agreement - ALIKE, config.agreement + ALIKE)
    alike = alike.masked_fill(distance.isinf(), 0)
    if not fixed(points):  # rows that find nothing are no work
        parts = (rows, here, own, distance, index, theirs, alike)
        some = (alike > 0).any(1)
        rows, here, own, distance, index, theirs, alike = (part[some] for part in parts)
    square = distance.clamp(max=reach) ** 2
    falloff = torch.exp(-(square - square[:, :1]) / (1.5 * samples.spacing) ** 2)
    # who is the last to be asked, or just within reach, must not matter
    falloff = falloff - (1 - TINY) * falloff[:, -1:]
    believed = falloff * alike
    total = believed.sum(1)
    shares = believed / total.masked_fill(total == 0, 1)[:, None]
    between = theirs + own[:, None]
    between = between / between.norm(dim=2, keepdim=True).clamp(min=1e-12)
    # what is not alike may be infinitely far
    offset = (samples.points[index] - here[:, None]).masked_fill((alike == 0)[..., None], 0)
    gap = (shares * (offset * between).sum(2)).sum(1)
    normal = (shares[..., None] * between).sum(1)
    normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-12)
    sideways = ((shares * square).sum(1) - gap**2).clamp(min=0).sqrt()
    belief = (
        within(distance[:, 0], config.reach)
        * within(sideways, config.edge * samples.spacing + 0.3 * gap.abs())
        * ramp(total / falloff.sum(1), 0, LEAST_ALIKE)
    )
    found = belief > 0
    gap = torch.where(found, gap, 0.0)
    side = (shares * samples.side[index]).sum(1)
    return Matches(rows, normal, gap, belief * robust(gap, config, found), belief, side)


def joined(first: Matches, second: Matches) -> Matches:
    """All matches of both."""
    names = (entry.name for entry in fields(Matches))
    return Matches(*(torch.cat([getattr(m, n) for m in (first, second)]) for n in names))


def robust(
    gap: Float[Tensor, " M"], config: MatchConfig, found: Bool[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Geman–McClure weights about the found gaps' spread (median absolute, made Gaussian)."""
    spread = (1.4826 * median(gap.abs(), found)).clamp(min=config.finest)
    return 1 / (1 + (gap / (config.cut * spread)) ** 2) ** 2


def on_skin(
    surface: Float[Tensor, "S 3"],
    normals: Float[Tensor, "S 3"],
    skin: Bool[Tensor, " S"],
    samples: ScanSamples,
) -> Bool[Tensor, " N"]:
    """Which samples lie nearer to the skin than to eyes, tongue, teeth or the mouth's inside.

    A normal a radian apart counts as much as 4 mm.
    """
    tree = PointTree(torch.cat([surface, 0.004 * normals], 1))
    query = torch.cat([samples.points, 0.004 * samples.normals], 1)
    return skin[tree.query(query)[1][:, 0]]
