"""Hashed fields: statistics, and that neither order nor chunk nor device changes a value."""

import numpy as np
import pytest
import torch

from topohead.rendering import fields_cpu
from topohead.rendering.fields import Fields

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _points(count: int = 20_000) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) - 0.5


def test_octaves_are_seeded_smooth_and_of_unit_variance() -> None:
    points, fields = _points(), Fields(1)
    values = fields.octaves(points, 0.05, 0.01, "a")
    assert abs(float(values.std()) - 1) < 0.08 and abs(float(values.mean())) < 0.08
    assert torch.equal(values, Fields(1).octaves(points, 0.05, 0.01, "a"))
    for other in (
        Fields(2).octaves(points, 0.05, 0.01, "a"),
        fields.octaves(points, 0.05, 0.01, "b"),
    ):
        correlation = torch.corrcoef(torch.stack([values, other]))[0, 1]
        assert abs(float(correlation)) < 0.05
    step = fields.octaves(points + torch.tensor([1e-5, 0, 0]), 0.05, 0.01, "a") - values
    assert step.abs().max() < 0.02


def test_order_and_chunks_change_nothing() -> None:
    points, fields = _points(5000), Fields(4)
    axis = torch.tensor([[0.6, 0.3, 0.0]]).expand_as(points)
    presence = torch.full((len(points),), 0.7)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))

    def all_of(p: torch.Tensor) -> torch.Tensor:
        n = len(p)
        parts = [fields.octaves(p, 0.03, 0.004, "a"), *fields.cells(p, 0.02, "b", axis[:n]),
                 *fields.spots(p, 0.02, (0.004, 0.009), presence[:n], "c", axis[:n])]  # fmt: skip
        return torch.stack(parts, 1)

    whole = all_of(points)
    assert torch.equal(whole[order], all_of(points[order]))
    assert torch.equal(whole[:37], all_of(points[:37]))


def test_cells_are_distances_to_the_nearest_dots() -> None:
    """Against all dots of the 5×5×5 cells around, whose places are the hash's bits."""
    points, seed = _points(60).numpy() * 8, 12345
    found = fields_cpu.cells(points, seed, np.zeros_like(points))
    for point, (first, second, _) in zip(points, found, strict=True):
        base = np.floor(point).astype(int)
        dots = []
        for offset in np.ndindex(5, 5, 5):
            i, j, k = (int(x) for x in base + offset - 2)
            bits = fields_cpu._hash(i, j, k, seed)
            dots.append([i + ((bits & 1023) + 0.5) / 1024, j + (((bits >> 10) & 1023) + 0.5) / 1024,
                         k + (((bits >> 20) & 1023) + 0.5) / 1024])  # fmt: skip
        nearest = np.sort(np.linalg.norm(np.array(dots) - point, axis=1))
        assert first == pytest.approx(nearest[0], abs=1e-5)
        if nearest[1] < 1:  # what lies farther may be in a cell that is not looked at
            assert second == pytest.approx(nearest[1], abs=1e-5)


def test_spots_have_their_radii_and_rate() -> None:
    points, fields = _points(200_000), Fields(2)
    depth, own = fields.spots(points, 0.02, (0.005, 0.005), torch.ones(len(points)), "a")
    ball = 4 / 3 * np.pi * 0.25**3  # overlaps are rare at a quarter of a cell
    assert float((depth > 0).float().mean()) == pytest.approx(ball, rel=0.05)
    half, _ = fields.spots(points, 0.02, (0.005, 0.005), torch.full((len(points),), 0.5), "a")
    assert float((half > 0).float().mean()) == pytest.approx(ball / 2, rel=0.08)
    assert bool((depth >= half).all()) and own.max() < 1
    none, _ = fields.spots(points, 0.02, (0.005, 0.005), torch.zeros(len(points)), "a")
    assert float(none.max()) == 0


def test_a_footprint_takes_away_what_a_box_would() -> None:
    """Means over boxes against the field that knows of them: same amplitude to a tenth."""
    middle = _points(4000)
    side, wave = 0.01, 0.02
    inside = (
        torch.stack(torch.meshgrid(*[torch.arange(8)] * 2, indexing="ij"), -1) + 0.5
    ) / 8 - 0.5
    offsets = torch.nn.functional.pad(inside.reshape(-1, 2) * side, (0, 1))
    box = torch.stack([Fields(3).octaves(middle + o, wave, wave, "a") for o in offsets]).mean(0)
    told = Fields(3, side).octaves(middle, wave, wave, "a")
    assert float(told.std()) == pytest.approx(float(box.std()), rel=0.1)


def test_triton_agrees() -> None:
    pytest.importorskip("triton")
    from topohead.rendering import fields_triton

    points = _points(300 if DEVICE == "cpu" else 50_000) * 9
    axis = torch.tensor([[0.6, 0.3, 0.1]]).expand_as(points).contiguous()
    presence = torch.rand(len(points), generator=torch.Generator().manual_seed(2))
    frequencies, weights = torch.tensor([1.0, 2.1]), torch.tensor([1.0, 0.5])
    seeds = torch.tensor([3, 4_000_000_000])
    on = [x.to(DEVICE) for x in (points, axis, presence, frequencies, weights, seeds)]
    flat = fields_triton.octaves(on[0], *on[3:])
    ref = fields_cpu.octaves(points.T.contiguous().numpy(), frequencies.numpy(), weights.numpy(),
                             seeds.numpy().astype(np.uint32))  # fmt: skip
    assert np.abs(flat.cpu().numpy() - ref).max() < 2e-5
    found = fields_triton.cells(on[0], 77, on[1]).cpu().numpy()
    assert np.abs(found - fields_cpu.cells(points.numpy(), 77, axis.numpy())).max() < 1e-4
    found = fields_triton.spots(on[0], 77, on[2], 0.1, 0.4, on[1]).cpu().numpy()
    ref = fields_cpu.spots(points.numpy(), 77, presence.numpy(), 0.1, 0.4, axis.numpy())
    assert np.abs(found[:, 0] - ref[:, 0]).max() < 1e-4


@pytest.mark.gpu
def test_fields_on_the_gpu_agree_with_the_cpu() -> None:
    points, fields = _points(100_000) * 0.2, Fields(5, 0.0001)
    cpu = fields.octaves(points, 0.01, 0.0005, "a", 0.7)
    assert (fields.octaves(points.cuda(), 0.01, 0.0005, "a", 0.7).cpu() - cpu).abs().max() < 1e-3
    first, second, _ = fields.cells(points, 0.0007, "b")
    near, next_, _ = fields.cells(points.cuda(), 0.0007, "b")
    assert (near.cpu() - first).abs().max() < 1e-3 and (next_.cpu() - second).abs().max() < 1e-3
