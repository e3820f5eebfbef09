"""How a shape stretches and turns at each vertex: what carries one person's motion to another."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.compiled import compiled
from topohead.geometry.meshes import triangle_areas, uniform_laplacian


@dataclass(frozen=True)
class GradientOperator:
    """Deformation gradients of shapes from one rest shape, per vertex.

    Triangles are given a third direction by their normals, as long as the root of their area
    (Sumner and Popović 2004, eq. 1–3). Vertices average those around by area; then they are
    smoothed along edges. `triangles` [T 3] are the used ones, `dual` [T 3 3] holds in its rows the
    inverse of (edge, edge, normal) at rest, `gather` [V T] averages, `smooth` [V V] is one step.
    """

    triangles: Int[Tensor, "T 3"]
    dual: Float[Tensor, "T 3 3"]
    gather: Float[Tensor, "V T"]
    smooth: Float[Tensor, "V V"]
    steps: int

    @staticmethod
    def of(
        topology: Topology, rest: Float[Tensor, "V 3"], steps: int, whole: tuple[str, ...] = ()
    ) -> "GradientOperator":
        """From a shape of the topology; regions in `whole` have one gradient each, their mean."""
        triangles = topology.triangles
        rest = rest.double()
        area = triangle_areas(rest, triangles)
        triangles, area = triangles[area > 1e-12], area[area > 1e-12]
        frame = torch.stack(_frame(rest[None], triangles), -1)[0]
        count, size = len(triangles), topology.vertex_count
        corner = torch.stack([triangles.flatten(), torch.arange(count).repeat_interleave(3)])
        gather = torch.sparse_coo_tensor(
            corner, area.repeat_interleave(3), (size, count), check_invariants=False
        ).coalesce()
        total = torch.zeros(size).double().index_add_(0, gather.indices()[0], gather.values())
        gather = _scaled(gather, 1 / total.clamp(min=1e-30))
        return GradientOperator(
            triangles,
            torch.linalg.inv(frame).float(),
            gather.float(),
            _smoothing(topology, whole).float(),
            steps,
        )

    def to(self, device: torch.device | str) -> "GradientOperator":
        """The same on a device."""
        return GradientOperator(
            self.triangles.to(device),
            self.dual.to(device),
            self.gather.to(device),
            self.smooth.to(device),
            self.steps,
        )

    def __call__(self, shapes: Float[Tensor, "B V 3"]) -> Float[Tensor, "B V 3 3"]:
        """F with F · (step at rest) ≈ step on the shape; the identity for the rest shape."""
        count = len(shapes)
        if compiled(shapes):
            return self._there(shapes)
        first, second, normal = _frame(shapes, self.triangles)
        outer = (
            first[..., :, None] * self.dual[:, None, 0]
            + second[..., :, None] * self.dual[:, None, 1]
            + normal[..., :, None] * self.dual[:, None, 2]
        )
        field = self.gather @ outer.flatten(2).transpose(0, 1).reshape(len(self.triangles), -1)
        for _ in range(self.steps):
            field = self.smooth @ field
        return field.reshape(-1, count, 3, 3).transpose(0, 1)

    def _there(self, shapes: Float[Tensor, "B V 3"]) -> Float[Tensor, "B V 3 3"]:
        """The same by Triton kernels."""
        from topohead.geometry import meshes_triton  # noqa: PLC0415 -- only where CUDA is

        gather, smooth = self._rows
        beside = shapes.permute(1, 2, 0).contiguous()
        field = meshes_triton.gradients(beside, self.triangles, self.dual, gather).flatten(1)
        for _ in range(self.steps):
            field = meshes_triton.product(smooth, field)
        return field.view(-1, 3, 3, len(shapes)).permute(3, 0, 1, 2)

    @cached_property
    def _rows(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """`gather` and `smooth` row by row: where rows end, columns, values."""
        both = (self.gather.coalesce(), self.smooth.coalesce())
        return tuple((_ends(part), part.indices()[1].contiguous(), part.values()) for part in both)


def _frame(
    shapes: Float[Tensor, "B V 3"], triangles: Int[Tensor, "T 3"]
) -> tuple[Float[Tensor, "B T 3"], Float[Tensor, "B T 3"], Float[Tensor, "B T 3"]]:
    """Two edges of each triangle, and the normal times the root of its length."""
    a, b, c = (shapes[:, triangles[:, k]] for k in range(3))
    first, second = b - a, c - a
    normal = torch.linalg.cross(first, second)
    x, y, z = normal.unbind(-1)
    length = (x * x + y * y + z * z).clamp(min=1e-30).sqrt()
    return first, second, normal / length.sqrt()[..., None]


def _smoothing(topology: Topology, whole: tuple[str, ...]) -> Float[Tensor, "V V"]:
    """Half the vertex, half the mean of its neighbours; in whole regions the mean of all."""
    size = topology.vertex_count
    laplacian = uniform_laplacian(topology).double().coalesce()
    loose = ~topology.region_mask(*whole) if whole else torch.ones(size, dtype=torch.bool)
    kept = loose[laplacian.indices()[0]]
    index, value = [laplacian.indices()[:, kept]], [0.5 * laplacian.values()[kept]]
    own = loose.nonzero()[:, 0]
    index.append(torch.stack([own, own]))
    value.append(torch.ones(len(own)).double())
    for name in whole:
        members = topology.regions[name]
        index.append(torch.cartesian_prod(members, members).T)
        value.append(torch.full((len(members) ** 2,), 1 / len(members)).double())
    return torch.sparse_coo_tensor(
        torch.cat(index, 1), torch.cat(value), (size, size), check_invariants=False
    ).coalesce()


def _ends(matrix: Tensor) -> Int[Tensor, " R"]:
    """Where each row's entries begin, and the last one's end."""
    count = torch.bincount(matrix.indices()[0], minlength=len(matrix))
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


def _scaled(matrix: Tensor, rows: Float[Tensor, " V"]) -> Tensor:
    index, value = matrix.indices(), matrix.values()
    return torch.sparse_coo_tensor(
        index, value * rows[index[0]], matrix.shape, check_invariants=False
    ).coalesce()
