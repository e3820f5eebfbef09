"""Hair grown once: on the template it is what was grown, on other heads it stands on their skin."""

import os
from dataclasses import replace

import pytest
import torch

from topohead.core import Mesh, Strands
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import segment_lengths
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.grooms import style
from topohead.synthesis.shapes import Shapes, load_shapes
from topohead.synthesis.wigs import Wigs

NAMES = ("buzz", "side part", "long wavy", "bald")
PEOPLE = 4


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return load_shapes()


@pytest.fixture(scope="module")
def wigs(shapes: Shapes) -> Wigs:
    field = HeadField.of(shapes.topology, shapes.head.template)
    return Wigs.of([style(name) for name in NAMES], field, [0, 1, 2, 3], 400, 12)


@pytest.fixture(scope="module")
def faces(shapes: Shapes) -> tuple[torch.Tensor, torch.Tensor]:
    """Heads at rest and posed."""
    heads = shapes.draw(151, range(PEOPLE))
    coefficients, gaze = draw_expressions(151, range(PEOPLE))
    return heads.rest, heads.posed(coefficients, gaze)


def _inside(points: torch.Tensor, shapes: Shapes, vertices: torch.Tensor) -> float:
    """Share of points above the open neck that lie behind the nearest triangle of the skin.

    Ears aside: beyond their rims the nearest triangle may look away from what is outside.
    """
    topology = shapes.topology
    solid = topology.region_mask("skin") & ~topology.region_mask("mouth_interior", "ears")
    kept = solid[topology.faces].all(1) & (vertices[topology.faces, 1].mean(1) > -0.09)
    skin = replace(
        topology, faces=topology.faces[kept], face_uv=topology.face_uv[kept], mirror=None
    )
    high = points[points[:, 1] > -0.085]
    found, distance = closest_points(high, Mesh(skin, vertices))
    corner = vertices[skin.triangles[found.triangles]]
    foot = (corner * found.barycentrics[..., None]).sum(1)
    across = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    rim = topology.region_mask("ears")[skin.triangles[found.triangles]].any(1)
    behind = (((high - foot) * across).sum(1) < 0) & (distance > 1e-5) & (distance < 0.01) & ~rim
    return float(behind.sum()) / len(points)


def test_on_the_template_hair_stays_as_it_grew(wigs: Wigs) -> None:
    template = wigs.field.template.expand(len(NAMES), -1, -1).contiguous()
    worn = wigs.worn(torch.arange(len(NAMES)), template, template)
    assert (worn.points - wigs.strands.points).abs().max() < 1e-6
    assert torch.equal(worn.widths, wigs.strands.widths)


def test_roots_stand_on_the_posed_skin(
    wigs: Wigs, faces: tuple[torch.Tensor, torch.Tensor]
) -> None:
    rest, posed = faces
    worn = wigs.worn(torch.arange(PEOPLE) % 3, rest, posed)
    corners = wigs.field.triangles[worn.root_triangle]
    rows = torch.arange(PEOPLE)[:, None, None]
    skin = (posed[rows, corners] * worn.root_barycentrics[..., None]).sum(2)
    assert torch.equal(worn.points[:, :, 0], skin)
    assert not wigs.worn(torch.tensor([3]), rest[:1], posed[:1]).present.any()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_hair_keeps_out_of_other_heads_and_keeps_its_shape(
    number: int, wigs: Wigs, shapes: Shapes, faces: tuple[torch.Tensor, torch.Tensor]
) -> None:
    rest, posed = faces
    worn = wigs.worn(torch.full((PEOPLE,), number), rest, posed)
    for head in range(PEOPLE):
        strands: Strands = worn.head(head)
        assert _inside(strands.points[:, 1:].reshape(-1, 3), shapes, posed[head]) < 0.004
    size = worn.points[:, :, 0].std((1, 2)) / wigs.strands.points[number, :, 0].std()
    before = segment_lengths(wigs.strands.points[number]).sum(-1)
    change = segment_lengths(worn.points).sum(-1) / before / size[:, None]
    assert (change.median(1).values - 1).abs().max() < 0.06


def test_a_batch_wears_what_its_heads_wear_alone(
    wigs: Wigs, faces: tuple[torch.Tensor, torch.Tensor]
) -> None:
    rest, posed = faces
    together = wigs.worn(torch.tensor([2, 0, 1]), rest[:3], posed[:3])
    alone = wigs.worn(torch.tensor([1]), rest[2:3], posed[2:3])
    assert torch.equal(together.points[2], alone.points[0])


def test_compiled_loops_wear_what_tensors_wear(
    wigs: Wigs, faces: tuple[torch.Tensor, torch.Tensor]
) -> None:
    which = torch.tensor([2, 1, 0, 3])
    wanted, found = wigs._worn_by_tensors(which, *faces), wigs.worn(which, *faces)
    apart = (found.points - wanted.points).norm(dim=-1)
    # a point on the edge between two vertices may be pushed from the other
    assert apart.quantile(0.999) < 1e-6 and apart.max() < 1e-3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's masked lanes
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="compared by test_people")
def test_the_kernel_wears_what_tensors_wear(
    wigs: Wigs, faces: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pytest.importorskip("triton")
    rest, posed = (face[:2] for face in faces)
    which = torch.tensor([2, 1])
    wanted = wigs.worn(which, rest, posed)
    found = wigs._worn_there(which, rest, posed)
    apart = (found.points - wanted.points).norm(dim=-1)
    assert apart.quantile(0.999) < 1e-6 and apart.max() < 1e-3
    moved = (wanted.points - wigs.strands.points[which]).norm(dim=-1)
    assert moved.mean() > 1e-3
    assert torch.equal(found.colors, wanted.colors)
    assert torch.equal(found.widths, wanted.widths)
