"""Signed distance to any head of one topology, for many points at once, by nearest vertices.

Which vertices can be nearest is looked up in a grid that is made once, on the template: heads of
one topology differ little when scaled and shifted onto it. What is left is found among the
neighbours of the best candidate.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.compiled import compiled
from topohead.geometry.meshes import fan_normals, vertex_fan

CELLS = 64
CANDIDATES = 6
RING = 8
MARGIN = 0.05
"""Metres that the grid reaches beyond the template."""

CAPSULES = (
    ((0.0, -0.080, -0.088), (0.0, -0.230, -0.105), 0.050),
    ((0.0, -0.175, -0.108), (0.165, -0.240, -0.108), 0.038),
    ((0.0, -0.175, -0.108), (-0.165, -0.240, -0.108), 0.038),
    ((-0.120, -0.315, -0.105), (0.120, -0.315, -0.105), 0.095),
    ((-0.110, -0.460, -0.090), (0.110, -0.460, -0.090), 0.110),
)
"""Neck, shoulders and trunk, where a head model has none: axis from, to, radius; canonical."""


@dataclass(frozen=True)
class Placed:
    """Heads [B V 3] as the field reads them: vertices with normals in one list, and their fit.

    canonical = (point − `shift`) / `scale`, per axis.
    """

    table: Float[Tensor, "N 6"]
    scale: Float[Tensor, "B 3"]
    shift: Float[Tensor, "B 3"]
    count: int

    def canonical(self, points: Float[Tensor, "B *K 3"]) -> Float[Tensor, "B *K 3"]:
        """Points of the heads at their places on the template."""
        shape = (len(self.scale), *[1] * (points.dim() - 2), 3)
        return (points - self.shift.view(shape)) / self.scale.view(shape)


@dataclass(frozen=True)
class HeadField:
    """What points near a head look up, made once a topology and moved with `to`.

    `solid` are the vertices that nothing may pass. `candidates` [CELLS³ CANDIDATES] and `ring`
    [V RING] name vertices.
    """

    topology: Topology
    template: Float[Tensor, "V 3"]
    solid: Int[Tensor, " N"]
    triangles: Int[Tensor, "T 3"]
    fan: Int[Tensor, "V F"]
    candidates: Int[Tensor, "C K"]
    ring: Int[Tensor, "V R"]
    low: Float[Tensor, "3"]
    cell: Float[Tensor, "3"]

    @classmethod
    def of(cls, topology: Topology, template: Float[Tensor, "V 3"]) -> "HeadField":
        """The field of a head model from its mean shape; a second of work."""
        solid = topology.region_mask("skin", "eyes") & ~topology.region_mask("mouth_interior")
        number = solid.nonzero()[:, 0]
        points = template[number]
        low = points.amin(0) - MARGIN
        cell = (points.amax(0) + MARGIN - low) / CELLS
        steps = torch.stack(torch.meshgrid(*[torch.arange(CELLS) + 0.5] * 3, indexing="ij"), -1)
        centers = low + steps.reshape(-1, 3) * cell
        _, nearest = KDTree(points.double().numpy()).query(
            centers.double().numpy(), k=CANDIDATES, workers=-1
        )
        candidates = number[torch.from_numpy(np.asarray(nearest))]
        return cls(
            topology,
            template,
            number,
            topology.triangles,
            vertex_fan(topology.triangles, topology.vertex_count),
            candidates.int(),
            _rings(topology, solid).int(),
            low,
            cell,
        )

    def to(self, device: torch.device | str) -> "HeadField":
        """The same field on another device; the topology stays where it is."""
        parts = (self.template, self.solid, self.triangles, self.fan, self.candidates, self.ring,
                 self.low, self.cell)  # fmt: skip
        return HeadField(self.topology, *(part.to(device) for part in parts))

    @cached_property
    def capsules(self) -> tuple[Tensor, Tensor, Tensor]:
        """Neck, shoulders and trunk: start, axis and radius, canonical."""
        made = [torch.tensor(part, device=self.low.device) for part in zip(*CAPSULES, strict=True)]
        return made[0], made[1] - made[0], made[2]

    @property
    def solids(self) -> tuple[Tensor, ...]:
        """What compiled loops want of it: template, solid vertices, triangles, fan, ring, body."""
        return (self.template, self.solid, self.triangles, self.fan, self.ring, *self.capsules)

    def place(self, vertices: Float[Tensor, "B V 3"]) -> Placed:
        """Heads made ready: normals, and scale and shift per axis by least squares."""
        normals = fan_normals(vertices, self.triangles, self.fan)
        table = torch.cat([vertices, normals], -1).reshape(-1, 6)
        return Placed(table, *self.fitted(vertices), vertices.shape[1])

    def fitted(
        self, vertices: Float[Tensor, "B V 3"]
    ) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3"]]:
        """Scale and shift per axis that bring the template onto heads, least squares."""
        source, target = self.template[self.solid], vertices[:, self.solid]
        middle, center = source.mean(0), target.mean(1)
        offset = source - middle
        scale = ((target - center[:, None]) * offset).sum(1) / offset.square().sum(0)
        return scale, center - scale * middle

    def distance(
        self,
        points: Float[Tensor, "B N 3"],
        heads: Placed,
        near: Int[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N 3"]]:
        """Signed distance in metres, positive outside, and its direction.

        Planes through the vertices around the nearest one, weighted by d⁻⁴ (implicit moving least
        squares, Kolluri 2005); farther than the vertices are from each other, where planes of a
        thin ear would count beyond its rim, the nearest vertex itself. Below the head, a body of
        capsules. Good to some tenths of a millimetre near the surface. `near` are vertices known to
        be the nearest ones or neighbours of these.
        """
        if near is not None and compiled(points):
            from topohead.geometry import head_field_triton  # noqa: PLC0415 -- only where CUDA is

            placed = (heads.table, heads.scale, heads.shift)
            return head_field_triton.distance(points, near, placed, self.ring, self.capsules)
        canonical = heads.canonical(points)
        if near is None:
            nearest = self.nearest(points, heads)
        else:
            nearest = self._closest(points, self.ring[near].long(), heads)
        around = self._rows(self.ring[nearest].long(), heads)
        offset = points[:, :, None] - around[..., :3]
        weight = offset.square().sum(-1).add(1e-7).pow(-2)
        weight = weight / weight.sum(-1, keepdim=True)
        normal = (weight[..., None] * around[..., 3:]).sum(-2)
        plane = (weight * (offset * around[..., 3:]).sum(-1)).sum(-1)
        normal = torch.nn.functional.normalize(normal, dim=-1)
        arm = offset[:, :, 0]
        reach = arm.norm(dim=-1)
        spacing = (around[..., 1:, :3] - around[..., :1, :3]).norm(dim=-1).mean(-1)
        far = ((reach / spacing.clamp(min=1e-6) - 1) / 2).clamp(0, 1) * (plane > 0)
        plane = torch.lerp(plane, reach, far)
        away = arm / reach.clamp(min=1e-9)[..., None]
        normal = torch.nn.functional.normalize(torch.lerp(normal, away, far[..., None]), dim=-1)
        body, outward = self._body(canonical)
        closer = body < plane
        return (
            torch.where(closer, body, plane),
            torch.where(closer[..., None], outward, normal),
        )

    def nearest(self, points: Float[Tensor, "B N 3"], heads: Placed) -> Int[Tensor, "B N"]:
        """The solid vertex nearest to each point, of those that the grid proposes."""
        cell = ((heads.canonical(points) - self.low) / self.cell).long().clamp(0, CELLS - 1)
        row = (cell[..., 0] * CELLS + cell[..., 1]) * CELLS + cell[..., 2]
        nearest = self._closest(points, self.candidates[row].long(), heads)
        return self._closest(points, self.ring[nearest].long(), heads)

    def _closest(self, points: Tensor, vertices: Tensor, heads: Placed) -> Tensor:
        places = heads.table[:, :3][self._numbers(vertices, heads)]
        apart = (places - points[:, :, None]).square().sum(-1)
        return vertices.gather(-1, apart.argmin(-1, keepdim=True))[..., 0]

    @staticmethod
    def _rows(vertices: Tensor, heads: Placed) -> Tensor:
        return heads.table[HeadField._numbers(vertices, heads)]

    @staticmethod
    def _numbers(vertices: Tensor, heads: Placed) -> Tensor:
        start = torch.arange(len(vertices), device=vertices.device) * heads.count
        return vertices + start[:, None, None]

    def _body(self, canonical: Tensor) -> tuple[Tensor, Tensor]:
        start, axis, radius = self.capsules
        offset = canonical[:, :, None] - start
        along = ((offset * axis).sum(-1) / axis.square().sum(-1)).clamp(0, 1)
        arm = offset - along[..., None] * axis
        reach = arm.norm(dim=-1)
        distance, which = (reach - radius).min(-1)
        chosen = which[..., None, None].expand(*which.shape, 1, 3)
        return distance, torch.nn.functional.normalize(arm.gather(2, chosen)[:, :, 0], dim=-1)


def _rings(topology: Topology, solid: Tensor) -> Int[Tensor, "V R"]:
    """A vertex and those of its neighbours that are solid, RING in all; short ones repeat it."""
    edges = topology.edges[solid[topology.edges].all(1)]
    both = torch.cat([edges, edges.flip(1)])
    both = both[both[:, 0].argsort(stable=True)]
    count = torch.bincount(both[:, 0], minlength=topology.vertex_count)
    place = torch.arange(len(both)) - (count.cumsum(0) - count)[both[:, 0]] + 1
    ring = torch.arange(topology.vertex_count)[:, None].repeat(1, RING)
    kept = place < RING
    ring[both[kept, 0], place[kept]] = both[kept, 1]
    return ring
