"""Colours over direction: signs of 3DGS, and turning."""

import torch

from topohead.core.splats import SH_DC
from topohead.rendering.harmonics import shaded, turned_harmonics


def looking_from(center: torch.Tensor) -> torch.Tensor:
    pose = torch.eye(4)[None].clone()
    pose[0, :3, 3] = -center
    return pose


def test_first_degree_has_the_signs_of_3dgs() -> None:
    coefficients = torch.zeros(3, 4, 3)
    coefficients[0, 1], coefficients[1, 2], coefficients[2, 3] = 1, 1, 1
    way = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]), dim=0)
    colors = shaded(
        coefficients * 0.2, way.expand(3, 3), looking_from(torch.zeros(3)), torch.eye(3)
    )
    expected = 0.5 + 0.2 * 0.4886025 * torch.stack([-way[1], way[2], -way[0]])
    assert torch.allclose(colors[0, :, 0], expected, atol=1e-5)


def test_turned_coefficients_show_what_the_turned_head_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    coefficients = 0.05 * torch.randn(5, 16, 3, generator=generator)
    means = 0.1 * torch.randn(5, 3, generator=generator)
    camera = looking_from(torch.tensor([0.3, -0.4, 1.0]))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    turn = turn * torch.det(turn)
    by_turn = shaded(coefficients, means, camera, turn.T)  # world to head: the head is turned
    in_world = shaded(turned_harmonics(coefficients, turn), means, camera, torch.eye(3))
    assert torch.allclose(by_turn, in_world, atol=1e-5)
    plain = shaded(coefficients, means, camera, torch.eye(3))
    assert not torch.allclose(by_turn, plain, atol=1e-2)


def test_constant_colours_need_no_direction() -> None:
    coefficients = torch.full((2, 1, 3), 0.1)
    colors = shaded(coefficients, torch.zeros(2, 3), torch.eye(4).repeat(3, 1, 1), torch.eye(3))
    assert colors.shape == (3, 2, 3)
    assert torch.allclose(colors, torch.tensor(0.5 + 0.1 * SH_DC))
