"""The finer mesh that relief is solved on, and what its heights do not like: bending."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from topohead.core import Mesh
from topohead.geometry.meshes import cotangent_laplacian, triangle_areas
from topohead.geometry.tessellation import Tessellation


@dataclass(frozen=True)
class Grid:
    """A tessellated head and the energy of heights on it; tensors on one device.

    Half the energy of heights d is ½ dᵀ `stiffness` d (CSR): a thin plate on the surface, and a
    weak pull to zero. It has no unit, as the pictures' pixels over squared noise have none. `own`
    is its diagonal, `areas` [N] are m², `neighbours` (CSR) times values is their mean around each
    vertex. `corners` and `weights` place one sample on each vertex.
    """

    areas: Float[Tensor, " N"]
    stiffness: Tensor
    own: Float[Tensor, " N"]
    neighbours: Tensor
    corners: Int[Tensor, "N 3"]
    weights: Float[Tensor, "N 3"]

    def to(self, device: torch.device) -> "Grid":
        """The same elsewhere."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def make_grid(
    fine: Tessellation, mesh: Mesh, curvature: float, spread: float, patch: float
) -> Grid:
    """The grid of a tessellation on a mesh's shape.

    `curvature` (mean, 1/m) and `spread` (m) are standard deviations of what patches with sides of
    `patch` metres do on their own.
    """
    triangles = fine.finer.triangles
    points = fine.carry(mesh.vertices.double())
    third = np.repeat(triangle_areas(points, triangles).numpy() / 3, 3)
    area = np.bincount(triangles.numpy().ravel(), third, len(points))
    # slivers: what has no area would bend without limit
    area = np.maximum(area, 0.05 * np.median(area))
    weights = _edge_weights(points, triangles)
    degree = np.asarray(weights.sum(1)).ravel()
    laplacian = sparse.diags(1 / area) @ (weights - sparse.diags(degree))
    # the Laplacian of a height is twice the mean curvature
    bending = sparse.diags(area / (2 * curvature * patch) ** 2)
    stiffness = laplacian.T @ bending @ laplacian + sparse.diags(area / (spread * patch) ** 2)
    count = len(points)
    return Grid(
        torch.from_numpy(area).float(),
        _csr(stiffness),
        torch.from_numpy(stiffness.diagonal()).float(),
        _csr(sparse.diags(1 / np.maximum(degree, 1e-9)) @ weights),
        torch.arange(count, dtype=torch.int32)[:, None].repeat(1, 3),
        torch.tensor([1.0, 0.0, 0.0]).repeat(count, 1),
    )


def _edge_weights(points: Tensor, triangles: Tensor) -> sparse.csr_matrix:
    """Cotangent weights of edges, cut: a long triangle's would lock, an obtuse one's push."""
    found = cotangent_laplacian(points, triangles)
    (row, column), value = found.indices().numpy(), found.values().numpy()
    beside = row != column
    kept = np.clip(value[beside], 0.05, 5.0), (row[beside], column[beside])
    return sparse.csr_matrix(kept, found.shape)


def _csr(matrix: sparse.spmatrix) -> Tensor:
    matrix = sparse.csr_matrix(matrix)
    matrix.sort_indices()
    return torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr.astype(np.int32)),
        torch.from_numpy(matrix.indices.astype(np.int32)),
        torch.from_numpy(matrix.data.astype(np.float32)),
        matrix.shape,
        check_invariants=False,
    )
