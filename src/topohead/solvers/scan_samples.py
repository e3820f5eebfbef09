"""A scan made ready for matching: even samples with outward normals, and trees to ask for them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Scan
from topohead.geometry.meshes import outward_normals, triangle_areas
from topohead.geometry.point_tree import PointTree
from topohead.solvers.scan_triangles import bulged

AROUND = 9
"""Neighbours (itself among them) from which a sample's normal is estimated or smoothed."""


@dataclass(frozen=True)
class ScanSamples:
    """Points spread evenly over a scan, float64 in its frame and on its device; `normals` are unit,
    outward.

    `source` is the scan's point that each sample lies nearest to along its triangle, `spacing` the
    median distance between neighbours, `noise` the deviation of points from the planes through
    their neighbours, metres.
    """

    points: Float[Tensor, "S 3"]
    normals: Float[Tensor, "S 3"]
    source: Int[Tensor, " S"]
    spacing: float
    noise: float

    @cached_property
    def tree(self) -> PointTree:
        """Of the points."""
        return PointTree(self.points)

    def subset(self, keep: Bool[Tensor, " S"]) -> "ScanSamples":
        """Only some of the samples; `spacing` stays, so that new gaps count as holes."""
        return replace(
            self, points=self.points[keep], normals=self.normals[keep], source=self.source[keep]
        )

    def turned(self) -> "ScanSamples":
        """The same with normals on the other side."""
        return replace(self, normals=-self.normals)


def sample_scan(scan: Scan, count: int = 60_000, seed: int = 0) -> ScanSamples:
    """At most `count` samples; the same seed gives the same ones, on every device.

    A mesh is sampled by area, one point in each of `count` equal shares of it, on triangles curved
    as their corners' normals say. Bare points are thinned at random and keep their given normals;
    without these, normals come from the plane through their neighbours, pointing away from the
    middle. Unit and winding are the reader's affair; a mesh wound clockwise as a whole is turned
    over.
    """
    random = np.random.default_rng(seed)
    if len(scan.triangles):
        points, normals, source = _on_triangles(scan, count, random)
    else:
        points, normals, source = _of_points(scan, count, random)
    good = points.isfinite().all(1)
    points, source = points[good], source[good]
    normals = None if normals is None else normals[good]
    distance, near = PointTree(points).query(points, min(AROUND, len(points)))
    spacing = float(median(distance[:, 1])) if distance.shape[1] > 1 else 0.0
    normals = _estimated(points, near) if normals is None else _smoothed(normals, near)
    height = ((points[near[:, 1:]] - points[:, None]) * normals[:, None]).sum(2)
    # both points of a pair are off their place
    noise = 1.4826 * float(median(height.abs().flatten())) / 2**0.5
    return ScanSamples(points, normals, source, max(spacing, 1e-6), noise)


def median(values: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """The middle value, of an even number the mean of both; 0 where there is none."""
    if not len(values):
        return values.new_zeros(())
    ordered, half = values.sort().values, len(values) // 2
    return (ordered[half] + ordered[half - 1 + len(values) % 2]) / 2


def _on_triangles(
    scan: Scan, count: int, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    vertices, device = scan.points.double(), scan.points.device
    # summed on the CPU: a share of the area then ends at the same triangle on every device
    total = triangle_areas(vertices, scan.triangles).cpu().cumsum(0)
    place = torch.from_numpy((np.arange(count) + random.random(count)) / count) * total[-1]
    face = torch.searchsorted(total, place, right=True).clamp(max=len(total) - 1).to(device)
    weights = torch.from_numpy(random.dirichlet([1.0, 1.0, 1.0], count)).to(device)
    corners = scan.triangles[face]
    normals = outward_normals(vertices, scan.triangles)
    normals = normals[corners]
    points = bulged(vertices[corners], normals, weights)
    mixed = (weights[..., None] * normals).sum(1)
    return points, mixed, corners.gather(1, weights.argmax(1, keepdim=True))[:, 0]


def _of_points(
    scan: Scan, count: int, random: np.random.Generator
) -> tuple[Tensor, Tensor | None, Tensor]:
    chosen = torch.arange(len(scan.points))
    if len(chosen) > count:
        chosen = torch.from_numpy(np.sort(random.choice(len(chosen), count, replace=False)))
    chosen = chosen.to(scan.points.device)
    normals = None if scan.normals is None else scan.normals[chosen].double()
    if normals is not None and not bool((normals.abs() > 0).any()):
        normals = None
    return scan.points[chosen].double(), normals, chosen


def _smoothed(normals: Tensor, near: Tensor) -> Float[Tensor, "S 3"]:
    """Means over neighbours that face alike: a scanner's noise is rougher than skin."""
    normals = normals / normals.norm(dim=1, keepdim=True).clamp(min=1e-12)
    around = normals[near]
    alike = (around * normals[:, None]).sum(2) > 0.5
    mean = (around * alike[..., None]).sum(1)
    length = mean.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-9, mean / length.clamp(min=1e-12), normals)


def _estimated(points: Tensor, near: Tensor) -> Float[Tensor, "S 3"]:
    """Least-squares planes; signs by agreement along a spanning tree (Hoppe et al. 1992).

    The tree as a whole points away from the middle of the points. Planes and tree are the CPU's.
    """
    places, rows = points.cpu().numpy(), near.cpu().numpy()
    around = places[rows] - places[rows].mean(1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("skc,skd->scd", around, around))[1][:, :, 0]
    normals = _agreeing(normals, rows)
    outward = places - np.median(places, axis=0)
    normals = normals if (outward * normals).sum() >= 0 else -normals
    return torch.from_numpy(np.ascontiguousarray(normals)).to(points)


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


def oriented(
    samples: ScanSamples, points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"]
) -> ScanSamples:
    """Samples whose normals are turned over, all of them, when most oppose a surface near them."""
    distance, near = (part[:, 0] for part in PointTree(points).query(samples.points))
    close = distance <= distance.sort().values[int(0.7 * (len(distance) - 1))]
    agree = (samples.normals * normals[near]).sum(1)[close]
    return samples if float(agree.sign().sum()) >= 0 else samples.turned()
