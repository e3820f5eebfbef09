"""Which point of a scan a point of the head's surface belongs to, and how far it has to go."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from topohead.solvers.scan_samples import ScanSamples

NEIGHBOURS = 6
"""Samples that tell where the scan's surface is."""


@dataclass(frozen=True)
class Matches:
    """Where surface points `rows` want to go: by `gap` metres along unit `normals`.

    `weights` in (0, 1] say how far each is believed; `samples` is the nearest sample.
    """

    rows: Int[np.ndarray, " M"]
    normals: Float[np.ndarray, "M 3"]
    gap: Float[np.ndarray, " M"]
    weights: Float[np.ndarray, " M"]
    samples: Int[np.ndarray, " M"]


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
    points: Float[np.ndarray, "P 3"],
    normals: Float[np.ndarray, "P 3"],
    rows: Int[np.ndarray, " R"],
    samples: ScanSamples,
    config: MatchConfig,
) -> Matches:
    """Matches of the given rows of a surface with normals.

    The gap is measured along the mean of both sides' normals, which is exact on any surface of
    second order (Rusinkiewicz 2019), and averaged over near samples that face alike, which takes
    out noise. Neither rims nor holes attract: there the nearest sample lies sideways.
    """
    here, own = points[rows], normals[rows]
    distance, index = samples.tree.query(here, k=NEIGHBOURS, distance_upper_bound=config.reach)
    found = np.isfinite(distance)
    index = np.where(found, index, 0)
    theirs = samples.normals[index]
    alike = found & (np.einsum("rkc,rc->rk", theirs, own) > config.agreement)
    kept = alike.any(1)
    rows, here, own = rows[kept], here[kept], own[kept]
    index, theirs, alike, distance = (a[kept] for a in (index, theirs, alike, distance))
    first = alike.argmax(1)[:, None]
    nearest = np.take_along_axis(distance, first, 1)
    width = (1.5 * samples.spacing) ** 2
    falloff = np.exp(-(np.where(alike, distance, np.inf) ** 2 - nearest**2) / width)
    falloff /= falloff.sum(1, keepdims=True)
    between = theirs + own[:, None]
    between /= np.linalg.norm(between, axis=2, keepdims=True)
    offset = samples.points[index] - here[:, None]
    gap = (falloff * np.einsum("rkc,rkc->rk", offset, between)).sum(1)
    normal = (falloff[..., None] * between).sum(1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    sideways = np.sqrt(np.maximum(nearest[:, 0] ** 2 - gap**2, 0))
    inside = sideways < config.edge * samples.spacing + 0.3 * np.abs(gap)
    chosen = np.take_along_axis(index, first, 1)[:, 0]
    rows, normal, gap, chosen = (a[inside] for a in (rows, normal, gap, chosen))
    return Matches(rows, normal, gap, robust(gap, config), chosen)


def joined(first: Matches, second: Matches) -> Matches:
    """All matches of both."""
    names = (entry.name for entry in fields(Matches))
    return Matches(*(np.concatenate([getattr(m, n) for m in (first, second)]) for n in names))


def robust(gap: Float[np.ndarray, " M"], config: MatchConfig) -> Float[np.ndarray, " M"]:
    """Geman–McClure weights about the gaps' own spread (median absolute, made Gaussian)."""
    if not len(gap):
        return np.ones(0)
    spread = max(1.4826 * float(np.median(np.abs(gap))), config.finest)
    return 1 / (1 + (gap / (config.cut * spread)) ** 2) ** 2


def on_skin(
    surface: Float[np.ndarray, "S 3"],
    normals: Float[np.ndarray, "S 3"],
    skin: Bool[np.ndarray, " S"],
    samples: ScanSamples,
) -> Bool[np.ndarray, " N"]:
    """Which samples lie nearer to the skin than to eyes, tongue, teeth or the mouth's inside.

    A normal a radian apart counts as much as 4 mm.
    """
    from scipy.spatial import KDTree  # noqa: PLC0415

    tree = KDTree(np.concatenate([surface, 0.004 * normals], 1))
    query = np.concatenate([samples.points, 0.004 * samples.normals], 1)
    return skin[tree.query(query)[1]]
