"""Facial hair of a pool: on skin that moves, never in it, and only on whom it suits."""

from dataclasses import replace

import pytest
import torch

from topohead.core import Mesh, Strands
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import segment_lengths
from topohead.synthesis.complexions import random_skin
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.facial_hair import BEARDS
from topohead.synthesis.grooms import style
from topohead.synthesis.shapes import Shapes, load_shapes
from topohead.synthesis.whiskers import SHADOW, Whiskers, draw_beard

PEOPLE = 3
NAMES = ("full", "goatee", "shaved")


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return load_shapes()


@pytest.fixture(scope="module")
def whiskers(shapes: Shapes) -> Whiskers:
    field = HeadField.of(shapes.topology, shapes.head.template)
    skins, grooms = [random_skin(k) for k in range(3)], [style("buzz")] * 3
    beards = [BEARDS[name] for name in NAMES]
    return Whiskers.of(skins, grooms, beards, field, [0, 1, 2], 1024, 8)


@pytest.fixture(scope="module")
def posed(shapes: Shapes) -> torch.Tensor:
    coefficients, gaze = draw_expressions(151, range(PEOPLE))
    return shapes.draw(151, range(PEOPLE)).posed(coefficients, gaze)


def _inside(points: torch.Tensor, shapes: Shapes, vertices: torch.Tensor) -> float:
    """Share of points deeper than 0.2 mm behind the nearest triangle of skin or eyes."""
    topology = shapes.topology
    mouth = topology.region_mask("mouth_interior", "teeth", "tongue")
    solid = topology.region_mask("skin", "eyes") & ~mouth
    kept = solid[topology.faces].all(1)
    skin = replace(
        topology, faces=topology.faces[kept], face_uv=topology.face_uv[kept], mirror=None
    )
    found, _ = closest_points(points, Mesh(skin, vertices))
    corner = vertices[skin.triangles[found.triangles]]
    foot = (corner * found.barycentrics[..., None]).sum(1)
    across = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    depth = -((points - foot) * torch.nn.functional.normalize(across, dim=-1)).sum(1)
    return float((depth > 2e-4).float().mean())


def test_roots_stand_on_the_moving_skin_and_lengths_stay(
    whiskers: Whiskers, posed: torch.Tensor
) -> None:
    which = torch.arange(PEOPLE)
    worn = whiskers.worn(which, torch.ones(PEOPLE, dtype=torch.bool), posed)
    corners = whiskers.field.triangles[worn.root_triangle]
    rows = torch.arange(PEOPLE)[:, None, None]
    skin = (posed[rows, corners] * worn.root_barycentrics[..., None]).sum(2)
    assert (worn.points[:, :, 0] - skin).abs().max() < 1e-6
    before = segment_lengths(whiskers.strands.points).sum(-1)
    change = segment_lengths(worn.points).sum(-1) / before
    assert ((change - 1).abs() < 0.25)[worn.present].float().mean() > 0.9


def test_no_strand_enters_a_posed_face(
    whiskers: Whiskers, shapes: Shapes, posed: torch.Tensor
) -> None:
    for number in range(2):
        which = torch.full((PEOPLE,), number)
        worn = whiskers.worn(which, torch.ones(PEOPLE, dtype=torch.bool), posed)
        for head in range(PEOPLE):
            strands: Strands = worn.head(head)
            points = strands.points[:, 1:].reshape(-1, 3)
            assert _inside(points, shapes, posed[head]) < 0.002
        # what is tested can fail: the same hair two millimetres back is in the skin
        strands = worn.head(0)
        sunk = strands.points[:, 1:].reshape(-1, 3) - torch.tensor([0, 0, 0.002])
        assert _inside(sunk, shapes, posed[0]) > 0.1


def test_beards_are_worn_by_whom_they_are_told(whiskers: Whiskers, posed: torch.Tensor) -> None:
    two = posed[:1].expand(2, -1, -1).contiguous()
    worn = whiskers.worn(torch.tensor([0, 0]), torch.tensor([True, False]), two)
    there = worn.present
    assert there[0, whiskers.beard :].any() and not there[1, whiskers.beard :].any()
    assert torch.equal(there[0, : whiskers.beard], there[1, : whiskers.beard])
    assert there[1].any()
    shaved = whiskers.worn(torch.tensor([2]), torch.tensor([True]), posed[:1])
    assert not shaved.present[:, whiskers.beard :].any()


def test_a_batch_wears_what_its_heads_wear_alone(whiskers: Whiskers, posed: torch.Tensor) -> None:
    told = torch.tensor([True, False, True])
    together = whiskers.worn(torch.tensor([1, 0, 2]), told, posed)
    alone = whiskers.worn(torch.tensor([0]), told[1:2], posed[1:2])
    assert torch.equal(together.points[1], alone.points[0])
    assert torch.equal(together.widths[1], alone.widths[0])


def test_compiled_loops_wear_what_tensors_wear(whiskers: Whiskers, posed: torch.Tensor) -> None:
    which = torch.arange(PEOPLE)
    found = whiskers.worn(which, torch.ones(PEOPLE, dtype=torch.bool), posed)
    apart = (found.points - whiskers._worn_by_tensors(which, found, posed)).norm(dim=-1)
    assert apart.quantile(0.999) < 1e-6 and apart.max() < 1e-3


def test_smooth_skin_has_no_beard_and_the_same_seed_the_same(whiskers: Whiskers) -> None:
    smooth = replace(random_skin(3), stubble=0.0)
    assert draw_beard(3, smooth, style("buzz")) == (BEARDS["shaved"], smooth)
    rough = replace(smooth, stubble=0.2)
    beard, below = draw_beard(3, rough, style("buzz"))
    assert beard == draw_beard(3, rough, style("buzz"))[0]
    assert max(beard.moustache, beard.chin) > 0 and below.stubble >= SHADOW
    again = Whiskers.of([random_skin(0)], [style("buzz")], [BEARDS["full"]], whiskers.field, [0],
                        1024, 8)  # fmt: skip
    assert torch.equal(again.strands.points[0], whiskers.strands.points[0])
    assert torch.equal(again.local[0], whiskers.local[0])
