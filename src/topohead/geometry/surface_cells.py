"""A mesh cut into so many cells of about one size, and the flat Gaussians that cover them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import GaussianBinding, InputError
from topohead.geometry.binding import FLAT

SPREAD = 2.35
"""Standard deviations of a Gaussian against those of a point drawn evenly from its cell.

On a staged head with 100,000: at 1.6 the surface is 66 % opaque where least and 31.8 dB from the
textured mesh, at 2.35 96 % and 37.2 dB, at 2.6 99 % and 36.3 dB.
"""

THICKNESS = 0.12
"""Standard deviation along the normal, against the mean one in the triangle's plane."""

AT_ONCE = 0.9
"""Cells within this share of the longest edge are halved together."""


@dataclass(frozen=True)
class SurfaceCells:
    """N small triangles that tile a mesh: whose part each is, and its corners there."""

    triangles: Int[Tensor, " N"]
    corners: Float[Tensor, "N 3 3"]
    """Barycentrics of the three corners, rows, in the triangle that the cell is part of."""

    @property
    def centers(self) -> Float[Tensor, "N 3"]:
        return self.corners.mean(1)


def surface_cells(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    count: int,
    fineness: Float[Tensor, " T"] | None = None,
) -> SurfaceCells:
    """`count` cells: those with the longest edges are halved until there are enough.

    Every triangle with an area has one at least, however few are asked for. Where `fineness` is 2,
    edges become half as long as where it is 1.

    Bisection of longest edges (Rivara 1984) keeps angles from degenerating, so cells stay compact
    and of about one size; they have no gaps, which points drawn at random have. Equal input gives
    equal cells.
    """
    corners = vertices[triangles].double()
    edges = corners[:, 1:] - corners[:, :1]
    size = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=1)
    owners = (size > FLAT * edges.norm(dim=2).prod(1)).nonzero()[:, 0]
    if not len(owners):
        raise InputError("this mesh has no area for Gaussians to lie on")
    corners = corners[owners]
    places = torch.eye(3, dtype=torch.float64, device=vertices.device).repeat(len(owners), 1, 1)
    while len(owners) < count:
        longest, side = (corners - corners.roll(-1, 1)).norm(dim=-1).max(1)
        if fineness is not None:
            longest = longest * fineness[owners]
        # halves may keep an edge nearly as long: only the longest go at once
        chosen = (longest >= AT_ONCE * longest.max()).nonzero()[:, 0]
        first = longest[chosen].argsort(descending=True, stable=True)
        chosen = chosen[first][: count - len(owners)]
        corners, places = _halved(corners, chosen, side), _halved(places, chosen, side)
        owners = torch.cat([owners, owners[chosen]])
    order = owners.argsort(stable=True)
    return SurfaceCells(owners[order], places[order].to(vertices.dtype))


def _halved(
    corners: Float[Tensor, "N 3 3"], chosen: Int[Tensor, " M"], side: Int[Tensor, " N"]
) -> Float[Tensor, "K 3 3"]:
    """Cells with the chosen ones cut across side (k, k + 1); second halves stand at the end."""
    k = side[chosen]
    a, b, c = (corners[chosen, (k + turn) % 3] for turn in range(3))
    middle = (a + b) / 2
    corners = corners.clone()
    corners[chosen] = torch.stack([a, middle, c], 1)
    return torch.cat([corners, torch.stack([middle, b, c], 1)])


def cell_gaussians(
    cells: SurfaceCells, spread: float = SPREAD, thickness: float = THICKNESS
) -> GaussianBinding:
    """A flat Gaussian on each cell, shaped as the cell is: `spread`² × the cell's own covariance.

    A triangle with corners pₖ around c has the covariance Σ (pₖ − c)(pₖ − c)ᵀ / 12. In the
    triangle's frame this is linear in barycentrics, so no pose enters.
    """
    around = (cells.corners - cells.centers[:, None])[..., 1:].double()  # along v₁ − v₀ and v₂ − v₀
    plane = spread**2 / 12 * around.mT @ around
    squares, axes = torch.linalg.eigh(plane)
    squares, axes = squares.flip(-1).clamp(min=1e-20), axes.flip(-1)
    angle = torch.atan2(axes[:, 1, 0], axes[:, 0, 0]) / 2
    zero = torch.zeros_like(angle)
    quats = torch.stack([angle.cos(), zero, zero, angle.sin()], 1)
    deep = thickness * squares.prod(1).pow(0.25)
    scales = torch.cat([squares.sqrt(), deep[:, None]], 1)
    kind = cells.corners.dtype
    return GaussianBinding(
        cells.triangles,
        cells.centers,
        torch.zeros(len(quats), 3, dtype=kind, device=quats.device),
        quats.to(kind),
        scales.to(kind),
    )
