"""Light on strands against closed forms."""

import math
from dataclasses import replace

import torch

from topohead.core import Strands
from topohead.rendering.hair import HairLight, darkened, openness, shade


def _rods(direction: torch.Tensor, count: int = 40) -> Strands:
    """A loose sheet of parallel rods 10 cm before the axis, far enough apart not to shade."""
    spread = torch.linspace(-0.2, 0.2, count)
    root = torch.stack([spread, torch.zeros(count), torch.full((count,), 0.05)], 1)
    points = root[:, None] + torch.linspace(0, 0.05, 6)[:, None] * direction
    return Strands(
        points,
        torch.full((count, 6), 1e-6),
        torch.full((count, 6, 3), 0.3),
        torch.zeros(count, dtype=torch.long),
        torch.full((count, 3), 1 / 3),
    )


def test_diffuse_follows_the_sine_of_kajiya_and_kay() -> None:
    rods = _rods(torch.tensor([0.0, 1.0, 0.0]))
    eye = torch.tensor([0.0, 0.0, 50.0])
    seen = []
    for angle in (0.3, 0.8, math.pi / 2):
        light = HairLight((0.0, math.cos(angle), math.sin(angle)), (1.0, 1.0, 1.0))
        lit = shade(rods, (light,), (0.0, 0.0, 0.0), eye, gloss=0.0)
        seen.append(float(lit[20, 3, 0]) / math.sin(angle))
    assert max(seen) / min(seen) < 1.02  # facing light and eye alike, sine alone differs


def test_the_white_highlight_lies_towards_the_root() -> None:
    eye = torch.tensor([0.0, 0.0, 50.0])
    light = HairLight((0.0, 0.0, 1.0), (1.0, 1.0, 1.0))
    gloss = {}
    for tilt in (-0.06, 0.06):
        way = torch.tensor([0.0, math.cos(tilt), math.sin(tilt)])
        rods = replace(_rods(way), colors=torch.full((40, 6, 3), 1e-4))
        gloss[tilt] = float(shade(rods, (light,), (0.0, 0.0, 0.0), eye)[20, 3, 1])
    # tips tilted away from light and eye send the mirrored ray back: scales tilt to the root
    assert gloss[-0.06] > 1.3 * gloss[0.06]


def test_what_lies_under_hair_is_darker() -> None:
    layers = []
    generator = torch.Generator().manual_seed(0)
    for depth in (0.0, 0.01, 0.02, 0.03):
        rods = _rods(torch.tensor([0.0, 1.0, 0.0]), 400)
        shaken = 0.002 * torch.randn(400, 1, 3, generator=generator)
        offset = torch.tensor([0.0, 0.0, depth])
        layers.append(
            replace(rods, points=rods.points + offset + shaken, widths=0 * rods.widths + 8e-4)
        )
    together = Strands.joined(*layers)
    open_ = openness(together).view(4, 400, 6).mean((1, 2))
    assert (open_.diff() > 0.05).all()
    assert open_[-1] > 0.8
    assert ((open_ > 0) & (open_ <= 1)).all()
    dimmed = darkened(together, 0.5).colors.view(4, 400, 6, 3).mean((1, 2, 3))
    assert torch.allclose(dimmed, 0.3 * (0.5 + 0.5 * open_), atol=1e-3)


def test_a_batch_is_shaded_as_its_heads_are() -> None:
    one, other = _rods(torch.tensor([0.0, 1.0, 0.0])), _rods(torch.tensor([0.6, 0.8, 0.0]))
    parts = (torch.stack(pair) for pair in zip(one.parts, other.parts, strict=True))
    both = openness(Strands(*parts))
    assert torch.allclose(both[1], openness(other), atol=1e-6)
