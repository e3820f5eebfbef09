"""Skin is a function of the place on the head: no seams, no change with the texture's size."""

import pytest
import torch

from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.synthesis.noise import Noise
from topohead.synthesis.skin import SkinMaps, paint, random_skin


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head(level=0)


@pytest.fixture(scope="module")
def maps(head: LinearHead) -> SkinMaps:
    return paint(head, random_skin(3), 3, 512)


def test_noise_is_seeded_smooth_and_of_unit_variance() -> None:
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    noise = Noise(1)
    values = noise.smooth(points, 0.05, "a", 2)
    assert torch.allclose(values.std(0), torch.ones(2), atol=0.12)
    assert torch.equal(values, Noise(1).smooth(points, 0.05, "a", 2))
    for other in (Noise(2).smooth(points, 0.05, "a"), noise.smooth(points, 0.05, "b")):
        correlation = torch.corrcoef(torch.stack([values[:, 0], other[:, 0]]))[0, 1]
        assert abs(float(correlation)) < 0.1
    step = noise.smooth(points + torch.tensor([1e-4, 0, 0]), 0.05, "a", 2) - values
    assert step.abs().max() < 0.06
    distance = noise.cells(points, 0.05, "dots")
    assert distance.min() < 0.1 and 0.4 < distance.mean() < 0.65 and distance.max() < 1.4


def _at_corners(head: LinearHead, picture: torch.Tensor) -> torch.Tensor:
    """The picture's colour at every row of the topology's UVs, bilinear."""
    grid = head.topology.uv * torch.tensor([2.0, -2.0]) + torch.tensor([-1.0, 1.0])
    batch = picture.permute(2, 0, 1)[None]
    found = torch.nn.functional.grid_sample(batch, grid[None, None], align_corners=False)
    return found[0, :, 0].T


def test_colours_agree_across_seams(head: LinearHead, maps: SkinMaps) -> None:
    topology = head.topology
    pairs = torch.unique(
        torch.stack([topology.faces.flatten(), topology.face_uv.flatten()], 1), dim=0
    )
    count = torch.bincount(pairs[:, 0], minlength=topology.vertex_count)
    colors = _at_corners(head, maps.albedo)[pairs[:, 1]]
    mean = torch.zeros(topology.vertex_count, 3).index_add_(0, pairs[:, 0], colors)
    mean /= count.clamp(min=1)[:, None]
    off = (colors - mean[pairs[:, 0]]).abs().amax(1)[count[pairs[:, 0]] > 1]
    assert len(off) > 100
    assert off.median() < 0.01 and off.quantile(0.9) < 0.05


def test_size_does_not_change_the_person(head: LinearHead, maps: SkinMaps) -> None:
    small = paint(head, random_skin(3), 3, 256)
    inside = maps.covered.reshape(256, 2, 256, 2).all(3).all(1) & small.covered
    shrunk = maps.albedo.reshape(256, 2, 256, 2, 3).mean((1, 3))
    off = (shrunk - small.albedo)[inside].abs().mean(1)
    assert off.mean() < 0.012
    assert (shrunk - small.albedo)[inside].mean(0).abs().max() < 0.003


def test_parts_have_their_colours(head: LinearHead, maps: SkinMaps) -> None:
    topology = head.topology
    colors = torch.zeros(topology.vertex_count, 3)
    colors[topology.faces.flatten()] = _at_corners(head, maps.albedo)[topology.face_uv.flatten()]

    def mean(name: str) -> torch.Tensor:
        return colors[topology.regions[name]].mean(0)

    skin = mean("face")
    assert mean("lips")[0] / mean("lips")[1] > 1.15 * skin[0] / skin[1]  # redder
    brows = colors[topology.regions["brows"]].sum(1)
    assert brows.quantile(0.05) < 0.8 * skin.sum()  # hairs, with skin between them
    assert mean("teeth").amin() > 0.3
    eyes = colors[topology.regions["eyes"]].mean(1)
    assert eyes.min() < 0.05 and eyes.max() > 0.45  # pupils and sclera
    assert maps.albedo.min() >= 0.003 and maps.albedo.max() <= 0.95
    assert maps.height.abs().max() < 0.0005


def test_people_differ() -> None:
    melanin = [random_skin(seed).melanin for seed in range(40)]
    assert min(melanin) < 0.25 and max(melanin) > 0.9
    assert random_skin(5) == random_skin(5)
