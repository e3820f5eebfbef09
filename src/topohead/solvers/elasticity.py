"""What a head's surface does not like: stretching and bending away from a rest shape."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from topohead.core import Topology
from topohead.core.derived import derived
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
        self._pattern = pattern = derived(topology, Pattern)
        i, j = pattern.edges
        count = len(vertices)
        # an isolated vertex has no edge: tie it weakly to nothing, the damping holds it
        a, b, c = (vertices[pattern.triangles[:, k]] for k in range(3))
        face_area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
        area = np.bincount(pattern.triangles.ravel(), np.repeat(face_area / 3, 3), count)
        length = np.linalg.norm(vertices[i] - vertices[j], axis=1)
        length = np.maximum(length, np.median(length) * 0.05)
        patch = np.pi * (config.patch / 2) ** 2
        degree = pattern.degree
        membrane = ((area / degree)[i] + (area / degree)[j]) / patch / (config.strain * length) ** 2
        local = np.bincount(np.r_[i, j], np.r_[length, length], count) / degree
        bend = area / patch / (config.bending * np.maximum(local, 1e-9)) ** 2

        self.umbrella, self.bend = pattern.umbrella, sparse.diags(bend)
        self.areas = np.maximum(area, np.median(area) * 0.01)
        self.matrix = pattern.matrix.copy()
        self.matrix.data = pattern.products @ np.r_[membrane, bend]
        ring = membrane[pattern.ring_edges]
        self.rings = pattern.ring_starts, pattern.ring_columns, ring
        """CSR (starts, columns) of every vertex's neighbours and the membrane's weights."""
        self.ring_weights = ring / ring.mean()
        self._edges, self._edge_weights, self._incidence = (i, j), membrane, pattern.incidence

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


class Pattern:
    """What of an `Elasticity` is the topology's own, whatever the rest shape."""

    def __init__(self, topology: Topology) -> None:
        self.triangles = triangles = topology.triangles.numpy()
        pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        edges = np.unique(np.sort(np.concatenate([topology.edges.numpy(), pairs]), 1), axis=0)
        self.edges = i, j = edges.T
        count, rows = topology.vertex_count, np.arange(len(edges))
        self.degree = np.maximum(np.bincount(edges.ravel(), minlength=count), 1)
        # numbered from one, so that no edge is a zero
        numbered = np.r_[rows, rows] + 1
        ring = sparse.csr_matrix((numbered, (np.r_[i, j], np.r_[j, i])), (count, count))
        ring.sort_indices()
        self.ring_starts = ring.indptr.astype(np.int32)
        self.ring_columns = ring.indices.astype(np.int32)
        self.ring_edges = ring.data - 1
        # signed incidence: one row an edge, so that gradients are two sparse products
        signs = np.r_[np.ones(len(i)), -np.ones(len(i))]
        self.incidence = sparse.csr_matrix(
            (signs, (np.r_[rows, rows], np.r_[i, j])), (len(i), count)
        )
        neighbours = sparse.csr_matrix((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])))
        neighbours.resize((count, count))
        mean = sparse.diags(1 / self.degree) @ neighbours
        self.umbrella = (sparse.eye(count) - mean).tocsr()
        both = sparse.csr_matrix(sparse.vstack([self.incidence, self.umbrella]))
        self.matrix, self.products = weighted_squares(both)


def weighted_squares(matrix: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """For Mᵀ diag(w) M of any weights w: a matrix [C C] of its pattern, sorted; and P [E R].

    Its entries are P w, in the order of the CSR matrix, whose own are numbers from zero.
    """
    count = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(count)), count**2)
    within = np.arange(len(row)) - np.repeat(np.cumsum(count**2) - count**2, count**2)
    first, second = (matrix.indptr[row] + part for part in divmod(within, count[row]))
    size = int(matrix.get_shape()[1])
    pair = matrix.indices[first].astype(np.int64) * size + matrix.indices[second]
    pairs, slot = np.unique(pair, return_inverse=True)
    value = matrix.data[first] * matrix.data[second]
    products = sparse.csr_matrix((value, (slot.ravel(), row)), (len(pairs), len(count)))
    starts = np.searchsorted(pairs, size * np.arange(size + 1)).astype(np.int32)
    columns = (pairs % size).astype(np.int32)
    entries = np.arange(len(pairs), dtype=np.float64)
    return sparse.csr_matrix((entries, columns, starts), (size, size)), products


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
