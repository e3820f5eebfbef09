"""Smooth fields on a mesh: the lowest eigenvectors of its Laplace operator."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csc_array, diags_array
from scipy.sparse.linalg import eigsh
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import connected_parts, cotangent_laplacian, vertex_areas


def laplace_eigenvectors(
    topology: Topology, vertices: Float[Tensor, "V 3"], count: int
) -> tuple[Float[Tensor, "K V"], Float[Tensor, " K"]]:
    """Functions φ [K V] with −Δφ = λφ and mean square 1 over the surface, and λ in 1/m², ascending.

    On the largest connected part, without the constant; zero elsewhere. Free at open edges
    (Vallet and Lévy 2008). A function's sign makes its entry of greatest magnitude positive.
    """
    main = (connected_parts(topology) == 0).numpy()
    laplacian = cotangent_laplacian(vertices.double(), topology.triangles)
    index, value = laplacian.indices().numpy(), laplacian.values().numpy()
    matrix = csc_array((-value, (index[0], index[1])), shape=(len(main), len(main)))
    mass = vertex_areas(vertices.double(), topology.triangles).numpy()[main]
    # shift and invert about a point left of zero, where the matrix is definite
    values, vectors = eigsh(
        matrix[main][:, main],
        count + 1,
        M=diags_array(mass).tocsc(),
        sigma=-1.0,
        v0=np.ones(int(main.sum())),
    )
    vectors = vectors[:, 1:] * np.sqrt(mass.sum())
    vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
    fields = np.zeros((count, len(main)))
    fields[:, main] = vectors.T
    return torch.from_numpy(fields), torch.from_numpy(values[1:])
