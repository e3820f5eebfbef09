"""Smooth fields on a mesh: the lowest eigenvectors of its Laplace operator."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.linalg import eigsh
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import connected_parts, cotangent_laplacian, vertex_areas

TIE = 1e-4
"""Magnitudes that differ by this share are equal; rounding must not choose a sign."""


def laplace_eigenvectors(
    topology: Topology, vertices: Float[Tensor, "V 3"], count: int, reach: float = 0.0
) -> tuple[Float[Tensor, "K V"], Float[Tensor, " K"]]:
    """Functions φ [K V] with −Δφ = λφ and mean square 1 over the surface, and λ in 1/m², ascending.

    On the largest connected part, without the constant; zero elsewhere. Free at open edges
    (Vallet and Lévy 2008). A function's sign makes its entry of greatest magnitude positive,
    the first of about equal ones: on a symmetric mesh odd functions have two.
    `reach` ties points that are so near in space, metres, whatever lies between them on the
    surface: then closed lips move together. λ is the surface's part of the energy.
    """
    main = (connected_parts(topology) == 0).numpy()
    laplacian = cotangent_laplacian(vertices.double(), topology.triangles)
    index, value = laplacian.indices().numpy(), laplacian.values().numpy()
    matrix = csc_array((-value, (index[0], index[1])), shape=(len(main), len(main)))
    matrix = matrix[main][:, main]
    mass = vertex_areas(vertices.double(), topology.triangles).numpy()[main]
    system = matrix if reach == 0 else matrix + _ties(vertices.double().numpy()[main], mass, reach)
    # shift and invert about a point left of zero, where the matrix is definite
    start = np.ones(len(mass))
    _, vectors = eigsh(system, count + 1, M=diags_array(mass).tocsc(), sigma=-1.0, v0=start)
    vectors = vectors[:, 1:] * np.sqrt(mass.sum())
    size = np.abs(vectors)
    first = (size > (1 - TIE) * size.max(0)).argmax(0)
    vectors *= np.sign(vectors[first, np.arange(count)])
    energy = (vectors * (matrix @ vectors)).sum(0) / mass.sum()
    fields = np.zeros((count, len(main)))
    fields[:, main] = vectors.T
    return torch.from_numpy(fields), torch.from_numpy(energy)


def _ties(points: np.ndarray, mass: np.ndarray, reach: float) -> csc_array:
    """Σ w (φ_i − φ_j)² over pairs within reach, as a matrix.

    w = 8 m_i m_j / (π reach⁴): on a plane, what the integral of |∇φ|² comes to for smooth φ.
    """
    a, b = KDTree(points).query_pairs(reach, output_type="ndarray").T
    weight = 8 / (np.pi * reach**4) * mass[a] * mass[b]
    size = len(points)
    off = coo_array((-weight, (a, b)), shape=(size, size)).tocsc()
    off = off + off.T
    return csc_array(off - diags_array(off.sum(0)))
