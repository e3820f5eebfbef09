"""Vertex fields that bend as little as what is known of them allows."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import SurfacePoints, Topology
from topohead.geometry.meshes import connected_parts, face_normals, uniform_laplacian


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
        rows = free.nonzero()[:, 0].numpy()
        own = bending(topology)[rows]
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


def bending(topology: Topology) -> csr_array:
    """LᵀL of the uniform Laplacian, whose quadratic form says how much a field bends."""
    laplacian = uniform_laplacian(topology)
    index, value = laplacian.indices().numpy(), laplacian.values().double().numpy()
    matrix = csr_array((value, (index[0], index[1])), shape=tuple(laplacian.shape))
    return (matrix.T @ matrix).tocsr()


def picking(topology: Topology, points: SurfacePoints) -> csr_array:
    """The matrix [N V] that takes vertex fields to surface points."""
    corners = topology.triangles[points.triangles].numpy()
    row = np.repeat(np.arange(len(corners)), 3)
    value = points.barycentrics.double().numpy().reshape(-1)
    shape = (len(corners), topology.vertex_count)
    return csr_array((value, (row, corners.reshape(-1))), shape=shape)


def turned_over(
    topology: Topology, before: Float[Tensor, "V 3"], after: Float[Tensor, "V 3"],
    inside: Bool[Tensor, " V"],
) -> Bool[Tensor, " T"]:  # fmt: skip
    """Triangles within a set of vertices whose normals point the other way after than before."""
    triangles = topology.triangles
    cosine = (face_normals(before, triangles) * face_normals(after, triangles)).sum(1)
    return (cosine < 0) & inside[triangles].all(1)


class SmoothFill:
    """A displacement of all vertices that follows wanted ones and bends as little as possible."""

    def __init__(self, topology: Topology, weight: Tensor, pull: Tensor) -> None:
        self.topology = topology
        self.system = diags_array(weight.numpy()).tocsr()
        self.right = (weight[:, None] * pull).numpy()

    def tie(self, points: SurfacePoints, gap: Tensor, weight: float) -> None:
        """Ask surface points to move by their gaps [N 3]."""
        picks = picking(self.topology, points)
        self.system = self.system + weight * (picks.T @ picks)
        self.right = self.right + weight * (picks.T @ gap.numpy())

    def solve(self, stiffness: float, vertices: Tensor) -> Float[Tensor, "V 3"]:
        """min Σ w |d − pull|² + stiffness |L d|² on the largest part (skin and sockets).

        Other parts (globes, teeth, tongue) move as a whole, like the skin and socket around them.
        """
        part = connected_parts(self.topology)
        main = (part == 0).numpy()
        system = self.system + stiffness * bending(self.topology)
        system = (system + diags_array(np.full(len(main), 1e-9))).tocsc()[main][:, main]
        moved = np.zeros((len(main), 3))
        moved[main] = splu(system).solve(self.right[main])
        displacement, points = torch.from_numpy(moved), vertices.numpy()
        tree, own = KDTree(points[main]), np.flatnonzero(main)
        for other in range(1, int(part.max()) + 1):
            members = (part == other).numpy()
            around = own[np.unique(tree.query(points[members])[1])]
            displacement[torch.from_numpy(members)] = displacement[torch.from_numpy(around)].mean(0)
        return displacement

    def continued(
        self, stiffness: float, known: Tensor, free: Bool[Tensor, " V"]
    ) -> Float[Tensor, "V 3"]:
        """The same minimum over `free` vertices alone, where all others move as is `known`."""
        rows = free.numpy()
        system = (self.system + stiffness * bending(self.topology)).tocsr()[rows]
        right = self.right[rows] - system[:, ~rows] @ known.numpy()[~rows]
        moved = known.clone()
        moved[free] = torch.from_numpy(splu(system[:, rows].tocsc()).solve(right))
        return moved
