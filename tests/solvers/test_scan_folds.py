"""Scans of large triangles count little where the skin bends, bare points everywhere."""

import math
from dataclasses import replace

import pytest
import torch

from topohead.core import Scan
from topohead.io.assets import reference_head
from topohead.solvers.scan_folds import BRIDGED, MEASURED, SHORTEST, curvature, shown
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_samples import ScanSamples, sample_scan

RADIUS, SIDE = 0.08, 0.004


@pytest.fixture(scope="module")
def surface():
    return ScanHead.of(reference_head(0).topology)


@pytest.fixture(scope="module")
def ball(surface):
    """The head's vertices on a ball, and its normals."""
    start = surface.surface(reference_head(0).template.double())
    normals = torch.nn.functional.normalize(start - start[surface.skin].mean(0), dim=1)
    return RADIUS * normals, normals


def sheet(side: float) -> Scan:
    """A flat grid of squares, each of two triangles."""
    count = 60
    axis = side * torch.arange(count).float()
    points = torch.cartesian_prod(axis, axis)
    points = torch.cat([points, torch.zeros(count**2, 1)], 1)
    first = (count * torch.arange(count - 1)[:, None] + torch.arange(count - 1)).flatten()
    below = torch.stack([first, first + count, first + count + 1], 1)
    above = torch.stack([first, first + count + 1, first + 1], 1)
    return Scan(points, torch.cat([below, above]))


def of_side(side: float) -> ScanSamples:
    """Samples of which each lies in triangles of one size."""
    samples = sample_scan(sheet(SIDE), 5000)
    return replace(samples, grain=torch.full_like(samples.grain, side))


def test_curvature_is_a_balls_and_goes_with_size(surface, ball):
    points, normals = ball
    edges = points[surface.triangles] - points[surface.triangles].roll(1, 1)
    long = (edges.norm(dim=2) > SHORTEST).any(1)
    there = torch.zeros(len(points), dtype=torch.bool)
    there[surface.triangles[long]] = True
    for size in (1.0, 2.0):
        found = curvature(surface, size * points, normals)[there]
        assert found.quantile(0.5) == pytest.approx(1 / (size * RADIUS), rel=1e-6)


def test_grain_is_the_side_of_the_triangles_and_none_of_bare_points():
    found = sample_scan(sheet(SIDE), 5000)
    inside = ((found.points[:, :2] / SIDE - 29.5).abs() < 28).all(1)
    assert inside.sum() > 4000
    assert torch.allclose(found.grain[inside], torch.tensor(SIDE).double(), rtol=1e-4)
    bare = Scan(sheet(SIDE).points, torch.zeros(0, 3).long())
    assert not sample_scan(bare, 5000).grain.any()
    assert len(found.subset(inside).grain) == int(inside.sum())


def test_what_a_scan_shows_falls_with_its_triangles_and_the_skins_bend(surface, ball):
    points, normals = ball
    samples, finer = (of_side(side) for side in (SIDE, SIDE / 2))
    rows = surface.skin_rows[::50]
    off = BRIDGED * SIDE**2 / (8 * RADIUS)
    found = shown(surface, points, normals, samples, rows)
    assert found.median() == pytest.approx(1 / (1 + (off / MEASURED) ** 2), rel=0.02)
    assert torch.equal(found, shown(surface, points, normals, samples)[rows])
    finer = shown(surface, points, normals, finer, rows)
    assert finer.median() == pytest.approx(1 / (1 + (off / 4 / MEASURED) ** 2), rel=0.02)
    assert math.isclose(finer.max(), 1.0, abs_tol=0.02) and found.min() > 0
