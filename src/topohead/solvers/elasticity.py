"""What a head's surface does not like: stretching and bending away from a rest shape."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from topohead.core import Topology
from topohead.solvers.kernels.sparse import local_rotations


@dataclass(frozen=True)
class ElasticConfig:
    """How much a head may deviate from its rest shape, as a person measures it."""

    strain: float = 0.05
    """Relative change of edge lengths at one standard deviation."""
    bending: float = 0.03
    """Change of the surface's umbrella vector over the local edge at one standard deviation."""
    patch: float = 0.005
    """Diameter of a patch that deforms independently of others, in metres."""


class Elasticity:
    """As-rigid-as-possible membrane and bending energy on a topology, both quadratic per step.

    E = Σ_ij m_ij |(v_i−v_j) − R_ij(r_i−r_j)|² + Σ_i b_i |(Uv)_i − R_i (Ur)_i|² with the umbrella
    operator U and local rotations R (Sorkine & Alexa 2007). Weights are areas over strain²·edge²
    and bending²·edge², so the energy has no unit and scaling the scene leaves it alone.
    """

    def __init__(
        self, topology: Topology, rest: Float[Tensor, "V 3"], config: ElasticConfig
    ) -> None:
        vertices = rest.double().numpy()
        edges = topology.edges.numpy()
        triangles = topology.triangles.numpy()
        pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        edges = np.unique(np.sort(np.concatenate([edges, pairs]), 1), axis=0)
        count = len(vertices)
        # an isolated vertex has no edge: tie it weakly to nothing, the damping holds it
        a, b, c = (vertices[triangles[:, k]] for k in range(3))
        face_area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
        area = np.bincount(triangles.ravel(), np.repeat(face_area / 3, 3), count)
        length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
        length = np.maximum(length, np.median(length) * 0.05)
        patch = np.pi * (config.patch / 2) ** 2
        degree = np.maximum(np.bincount(edges.ravel(), minlength=count), 1)
        edge_area = (area / degree)[edges].sum(1)
        membrane = edge_area / patch / (config.strain * length) ** 2
        local = np.maximum(np.bincount(edges.ravel(), np.repeat(length, 2), count) / degree, 1e-9)
        bend = area / patch / (config.bending * local) ** 2

        i, j = edges.T
        both_i, both_j = np.r_[i, j], np.r_[j, i]
        adjacency = sparse.csr_matrix((np.r_[membrane, membrane], (both_i, both_j)), (count, count))
        ring = sparse.csr_matrix((np.ones(2 * len(i)), (both_i, both_j)), (count, count))
        self.umbrella = (sparse.eye(count) - sparse.diags(1 / degree) @ ring).tocsr()
        self.membrane = (sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency).tocsr()
        self.bend = sparse.diags(bend)
        self.areas = np.maximum(area, np.median(area) * 0.01)
        matrix = (self.membrane + self.umbrella.T @ self.bend @ self.umbrella).tocsr()
        matrix.sort_indices()
        self.matrix = matrix
        adjacency.sort_indices()
        self.rings = (
            adjacency.indptr.astype(np.int32),
            adjacency.indices.astype(np.int32),
            adjacency.data,
        )
        """CSR (starts, columns) of every vertex's neighbours and the membrane's weights."""
        self.ring_weights = adjacency.data / adjacency.data.mean()
        self._edges, self._edge_weights = (i, j), membrane
        # signed incidence: one row an edge, so that gradients are two sparse products
        rows = np.arange(len(i))
        self._incidence = sparse.csr_matrix(
            (np.r_[np.ones(len(i)), -np.ones(len(i))], (np.r_[rows, rows], np.r_[i, j])),
            (len(i), count),
        )

    def rotations(self, rest: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        """Local rotations [V 3 3] from `rest` to `vertices`, both float64 [V 3]."""
        return local_rotations(rest, vertices, *self.rings[:2], self.ring_weights)

    def gradient(self, rest: np.ndarray, vertices: np.ndarray, rotations: np.ndarray) -> np.ndarray:
        """Half the energy's gradient [V 3] at `vertices`, local rotations held."""
        i, j = self._edges
        turned = 0.5 * (rotations[i] + rotations[j])
        target = np.einsum("eab,eb->ea", turned, rest[i] - rest[j])
        stretch = (vertices[i] - vertices[j] - target) * self._edge_weights[:, None]
        curl = self.umbrella @ vertices - np.einsum("vab,vb->va", rotations, self.umbrella @ rest)
        return self._incidence.T @ stretch + self.umbrella.T @ (self.bend @ curl)


def vertex_graph(triangles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """CSR (starts, columns) of vertices that share a triangle, each with itself, sorted."""
    rows = np.repeat(triangles, 3, 1).ravel()
    columns = np.tile(triangles, (1, 3)).ravel()
    rows = np.r_[rows, np.arange(count)]
    columns = np.r_[columns, np.arange(count)]
    graph = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (count, count))
    graph.sort_indices()
    return graph.indptr.astype(np.int32), graph.indices.astype(np.int32)


def block_slots(corners: np.ndarray, starts: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Where in the CSR `columns` every corner pair of a sample stands, int32 [S 9]."""
    count = len(starts) - 1
    rows = np.repeat(np.arange(count, dtype=np.int64), np.diff(starts))
    keys = rows * count + columns
    wanted = corners[:, :, None].astype(np.int64) * count + corners[:, None, :]
    return np.searchsorted(keys, wanted.reshape(len(corners), 9)).astype(np.int32)
