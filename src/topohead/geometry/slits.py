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

DEEPEST = 8e-3
"""A sheet farther beyond a vertex than this, metres, is another fold of skin."""

FLAT = 1e-9
"""Triangles of less than half this area seen along the up axis, m², face neither way."""


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
        """How far each vertex lies beyond the other side's outermost facing sheet, metres.

        Along the up axis; negative before it, −1 where there is none.
        """
        points = vertices[:, self.patch.vertices]
        depth = points.new_full(points.shape[:2], -1.0)
        # the upper side meets the lower one's sheets that face up; and the reverse
        for own, sheet, facing in (
            (self.upper, self.lower_sheet, 1.0),
            (self.lower, self.upper_sheet, -1.0),
        ):
            depth[:, own] = _beyond(points[:, own], points, sheet, facing)
        return depth

    def apart(
        self, vertices: Float[Tensor, "B V 3"], allowed: Float[Tensor, "B K"], rounds: int
    ) -> Float[Tensor, "B V 3"]:
        """Both sides moved back by half of what they overlap beyond `allowed`, a few times."""
        for _ in range(rounds):
            beyond = (self.depth(vertices) - allowed).clamp(min=0)
            # to ask is to wait for a GPU; rounds that find nothing change nothing
            if beyond.device.type == "cpu" and not bool((beyond > 0).any()):
                break
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
    """How deep points lie beyond the triangle over or under them that is farthest along `facing`.

    Only triangles whose normal's y has the sign of `facing` count, none beyond `DEEPEST`; −1
    without one.
    """
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (
        vertices[:, sheet[:, k]].unbind(-1) for k in range(3)
    )
    area = (bz - az) * (cx - ax) - (bx - ax) * (cz - az)
    faces = area * facing > FLAT
    scale = torch.where(faces, 1 / torch.where(faces, area, 1.0), 0.0)
    # barycentrics u, v and the sheet's height are affine in (x, z): rows of x, z, y and 1
    u = [(cz - bz) * scale, (bx - cx) * scale, (bz * cx - bx * cz) * scale]
    v = [(az - cz) * scale, (cx - ax) * scale, (cz * ax - cx * az) * scale]
    w = [-u[0] - v[0], -u[1] - v[1], 1 - u[2] - v[2]]
    height = [u[k] * (ay - cy) + v[k] * (by - cy) for k in range(3)]
    still = torch.zeros_like(scale)
    rows = [torch.stack([x, z, still, torch.where(faces, one, -1.0)], 1) for x, z, one in (u, v, w)]
    rows.append(facing * torch.stack([height[0], height[1], still - 1, height[2] + cy], 1))
    px, py, pz = points.unbind(-1)
    places = torch.stack([px, pz, py, torch.ones_like(px)], -1)
    u_at, v_at, w_at, gap = (places @ row for row in rows)
    inside = (u_at >= 0) & (v_at >= 0) & (w_at >= 0) & (gap < DEEPEST)
    return torch.where(inside, gap, -1.0).amax(2)


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
