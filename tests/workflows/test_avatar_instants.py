"""How far pictures are believed."""

import torch

from posed_person import NAMES, sitting
from topohead.core import PosedViews
from topohead.rendering.mesh import rasterize
from topohead.solvers.gaussian_head import Instant
from topohead.workflows.avatars.instants import (
    LEAST_FACING,
    LEAST_SHARE,
    instants_of,
    shared_sight,
)


def believed(doubted: bool) -> tuple[PosedViews, list[Instant]]:
    person = sitting(48)
    codes = torch.zeros(len(person.posed.views), 0)
    found = instants_of(person, codes, NAMES, torch.device("cpu"), doubted)
    return person.posed, found


def test_doubted_pictures_share_the_head_and_certain_ones_do_not() -> None:
    posed, doubted = believed(True)
    _, certain = believed(False)
    shares = torch.stack([one for row in shared_sight(posed) for one in row])
    seen = shares.amax(0) > 0
    assert torch.allclose(shares.amax(0)[seen], torch.ones(int(seen.sum())))  # one has it whole
    view = posed.views[0]
    pose, lens = view.cameras.world_to_camera[1], view.cameras.intrinsics[1]
    raster = rasterize(posed.vertices[0], posed.topology.triangles, pose, lens, (48, 48))
    inside = raster.triangle >= 0
    low, high = doubted[0].facing, certain[0].facing
    assert low is not None and high is not None
    assert bool((low[1] <= high[1]).all()) and bool((low[1][~inside] == 255).all())
    assert int(low[1][inside].min()) <= round(255 * LEAST_SHARE) + 1
    # fifteen pictures of certain heads are nearly believed at any angle
    assert int(high[1][inside].min()) > 2 * 255 * LEAST_FACING
    nose = posed.vertices[0][:, 2].argmax()
    left, right = shares[1, nose], shares[2, nose]  # the head looks between these two
    assert float(torch.minimum(left, right)) > 0.3 and float(shares[4, nose]) == 0
