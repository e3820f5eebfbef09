"""A scan made ready for matching: even samples with outward normals, and trees to ask for them."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Scan
from topohead.geometry.meshes import triangle_areas, wound_outward
from topohead.geometry.planes import plane_normals
from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import Recordings, filled, fixed
from topohead.solvers.scan_triangles import bulged, calm_normals

AROUND = 9
"""Neighbours (itself among them) from which a sample's normal is estimated or smoothed."""


@dataclass(frozen=True)
class ScanSamples:
    """Points spread evenly over a scan, float64 in its frame and on its device; `normals` are unit,
    outward.

    `source` is the scan's point that each sample lies nearest to along its triangle, `side` how
    long that triangle's sides are (rms; 0 of bare points), `spacing` the median distance between
    neighbours, `noise` the deviation of points from the planes through their neighbours, metres.
    """

    points: Float[Tensor, "S 3"]
    normals: Float[Tensor, "S 3"]
    source: Int[Tensor, " S"]
    side: Float[Tensor, " S"]
    spacing: Float[Tensor, ""]
    noise: Float[Tensor, ""]

    @cached_property
    def tree(self) -> PointTree:
        """Of the points."""
        return PointTree(self.points)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Of which it is made, in order."""
        return self.points, self.normals, self.source, self.side, self.spacing, self.noise

    def padded(self, count: int) -> "ScanSamples":
        """On CUDA, where work is recorded for so many samples, filled up with ones that are
        infinitely far; elsewhere as it is."""
        return replace(
            self,
            points=filled(self.points, count, torch.inf),
            normals=filled(self.normals, count),
            source=filled(self.source, count),
            side=filled(self.side, count),
        )

    def subset(self, keep: Bool[Tensor, " S"]) -> "ScanSamples":
        """Only some of the samples; `spacing` stays, so that new gaps count as holes."""
        names = ("points", "normals", "source", "side")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def only(self, keep: Bool[Tensor, " S"]) -> "ScanSamples":
        """`subset`; on CUDA the others stay, infinitely far, so that no shape hangs on a scan."""
        if not fixed(self.points):
            return self.subset(keep)
        return replace(self, points=self.points.masked_fill(~keep[:, None], torch.inf))


def sample_scan(scan: Scan, count: int = 60_000, seed: int = 0) -> ScanSamples:
    """At most `count` samples; the same seed gives the same ones, on every device.

    A mesh is sampled by area, one point in each of `count` equal shares of it, on triangles curved
    as their corners' normals say, which are `calm_normals`: lids, finer than the neighbours of a
    sample, stay sharp. Bare points are thinned at random and keep their given normals; without
    these, normals come from the plane through their neighbours, pointing away from the middle. Unit
    and winding are the reader's affair; a mesh wound clockwise as a whole is turned over.
    """
    random = np.random.default_rng(seed)
    if len(scan.triangles):
        points, normals, source, side = _on_triangles(scan, count, random)
    else:
        points, normals, source = _of_points(scan, count, random)
        side = torch.zeros_like(points[:, 0])
    good = points.isfinite().all(1)
    if not bool(good.all()):
        points, source, side = points[good], source[good], side[good]
        normals = None if normals is None else normals[good]
    here, padded = len(points), filled(points, count, torch.inf)
    if normals is not None and not len(scan.triangles):
        normals, told = _RECORDINGS("smoothed", _smoothed, padded, filled(normals, count))
    else:
        away, near = _RECORDINGS("around", _around, padded)
        normals = _estimated(points, near[:here]) if normals is None else normals
        normals, told = _RECORDINGS("bare", _measured, padded, filled(normals, count), away, near)
    return ScanSamples(points, normals[:here], source, side, *told)


_RECORDINGS = Recordings()


def _around(points: Float[Tensor, "S 3"]) -> tuple[Float[Tensor, "S K"], Int[Tensor, "S K"]]:
    return PointTree(points).query(points, min(AROUND, len(points)))


def _measured(
    points: Float[Tensor, "S 3"], normals: Float[Tensor, "S 3"], away: Tensor, near: Tensor
) -> tuple[Float[Tensor, "S 3"], Float[Tensor, "2"]]:
    """The normals, with the spacing of points and their noise."""
    there = away.isfinite()
    alone = away.shape[1] < 2
    spacing = away.new_zeros(()) if alone else median(away[:, 1], there[:, 1])
    height = ((points[near[:, 1:]] - points[:, None]) * normals[:, None]).sum(2).abs()
    # both points of a pair are off their place
    noise = 1.4826 * median(height.flatten(), there[:, 1:].flatten()) / 2**0.5
    return normals, torch.stack([spacing.clamp(min=1e-6), noise])


def median(
    values: Float[Tensor, " N"], among: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, ""]:
    """The middle value (`among` some), of an even number the mean of both; 0 of none."""
    if not fixed(values):
        values = values if among is None else values[among]
        if not len(values):
            return values.new_zeros(())
        low, high = 1 + (len(values) - 1) // 2, 1 + len(values) // 2
        return (values.kthvalue(low).values + values.kthvalue(high).values) / 2
    among = torch.ones_like(values, dtype=torch.bool) if among is None else among
    ordered, count = values.masked_fill(~among, torch.inf).sort().values, among.sum()
    places = torch.stack([count // 2, (count - 1) // 2]).clamp(0, len(values) - 1)
    return torch.where(count > 0, ordered[places].sum() / 2, 0.0)


def _on_triangles(
    scan: Scan, count: int, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    vertices, device = scan.points.double(), scan.points.device
    # summed on the CPU: a share of the area then ends at the same triangle on every device
    total = triangle_areas(vertices, scan.triangles).cpu().cumsum(0)
    place = torch.from_numpy((np.arange(count) + random.random(count)) / count) * total[-1]
    face = torch.searchsorted(total, place, right=True).clamp(max=len(total) - 1).to(device)
    weights = torch.from_numpy(random.dirichlet([1.0, 1.0, 1.0], count)).to(device)
    corners = scan.triangles[face]
    normals = calm_normals(scan)[corners]
    normals = normals if wound_outward(vertices, scan.triangles) else -normals
    places = vertices[corners]
    points = bulged(places, normals, weights)
    mixed = torch.nn.functional.normalize((weights[..., None] * normals).sum(1), dim=1, eps=1e-30)
    side = (places.roll(-1, 1) - places).square().sum(2).mean(1).sqrt()
    return points, mixed, corners.gather(1, weights.argmax(1, keepdim=True))[:, 0], side


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


def _smoothed(
    points: Float[Tensor, "S 3"], normals: Float[Tensor, "S 3"]
) -> tuple[Float[Tensor, "S 3"], Float[Tensor, "2"]]:
    """Means over neighbours that face alike: a scanner's noise is rougher than skin."""
    away, near = _around(points)
    normals = normals / normals.norm(dim=1, keepdim=True).clamp(min=1e-12)
    around = normals[near]
    alike = (around * normals[:, None]).sum(2) > 0.5
    mean = (around * alike[..., None]).sum(1)
    length = mean.norm(dim=1, keepdim=True)
    normals = torch.where(length > 1e-9, mean / length.clamp(min=1e-12), normals)
    return _measured(points, normals, away, near)


def _estimated(points: Tensor, near: Tensor) -> Float[Tensor, "S 3"]:
    """Least-squares planes; signs by agreement along a spanning tree (Hoppe et al. 1992).

    Each part that hangs together points away from the middle of the points. The tree is the CPU's.
    """
    normals = plane_normals(points[near])
    outward = ((points - points.median(0).values) * normals).sum(1)
    bend = 1 + 1e-6 - (normals[near[:, 1:]] * normals[:, None]).sum(2).abs()
    signs = _agreeing(*(part.cpu().numpy() for part in (normals, near[:, 1:], bend, outward)))
    return normals * torch.from_numpy(signs).to(normals)[:, None]


def _agreeing(
    normals: Float[np.ndarray, "S 3"],
    near: Int[np.ndarray, "S K"],
    bend: Float[np.ndarray, "S K"],
    outward: Float[np.ndarray, " S"],
) -> Float[np.ndarray, " S"]:
    """Signs with which neighbours agree that bend least, and each part points outward."""
    from scipy.sparse import csr_array  # noqa: PLC0415  0.1 s that scans with normals need not wait
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree  # noqa: PLC0415

    count = len(normals)
    starts = np.arange(0, near.size + 1, near.shape[1])
    tree = minimum_spanning_tree(csr_array((bend.ravel(), near.ravel(), starts), (count, count)))
    parent, left = np.arange(count), np.ones(count, bool)
    while left.any():
        order, before = breadth_first_order(tree, int(left.argmax()), directed=False)
        parent[order[1:]] = before[order[1:]]
        left[order] = False
    signs = np.where(np.einsum("sc,sc->s", normals, normals[parent]) < 0, -1.0, 1.0)
    while (parent != parent[parent]).any():  # everyone asks twice as far each time
        signs, parent = signs * signs[parent], parent[parent]
    return signs * np.where(np.bincount(parent, signs * outward, count)[parent] < 0, -1.0, 1.0)


def oriented(
    samples: ScanSamples, points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"]
) -> ScanSamples:
    """Samples whose normals are turned over, all of them, when most oppose a surface near them."""
    distance, near = (part[:, 0] for part in PointTree(points).query(samples.points))
    sign = outward_sign(samples, distance, normals[near])
    return replace(samples, normals=samples.normals * sign)


def outward_sign(
    samples: ScanSamples, distance: Float[Tensor, " S"], theirs: Float[Tensor, "S 3"]
) -> Float[Tensor, ""]:
    """−1 where most normals oppose those of the nearest places of a surface, else 1."""
    there = distance.isfinite()
    if fixed(distance):
        last = (0.7 * (there.sum() - 1).double()).long().clamp(min=0)
        farthest = distance.sort().values[last[None]]
    else:
        farthest = distance.kthvalue(1 + int(0.7 * (int(there.sum()) - 1))).values
    agree = (samples.normals * theirs).sum(1).sign()
    total = agree.masked_fill(~(there & (distance <= farthest)), 0).sum()
    return torch.where(total >= 0, 1.0, -1.0)
