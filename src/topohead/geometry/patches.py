"""Small pieces of skin on which pushes fade out, for many heads at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.compiled import compiled

RINGS = 4
"""Edges over which a push fades into the skin around."""


@dataclass(frozen=True)
class Patch:
    """K `vertices` of a topology; `neighbours` [K D] are rows of these, padded with the row itself.

    `free` is 1 where the skin may be pushed, else 0.
    """

    vertices: Int[Tensor, " K"]
    neighbours: Int[Tensor, "K D"]
    free: Float[Tensor, " K"]

    @staticmethod
    def of(
        topology: Topology, chosen: Bool[Tensor, " V"], pinned: Bool[Tensor, " V"] | None = None
    ) -> "Patch":
        """The chosen vertices; those in `pinned` never move."""
        vertices = chosen.nonzero()[:, 0]
        edges = rows_of(vertices, topology.edges, topology.vertex_count)
        lists: list[list[int]] = [[k] for k in range(len(vertices))]
        for a, b in edges.tolist():
            lists[a].append(b)
            lists[b].append(a)
        width = max(len(row) for row in lists)
        padded = torch.tensor([row + [k] * (width - len(row)) for k, row in enumerate(lists)])
        free = torch.ones(len(vertices)) if pinned is None else (~pinned[vertices]).float()
        return Patch(vertices, padded, free)

    def to(self, device: torch.device | str) -> "Patch":
        """The same on a device."""
        return Patch(self.vertices.to(device), self.neighbours.to(device), self.free.to(device))

    def spread(self, push: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """No less than `push` (≥ 0) where the skin is free, fading out over `RINGS` edges."""
        if compiled(push):
            from topohead.geometry import slits_triton  # noqa: PLC0415 -- only where CUDA is

            return slits_triton.spread(push, self.neighbours, self.free)
        smooth = push
        for _ in range(RINGS):
            around = smooth[:, self.neighbours].unbind(-1)
            smooth = torch.maximum(sum(around[1:], around[0]) / len(around), push)  # in order
        return smooth * self.free


def rows_of(
    vertices: Int[Tensor, " K"], corners: Int[Tensor, "N C"], count: int
) -> Int[Tensor, "M C"]:
    """Edges or triangles whose corners are all among the vertices, as rows of these."""
    row = torch.full((count,), -1)
    row[vertices] = torch.arange(len(vertices))
    found = row[corners]
    return found[(found >= 0).all(1)]
