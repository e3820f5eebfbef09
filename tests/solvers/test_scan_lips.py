"""Closed lips: skin between them draws them together, a gap or teeth behind it do not."""

from dataclasses import replace

import torch
from torch import Tensor

from topohead.io.assets import reference_head
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_lips import RESTING, LipLine, _facing  # pyright: ignore[reportPrivateUsage]
from topohead.solvers.scan_matching import Matches
from topohead.solvers.scan_samples import ScanSamples

HEAD = reference_head(0)
SURFACE = ScanHead.of(HEAD.topology)
GAP = 0.002


def opened(gap: float = GAP) -> Tensor:
    """The finer surface with its lips moved apart by `gap`."""
    moved = HEAD.template.double()
    for name, way in (("lips_upper", 0.5), ("lips_lower", -0.5)):
        moved[HEAD.topology.regions[name], 1] += way * gap
    return SURFACE.surface(moved)


def film(back: float) -> ScanSamples:
    """A sheet of skin over the whole mouth, so far behind the middle of its lips, metres."""
    line = LipLine.of(SURFACE)
    points = opened()
    above, _, _, way, _, facing = _facing(points, SURFACE.normals(points), line.upper, line.lower)
    middle = (points[above] + 0.5 * way)[facing > 0.5]
    front = middle[middle[:, 2] > middle[:, 2].quantile(0.6)] - torch.tensor([0, 0, back])
    spread = torch.linspace(-0.5, 0.5, 5)[:, None] * torch.tensor([0, GAP, 0])
    sheet = (front[:, None] + spread).reshape(-1, 3)
    assert len(line.upper) + len(line.lower) > 100 and len(sheet) > 100
    normals = torch.tensor([0.0, 0, 1]).double().expand(len(sheet), 3)
    spacing, noise = torch.tensor([5e-4, 5e-5]).double()
    side = torch.zeros_like(sheet[:, 0])
    return ScanSamples(sheet, normals, torch.arange(len(sheet)), side, spacing, noise)


def closed(points: Tensor, samples: ScanSamples) -> Matches:
    """What closes the lips of the finer surface."""
    found = LipLine.of(SURFACE).closing(points, SURFACE.normals(points), samples)
    assert not found.weights[~found.found].any() and not found.gap[~found.found].any()
    return found.those(found.found)


def test_lips_close_to_where_they_rest_where_skin_bridges_them() -> None:
    points = opened()
    found = closed(points, film(0.0))
    assert len(found.rows) > 20
    assert torch.allclose(found.normals.norm(dim=1), torch.ones(1).double())
    upper = torch.isin(found.rows, SURFACE.fine.regions["lips_upper"])
    step = found.gap[:, None] * found.normals
    assert step[upper, 1].median() < -0.2 * GAP and step[~upper, 1].median() > 0.2 * GAP
    # a place and what it faces meet at rest, were each told once
    line, normals = LipLine.of(SURFACE), SURFACE.normals(points)
    sides = (line.upper, line.lower), (line.lower, line.upper)
    parts = zip(*(_facing(points, normals, *side) for side in sides), strict=True)
    _, _, share, way, normal, facing = map(torch.cat, parts)
    share, way, normal = (part[facing > 0] for part in (share, way, normal))
    every = line.closing(points, normals, film(0.0))
    own, theirs = every.gap[: len(way)], every.gap[len(way) :].view_as(share)
    apart = (way * normal).sum(1) - own - (share * theirs).sum(1)
    met = every.found[: len(way)]
    assert int(met.sum()) > 20
    assert float((apart - RESTING)[met].abs().max()) < 1e-6
    # those that are told more than once go their mean way; then little is left to close
    share = found.weights.double()
    total = torch.zeros(len(points)).double().index_add(0, found.rows, share).clamp(min=1e-9)
    moved = points.index_add(0, found.rows, step * (share / total[found.rows])[:, None])
    rows, *_, way, normal, facing = _facing(moved, SURFACE.normals(moved), line.upper, line.lower)
    apart = (way * normal).sum(1)[(facing > 0.9) & (total[rows] > 1)]
    assert len(apart) > 10
    assert float((apart - RESTING).abs().max()) < 0.2 * RESTING


def test_lips_at_rest_stay_in_any_scan_and_all_do_in_a_coarse_one() -> None:
    rest, points = opened(0.0), opened()
    steps = [float(closed(lips, film(0.0)).gap.abs().sum()) for lips in (rest, points)]
    assert steps[0] < 0.1 * steps[1]
    coarse = replace(film(0.0), spacing=torch.tensor(0.004).double())
    assert not len(closed(points, coarse).rows)


def test_teeth_behind_open_lips_do_not_close_them() -> None:
    """But for a few places far in, which lie as deep as the teeth."""
    points = opened()
    line = LipLine.of(SURFACE)
    near, open_ = (closed(points, film(back)) for back in (0.0, 0.004))
    assert len(open_.rows) < 0.1 * len(near.rows)
    upper = torch.isin(open_.rows, SURFACE.fine.regions["lips_upper"])
    front = points[line.upper, 2].max() - 0.004
    assert (points[open_.rows[upper], 2] < front).all()


def test_wide_open_lips_have_nothing_to_close() -> None:
    points = opened(0.05)
    found = closed(points, film(0.0))
    assert not len(found.rows) and found.normals.shape == (0, 3)


def test_lips_themselves_do_not_bridge_what_parts_them() -> None:
    skin = film(0.0)
    turned = skin.normals[:, [0, 2, 1]]
    assert not len(closed(opened(), replace(skin, normals=turned)).rows)
