"""Other records of the same people: what stays the same between views, and what is kept apart."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from topohead.core import ARKIT_52
from topohead.rendering.portrait_light import camera_projections
from topohead.synthesis import views
from topohead.synthesis.people import PortraitPeople, load_people
from topohead.synthesis.stored import Stored, stored_heads, stored_tracks, stored_views
from topohead.synthesis.views import (
    RING,
    SPACE,
    UNSEEN_ACTIONS,
    HeadViews,
    Tracks,
    ViewSets,
    batches,
    codes,
)

SIZE = (48, 48)


@pytest.fixture(scope="module")
def people() -> PortraitPeople:
    return load_people(702, SIZE, looks=3, texture_size=64)


@pytest.fixture(scope="module")
def heads() -> HeadViews:
    bare = load_people(152, SIZE, looks=3, texture_size=64, rooted=False, dressed=False)
    return HeadViews(bare, identities=6)


def azimuths(poses: torch.Tensor) -> np.ndarray:
    """Degrees to the subject's left from which cameras look."""
    away = -poses[:, 2, :3]
    return np.degrees(np.arctan2(away[:, 0], away[:, 2]).numpy()) % 360


def test_vertices_of_tracks_lie_where_the_camera_projects_them(people: PortraitPeople) -> None:
    indices = torch.tensor([3, 8])
    track, made = Tracks(people).at(indices), people.at(indices)
    count = made.rest.shape[1]
    assert track.pixels.shape == (2, count, 2)
    matrix = camera_projections(made.scenes.world_to_camera, made.scenes.intrinsics, 1)[0][:, 0]
    points = made.heads.vertices[:, :count].double()
    projected = torch.einsum("bij,bvj->bvi", matrix[..., :3], points) + matrix[:, None, :, 3]
    pixels = projected[..., :2] / projected[..., 2:]
    assert (track.pixels - pixels).abs().max() < 1e-3
    assert 0.05 < track.visible.float().mean() < 0.5
    assert torch.equal(track.srgb, made.pictures.srgb)


def test_a_set_of_views_is_one_person_in_several_faces(people: PortraitPeople) -> None:
    source = ViewSets(people, references=2, targets=1)
    sets = source.at(torch.tensor([5, 6]))
    assert sets.rgb.shape == (2, 3, *SIZE, 3)
    one = source.at(torch.tensor([6]))
    assert torch.equal(one.rgb[0], sets.rgb[1])
    assert torch.equal(one.neutral[0], people.at(torch.tensor([6])).rest[0])
    assert not torch.equal(sets.coefficients[0, 0], sets.coefficients[0, 1])
    assert not torch.equal(sets.world_to_camera[0, 0], sets.world_to_camera[0, 2])
    skull = people.shapes.topology.regions["rigid"]  # no face moves it
    still = sets.vertices[:, :, skull] - sets.neutral[:, None, skull]
    assert still.abs().max() < 2e-3
    assert (sets.vertices - sets.neutral[:, None]).abs().max() > 2e-3
    empty = sets.alpha == 0
    assert empty.any()
    assert (codes(sets.rgb[empty]) == 255).all()


def test_hair_and_skin_separate(heads: HeadViews) -> None:
    made = heads.at(torch.arange(6))
    same = ~made.hair & (made.alpha == 1) & (made.bald_alpha == 1)
    assert made.hair.any() and same.any()
    # shadows of hair aside, what shows no hair is the bald head
    assert (made.rgb - made.bald).abs().amax(-1)[same].median() < 0.02
    assert (made.bald_alpha <= made.alpha + 0.26).all()
    alone = heads.at(torch.tensor([4]))
    assert torch.equal(alone.rgb[0], made.rgb[4])
    assert (made.person < 6).all() and len(made.person.unique()) > 1


@pytest.mark.slow
def test_training_leaves_views_and_actions_to_tests(heads: HeadViews) -> None:
    made = heads.at(torch.arange(24))
    off = np.abs((azimuths(made.world_to_camera) - 15 + 15) % 30 - 15)
    assert off.max() <= 15 + 1e-3
    odd = np.abs((azimuths(made.world_to_camera) - 15 + 180) % 30 - 15)
    assert odd.max() <= 15 - SPACE + 1e-3
    unseen = [ARKIT_52.index(name) for name in UNSEEN_ACTIONS]
    assert (made.coefficients[:, unseen] == 0).all()
    assert made.coefficients.any()
    for person in made.person.unique():
        assert len(made.look[made.person == person].unique()) == 1


def test_a_ring_goes_all_round_one_head(heads: HeadViews, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(RING) == len(set(RING)) == 72
    monkeypatch.setattr(views, "RING", RING[::11])
    face = torch.zeros(52)
    face[ARKIT_52.index("jawOpen")] = 1
    made = heads.ring(2, face, None)
    assert len(made.rgb) == 7
    assert not made.hair.any()
    assert torch.equal(made.rgb, made.bald)
    expected = np.array(RING[::11])[:, 0]
    assert np.allclose((azimuths(made.world_to_camera) - expected + 180) % 360, 180, atol=1e-3)
    eye = -(made.world_to_camera[:, :3, :3].mT @ made.world_to_camera[:, :3, 3:])[..., 0]
    assert torch.allclose(
        (eye - torch.tensor([0, -0.015, -0.05])).norm(dim=1), torch.tensor(12.0).double()
    )
    assert 0.12 < made.alpha.mean() < 0.5


def test_batches_follow_the_step_and_samples_are_stored(
    people: PortraitPeople, heads: HeadViews
) -> None:
    stream: Iterator = batches(Tracks(people), 2, first=3)
    assert torch.equal(next(stream).srgb, Tracks(people).at(torch.tensor([6, 7])).srgb)
    kinds: list[Stored] = [
        stored_tracks(Tracks(people), 2),
        stored_views(ViewSets(people, 1, 1), 1),
        stored_heads(heads, 2),
    ]
    for stored in kinds:
        first, second = stored.samples(range(4, 6))
        assert (first["sample"]["index"], second["sample"]["index"]) == (4, 5)
        assert stored.picture in first and first[stored.picture].startswith(b"\x89PNG")
        assert first.keys() == second.keys()
