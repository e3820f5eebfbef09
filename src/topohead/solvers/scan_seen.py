"""Which parts of a head a scan shows, which points of a scan are head, and what that says of
errors."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import Scan
from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import USUAL, done, filled
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import MatchConfig, match
from topohead.solvers.scan_samples import ScanSamples

SIDEWAYS = 0.006
"""A point belongs to the head when the nearest vertex of the finer surface lies so near along the
surface, metres: half of the widest gap between vertices."""


def seen_surface(
    surface: ScanHead,
    points: Float[Tensor, "S 3"],
    samples: ScanSamples,
    reach: float,
) -> Bool[Tensor, " S"]:
    """Which vertices of the finer surface have the scan beside them, facing alike."""
    normals = surface.normals(points)
    found = match(points, normals, surface.skin_rows, samples, MatchConfig(reach))
    seen = torch.zeros_like(surface.skin)
    seen[found.rows[found.belief >= 0.5]] = True
    return seen


def spread_sigma(
    surface: ScanHead,
    vertices: Float[Tensor, "V 3"],
    samples: ScanSamples,
    sigma: float,
    slope: float,
) -> Float[Tensor, " V"]:
    """`sigma` where the scan shows the head, more by `slope` for each metre away from there."""
    seen = seen_surface(surface, surface.surface(vertices), samples, 4 * sigma)[: len(vertices)]
    if not bool(seen.any()):
        return torch.full_like(vertices[:, 0], sigma + slope * 0.2)
    return sigma + slope * PointTree(vertices[seen]).query(vertices)[0][:, 0]


def on_head(
    scan: Scan,
    surface: ScanHead,
    vertices: Float[Tensor, "V 3"],
    reach: float,
    again: bool = False,
) -> Bool[Tensor, " N"]:
    """Which points of a scan lie within `reach` (metres) of the fitted head's outside.

    If other scans will be asked `again` with the same reach, the work is recorded on CUDA.
    """
    query, work = filled(scan.points.double(), USUAL, torch.inf), partial(_on_head, surface, reach)
    recorded = surface.recordings if again and len(query) == USUAL else done
    return recorded(("on head", reach), work, vertices, query)[0][: len(scan.points)]


def _on_head(
    surface: ScanHead, reach: float, vertices: Float[Tensor, "V 3"], query: Float[Tensor, "N 3"]
) -> tuple[Bool[Tensor, " N"]]:
    points = surface.surface(vertices)
    normals = surface.normals(points)
    distance, near = (part[:, 0] for part in PointTree(points).query(query, 1, reach + SIDEWAYS))
    height = ((query - points[near]) * normals[near]).sum(1).abs()
    sideways = (distance**2 - height**2).clamp(min=0).sqrt()
    return ((height < reach) & (sideways < SIDEWAYS) & ~surface.inner[near],)
