"""Closed lips: skin between them draws them together, a gap or teeth behind it do not."""

from dataclasses import replace

import numpy as np

from topohead.io.assets import reference_head
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_lips import RESTING, LipLine
from topohead.solvers.scan_samples import ScanSamples

HEAD = reference_head(0)
SURFACE = ScanHead.of(HEAD.topology)
GAP = 0.002


def opened(gap: float = GAP) -> np.ndarray:
    """The finer surface with its lips moved apart by `gap`."""
    moved = HEAD.template.double().numpy().copy()
    for name, way in (("lips_upper", 0.5), ("lips_lower", -0.5)):
        moved[HEAD.topology.regions[name], 1] += way * gap
    return SURFACE.surface(moved)


def film(back: float) -> ScanSamples:
    """A sheet of skin over the whole mouth, so far behind the middle of its lips, metres."""
    lips = opened()[np.r_[SURFACE.fine.regions["lips_upper"], SURFACE.fine.regions["lips_lower"]]]
    line = LipLine.of(SURFACE)
    points = opened()
    above, below = line._facing(points, SURFACE.normals(points))  # pyright: ignore
    middle = 0.5 * (points[above] + points[below])
    front = middle[middle[:, 2] > np.quantile(middle[:, 2], 0.6)] - [0, 0, back]
    spread = np.linspace(-0.5, 0.5, 5)[:, None] * [0, GAP, 0]
    sheet = (front[:, None] + spread).reshape(-1, 3)
    assert len(lips) > 100 and len(sheet) > 100
    normals = np.tile([0.0, 0, 1], (len(sheet), 1))
    return ScanSamples(sheet, normals, np.arange(len(sheet)), 5e-4, 5e-5)


def test_lips_close_to_where_they_rest_where_skin_bridges_them() -> None:
    points = opened()
    found = LipLine.of(SURFACE).closing(points, SURFACE.normals(points), film(0.0))
    assert len(found.rows) > 20
    assert np.allclose(np.linalg.norm(found.normals, axis=1), 1)
    upper = np.isin(found.rows, SURFACE.fine.regions["lips_upper"])
    step = found.gap[:, None] * found.normals
    assert np.median(step[upper, 1]) < -0.2 * GAP and np.median(step[~upper, 1]) > 0.2 * GAP
    # the first half of the matches are one side, the second half what it faces
    moved = np.array_split(points[found.rows] + step, 2)
    normal = np.split(found.normals, 2)[0]
    assert np.allclose(((moved[1] - moved[0]) * normal).sum(1), RESTING, atol=1e-6)


def test_lips_at_rest_stay_in_any_scan_and_all_do_in_a_coarse_one() -> None:
    line = LipLine.of(SURFACE)
    rest, points = opened(0.0), opened()
    steps = [
        np.abs(line.closing(lips, SURFACE.normals(lips), film(0.0)).gap).sum()
        for lips in (rest, points)
    ]
    assert steps[0] < 0.1 * steps[1]
    coarse = replace(film(0.0), spacing=0.004)
    assert not len(line.closing(points, SURFACE.normals(points), coarse).rows)


def test_teeth_behind_open_lips_do_not_close_them() -> None:
    """But for a few places far in, which lie as deep as the teeth."""
    points = opened()
    line, normals = LipLine.of(SURFACE), SURFACE.normals(opened())
    closed, open_ = (line.closing(points, normals, film(back)) for back in (0.0, 0.004))
    assert len(open_.rows) < 0.1 * len(closed.rows)
    upper = np.isin(open_.rows, SURFACE.fine.regions["lips_upper"])
    front = points[line.upper, 2].max() - 0.004
    assert (points[open_.rows[upper], 2] < front).all()


def test_wide_open_lips_have_nothing_to_close() -> None:
    points = opened(0.05)
    found = LipLine.of(SURFACE).closing(points, SURFACE.normals(points), film(0.0))
    assert not len(found.rows) and found.normals.shape == (0, 3)
