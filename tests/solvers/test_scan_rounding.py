"""Another device's rounding decides no match: matches, lips and free vertices change by as little
as places do."""

import pytest
import torch
from torch import Tensor

from solvers.test_scan_devices import made
from topohead.io.assets import reference_head
from topohead.solvers.scan_free import FreeConfig, fit_vertices
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_lips import LipLine
from topohead.solvers.scan_matching import MatchConfig, Matches, match_all
from topohead.solvers.scan_samples import ScanSamples, sample_scan
from topohead.synthesis.shapes import load_shapes

SURFACE = ScanHead.of(reference_head(0).topology)
ROUNDING = 1e-7
"""Metres: several times what float32 sees of a head, so that a few scans stand for many."""


@pytest.fixture(scope="module")
def samples() -> ScanSamples:
    return sample_scan(made(20_000), 20_000)


@pytest.fixture(scope="module")
def start() -> Tensor:
    """The scan's person where the scan is, smoothly 0.5 mm off."""
    person = load_shapes(ict=None).draw(3, [1]).rest[0].double()
    off = 5e-4 * torch.sin(person / 0.02)
    return (person + off) @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).double() + 0.3


def rounded(places: Tensor, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return places + ROUNDING * torch.randn(places.shape, generator=random, dtype=places.dtype)


def everywhere(found: Matches) -> tuple[Tensor, Tensor]:
    """What each vertex of the finer surface is drawn by, and with what weight."""
    total = torch.zeros(len(SURFACE.skin), 4).double()
    parts = torch.cat([found.gap[:, None] * found.normals, torch.ones_like(found.gap)[:, None]], 1)
    total.index_add_(0, found.rows, found.weights[:, None] * parts)
    return total[:, :3], total[:, 3]


@pytest.mark.parametrize("what", ["match", "lips"])
def test_rounding_turns_no_match_over(what, samples, start):
    points = SURFACE.surface(start)

    def asked(points: Tensor) -> Matches:
        normals = SURFACE.normals(points)
        if what == "lips":
            return LipLine.of(SURFACE).closing(points, normals, samples)
        return match_all(points, normals, SURFACE.skin_rows, samples, MatchConfig(0.004))

    pull, weight = everywhere(asked(points))
    assert int((weight > 0).sum()) > 10
    for seed in range(3):  # gaps are up to a millimetre, and what tells one is as fine as a sample
        other_pull, other_weight = everywhere(asked(rounded(points, seed)))
        assert float((pull - other_pull).norm(dim=1).max()) < 100 * ROUNDING
        assert float((weight - other_weight).abs().max()) < 0.02


def test_rounding_moves_free_vertices_by_little_more(samples, start):
    sigma = torch.full_like(start[:, 0], 5e-4)
    ends = [
        fit_vertices(SURFACE, samples, places, sigma, FreeConfig())[0]
        for places in (start, rounded(start, 0))
    ]
    assert float((ends[0] - start).norm(dim=1).median()) > 1e-4
    assert float((ends[0] - ends[1]).norm(dim=1).max()) < 30 * ROUNDING
