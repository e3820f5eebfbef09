"""A scan made ready for matching: even samples with outward normals, and trees to ask for them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from topohead.core import Scan
from topohead.geometry.meshes import outward_normals, triangle_areas

AROUND = 9
"""Neighbours (itself among them) from which a sample's normal is estimated or smoothed."""


@dataclass(frozen=True)
class ScanSamples:
    """Points spread evenly over a scan, float64 in its frame; `normals` are unit, outward.

    `source` is the scan's point that each sample lies nearest to along its triangle, `spacing` the
    median distance between neighbours, `noise` the deviation of points from the planes through
    their neighbours, metres.
    """

    points: Float[np.ndarray, "S 3"]
    normals: Float[np.ndarray, "S 3"]
    source: Int[np.ndarray, " S"]
    spacing: float
    noise: float

    @cached_property
    def tree(self) -> KDTree:
        """Of the points."""
        return KDTree(self.points)

    def subset(self, keep: Bool[np.ndarray, " S"]) -> "ScanSamples":
        """Only some of the samples; `spacing` stays, so that new gaps count as holes."""
        return replace(
            self, points=self.points[keep], normals=self.normals[keep], source=self.source[keep]
        )

    def turned(self) -> "ScanSamples":
        """The same with normals on the other side."""
        return replace(self, normals=-self.normals)


def sample_scan(scan: Scan, count: int = 60_000, seed: int = 0) -> ScanSamples:
    """At most `count` samples; the same seed gives the same ones.

    A mesh is sampled by area, one point in each of `count` equal shares of it. Bare points are
    thinned at random and keep their given normals; without these, normals come from the plane
    through their neighbours, pointing away from the middle. Unit and winding are the reader's
    affair; a mesh wound clockwise as a whole is turned over.
    """
    random = np.random.default_rng(seed)
    if len(scan.triangles):
        points, normals, source = _on_triangles(scan, count, random)
    else:
        points, normals, source = _of_points(scan, count, random)
    points, normals, source, near, distance = _finite(points, normals, source)
    spacing = float(np.median(distance[:, 1])) if distance.shape[1] > 1 else 0.0
    normals = _estimated(points, near) if normals is None else _smoothed(normals, near)
    height = np.einsum("skc,sc->sk", points[near[:, 1:]] - points[:, None], normals)
    # both points of a pair are off their place
    noise = 1.4826 * float(np.median(np.abs(height))) / 2**0.5
    return ScanSamples(points, normals, source, max(spacing, 1e-6), noise)


def _on_triangles(
    scan: Scan, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertices = scan.points.double()
    total = triangle_areas(vertices, scan.triangles).cumsum(0).numpy()
    place = (np.arange(count) + random.random(count)) / count * total[-1]
    face = np.minimum(np.searchsorted(total, place, side="right"), len(total) - 1)
    weights = random.dirichlet([1.0, 1.0, 1.0], count)
    corners = scan.triangles.numpy()[face]
    normals = outward_normals(vertices, scan.triangles).numpy()
    points = np.einsum("sk,skc->sc", weights, vertices.numpy()[corners])
    mixed = np.einsum("sk,skc->sc", weights, normals[corners])
    return points, mixed, corners[np.arange(count), weights.argmax(1)]


def _of_points(
    scan: Scan, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    chosen = np.arange(len(scan.points))
    if len(chosen) > count:
        chosen = np.sort(random.choice(len(chosen), count, replace=False))
    normals = None if scan.normals is None else scan.normals.double().numpy()[chosen]
    if normals is not None and not (np.abs(normals) > 0).any():
        normals = None
    return scan.points.double().numpy()[chosen], normals, chosen


def _finite(
    points: np.ndarray, normals: np.ndarray | None, source: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
    """Without samples that are not numbers; and each one's nearest neighbours."""
    good = np.isfinite(points).all(1)
    points, source = points[good], source[good]
    normals = None if normals is None else normals[good]
    distance, near = KDTree(points).query(points, k=min(AROUND, len(points)))
    return points, normals, source, near.reshape(len(points), -1), distance.reshape(len(points), -1)


def _smoothed(normals: np.ndarray, near: np.ndarray) -> Float[np.ndarray, "S 3"]:
    """Means over neighbours that face alike: a scanner's noise is rougher than skin."""
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    around = normals[near]
    alike = np.einsum("skc,sc->sk", around, normals) > 0.5
    mean = (around * alike[..., None]).sum(1)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    return np.where(length > 1e-9, mean / np.maximum(length, 1e-12), normals)


def _estimated(points: np.ndarray, near: np.ndarray) -> Float[np.ndarray, "S 3"]:
    """Least-squares planes; signs by agreement along a spanning tree (Hoppe et al. 1992).

    The tree as a whole points away from the middle of the points.
    """
    around = points[near] - points[near].mean(1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("skc,skd->scd", around, around))[1][:, :, 0]
    normals = _agreeing(normals, near)
    outward = points - np.median(points, axis=0)
    return normals if (outward * normals).sum() >= 0 else -normals


def _agreeing(normals: np.ndarray, near: np.ndarray) -> Float[np.ndarray, "S 3"]:
    from scipy.sparse import coo_array  # noqa: PLC0415  0.1 s that scans with normals need not wait
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree  # noqa: PLC0415

    count = len(normals)
    row = np.repeat(np.arange(count), near.shape[1] - 1)
    column = near[:, 1:].ravel()
    bend = 1 + 1e-6 - np.abs(np.einsum("ec,ec->e", normals[row], normals[column]))
    tree = minimum_spanning_tree(coo_array((bend, (row, column)), (count, count)).tocsr())
    normals = normals.copy()
    left = np.ones(count, bool)
    while left.any():
        # parts that do not hang together are each begun anew, with the sign of the mean direction
        start = int(left.argmax())
        order, before = breadth_first_order(tree, start, directed=False)
        for node in order[1:].tolist():
            parent = before[node]
            if normals[node] @ normals[parent] < 0:
                normals[node] = -normals[node]
        left[order] = False
    return normals


def oriented(samples: ScanSamples, points: np.ndarray, normals: np.ndarray) -> ScanSamples:
    """Samples whose normals are turned over, all of them, when most oppose a surface near them."""
    distance, near = KDTree(points).query(samples.points)
    close = distance <= np.quantile(distance, 0.7)
    agree = np.einsum("sc,sc->s", samples.normals, normals[near])[close]
    return samples if np.sign(agree).sum() >= 0 else samples.turned()
