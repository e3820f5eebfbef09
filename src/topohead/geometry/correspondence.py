"""Closest points on surfaces, and values carried by them."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Mesh, SurfacePoints

_CHUNK = 200_000
"""Point–triangle pairs tested at once: about 60 MB of float64 temporaries."""


def interpolate(
    points: SurfacePoints, triangles: Int[Tensor, "T 3"], values: Float[Tensor, "V K"]
) -> Float[Tensor, "N K"]:
    """Vertex values at points of the surface (positions, normals, colours, weights)."""
    corners = values[triangles[points.triangles]]
    return (points.barycentrics.to(values)[..., None] * corners).sum(1)


def closest_points(
    points: Float[Tensor, "N 3"], mesh: Mesh
) -> tuple[SurfacePoints, Float[Tensor, " N"]]:
    """The nearest surface point of each query and its distance in metres; exact.

    Many calls on one mesh are quicker through one `FacingSurface` or `TriangleTree`.
    """
    tree = TriangleTree(mesh.vertices.detach().double().numpy()[mesh.topology.triangles.numpy()])
    return _as_points(tree.closest(points.detach().double().numpy()), points.dtype)


def _as_points(
    found: tuple[np.ndarray, np.ndarray, np.ndarray], dtype: torch.dtype
) -> tuple[SurfacePoints, Tensor]:
    triangle, weights, distance = (torch.from_numpy(part) for part in found)
    return SurfacePoints(triangle, weights.to(dtype)), distance.to(dtype)


class TriangleTree:
    """Triangles [T 3 3] asked for closest points; exact.

    Triangles are sorted by size into classes, each with a KD-tree over its centroids. A triangle of
    circumscribed radius r can only win when its centroid is nearer than best + r, so each class is
    asked for ever more neighbours until the bound excludes the rest.
    """

    def __init__(self, corners: np.ndarray) -> None:
        if not len(corners):
            raise ValueError("closest points need a mesh with at least one triangle")
        self.corners = corners
        self.classes = list(_size_classes(corners))

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For points [N 3]: triangle [N], barycentrics [N 3], distance [N]."""
        count = len(points)
        best_square = np.full(count, np.inf)
        best = np.zeros(count, dtype=np.int64)
        weights = np.zeros((count, 3))
        for members, tree, radius in self.classes:
            pending = np.arange(count)
            neighbours = min(8, len(members))
            while len(pending):
                reach = np.sqrt(best_square[pending]) + radius
                distance, index = tree.query(points[pending], k=neighbours)
                distance = distance.reshape(len(pending), -1)
                row, column = np.nonzero(distance <= reach[:, None])
                chosen = members[index.reshape(len(pending), -1)[row, column]]
                _improve(points, self.corners, pending[row], chosen, best_square, best, weights)
                reach = np.sqrt(best_square[pending]) + radius
                pending = pending[distance[:, -1] < reach]
                if neighbours == len(members):
                    break
                neighbours = min(neighbours * 4, len(members))
        return best, weights, np.sqrt(best_square)


class FacingSurface:
    """A mesh asked for closest points whose surface faces the same way as the query.

    Between lips, lids or behind an ear the nearest surface often is the wrong side of the fold.
    """

    def __init__(self, mesh: Mesh, normals: Float[Tensor, "V 3"], agreement: float = 0.3) -> None:
        self.mesh, self.normals, self.agreement = mesh, normals, agreement
        self.corners = mesh.vertices.detach().double().numpy()[mesh.topology.triangles.numpy()]
        self.triangles = TriangleTree(self.corners)
        self.centroids = KDTree(self.corners.mean(1))

    def closest(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], candidates: int = 48
    ) -> tuple[SurfacePoints, Float[Tensor, " N"], Bool[Tensor, " N"]]:
        """Nearest points, distances, and whether normals agree (cosine above `agreement`).

        Where the exact closest point faces away, the nearest of the `candidates` closest triangles
        that faces alike is taken; where there is none, the closest point stays.
        """
        exact = self.triangles.closest(points.detach().double().numpy())
        found, distance = _as_points(exact, points.dtype)
        facing = self._agrees(found, normals)
        astray = (~facing).nonzero()[:, 0]
        if len(astray):
            query = points[astray].detach().double().numpy()
            near = self.centroids.query(query, k=min(candidates, len(self.corners)))[1]
            near = near.reshape(len(query), -1)
            weights = _closest_barycentrics(
                np.repeat(query, near.shape[1], 0), self.corners[near.reshape(-1)]
            ).reshape(*near.shape, 3)
            foot = np.einsum("nkc,nkcx->nkx", weights, self.corners[near])
            away = np.linalg.norm(foot - query[:, None], axis=-1)
            flat = SurfacePoints(
                torch.from_numpy(near.reshape(-1)), torch.from_numpy(weights.reshape(-1, 3))
            )
            alike = self._agrees(flat, normals[astray].repeat_interleave(near.shape[1], 0))
            away[~alike.numpy().reshape(near.shape)] = np.inf
            best = away.argmin(1)
            row = np.arange(len(query))
            better = torch.from_numpy(np.isfinite(away[row, best]))
            chosen = astray[better]
            pick = row[better.numpy()], best[better.numpy()]
            found.triangles[chosen] = torch.from_numpy(near[pick])
            found.barycentrics[chosen] = torch.from_numpy(weights[pick]).to(found.barycentrics)
            distance[chosen] = torch.from_numpy(away[pick]).to(distance)
            facing[chosen] = True
        return found, distance, facing

    def _agrees(self, points: SurfacePoints, normals: Tensor) -> Bool[Tensor, " N"]:
        here = interpolate(points, self.mesh.topology.triangles, self.normals)
        cosine = torch.nn.functional.cosine_similarity(here, normals.to(here), dim=-1)
        return cosine > self.agreement


def _size_classes(corners: np.ndarray) -> Iterator[tuple[np.ndarray, KDTree, float]]:
    """Triangles by radius, each class at most twice as large as the one before; common first."""
    centroid = corners.mean(1)
    radius = np.linalg.norm(corners - centroid[:, None], axis=-1).max(1)
    level = np.ceil(np.log2(np.maximum(radius, 1e-12) / max(np.median(radius), 1e-12))).astype(int)
    # All that is smaller than the median shares a class: a bound of one median radius is tight.
    level = np.maximum(level, 0)
    for value in np.unique(level):
        members = np.flatnonzero(level == value)
        yield members, KDTree(centroid[members]), float(radius[members].max())


def _improve(points, corners, query, triangle, best_square, best, weights) -> None:
    """Test (query, triangle) pairs and keep what is nearer, in place."""
    for start in range(0, len(query), _CHUNK):
        q, t = query[start : start + _CHUNK], triangle[start : start + _CHUNK]
        barycentric = _closest_barycentrics(points[q], corners[t])
        on_surface = (barycentric[..., None] * corners[t]).sum(1)
        square = ((points[q] - on_surface) ** 2).sum(1)
        order = np.lexsort((square, q))
        q, t, barycentric, square = q[order], t[order], barycentric[order], square[order]
        first = np.r_[True, q[1:] != q[:-1]]
        nearer = first & (square < best_square[q])
        best_square[q[nearer]], best[q[nearer]] = square[nearer], t[nearer]
        weights[q[nearer]] = barycentric[nearer]


def _closest_barycentrics(point: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Barycentrics [N 3] of the point of each triangle [N 3 3] nearest to each point [N 3].

    The foot on the plane where it falls inside; else the nearest of the three clamped edge feet.
    """
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    ab, ac, ap = b - a, c - a, point - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    determinant = d00 * d11 - d01 * d01
    safe = np.where(determinant > 1e-30, determinant, 1.0)
    v = (d11 * d20 - d01 * d21) / safe
    w = (d00 * d21 - d01 * d20) / safe
    inside = (determinant > 1e-30) & (v >= 0) & (w >= 0) & (v + w <= 1)
    result = np.stack([1 - v - w, v, w], 1)
    outside = ~inside
    if outside.any():
        result[outside] = _closest_on_edges(point[outside], corner[outside])
    return result


def _closest_on_edges(point: np.ndarray, corner: np.ndarray) -> np.ndarray:
    result = np.zeros((len(point), 3))
    nearest = np.full(len(point), np.inf)
    for k in range(3):
        start, along = corner[:, k], corner[:, (k + 1) % 3] - corner[:, k]
        length = np.maximum((along * along).sum(1), 1e-30)
        t = np.clip(((point - start) * along).sum(1) / length, 0, 1)
        square = ((start + t[:, None] * along - point) ** 2).sum(1)
        better = square < nearest
        nearest = np.where(better, square, nearest)
        weights = np.zeros_like(result)
        weights[:, k], weights[:, (k + 1) % 3] = 1 - t, t
        result[better] = weights[better]
    return result
