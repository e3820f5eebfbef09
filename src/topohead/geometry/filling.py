"""Vertex fields continued with least bending over vertices where nothing is known of them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import face_normals, neighbour_rings, uniform_laplacian


@dataclass(frozen=True)
class LeastBending:
    """min |L d|² over the `free` vertices, all others given; L is the uniform Laplacian.

    Factored once, so that many fields are continued at little cost.
    """

    free: Int[Tensor, " N"]
    across: csr_array
    solver: SuperLU

    @staticmethod
    def of(topology: Topology, free: Bool[Tensor, " V"]) -> "LeastBending":
        """For a set of vertices; parts of the mesh that are wholly free stay at zero."""
        laplacian = uniform_laplacian(topology)
        index, value = laplacian.indices().numpy(), laplacian.values().double().numpy()
        matrix = csr_array((value, (index[0], index[1])), shape=tuple(laplacian.shape))
        bending = (matrix.T @ matrix).tocsr()
        rows = free.nonzero()[:, 0].numpy()
        own = bending[rows]
        system = own[:, rows] + diags_array(np.full(len(rows), 1e-9))
        across = csr_array(own @ diags_array((~free).double().numpy()))
        return LeastBending(torch.from_numpy(rows), across, splu(system.tocsc()))

    def __call__(self, values: Float[Tensor, "V K"]) -> Float[Tensor, "V K"]:
        """The values with those of free vertices replaced."""
        if not len(self.free):
            return values
        right = -(self.across @ values.double().numpy())
        filled = values.clone()
        filled[self.free] = torch.from_numpy(self.solver.solve(right)).to(values)
        return filled


def turned_over(
    topology: Topology, before: Float[Tensor, "V 3"], after: Float[Tensor, "V 3"],
    inside: Bool[Tensor, " V"],
) -> Bool[Tensor, " T"]:  # fmt: skip
    """Triangles within a set of vertices whose normals point the other way after than before."""
    triangles = topology.triangles
    cosine = (face_normals(before, triangles) * face_normals(after, triangles)).sum(1)
    return (cosine < 0) & inside[triangles].all(1)


def folded(
    topology: Topology, before: Float[Tensor, "V 3"], after: Float[Tensor, "V 3"],
    inside: Bool[Tensor, " V"], rounds: int = 8,
) -> Bool[Tensor, " V"]:  # fmt: skip
    """Vertices whose displacement folds the surface: continuing it over them undoes the folds.

    Those of triangles that turn over and one ring around, wider every round until none is left.
    """
    free = torch.zeros(topology.vertex_count, dtype=torch.bool)
    shape = after
    for _ in range(rounds):
        bad = turned_over(topology, before, shape, inside)
        if not bool(bad.any()):
            break
        fresh = torch.zeros_like(free)
        fresh[topology.triangles[bad]] = True
        free |= (neighbour_rings(topology, fresh, 1) <= 1) & inside
        shape = before + LeastBending.of(topology, free)(after - before)
    return free
