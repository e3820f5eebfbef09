"""Openings that close: lips and lids of many heads at once, how far they cross, taken apart again.

The surfaces on both sides of a slit close along the head's up axis. All is tensor algebra over
heads, so a batch runs at once on any device.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.compiled import compiled
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
        if compiled(vertices):
            return self._depth_there(vertices)
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
        if compiled(vertices):
            return self._apart_there(vertices.clone(), allowed.contiguous(), rounds)
        for _ in range(rounds):
            beyond = (self.depth(vertices) - allowed).clamp(min=0)
            # to ask is to wait for a GPU; rounds that find nothing change nothing
            if not beyond.is_cuda and not bool((beyond > 0).any()):
                break
            sides = torch.zeros_like(torch.cat([beyond, beyond]))
            for side, own in zip(sides.chunk(2), (self.upper, self.lower), strict=True):
                side[:, own] = beyond[:, own]
            above, below = self.patch.spread(sides).chunk(2)
            step = torch.zeros_like(vertices[:, self.patch.vertices])
            step[..., 1] = 0.5 * above - 0.5 * below
            vertices = vertices.index_add(1, self.patch.vertices, step)
        return vertices

    def _depth_there(self, vertices: Float[Tensor, "B V 3"]) -> Float[Tensor, "B K"]:
        """`depth` by Triton kernels."""
        from topohead.geometry import slits_triton  # noqa: PLC0415 -- only where CUDA is

        depth = vertices.new_full((len(vertices), len(self.patch.vertices)), -1.0)
        for own, sheet, facing, rows in self._sides:
            slits_triton.beyond(vertices, own, sheet, facing, (FLAT, DEEPEST), depth, rows)
        return depth

    def _apart_there(
        self, vertices: Float[Tensor, "B V 3"], allowed: Float[Tensor, "B K"], rounds: int
    ) -> Float[Tensor, "B V 3"]:
        """`apart` by Triton kernels, in place; to ask whether anything is left would be to wait."""
        from topohead.geometry import slits_triton  # noqa: PLC0415 -- only where CUDA is

        patch = self.patch
        pushes = vertices.new_zeros(2, len(vertices), len(patch.vertices))
        for _ in range(rounds):
            for push, (own, sheet, facing, rows) in zip(pushes, self._sides, strict=True):
                slits_triton.beyond(
                    vertices, own, sheet, facing, (FLAT, DEEPEST), push, rows, allowed
                )
            slits_triton.lift(vertices, patch.vertices, patch.neighbours, patch.free, pushes)
        return vertices

    @cached_property
    def _sides(self) -> tuple[tuple[Tensor, Tensor, float, Tensor], ...]:
        """For either side its vertices, the other's sheet, which way that faces, rows of the patch.

        Upper vertices meet the lower side's sheets that face up; and the reverse.
        """
        names = self.patch.vertices
        return (
            (names[self.upper], names[self.lower_sheet], 1.0, self.upper),
            (names[self.lower], names[self.upper_sheet], -1.0, self.lower),
        )


def _beyond(
    points: Float[Tensor, "B P 3"], vertices: Float[Tensor, "B K 3"], sheet: Int[Tensor, "T 3"],
    facing: float,
) -> Float[Tensor, "B P"]:  # fmt: skip
    """How deep points lie beyond the triangle over or under them that is farthest along `facing`.

    Only triangles whose normal's y has the sign of `facing` count, none beyond `DEEPEST`; −1
    without one.
    """
    corner = vertices[:, sheet]
    y = corner[..., 1]
    after_x, _, after_z = corner.roll(-1, 2).unbind(-1)
    last_x, _, last_z = corner.roll(-2, 2).unbind(-1)
    across, along = last_z - after_z, after_x - last_x
    area = across[..., 2] * along[..., 1] - along[..., 2] * across[..., 1]
    faces = area * facing > FLAT
    scale = torch.where(faces, 1 / torch.where(faces, area, 1.0), 0.0)[..., None]
    # barycentrics and the sheet's height are affine in (x, z): rows of x, z, y and 1
    one = torch.where(faces[..., None], (after_z * last_x - after_x * last_z) * scale, -1.0)
    rows = torch.stack([across * scale, along * scale, torch.zeros_like(one), one], -1)
    level = rows * (y - y[..., 2:])[..., None]
    gap = facing * (level[..., 0, :] + level[..., 1, :])
    gap[..., 2] = -facing
    gap[..., 3] = gap[..., 3] + facing * y[..., 2]
    rows = torch.cat([rows, gap[..., None, :]], 2).flatten(1, 2)
    places = torch.stack([points[..., 0], points[..., 2], points[..., 1],
                          torch.ones_like(points[..., 0])], -1)  # fmt: skip
    u_at, v_at, w_at, gap_at = (places @ rows.mT).unflatten(-1, (-1, 4)).unbind(-1)
    inside = (torch.minimum(torch.minimum(u_at, v_at), w_at) >= 0) & (gap_at < DEEPEST)
    return torch.where(inside, gap_at, -1.0).amax(2)


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
