"""Light in creases: flat surfaces and lone edges keep theirs, grooves lose it."""

import math

import torch
from torch import Tensor

from topohead.rendering.creases import REACH, openness

SIZE, FOCAL, AWAY = 120, 600.0, 0.1


def camera() -> Tensor:
    return torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1.0]])


def groove(slope: float, width: float = REACH) -> tuple[Tensor, Tensor]:
    """Depths and normals of a plane before the camera with a V in it, its sides that steep."""
    x = (torch.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL * AWAY
    inside = x.abs() < width / 2
    depth = AWAY + slope * (width / 2 - x.abs()).clamp(min=0)
    normal = torch.zeros(SIZE, 3)
    normal[:, 2] = -1
    normal[:, 0] = torch.where(inside, -slope * x.sign(), 0.0)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    return depth.expand(SIZE, SIZE), normal.expand(SIZE, SIZE, 3)


def test_a_plane_is_open_and_a_groove_is_not() -> None:
    plane = openness(*groove(0.0), camera())
    assert float((plane - 1).abs().max()) < 1e-6
    light = [openness(*groove(slope), camera())[SIZE // 2] for slope in (0.5, 1.5, 3.0)]
    bottom = [float(row[SIZE // 2 - 2 : SIZE // 2 + 2].mean()) for row in light]
    assert bottom[0] > bottom[1] + 0.1
    assert max(bottom[1:]) < 0.7  # of a steep one pixels show little
    for row in light:  # beside it the plane has all of its light
        assert float(row[:10].min()) > 0.999


def test_what_is_far_in_front_shades_nothing() -> None:
    depth = torch.full((SIZE, SIZE), AWAY)
    depth[:, SIZE // 2 :] -= 3 * REACH
    normals = torch.tensor([0.0, 0, -1]).expand(SIZE, SIZE, 3)
    assert float(openness(depth, normals, camera()).min()) > 0.999
    empty = torch.full((4, 4), math.inf)
    assert bool((openness(empty, normals[:4, :4], camera()) == 1).all())
