"""Skin is a function of the place on the head: no seams, no change with tile, size or run."""

from dataclasses import fields, replace

import pytest
import torch

from topohead.core import ARKIT_52
from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.rendering.colorimetry import cielab, typology_angle
from topohead.synthesis import folds
from topohead.synthesis.noise import Noise
from topohead.synthesis.skin import (
    SkinMaps,
    SkinParameters,
    bare_albedo,
    paint,
    paint_tiles,
    random_skin,
)

SIZE = 512


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head(level=0)


@pytest.fixture(scope="module")
def maps(head: LinearHead) -> SkinMaps:
    return paint(head, random_skin(3), 3, SIZE)


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


def _at_corners(head: LinearHead, picture: torch.Tensor) -> torch.Tensor:
    """The picture's colour at every row of the topology's UVs, bilinear."""
    grid = head.topology.uv * torch.tensor([2.0, -2.0]) + torch.tensor([-1.0, 1.0])
    batch = picture.permute(2, 0, 1)[None]
    found = torch.nn.functional.grid_sample(batch, grid[None, None], align_corners=False)
    return found[0, :, 0].T


def test_maps_agree_across_seams(head: LinearHead, maps: SkinMaps) -> None:
    topology = head.topology
    pairs = torch.unique(
        torch.stack([topology.faces.flatten(), topology.face_uv.flatten()], 1), dim=0
    )
    count = torch.bincount(pairs[:, 0], minlength=topology.vertex_count)
    height = 1000 * maps.height[..., None]
    values = _at_corners(head, torch.cat([maps.albedo, height], -1))[pairs[:, 1]]
    mean = torch.zeros(topology.vertex_count, 4).index_add_(0, pairs[:, 0], values)
    mean /= count.clamp(min=1)[:, None]
    off = (values - mean[pairs[:, 0]]).abs()[count[pairs[:, 0]] > 1]
    assert len(off) > 100
    color, deep = off[:, :3].amax(1), off[:, 3]
    assert color.median() < 0.008 and color.quantile(0.9) < 0.03
    assert deep.median() < 0.006  # millimetres


def test_tiles_of_any_side_make_the_same_maps(head: LinearHead) -> None:
    parameters = random_skin(3)
    whole = paint(head, parameters, 3, 128)
    for tile in paint_tiles(head, parameters, 3, 128, side=48):
        rows, columns = tile.known.shape
        place = (slice(tile.row, tile.row + rows), slice(tile.column, tile.column + columns))
        assert torch.equal(tile.maps.covered, whole.covered[place])
        for name in ("albedo", "roughness", "specular"):
            off = (getattr(tile.maps, name) - getattr(whole, name)[place])[tile.known].abs()
            assert not len(off) or off.max() < 2e-3
        off = (tile.maps.height - whole.height[place])[tile.known].abs()
        assert not len(off) or off.max() < 2e-6  # metres


def _window(head: LinearHead, size: int, rows: range, columns: range) -> torch.Tensor:
    """Albedo of a part of the map of a person with everything on the skin."""
    everything = {name: 0.7 for name in ("freckles", "moles", "blemishes", "age_spots", "stubble")}
    parameters = replace(random_skin(3), **everything)
    found = torch.full((size, size, 3), torch.nan)
    for tile in paint_tiles(head, parameters, 3, size, part=(rows, columns)):
        side = (slice(tile.row, tile.row + len(tile.known)),
                slice(tile.column, tile.column + tile.known.shape[1]))  # fmt: skip
        bare = ~tile.maps.covered[..., None]
        found[side] = tile.maps.albedo.masked_fill(bare, torch.nan)
    return found[rows.start : rows.stop, columns.start : columns.stop]


@pytest.mark.slow
def test_1k_is_the_mean_of_4k(head: LinearHead) -> None:
    """Cheek, lips and chin: 98 of 100 texels within 1/255."""
    rows, columns = range(640, 840), range(420, 560)
    small = _window(head, 1024, rows, columns)
    large = _window(head, 4096, range(2560, 3360), range(1680, 2240))
    mean = large.reshape(200, 4, 140, 4, 3).mean((1, 3))
    off = (mean - small)[~(mean + small).isnan().any(-1)] * 255
    assert len(off) > 25_000
    assert off.abs().mean() < 0.5 and off.abs().quantile(0.98) < 1
    assert off.mean(0).abs().max() < 0.1  # no bias


def test_same_seed_same_bytes(head: LinearHead) -> None:
    first, second = (paint(head, random_skin(8), 8, 128) for _ in range(2))
    for field in fields(SkinMaps):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))
    other = paint(head, random_skin(8), 9, 128)
    assert (other.albedo - first.albedo).abs().mean() > 0.003


def test_parts_have_their_colours(head: LinearHead, maps: SkinMaps) -> None:
    topology = head.topology
    colors = torch.zeros(topology.vertex_count, 3)
    colors[topology.faces.flatten()] = _at_corners(head, maps.albedo)[topology.face_uv.flatten()]

    def mean(name: str) -> torch.Tensor:
        return colors[topology.regions[name]].mean(0)

    skin = mean("face")
    assert mean("lips")[0] / mean("lips")[1] > 1.15 * skin[0] / skin[1]  # redder
    brows = colors[topology.regions["brows"]].sum(1)
    assert brows.quantile(0.05) < 0.85 * skin.sum()  # hairs, with skin between them
    assert mean("teeth").amin() > 0.3
    eyes = colors[topology.regions["eyes"]].mean(1)
    assert eyes.min() < 0.08 and eyes.max() > 0.45  # pupils and sclera
    assert maps.albedo.min() >= 0.003 and maps.albedo.max() <= 0.95
    assert maps.height.abs().max() < 0.0008
    inside = maps.specular[maps.covered]
    assert inside.min() > 0.01 and inside.max() < 0.05


def test_people_differ_over_the_whole_range() -> None:
    people = [random_skin(seed) for seed in range(40)]
    melanin = [person.melanin for person in people]
    assert min(melanin) < 0.25 and max(melanin) > 0.9
    assert random_skin(5) == random_skin(5)
    numbers = [f.name for f in fields(SkinParameters) if f.type in (float, "float")]
    assert len(numbers) >= 40
    for name in numbers:
        values = torch.tensor([getattr(person, name) for person in people])
        assert values.isfinite().all() and values.min() >= 0 and values.std() > 1e-3, name


def test_old_draws_are_kept() -> None:
    """Seeds keep the colours that they had before later fields were thought of."""
    person = random_skin(3)
    assert person.melanin == pytest.approx(0.3988568, abs=1e-6)
    assert person.hair_color == pytest.approx((0.148078, 0.087236, 0.041339), abs=1e-5)


def test_albedo_is_that_of_measured_skin(head: LinearHead) -> None:
    """CIELAB of bare faces within measured limits, from very light to dark (docs/skin.md)."""
    angles = []
    for seed in range(24):
        lab = cielab(bare_albedo(head, random_skin(seed), seed).double())
        inside = torch.ones(len(lab), dtype=torch.bool)
        for channel, (low, high) in enumerate(((25, 76), (3, 22), (6, 26))):
            inside &= (lab[:, channel] > low) & (lab[:, channel] < high)
        assert inside.float().mean() > 0.9, seed
        angles.append(float(typology_angle(lab.mean(0))))
    assert max(angles) > 41 and min(angles) < -20


def test_cielab_of_known_colours() -> None:
    colors = torch.tensor([[1.0, 1, 1], [0.2126729 * 0 + 0.18418651] * 3, [1, 0, 0]]).double()
    expected = torch.tensor([[100.0, 0, 0], [50.0, 0, 0], [53.24, 80.09, 67.20]]).double()
    assert torch.allclose(cielab(colors), expected, atol=0.02)


@pytest.mark.parametrize(
    ("action", "group"),
    [("browInnerUp", "forehead"), ("browDownLeft", "glabella"), ("eyeSquintRight", "crow"),
     ("mouthSmileLeft", "nasolabial"), ("mouthPucker", "lip")],
)  # fmt: skip
def test_folds_deepen_with_their_action(head: LinearHead, action: str, group: str) -> None:
    parameters, lines = random_skin(3), folds.fold_lines(head)
    playing = torch.zeros(52)
    playing[ARKIT_52.index(action)] = 1.0
    rest = folds.fold_depths(lines, parameters, None)
    acted = folds.fold_depths(lines, parameters, playing)
    side = "Left" if action.endswith("Left") else "Right" if action.endswith("Right") else ""
    for line, before, after in zip(lines, rest, acted, strict=True):
        mine = line.group == group and (not side or line.side == side)
        assert after > before + 5e-5 if mine else after >= before
        if not mine and line.side and side and line.side != side:
            assert after == before
    noise = folds.Fields(3)
    middle = torch.stack([f.points for f in lines if f.group == group and f.side == side])
    points = middle[:, 8:20].reshape(-1, 3)
    still, moved = (folds.fold_height(points, lines, d, noise) for d in (rest, acted))
    assert moved.min() < still.min() - 3e-5  # metres deeper at the lines' bottoms


def test_folds_lie_on_the_skin(head: LinearHead) -> None:
    for line in folds.fold_lines(head):
        near = (line.points[:, None] - head.template).norm(dim=-1).amin(1)
        assert near.max() < 0.008  # vertices of this level are that far apart
        assert (line.points[1:] - line.points[:-1]).norm(dim=1).max() < 0.009


@pytest.mark.gpu
def test_skin_on_the_gpu_is_that_of_the_cpu(head: LinearHead, maps: SkinMaps) -> None:
    there = paint(replace(head, template=head.template.cuda()), random_skin(3), 3, SIZE)
    inside = maps.covered & there.covered.cpu()
    off = (there.albedo.cpu() - maps.albedo)[inside].abs()
    assert inside.sum() > 0.999 * maps.covered.sum()
    assert off.mean() < 1e-4 and off.flatten().kthvalue(int(0.999 * off.numel())).values < 4e-3
