"""Faces cut into N×N smaller ones, their corners shared between neighbours."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology


@dataclass(frozen=True)
class FaceGrid:
    """D points on F faces (a b c d): at s = column/N along a→b and t = row/N along a→d.

    Points on an edge and at a vertex belong to all faces that meet there. A triangle's fourth
    corner is its third, so its rows shrink towards that corner.
    """

    split: int
    """N."""
    corners: Int[Tensor, "F 4"]
    """Vertices."""
    points: Int[Tensor, "F R R"]
    """Number of the point at each row and column, R = N + 1."""
    owner: Int[Tensor, " D"]
    """One of the faces that each point lies on."""
    place: Float[Tensor, "D 2"]
    """(s, t) there."""

    @property
    def count(self) -> int:
        """D."""
        return len(self.owner)

    def to(self, device: torch.device) -> "FaceGrid":
        """The same on another device."""
        return FaceGrid(
            self.split,
            self.corners.to(device),
            self.points.to(device),
            self.owner.to(device),
            self.place.to(device),
        )

    def interpolate(self, values: Float[Tensor, "F 4 K"]) -> Float[Tensor, "D K"]:
        """Bilinear between the values at the corners of each point's face."""
        s, t = self.place[:, :1], self.place[:, 1:]
        total = (1 - s) * (1 - t) * values[self.owner, 0]
        total += s * (1 - t) * values[self.owner, 1]
        total += s * t * values[self.owner, 2]
        return total.add_((1 - s) * t * values[self.owner, 3])


def split_faces(topology: Topology, faces: Int[Tensor, " F"], split: int) -> FaceGrid:
    """A grid of `split`² cells on each of the faces."""
    corners = topology.faces[faces]
    a, b, c, d = corners.unbind(1)
    sides = torch.stack([a, b, b, c, d, c, a, d], 1).reshape(-1, 2)
    is_open = sides[:, 0] != sides[:, 1]
    vertices, corner_number = torch.unique(corners, return_inverse=True)
    edges, edge_number = torch.unique(sides[is_open].sort(1).values, dim=0, return_inverse=True)
    within = split - 1
    first_edge, first_inner = len(vertices), len(vertices) + len(edges) * within
    count = first_inner + len(faces) * within**2

    # points within each side, in its own direction; all in one place where the side has no length
    ends = corner_number[:, [0, 1, 1, 2, 3, 2, 0, 3]].reshape(-1, 2)
    step = torch.arange(within)
    forward = (sides[:, 0] < sides[:, 1])[is_open, None]
    along = ends[:, :1].expand(-1, within).clone()
    along[is_open] = (
        first_edge + edge_number[:, None] * within + torch.where(forward, step, within - 1 - step)
    )
    along = along.reshape(len(faces), 4, within)

    points = torch.empty(len(faces), split + 1, split + 1, dtype=torch.long)
    points[:, 0, 0], points[:, 0, -1] = corner_number[:, 0], corner_number[:, 1]
    points[:, -1, -1], points[:, -1, 0] = corner_number[:, 2], corner_number[:, 3]
    points[:, 0, 1:-1], points[:, 1:-1, -1] = along[:, 0], along[:, 1]
    points[:, -1, 1:-1], points[:, 1:-1, 0] = along[:, 2], along[:, 3]
    inner = torch.arange(len(faces) * within**2) + first_inner
    points[:, 1:-1, 1:-1] = inner.reshape(len(faces), within, within)

    slots = torch.arange(points.numel())
    slot = slots.new_full((count,), points.numel())
    slot.scatter_reduce_(0, points.reshape(-1), slots, "amin")
    width = split + 1
    row, column = slot % width**2 // width, slot % width
    place = torch.stack([column, row], 1).float() / split
    return FaceGrid(split, corners, points, slot // width**2, place)
