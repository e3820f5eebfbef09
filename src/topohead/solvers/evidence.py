"""Evidence: what pictures say about points of a surface, as one quadratic a point.

Every data term of registration (landmarks, outlines, agreement of colours) comes down to the same
form: at a surface point x, E(x + δ) ≈ ½ δᵀ A δ + gᵀ δ. Solvers for head-model coefficients and for
free vertices share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from topohead.core import Cameras


@dataclass(frozen=True)
class Evidence:
    """Quadratics at N surface points.

    A point is the mean of three vertices (`corners`) with barycentric `weights`. `blocks` are A as
    xx xy xz yy yz zz (1/m²), `gradients` are g (1/m), both in world axes. Energies are half squared
    numbers of standard deviations, so that evidence of different kinds and priors add up.
    """

    corners: Int[np.ndarray, "N 3"]
    weights: Float[np.ndarray, "N 3"]
    blocks: Float[np.ndarray, "N 6"]
    gradients: Float[np.ndarray, "N 3"]

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def matrices(self) -> Float[np.ndarray, "N 3 3"]:
        """A as full matrices, float64."""
        return self.blocks[:, [[0, 1, 2], [1, 3, 4], [2, 4, 5]]].astype(np.float64)

    def times(self, factor: float) -> "Evidence":
        """The same evidence, counted `factor` times."""
        return Evidence(self.corners, self.weights, factor * self.blocks, factor * self.gradients)


def join(parts: Sequence[Evidence]) -> Evidence:
    """All parts as one."""
    return Evidence(
        np.concatenate([part.corners for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.blocks for part in parts]),
        np.concatenate([part.gradients for part in parts]),
    )


class Normals:
    """Unit vertex normals of a topology, for many shapes in turn."""

    def __init__(self, triangles: Int[np.ndarray, "T 3"], vertex_count: int) -> None:
        self.triangles = triangles
        rows = triangles.ravel()
        columns = np.repeat(np.arange(len(triangles)), 3)
        # adding up triangles by a sparse product is several times faster than indexed addition
        self.gather = sparse.csr_matrix(
            (np.ones(len(rows)), (rows, columns)), shape=(vertex_count, len(triangles))
        )

    def __call__(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
        """Normals of this shape, triangles weighted by area; zero without triangles."""
        first, second, third = (vertices[self.triangles[:, k]] for k in range(3))
        summed = self.gather @ np.cross(second - first, third - first)
        return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-30)


def surface_positions(
    vertices: Float[np.ndarray, "V 3"],
    corners: Int[np.ndarray, "N 3"],
    weights: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, "N 3"]:
    """Where surface points lie when the mesh has these vertices."""
    return np.einsum("nk,nkd->nd", weights, vertices[corners])


def project_with_jacobian(
    cameras: Cameras, index: int, points: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"], Float[np.ndarray, "N 2 3"]]:
    """Pixels, depths and ∂pixel/∂point (px/m) of world points in one camera."""
    pose = cameras.world_to_camera[index].double().numpy()
    intrinsics = cameras.intrinsics[index].double().numpy()
    local = points @ pose[:3, :3].T + pose[:3, 3]
    depth = local[:, 2]
    plane = local[:, :2] / depth[:, None]
    pixels = plane @ intrinsics[:2, :2].T + intrinsics[:2, 2]
    inner = np.zeros((len(points), 2, 3))
    inner[:, 0, 0] = inner[:, 1, 1] = 1 / depth
    inner[:, :, 2] = -plane / depth[:, None]
    return pixels, depth, intrinsics[:2, :2] @ inner @ pose[:3, :3]


def image_evidence(
    corners: Int[np.ndarray, "N 3"],
    weights: Float[np.ndarray, "N 3"],
    jacobian: Float[np.ndarray, "N 2 3"],
    residual: Float[np.ndarray, "N 2"],
    precision: Float[np.ndarray, "N 2 2"],
) -> Evidence:
    """Evidence of points that should move by −residual in an image (px), with 2×2 precisions."""
    weighted = np.einsum("nij,nik->njk", jacobian, precision)
    matrices = weighted @ jacobian
    return Evidence(
        corners,
        weights,
        matrices[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]],
        np.einsum("njk,nk->nj", weighted, residual),
    )
