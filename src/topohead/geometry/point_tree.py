"""The nearest of very many points, on the device where the points are."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

if TYPE_CHECKING:
    from topohead.geometry.point_tree_triton import SortedPoints

FEW = 1 << 21
"""Pairs of a query and a point, all of whose distances a device works out."""


class PointTree:
    """Points [N D] in space, or with what else of them counts as distance, asked for the nearest.

    Exact on both devices: a KD-tree on the CPU; on CUDA all distances of a few, else (D is 3 or 6)
    blocks of points sorted along a curve, of which a query looks at those near enough. There the
    order of distances is told in float32 about the points' middle, which sees 10⁻⁷ of their extent.
    What is not finite is not there: nobody's nearest, and without one.
    """

    def __init__(self, points: Float[Tensor, "N D"]) -> None:
        self.points = points

    @cached_property
    def _tree(self) -> tuple[KDTree, Int[Tensor, " M"] | None]:
        """SciPy's takes finite points alone; and which these are, if not all."""
        there = self.points.isfinite().all(1)
        if bool(there.all()):
            return KDTree(self.points.numpy()), None
        rows = there.nonzero()[:, 0]
        return KDTree(self.points[rows].numpy()), rows

    @cached_property
    def _sorted(self) -> "SortedPoints":
        from topohead.geometry.point_tree_triton import SortedPoints  # noqa: PLC0415

        return SortedPoints(self.points)

    def query(
        self, queries: Float[Tensor, "Q D"], count: int = 1, reach: float = float("inf")
    ) -> tuple[Float[Tensor, "Q K"], Int[Tensor, "Q K"]]:
        """Distances and indices of each query's `count` nearest, nearest first.

        Where there are fewer within `reach` the distance is infinite, and the index is 0.
        """
        few = count <= len(self.points) and len(self.points) * len(queries) <= FEW
        if self.points.is_cuda and few:
            away = (self.points - queries[:, None]).square().sum(-1)
            away, index = away.topk(count, largest=False)
            away = away.sqrt()
            beyond = ~(away < reach)
            return away.masked_fill(beyond, torch.inf), index.masked_fill(beyond, 0)
        if self.points.is_cuda:
            index = self._sorted.nearest(queries, count, reach)
            away = (self.points[index.clamp(min=0)] - queries[:, None]).norm(dim=-1)
            return away.masked_fill(index < 0, torch.inf), index.clamp(min=0)
        tree, rows = self._tree
        wanted: Any = range(1, count + 1)  # one column even for one neighbour
        somewhere = queries.isfinite()
        asked = queries if bool(somewhere.all()) else queries.masked_fill(~somewhere, 0)
        found = tree.query(asked.numpy(), k=wanted, distance_upper_bound=reach, workers=2)
        distance, index = (torch.from_numpy(part) for part in found)
        if asked is not queries:
            distance[~somewhere.all(1)] = torch.inf
        index = index.masked_fill(distance.isinf(), 0)
        return distance, index if rows is None else rows[index]
