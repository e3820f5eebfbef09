"""Which parts of a head a scan shows, which points of a scan are head, and what that says of
errors."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from topohead.core import Scan
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import MatchConfig, match
from topohead.solvers.scan_samples import ScanSamples

SIDEWAYS = 0.006
"""A point belongs to the head when the nearest vertex of the finer surface lies so near along the
surface, metres: half of the widest gap between vertices."""


def seen_surface(
    surface: ScanHead,
    points: Float[np.ndarray, "S 3"],
    samples: ScanSamples,
    reach: float,
) -> Bool[np.ndarray, " S"]:
    """Which vertices of the finer surface have the scan beside them, facing alike."""
    rows = np.flatnonzero(surface.skin)
    found = match(points, surface.normals(points), rows, samples, MatchConfig(reach))
    seen = np.zeros(len(points), bool)
    seen[found.rows] = True
    return seen


def spread_sigma(
    surface: ScanHead,
    vertices: Float[np.ndarray, "V 3"],
    samples: ScanSamples,
    sigma: float,
    slope: float,
) -> Float[np.ndarray, " V"]:
    """`sigma` where the scan shows the head, more by `slope` for each metre away from there."""
    seen = seen_surface(surface, surface.surface(vertices), samples, 4 * sigma)[: len(vertices)]
    if not seen.any():
        return np.full(len(vertices), sigma + slope * 0.2)
    return sigma + slope * KDTree(vertices[seen]).query(vertices)[0]


def on_head(
    scan: Scan, surface: ScanHead, vertices: Float[np.ndarray, "V 3"], reach: float
) -> Bool[np.ndarray, " N"]:
    """Which points of a scan lie within `reach` (metres) of the fitted head's outside."""
    points = surface.surface(vertices)
    normals = surface.normals(points)
    inner = surface.inner
    query = np.nan_to_num(scan.points.double().numpy(), nan=1e6)
    distance, near = KDTree(points).query(query, distance_upper_bound=reach + SIDEWAYS)
    found = np.isfinite(distance)
    near = np.where(found, near, 0)
    height = np.abs(((query - points[near]) * normals[near]).sum(1))
    sideways = np.sqrt(np.maximum(distance**2 - height**2, 0, where=found, out=np.ones(len(query))))
    return found & (height < reach) & (sideways < SIDEWAYS) & ~inner[near]
