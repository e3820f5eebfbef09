"""What a scan can show of folds: for some its triangles are too large, and it runs over them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_samples import ScanSamples

MEASURED = 1.5e-4
"""Where a scan misses the skin by this for its triangles' size alone, it counts half, metres."""
BRIDGED = 2.0
"""How far a fused scan runs over folds, in heights of arcs over its triangles' sides. Of 0.5 to 4
the best on tuning people (seed 150) in voxels of 2 mm; 12,000 scattered points leave it open."""
REACH = 8e-3
"""Places farther from the scan are not matched, whatever is said of them, metres."""
SHORTEST = 2e-4
"""Edges are not taken for shorter, metres: folds of a shape that is still rough."""


def shown(
    surface: ScanHead,
    points: Float[Tensor, "S 3"],
    normals: Float[Tensor, "S 3"],
    samples: ScanSamples,
    rows: Int[Tensor, " R"] | None = None,
) -> Float[Tensor, " R"]:
    """How much the scan's word counts at places (`rows`, or all) of the surface, in (0, 1].

    A chord of length h lies off a skin of curvature k by k h²/8. The curvature is the surface's own
    greatest one, h the side of the scan's triangles there; bare points lie on the skin, h = 0.
    """
    bent = curvature(surface, points, normals)
    here = points if rows is None else points[rows]
    bent = bent if rows is None else bent[rows]
    _, near = samples.tree.query(here, 1, REACH)
    off = BRIDGED / 8 * bent * samples.grain[near[:, 0]] ** 2
    return 1 / (1 + (off / MEASURED) ** 2)


def curvature(
    surface: ScanHead, points: Float[Tensor, "S 3"], normals: Float[Tensor, "S 3"]
) -> Float[Tensor, " S"]:
    """The greatest turn of unit normals along an edge of the triangles at a vertex, by its length,
    1/m."""
    place, facing = points[surface.triangles], normals[surface.triangles]
    length = (place - place.roll(1, 1)).norm(dim=2).clamp(min=SHORTEST)
    turn = ((facing - facing.roll(1, 1)).norm(dim=2) / length).amax(1)
    return torch.cat([turn, turn.new_zeros(1)])[surface.fan].amax(1)
