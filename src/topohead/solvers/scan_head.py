"""A head as the surface that a scan shows: one Catmull–Clark step finer than its control mesh."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.core.derived import derived
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.subdivision import catmull_clark

INNER = ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")
"""Regions that scans rarely show."""


@dataclass(frozen=True)
class ScanHead:
    """What matching needs of a topology; masks and `matrix` are of the finer surface.

    `skin` may be drawn to a scan, eyes and what is `inner` may not. `scalp` may carry hair; `bare`
    skin neither that nor folds of lids and lips.
    """

    topology: Topology
    fine: Topology
    matrix: sparse.csr_matrix
    skin: Bool[np.ndarray, " S"]
    inner: Bool[np.ndarray, " S"]
    face: Bool[np.ndarray, " S"]
    scalp: Bool[np.ndarray, " S"]
    bare: Bool[np.ndarray, " S"]

    @staticmethod
    def of(topology: Topology) -> "ScanHead":
        """Of a control mesh with the reference's regions; made once for each."""
        return derived(topology, ScanHead._made)

    @staticmethod
    def _made(topology: Topology) -> "ScanHead":
        fine, matrix = catmull_clark(replace(topology, mirror=None))
        index, value = matrix.indices().numpy(), matrix.values().double().numpy()
        regions = fine.regions
        inner = fine.region_mask(*(name for name in INNER if name in regions))
        eyes = fine.region_mask(*(name for name in ("eyes",) if name in regions))
        return ScanHead(
            topology,
            fine,
            sparse.csr_matrix((value, (index[0], index[1])), tuple(matrix.shape)),
            ~(inner | eyes).numpy(),
            inner.numpy(),
            fine.region_mask("face").numpy(),
            fine.region_mask("scalp").numpy(),
            ~(inner | eyes | fine.region_mask("scalp", "eyelids", "lips")).numpy(),
        )

    def surface(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "S 3"]:
        """Positions of the finer surface's vertices."""
        return self.matrix @ vertices

    def normals(self, surface: Float[np.ndarray, "S 3"]) -> Float[np.ndarray, "S 3"]:
        """Its unit normals."""
        return vertex_normals(torch.from_numpy(surface), self.fine.triangles).numpy()


def fitted_surface(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Mesh:
    """The surface that a `ScanFit` lays on the scan: its control mesh after one step."""
    head = ScanHead.of(topology)
    return Mesh(head.fine, torch.from_numpy(head.surface(vertices.double().numpy())))
