"""Laplace eigenvectors of a square: waves, whose signs rounding does not choose."""

import math

import pytest
import torch

from topohead.core import Topology
from topohead.geometry.spectrum import laplace_eigenvectors

SIDE, CELLS = 0.1, 24


def square(shake: float, seed: int) -> tuple[Topology, torch.Tensor]:
    """A mesh of quads, symmetric but for `shake`, metres."""
    row, column = torch.meshgrid(torch.arange(CELLS + 1), torch.arange(CELLS + 1), indexing="ij")
    number = row * (CELLS + 1) + column
    corners = (number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1])
    faces = torch.stack(corners, -1).reshape(-1, 4)
    flat = torch.stack([column.flatten(), 1.3 * row.flatten(), 0 * row.flatten()], 1).double()
    random = torch.Generator().manual_seed(seed)
    shaken = torch.randn(flat.shape, generator=random, dtype=torch.float64)
    uv = torch.zeros(len(flat), 2)
    topology = Topology(len(flat), faces, uv, faces, {}, {}, None)
    return topology, SIDE / CELLS * flat + shake * shaken


def test_values_are_those_of_a_rectangle() -> None:
    values = laplace_eigenvectors(*square(0, 0), 4)[1]
    short, long = (math.pi / SIDE) ** 2, (math.pi / (1.3 * SIDE)) ** 2
    true = torch.tensor([long, short, short + long, 4 * long]).double()
    assert torch.allclose(values, true, rtol=0.02)


@pytest.mark.parametrize("reach", [0.0, 0.006])
def test_rounding_does_not_choose_signs(reach: float) -> None:
    """Odd waves have as deep troughs as crests."""
    first, *others = (laplace_eigenvectors(*square(1e-10, seed), 12, reach)[0] for seed in range(6))
    for other in others:
        assert float((first - other).abs().max()) < 1e-3
