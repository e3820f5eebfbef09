"""Evidence: what pictures say about points of a surface, as one quadratic a point.

Every data term of registration (landmarks, outlines, agreement of colours) comes down to the same
form: at a surface point x, E(x + δ) ≈ ½ δᵀ A δ + gᵀ δ. Solvers for head-model coefficients and for
free vertices share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from topohead.core import Cameras, SurfacePoints


@dataclass(frozen=True)
class Evidence:
    """Quadratics at N surface points: `triangles` and `barycentrics` fix a point on the mesh,
    `blocks` are A (1/m²) and `gradients` are g (1/m), both in world axes. Energies are in units
    of standard deviations squared, so that evidence of different kinds and priors add up.
    """

    triangles: Int[np.ndarray, " N"]
    barycentrics: Float[np.ndarray, "N 3"]
    blocks: Float[np.ndarray, "N 3 3"]
    gradients: Float[np.ndarray, "N 3"]

    def __len__(self) -> int:
        return len(self.triangles)

    def weighted(self, weight: float) -> "Evidence":
        """The same evidence, counted `weight` times."""
        return Evidence(
            self.triangles, self.barycentrics, weight * self.blocks, weight * self.gradients
        )


def join(parts: Sequence[Evidence]) -> Evidence:
    """All parts as one."""
    return Evidence(
        np.concatenate([part.triangles for part in parts]),
        np.concatenate([part.barycentrics for part in parts]),
        np.concatenate([part.blocks for part in parts]),
        np.concatenate([part.gradients for part in parts]),
    )


def vertex_points(
    triangles: Int[torch.Tensor, "T 3"], vertices: Int[np.ndarray, " N"]
) -> SurfacePoints:
    """Vertices as surface points: a triangle that has the vertex, and the corner's barycentrics."""
    corners = triangles.numpy()
    owner = np.full(int(corners.max()) + 1, -1)
    for corner in range(3):
        owner[corners[:, corner]] = np.arange(len(corners))
    chosen = owner[vertices]
    assert (chosen >= 0).all(), "a vertex without a triangle has no place on the surface"
    weights = (corners[chosen] == vertices[:, None]).astype(np.float32)
    return SurfacePoints(torch.from_numpy(chosen), torch.from_numpy(weights))


def positions(
    vertices: Float[np.ndarray, "V 3"],
    corners: Int[np.ndarray, "T 3"],
    triangles: Int[np.ndarray, " N"],
    barycentrics: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, "N 3"]:
    """Where surface points lie when the mesh has these vertices."""
    return np.einsum("nk,nkd->nd", barycentrics, vertices[corners[triangles]])


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
    points: tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]],
    jacobian: Float[np.ndarray, "N 2 3"],
    residual: Float[np.ndarray, "N 2"],
    precision: Float[np.ndarray, "N 2 2"],
) -> Evidence:
    """Evidence of points that should move by −residual in an image (px), with 2×2 precisions."""
    weighted = np.einsum("nij,nik->njk", jacobian, precision)
    return Evidence(
        points[0],
        points[1],
        weighted @ jacobian,
        np.einsum("njk,nk->nj", weighted, residual),
    )
