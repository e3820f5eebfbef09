"""A head as the surface that a scan shows: one Catmull–Clark step finer than its control mesh."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor
from torch.nn.functional import pad

from topohead.core import Mesh, Topology
from topohead.core.derived import derived
from topohead.geometry.meshes import fan_normals, uniform_laplacian, vertex_fan
from topohead.geometry.sparse_rows import SparseRows
from topohead.geometry.subdivision import catmull_clark
from topohead.geometry.triangle_feet import corners_of
from topohead.solvers.recording import Recordings

INNER = ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")
"""Regions that scans rarely show."""
SHORTEST = 1e-5
"""An edge is not taken for shorter when it is asked how curved a surface is, metres."""


@dataclass(frozen=True)
class ScanHead:
    """What matching needs of a topology, on one device.

    Masks and `matrix` are of the finer surface. `skin` may be drawn to a scan, eyes and what is
    `inner` may not. `scalp` may carry hair; `bare` skin neither that nor folds as lids, lips, ears
    and nostrils are.
    `triangles` are those of `fine`, `fan` those at each vertex.
    """

    topology: Topology
    fine: Topology
    matrix: SparseRows
    triangles: Int[Tensor, "T 3"]
    fan: Int[Tensor, "S K"]
    skin: Bool[Tensor, " S"]
    inner: Bool[Tensor, " S"]
    face: Bool[Tensor, " S"]
    scalp: Bool[Tensor, " S"]
    bare: Bool[Tensor, " S"]
    recordings: Recordings = field(default_factory=Recordings)
    """What is done with this surface on its device, again and again."""

    @staticmethod
    def of(topology: Topology, device: torch.device | str = "cpu") -> "ScanHead":
        """Of a control mesh with the reference's regions; made once for each, and each device."""
        known = derived(topology, ScanHead._made)
        name = str(device)
        if name not in known:
            known[name] = known["cpu"]._to(device)
        return known[name]

    @staticmethod
    def _made(topology: Topology) -> "dict[str, ScanHead]":
        fine, matrix = catmull_clark(replace(topology, mirror=None))
        index, value = matrix.indices().numpy(), matrix.values().double().numpy()
        regions = fine.regions
        inner = fine.region_mask(*(name for name in INNER if name in regions))
        eyes = fine.region_mask(*(name for name in ("eyes",) if name in regions))
        head = ScanHead(
            topology,
            fine,
            SparseRows(sparse.csr_matrix((value, (index[0], index[1])), tuple(matrix.shape))),
            fine.triangles,
            vertex_fan(fine.triangles, fine.vertex_count),
            ~(inner | eyes),
            inner,
            fine.region_mask("face"),
            fine.region_mask("scalp"),
            ~(inner | eyes | fine.region_mask("scalp", "eyelids", "lips", "ears", "nose")),
        )
        return {"cpu": head}

    def _to(self, device: torch.device | str) -> "ScanHead":
        names = ("matrix", "triangles", "fan", "skin", "inner", "face", "scalp", "bare")
        parts = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **parts, recordings=Recordings())

    @property
    def device(self) -> torch.device:
        return self.skin.device

    @cached_property
    def skin_rows(self) -> Int[Tensor, " M"]:
        """The finer surface's vertices that are skin."""
        return self.skin.nonzero()[:, 0]

    @cached_property
    def outside(self) -> tuple[Bool[Tensor, " T"], Int[Tensor, " R"]]:
        """Triangles that can be seen, and their vertices."""
        seen = ~self.inner[self.triangles].all(1)
        return seen, corners_of(self.triangles[seen], len(self.skin))

    @cached_property
    def face_triangles(self) -> Bool[Tensor, " T"]:
        """Those of the face."""
        return self.face[self.triangles].all(1)

    @cached_property
    def shares(self) -> SparseRows:
        """The squares of `matrix`, transposed: what is known of finer vertices, brought to ours."""
        return SparseRows(self.matrix.matrix.power(2).T.tocsr(), self.device)

    def surface(self, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, "S 3"]:
        """Positions of the finer surface's vertices."""
        return self.matrix @ vertices

    def normals(self, surface: Float[Tensor, "S 3"]) -> Float[Tensor, "S 3"]:
        """Its unit normals."""
        return fan_normals(surface[None], self.triangles, self.fan)[0]

    def curvature(
        self, surface: Float[Tensor, "S 3"], normals: Float[Tensor, "S 3"]
    ) -> Float[Tensor, " S"]:
        """How much unit normals turn along an edge of a triangle at each vertex, at most, 1/m."""
        place, normal = surface[self.triangles], normals[self.triangles]
        turned, length = ((part.roll(-1, 1) - part).norm(dim=2) for part in (normal, place))
        greatest = (turned / length.clamp(min=SHORTEST)).amax(1)
        return pad(greatest, (0, 1))[self.fan].amax(1)


def laplacian(topology: Topology) -> sparse.csc_matrix:
    """`uniform_laplacian` for scipy, float64."""
    made = uniform_laplacian(topology)
    (row, column), value = made.indices().numpy(), made.values().double().numpy()
    return sparse.csc_matrix((value, (row, column)), tuple(made.shape))


def fitted_surface(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Mesh:
    """The surface that a `ScanFit` lays on the scan: its control mesh after one step."""
    head = ScanHead.of(topology)
    return Mesh(head.fine, head.surface(vertices.double().cpu()))
