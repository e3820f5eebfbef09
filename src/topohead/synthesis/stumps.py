"""A neck that ends: heads stop at an open rim, which a rounded stump of skin closes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import boundary_edges

ROWS = 6
"""Rings of the stump, the last one a point."""

DEPTH = 0.45
"""Of the stump, in radii of the rim."""


@dataclass(frozen=True)
class Stump:
    """What closes the necks of a topology's heads, on a device."""

    topology: Topology
    device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> "Stump":
        """The same for heads on another device."""
        return Stump(self.topology, device)

    @cached_property
    def rim(self) -> Int[Tensor, " R"]:
        """See `neck_rim`."""
        return neck_rim(self.topology)

    @cached_property
    def _rows(self) -> Int[Tensor, " R"]:
        """The rim where the heads are: asked for once."""
        return self.rim.to(self.device)

    @property
    def size(self) -> int:
        """Vertices of the stump."""
        return ROWS * len(self.rim)

    @cached_property
    def triangles(self) -> Int[Tensor, "T 3"]:
        """Of the stump's vertices, numbered from 0, seen from outside counter-clockwise."""
        columns = len(self.rim)
        row = torch.arange(ROWS - 1)[:, None] * columns
        c = torch.arange(columns)
        a, b = row + c, row + (c + 1) % columns
        d, e = a + columns, b + columns
        return torch.cat([torch.stack([a, e, b], -1), torch.stack([a, d, e], -1)]).reshape(-1, 3)

    def closing(self, vertices: Float[Tensor, "B V 3"]) -> Float[Tensor, "B Q 3"]:
        """Its vertices on these heads: rings that go on from the rim and round off, like a bust."""
        rim = vertices[:, self._rows]
        center = rim.mean(1, keepdim=True)
        arm = rim - center
        # the rim runs so that this points up into the head
        area = torch.linalg.cross(arm, arm.roll(-1, 1), dim=-1).sum(1, keepdim=True)
        down = -torch.nn.functional.normalize(area, dim=-1)
        radius = arm.norm(dim=-1).mean(1)[:, None, None]
        turn = 0.5 * torch.pi * torch.arange(ROWS, device=vertices.device) / (ROWS - 1)
        cosine, sine = turn.cos()[:, None, None], turn.sin()[:, None, None]
        rings = center[:, None] + cosine * arm[:, None] + sine * (DEPTH * radius * down)[:, None]
        return rings.flatten(1, 2)

    def tint(self, rim: Float[Tensor, "B R 4"]) -> Float[Tensor, "B Q 4"]:
        """Albedo and roughness of its vertices from those of the rim: paler ends meet below."""
        mean = rim.mean(1, keepdim=True)
        share = torch.linspace(0, 1, ROWS, device=rim.device)[:, None, None]
        return torch.lerp(rim[:, None], mean[:, None], share).flatten(1, 2)


def neck_rim(topology: Topology) -> Int[Tensor, " R"]:
    """Vertices round the open neck, in order: counter-clockwise seen from above."""
    edges = boundary_edges(topology)
    edges = edges[topology.region_mask("boundary")[edges].all(1)]
    following = dict(edges.tolist())
    loop = [int(edges[0, 0])]
    while (after := following[loop[-1]]) != loop[0]:
        loop.append(after)
    return torch.tensor(loop)


def rim_colors(
    albedo: Float[Tensor, "S S 3"],
    roughness: Float[Tensor, "S S"],
    topology: Topology,
    rim: Int[Tensor, " R"],
) -> Float[Tensor, "R 4"]:
    """What a skin's maps hold at the rim's vertices, wherever a chart has them first."""
    size = len(roughness)
    corner = torch.zeros(topology.vertex_count, dtype=torch.long)
    flat = topology.triangles.flatten()
    corner[flat.flip(0)] = topology.triangle_uv.flatten().flip(0)
    u, v = topology.uv[corner[rim]].double().unbind(-1)
    column = (u * size).long().clamp(0, size - 1)
    row = ((1 - v) * size).long().clamp(0, size - 1)
    return torch.cat([albedo[row, column], roughness[row, column, None]], -1)
