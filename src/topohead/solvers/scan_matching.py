"""Which point of a scan a point of the head's surface belongs to, and how far it has to go."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import fixed
from topohead.solvers.scan_samples import ScanSamples, median

NEIGHBOURS = 6
"""Samples that tell where the scan's surface is."""


@dataclass(frozen=True)
class Matches:
    """Where surface points `rows` want to go: by `gap` metres along unit `normals`.

    `weights` in (0, 1] say how far each is believed; `samples` is the nearest sample. Rows that are
    not `found` have no match: their gap and weight are 0.
    """

    rows: Int[Tensor, " M"]
    normals: Float[Tensor, "M 3"]
    gap: Float[Tensor, " M"]
    weights: Float[Tensor, " M"]
    samples: Int[Tensor, " M"]
    found: Bool[Tensor, " M"]

    @property
    def spread(self) -> Float[Tensor, ""]:
        """The gaps' deviation, by their median; 0 without any."""
        return 1.4826 * median(self.gap.abs(), self.found)

    def those(self, kept: Bool[Tensor, " M"]) -> "Matches":
        """Some of them."""
        return Matches(*(getattr(self, entry.name)[kept] for entry in fields(self)))


@dataclass(frozen=True)
class MatchConfig:
    """What counts as a match."""

    reach: float
    """Farthest sample, metres."""
    agreement: float = 0.5
    """Least cosine between normals."""
    cut: float = 3.0
    """Gaps this many times their spread count a quarter (Geman–McClure)."""
    finest: float = 1e-4
    """The spread is not taken for less, metres."""
    edge: float = 2.5
    """Sideways distance to the nearest sample, in spacings, from which on a point is beyond the
    scan's edge or over a hole."""


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
    out noise. Neither rims nor holes attract: there the nearest sample lies sideways.
    """
    here, own = points[rows], normals[rows]
    distance, index = samples.tree.query(here, NEIGHBOURS, config.reach)
    theirs = samples.normals[index]
    alike = distance.isfinite() & ((theirs * own[:, None]).sum(2) > config.agreement)
    found = alike.any(1)
    if not fixed(points):  # rows that find nothing are no work
        parts = (rows, here, own, distance, index, theirs, alike, found)
        rows, here, own, distance, index, theirs, alike, found = (part[found] for part in parts)
    first = alike.to(torch.int8).argmax(1, keepdim=True)
    nearest = distance.gather(1, first).masked_fill(~found[:, None], 0)
    width = (1.5 * samples.spacing) ** 2
    falloff = torch.exp(-(distance.masked_fill(~alike, torch.inf) ** 2 - nearest**2) / width)
    falloff = falloff / falloff.sum(1, keepdim=True).masked_fill(~found[:, None], 1)
    between = theirs + own[:, None]
    between = between / between.norm(dim=2, keepdim=True).clamp(min=1e-12)
    # what is not alike may be infinitely far
    offset = (samples.points[index] - here[:, None]).masked_fill(~alike[..., None], 0)
    gap = (falloff * (offset * between).sum(2)).sum(1)
    normal = (falloff[..., None] * between).sum(1)
    normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-12)
    sideways = (nearest[:, 0] ** 2 - gap**2).clamp(min=0).sqrt()
    found &= sideways < config.edge * samples.spacing + 0.3 * gap.abs()
    gap = torch.where(found, gap, 0.0)
    weights = torch.where(found, robust(gap, config, found), 0.0)
    return Matches(rows, normal, gap, weights, index.gather(1, first)[:, 0], found)


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
