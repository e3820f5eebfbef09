"""Openings that close: lips and lids of many heads at once, how far they cross, taken apart again.

The surfaces on both sides of a slit close along the head's up axis. All is tensor algebra over
heads, so a batch runs at once on any device.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import neighbour_rings
from topohead.geometry.patches import RINGS, Patch, rows_of

SIDEWAYS = 0.2
"""Vertices whose normal has less than this cosine to the closing axis face no other side."""


@dataclass(frozen=True)
class Slit:
    """The skin around an opening: a patch, and its triangles as rows of it.

    `upper` and `lower` are the rows of the two sides, with the triangles that each consists of.
    """

    patch: Patch
    triangles: Int[Tensor, "T 3"]
    upper: Int[Tensor, " P"]
    lower: Int[Tensor, " Q"]
    upper_sheet: Int[Tensor, "_ 3"]
    lower_sheet: Int[Tensor, "_ 3"]

    @staticmethod
    def of(topology: Topology, upper: Bool[Tensor, " V"], lower: Bool[Tensor, " V"]) -> "Slit":
        """Between two sets of skin vertices."""
        patch = Patch.of(topology, neighbour_rings(topology, upper | lower, RINGS) <= RINGS)
        triangles = rows_of(patch.vertices, topology.triangles, topology.vertex_count)
        above, below = upper[patch.vertices], lower[patch.vertices]
        return Slit(
            patch,
            triangles,
            above.nonzero()[:, 0],
            below.nonzero()[:, 0],
            triangles[above[triangles].all(1)],
            triangles[below[triangles].all(1)],
        )

    def to(self, device: torch.device | str) -> "Slit":
        """The same on a device."""
        rows = (self.triangles, self.upper, self.lower, self.upper_sheet, self.lower_sheet)
        return Slit(self.patch.to(device), *(t.to(device) for t in rows))

    def depth(self, vertices: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K"]:
        """How far each vertex lies beyond the nearest facing sheet of the other side, metres.

        Along the up axis; negative before it, −1 where no sheet faces the vertex.
        """
        points = vertices[:, self.patch.vertices]
        up = self._up(points)
        depth = points.new_full(points.shape[:2], -1.0)
        # the upper side looks down at the lower one's sheet, which faces up; and the reverse
        for own, sheet, facing in (
            (self.upper, self.lower_sheet, 1.0),
            (self.lower, self.upper_sheet, -1.0),
        ):
            found = _beyond(points[:, own], points, sheet, facing)
            looks = up[:, own] * facing < -SIDEWAYS
            depth[:, own] = torch.where(looks, found, -1.0)
        return depth

    def _up(self, points: Float[Tensor, "B K 3"]) -> Float[Tensor, "B K"]:
        a, b, c = (points[:, self.triangles[:, k]] for k in range(3))
        area = torch.linalg.cross(b - a, c - a)
        normals = torch.zeros_like(points)
        for corner in range(3):
            normals.index_add_(1, self.triangles[:, corner], area)
        x, y, z = normals.unbind(-1)
        return y / (x * x + y * y + z * z).clamp(min=1e-30).sqrt()

    def apart(
        self, vertices: Float[Tensor, "B V 3"], allowed: Float[Tensor, "B K"], rounds: int
    ) -> Float[Tensor, "B V 3"]:
        """Both sides moved back by half of what they overlap beyond `allowed`, a few times."""
        for _ in range(rounds):
            beyond = (self.depth(vertices) - allowed).clamp(min=0)
            push = torch.zeros_like(beyond)
            for own, sign in ((self.upper, 0.5), (self.lower, -0.5)):
                side = torch.zeros_like(beyond)
                side[:, own] = beyond[:, own]
                push = push + sign * self.patch.spread(side)
            step = torch.zeros_like(vertices[:, self.patch.vertices])
            step[..., 1] = push
            vertices = vertices.index_add(1, self.patch.vertices, step)
        return vertices


def _beyond(
    points: Float[Tensor, "B P 3"], vertices: Float[Tensor, "B K 3"], sheet: Int[Tensor, "T 3"],
    facing: float,
) -> Float[Tensor, "B P"]:  # fmt: skip
    """How deep points lie beyond the nearest triangle over or under them; −1 without one.

    Only triangles whose normal's y has the sign of `facing` count.
    """
    x, z = points[:, :, None, 0], points[:, :, None, 2]
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (
        vertices[:, None, sheet[:, k]].unbind(-1) for k in range(3)
    )
    area = (bz - az) * (cx - ax) - (bx - ax) * (cz - az)
    faces = area * facing > 1e-14
    area = torch.where(faces, area, 1.0)
    u = ((bz - z) * (cx - x) - (bx - x) * (cz - z)) / area
    v = ((cz - z) * (ax - x) - (cx - x) * (az - z)) / area
    inside = faces & (u >= 0) & (v >= 0) & (u + v <= 1)
    height = u * (ay - cy) + v * (by - cy) + cy
    gap = (height - points[:, :, None, 1]) * facing
    nearest = torch.where(inside, gap.abs(), torch.inf).min(2)
    found = gap.gather(2, nearest.indices[..., None])[..., 0]
    return torch.where(nearest.values < torch.inf, found, -1.0)


def divided(
    topology: Topology, vertices: Float[Tensor, "V 3"], margin: Bool[Tensor, " V"],
    around: Bool[Tensor, " V"],
) -> tuple[Bool[Tensor, " V"], Bool[Tensor, " V"]]:  # fmt: skip
    """The skin around a slit as its upper and lower side, by distance from both of its margins.

    `margin` are vertices along the slit; its corners, farthest left and right, tell the sides.
    """
    rows = margin.nonzero()[:, 0]
    rows = rows[vertices[rows, 0].argsort()]
    (x0, y0), (x1, y1) = (vertices[rows[k], :2].tolist() for k in (0, -1))
    line = y0 + (vertices[:, 0] - x0) / (x1 - x0) * (y1 - y0)
    above = vertices[:, 1] > line
    upper = neighbour_rings(topology, margin & above, 12)
    lower = neighbour_rings(topology, margin & ~above, 12)
    return around & (upper < lower), around & (lower < upper)
