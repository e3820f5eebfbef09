"""People by number: alike in any batch, with everything that a portrait shows."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from topohead.io.shards import write_shards
from topohead.rendering.portraits import LABELS, portrait_points
from topohead.synthesis.attributes import phenotypes
from topohead.synthesis.mixture import SOURCES
from topohead.synthesis.people import BEARDED, MANLY, PortraitPeople, load_people
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.stored import stored_portraits

SIZE = (64, 64)


@pytest.fixture(scope="module")
def people() -> PortraitPeople:
    return load_people(701, SIZE, looks=3, texture_size=64)


def test_a_batch_is_its_samples(people: PortraitPeople) -> None:
    together = people.at(torch.tensor([4, 9, 5]))
    alone = people.at(torch.tensor([9]))
    assert torch.equal(together.pictures.srgb[1], alone.pictures.srgb[0])
    assert torch.equal(together.rest[1], alone.rest[0])
    assert torch.equal(together.coefficients[1], alone.coefficients[0])
    assert not torch.equal(together.rest[0], together.rest[1])
    assert not torch.equal(together.pictures.srgb[0], together.pictures.srgb[2])


def test_portraits_show_hair_cloth_eyes_and_where_vertices_are(people: PortraitPeople) -> None:
    made = people.at(torch.arange(12))
    seen = {LABELS[int(number)] for number in made.pictures.label.unique()}
    assert seen == set(LABELS)
    assert set(made.look.tolist()) == {0, 1, 2}
    pixels, visible = portrait_points(people.scenes.mesh, made.heads, made.scenes, SIZE)
    count = made.rest.shape[1]
    for number in range(12):
        x, y = pixels[number, :count][visible[number, :count]].long().unbind(1)
        inside = (x >= 0) & (x < SIZE[0]) & (y >= 0) & (y < SIZE[1])
        assert inside.sum() > 300
        assert (made.pictures.alpha[number][y[inside], x[inside]] > 0).float().mean() > 0.95


def test_an_open_mouth_shows_teeth_in_place_of_the_plain_rows(people: PortraitPeople) -> None:
    mesh, topology = people.scenes.mesh, people.shapes.topology
    assert people.looks.teeth is not None and people.scenes.wardrobe is not None
    bands = topology.region_mask("teeth_upper", "teeth_lower")
    drawn = torch.zeros(topology.vertex_count, dtype=torch.bool)
    own = mesh.triangles[(mesh.triangles < topology.vertex_count).all(1)].long()
    drawn[own.unique()] = True
    assert not drawn[bands].any()
    rows = people.looks.teeth.topology.vertex_count
    made = people.at(torch.arange(2))
    assert people.scenes.stump is not None
    worn = sum(people.scenes.wardrobe.sizes) + people.scenes.stump.size
    expected = topology.vertex_count + worn + rows
    assert made.heads.vertices.shape[1] == expected == mesh.fan.shape[0]
    crowns = made.heads.vertices[:, -rows:]
    middle = made.rest[:, topology.regions["lips"]].mean(1, keepdim=True)
    assert ((crowns - middle).norm(dim=-1) < 0.09).all()


def test_beards_are_for_men_and_women_have_smooth_skin(people: PortraitPeople) -> None:
    drawn = people.drawn(torch.arange(200))
    shadowed = torch.tensor([skin.stubble > 0 for skin in people.looks.skins])
    assert people.looks.whiskers is not None and shadowed.any() and not shadowed.all()
    female = phenotypes(people.shapes.space, drawn.weights)[:, 0]
    known = torch.from_numpy(drawn.people.source != SOURCES.index("ict"))
    women = known & (female > MANLY)
    assert not drawn.bearded[women].any() and not shadowed[drawn.look[women]].any()
    assert torch.equal(drawn.look, drawn.wig)
    share = drawn.bearded[known & ~women].float().mean()
    assert abs(share - BEARDED) < 0.15
    assert torch.equal(people.drawn(torch.tensor([77])).look[0], drawn.look[77])


def test_shards_hold_what_was_drawn_and_a_stopped_writer_goes_on(
    people: PortraitPeople, tmp_path: Path
) -> None:
    stored = stored_portraits(people, 2)
    paths = list(write_shards(tmp_path, 3, stored.samples, size=2))
    assert [path.name for path in paths] == ["00000000.tar", "00000002.tar"]
    first = paths[0].read_bytes()
    paths[0].unlink()
    kept = paths[1].stat().st_mtime_ns
    assert list(write_shards(tmp_path, 3, stored.samples, size=2)) == paths
    assert paths[0].read_bytes() == first
    assert paths[1].stat().st_mtime_ns == kept
    made = people.at(torch.tensor([1]))
    with tarfile.open(paths[0]) as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames()}  # pyright: ignore[reportOptionalMemberAccess]
    flags = cv2.IMREAD_UNCHANGED
    portrait = cv2.imdecode(np.frombuffer(files["00000001.portrait.png"], np.uint8), flags)
    label = cv2.imdecode(np.frombuffer(files["00000001.label.png"], np.uint8), flags)
    assert portrait is not None and label is not None
    assert np.array_equal(portrait[..., 2::-1], made.pictures.codes[0].numpy())
    assert np.array_equal(label, made.pictures.label[0].numpy())
    told = json.loads(files["00000001.sample.json"])
    assert (told["seed"], told["index"], told["look"]) == (701, 1, int(made.look[0]))
    assert told["skin"]["melanin"] == people.looks.skins[told["look"]].melanin


def test_batches_follow_the_step_and_may_be_divided(people: PortraitPeople) -> None:
    whole = next(people.batches(4, first=2))
    half = next(people.batches(4, first=2, part=1, parts=2))
    assert torch.equal(half.pictures.srgb, whole.pictures.srgb[2:])
    assert torch.equal(whole.rest, people.at(torch.arange(8, 12)).rest)


@pytest.mark.gpu
def test_cuda_makes_the_people_of_the_cpu(people: PortraitPeople) -> None:
    there = replace(
        people,
        shapes=load_shapes("cuda"),
        looks=people.looks.to("cuda"),
        scenes=people.scenes.to("cuda"),
    )
    wanted, found = people.at(torch.arange(8)), there.at(torch.arange(8))
    assert torch.equal(found.look.cpu(), wanted.look)
    assert torch.equal(found.scenes.world_to_camera.cpu(), wanted.scenes.world_to_camera)
    assert (found.heads.vertices.cpu() - wanted.heads.vertices).abs().max() < 1e-4
    assert found.heads.strands is not None and wanted.heads.strands is not None
    apart = (found.heads.strands.points.cpu() - wanted.heads.strands.points).norm(dim=-1)
    # a point on the edge between two vertices may be pushed from the other
    assert apart.flatten().quantile(0.999) < 1e-4
    far = (found.pictures.srgb.cpu() - wanted.pictures.srgb).abs() > 2 / 255
    assert far.float().mean() < 0.005
    again = there.at(torch.arange(8))
    assert torch.equal(again.pictures.srgb, found.pictures.srgb)
    stream = there.batches(8)  # a recorded graph
    assert torch.equal(next(stream).pictures.srgb, found.pictures.srgb)
    assert torch.equal(next(stream).pictures.srgb, there.at(torch.arange(8, 16)).pictures.srgb)
