"""Finer triangles on a mesh's own flat faces: what a renderer makes before it displaces."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.geometry.meshes import vertex_normals


@dataclass(frozen=True)
class Tessellation:
    """A finer mesh whose N vertices lie on the flat triangles of a coarser one.

    `finer` has triangles only, UVs split linearly, and the regions of the coarser topology (a
    vertex belongs to one when all that it is made of do). Vertex i is Σ `weights[i, k]` ×
    coarse vertex `corners[i, k]`; unused corners repeat the first with weight 0.
    """

    finer: Topology
    corners: Int[Tensor, "N 3"]
    weights: Float[Tensor, "N 3"]
    coarse_triangles: Int[Tensor, "T 3"]
    """All triangles of the coarse mesh, those not tessellated included: they shape its normals."""

    def carry(self, values: Float[Tensor, "V K"]) -> Float[Tensor, "N K"]:
        """Coarse vertex values at the finer vertices, in their own type and on their device."""
        corners, weights = self.corners.to(values.device), self.weights.to(values)
        return (values[corners] * weights[..., None]).sum(1)

    def displaced(
        self, vertices: Float[Tensor, "V 3"], heights: Float[Tensor, " N"]
    ) -> Float[Tensor, "N 3"]:
        """Finer vertices moved by `heights` along the coarse mesh's interpolated unit normals."""
        return self.carry(vertices) + heights[:, None] * self.normals(vertices)

    def normals(self, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, "N 3"]:
        """The coarse mesh's smooth normals, interpolated and made unit again."""
        triangles = self.coarse_triangles.to(vertices.device)
        return torch.nn.functional.normalize(
            self.carry(vertex_normals(vertices, triangles)), dim=-1, eps=1e-30
        )


def tessellate(topology: Topology, levels: int, hidden: tuple[str, ...] = ()) -> Tessellation:
    """Every triangle halved along its sides `levels` times: 4^levels triangles each.

    Faces with a corner in a region of `hidden` are left out. Numbers are compact: vertices that
    no face uses are gone.
    """
    triangles, triangle_uv = topology.triangles, topology.triangle_uv
    left_out = topology.region_mask(*(name for name in hidden if name in topology.regions))
    kept = ~left_out[triangles].any(1)
    places = _Corners.of(triangles[kept].numpy(), topology.vertex_count)
    charts = _Corners.of(triangle_uv[kept].numpy(), len(topology.uv))
    for _ in range(levels):
        places, charts = places.halved(), charts.halved()
    corners, weights = torch.from_numpy(places.parents), torch.from_numpy(places.weights)
    uv = (topology.uv[charts.parents] * torch.from_numpy(charts.weights)[..., None]).sum(1)
    regions = {}
    for name in topology.regions:
        inside = topology.region_mask(name)[corners] | (weights == 0)
        regions[name] = inside.all(1).nonzero()[:, 0]
    finer = Topology(
        vertex_count=len(corners),
        faces=_as_quads(places.triangles),
        uv=uv.float(),
        face_uv=_as_quads(charts.triangles),
        regions=regions,
        name=topology.name,
    )
    return Tessellation(finer, corners, weights.float(), triangles)


def tessellated(mesh: Mesh, levels: int, hidden: tuple[str, ...] = ()) -> Mesh:
    """The same surface in smaller triangles."""
    fine = tessellate(mesh.topology, levels, hidden)
    return Mesh(fine.finer, fine.carry(mesh.vertices))


def smooth_heights(
    fine: Tessellation, vertices: Float[Tensor, "V 3"], most: float = 0.15
) -> Float[Tensor, " N"]:
    """How far a rounded surface through the vertices lies above the flat triangles, metres.

    Phong tessellation (Boubekeur & Alexa 2008, eq. 2–4) with α = ½, which is exact for a quadratic
    surface: half the weighted mean of each finer vertex's distances to the tangent planes of its
    triangle's corners, measured along the interpolated normal. At most `most` of the longest way
    to a corner, for corners' tangents mean little across a crease.
    """
    normals = vertex_normals(vertices, fine.coarse_triangles.to(vertices.device))
    corners, weights = fine.corners.to(vertices.device), fine.weights.to(vertices)
    points, along = fine.carry(vertices), fine.normals(vertices)
    arms = vertices[corners] - points[:, None]
    plane = (arms * normals[corners]).sum(-1)
    slope = (normals[corners] * along[:, None]).sum(-1).clamp(min=0.3)
    limit = most * (arms.norm(dim=-1) * (weights > 0)).amax(1)
    return (0.5 * weights * plane / slope).sum(1).clamp(-limit, limit)


@dataclass(frozen=True)
class _Corners:
    """Triangles of one connectivity (places or UVs) and what their corners are made of."""

    triangles: Int[np.ndarray, "T 3"]
    parents: Int[np.ndarray, "N 3"]
    weights: Float[np.ndarray, "N 3"]

    @staticmethod
    def of(triangles: Int[np.ndarray, "T 3"], count: int) -> "_Corners":
        used = np.zeros(count, bool)
        used[triangles] = True
        number = np.cumsum(used) - 1
        parents = np.repeat(np.flatnonzero(used)[:, None], 3, 1)
        weights = np.tile([1.0, 0.0, 0.0], (len(parents), 1))
        return _Corners(number[triangles], parents, weights)

    def halved(self) -> "_Corners":
        """Each triangle cut into four at the middles of its sides."""
        count = len(self.parents)
        sides = np.sort(np.stack([self.triangles, np.roll(self.triangles, -1, 1)], -1), -1)
        keys = sides[..., 0].astype(np.int64) * count + sides[..., 1]
        known, middle = np.unique(keys, return_inverse=True)
        ab, bc, ca = (count + middle.reshape(keys.shape)).T
        a, b, c = self.triangles.T
        cut = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = np.stack([np.stack(three, 1) for three in cut], 1).reshape(-1, 3)
        parents, weights = self._mixed(known // count, known % count)
        return _Corners(
            triangles,
            np.concatenate([self.parents, parents]),
            np.concatenate([self.weights, weights]),
        )

    def _mixed(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half and half of two corners each: their at most three parents, by weight."""
        names = np.concatenate([self.parents[first], self.parents[second]], 1)
        parts = 0.5 * np.concatenate([self.weights[first], self.weights[second]], 1)
        order = np.argsort(np.where(parts > 0, names, names.max() + 1), 1, kind="stable")
        names, parts = np.take_along_axis(names, order, 1), np.take_along_axis(parts, order, 1)
        fresh = np.concatenate(
            [np.zeros((len(names), 1), np.int64), (names[:, 1:] != names[:, :-1]).cumsum(1)], 1
        )
        fresh = np.where(parts > 0, fresh, 0)
        parents = np.repeat(names[:, :1], 3, 1)
        weights = np.zeros((len(names), 3))
        rows = np.arange(len(names))
        for k in range(names.shape[1]):
            filled = parts[:, k] > 0
            parents[rows[filled], fresh[filled, k]] = names[filled, k]
            weights[rows, fresh[:, k]] += parts[:, k]
        return parents, weights


def _as_quads(triangles: Int[np.ndarray, "T 3"]) -> Int[Tensor, "T 4"]:
    return torch.from_numpy(triangles[:, [0, 1, 2, 2]])
