"""How far pictures are believed."""

import torch

from posed_person import NAMES, sitting
from topohead.core import PosedViews
from topohead.rendering.mesh import rasterize
from topohead.solvers.gaussian_head import Instant
from topohead.workflows.avatars.instants import LEAST_FACING, instants_of


def believed(doubted: bool) -> tuple[PosedViews, list[Instant]]:
    person = sitting(48)
    codes = torch.zeros(len(person.posed.views), 0)
    found = instants_of(person, codes, NAMES, torch.device("cpu"), doubted)
    return person.posed, found


def test_skin_seen_aslant_is_believed_in_many_pictures_of_certain_heads_alone() -> None:
    posed, doubted = believed(True)
    _, certain = believed(False)
    view = posed.views[0]
    pose, lens = view.cameras.world_to_camera[1], view.cameras.intrinsics[1]
    raster = rasterize(posed.vertices[0], posed.topology.triangles, pose, lens, (48, 48))
    inside = raster.triangle >= 0
    low, high = doubted[0].facing, certain[0].facing
    assert low is not None and high is not None
    assert bool((low[1] <= high[1]).all()) and bool((low[1][~inside] == 255).all())
    assert int(low[1][inside].min()) <= round(255 * LEAST_FACING) + 1
    # fifteen pictures of certain heads are nearly believed at any angle
    assert int(high[1][inside].min()) > 2 * 255 * LEAST_FACING
