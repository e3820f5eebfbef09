"""Fixed points on a surface, where pictures are compared."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Topology

_PATTERN_LIMIT = 6


@dataclass(frozen=True)
class Samples:
    """S points on a topology: `corners` int32 [S 3], `weights` float32 [S 3], `areas` [S] in m²."""

    corners: np.ndarray
    weights: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.corners)

    def subset(self, count: int) -> "Samples":
        """The first `count` samples, standing for the same whole surface."""
        count = min(count, len(self))
        factor = self.areas.sum() / max(self.areas[:count].sum(), 1e-12)
        return Samples(
            self.corners[:count], self.weights[:count], self.areas[:count] * np.float32(factor)
        )


def surface_samples(
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    spacing: float,
    excluded: torch.Tensor,
) -> Samples:
    """One to six points a triangle, about one per `spacing`² m², none on excluded vertices.

    `excluded` is bool [V]; a triangle with such a corner gets no sample. The order is shuffled by a
    fixed permutation, so that any prefix covers the surface evenly.
    """
    triangles = topology.triangles.numpy()
    kept = ~excluded.numpy()[triangles].any(1)
    triangles = triangles[kept]
    a, b, c = (vertices.double().numpy()[triangles[:, k]] for k in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    count = np.clip(np.round(area / spacing**2), 1, _PATTERN_LIMIT).astype(int)
    corners, weights, areas = [], [], []
    for n in range(1, _PATTERN_LIMIT + 1):
        chosen = np.flatnonzero(count == n)
        pattern = _pattern(n)
        corners.append(np.repeat(triangles[chosen], n, 0))
        weights.append(np.tile(pattern, (len(chosen), 1)))
        areas.append(np.repeat(area[chosen] / n, n))
    order = np.random.default_rng(0).permutation(sum(len(x) for x in areas))
    return Samples(
        np.concatenate(corners)[order].astype(np.int32),
        np.concatenate(weights)[order].astype(np.float32),
        np.concatenate(areas)[order].astype(np.float32),
    )


def _pattern(count: int) -> np.ndarray:
    """`count` well-spread barycentrics (the R₂ low-discrepancy sequence folded into a triangle)."""
    if count == 1:
        return np.full((1, 3), 1 / 3)
    g = 1.32471795724474602596
    i = np.arange(count) + 0.5
    u, v = (0.5 + i / g) % 1, (0.5 + i / g**2) % 1
    root = np.sqrt(u)
    return np.stack([1 - root, root * (1 - v), root * v], 1)
