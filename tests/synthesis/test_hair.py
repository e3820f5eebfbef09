"""Hair on real heads: where it stands, what it keeps away from, what it depends on."""

from dataclasses import replace

import pytest
import torch

from topohead.core import Mesh, Strands
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import collide, segment_lengths
from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.synthesis.grooms import STYLES, random_groom, style
from topohead.synthesis.hair import grow
from topohead.synthesis.subjects import make_subject

COUNT = 600


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head(0)


@pytest.fixture(scope="module")
def field(head: LinearHead) -> HeadField:
    return HeadField.of(head.topology, head.template)


@pytest.fixture(scope="module")
def rest(head: LinearHead) -> torch.Tensor:
    return make_subject(head, 5).rest


def _inside(strands: Strands, head: LinearHead, rest: torch.Tensor) -> float:
    """Share of the points of strands, roots aside, that lie behind the nearest skin triangle."""
    topology = head.topology
    solid = topology.region_mask("skin", "eyes") & ~topology.region_mask("mouth_interior")
    kept = solid[topology.faces].all(1) & (rest[topology.faces, 1].mean(1) > -0.09)
    skin = replace(
        topology, faces=topology.faces[kept], face_uv=topology.face_uv[kept], mirror=None
    )
    points = strands.points[:, 1:].reshape(-1, 3)
    high = points[:, 1] > -0.085  # below, the neck is open and has no inside
    found, distance = closest_points(points[high], Mesh(skin, rest))
    corner = rest[skin.triangles[found.triangles]]
    foot = (corner * found.barycentrics[..., None]).sum(1)
    across = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    behind = ((points[high] - foot) * across).sum(1) < 0
    return float((behind & (distance > 1e-5)).sum()) / len(points)


def test_bald_grows_nothing(field: HeadField, rest: torch.Tensor) -> None:
    strands = grow(style("bald"), field, rest, 1, strands=COUNT)
    assert strands.points.shape == (COUNT, 32, 3)
    assert not strands.present.any()
    assert len(strands.packed().points) == 0


def test_roots_lie_on_the_scalp(head: LinearHead, field: HeadField, rest: torch.Tensor) -> None:
    strands = grow(style("long wavy"), field, rest, 1, strands=COUNT)
    _, distance = closest_points(strands.points[:, 0], Mesh(head.topology, rest))
    assert distance.max() < 1e-5
    corners = head.topology.triangles[strands.root_triangle]
    assert head.topology.region_mask("scalp")[corners].all()
    bound = (rest[corners] * strands.root_barycentrics[..., None]).sum(1)
    assert torch.allclose(bound, strands.points[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in STYLES if name != "bald"])
def test_no_style_enters_the_head(
    name: str, head: LinearHead, field: HeadField, rest: torch.Tensor
) -> None:
    strands = grow(style(name), field, rest, 2, strands=COUNT).packed()
    assert len(strands.points) > 0.8 * COUNT
    assert torch.isfinite(strands.points).all()
    assert _inside(strands, head, rest) <= 0.005


def test_random_grooms_on_random_people_stay_outside(head: LinearHead, field: HeadField) -> None:
    generator = torch.Generator().manual_seed(4)
    for seed in range(4):
        identity = torch.randn(len(head.identity_basis), generator=generator).clamp(-2.2, 2.2)
        body = head.vertices(identity, torch.zeros(52))
        strands = grow(random_groom(seed), field, body, seed, strands=200).packed()
        assert torch.isfinite(strands.points).all()
        assert not len(strands.points) or _inside(strands, head, body) <= 0.005


def test_collision_pushes_out_and_keeps_lengths(
    head: LinearHead, field: HeadField, rest: torch.Tensor
) -> None:
    # straight rods from the scalp into the skull, the worst there is
    start = grow(style("buzz"), field, rest, 3, strands=COUNT)
    inwards = torch.nn.functional.normalize(torch.tensor([0.0, 0.02, -0.08]) - start.points[:, 0])
    rods = start.points[:, :1] + torch.linspace(0, 0.08, 32)[:, None] * inwards[:, None]
    placed = replace(start, points=rods, widths=torch.full_like(start.widths, 5e-4))
    assert _inside(placed, head, rest) > 0.9
    moved = collide(rods[None], field, field.place(rest[None]))[0]
    before, after = segment_lengths(rods), segment_lengths(moved)
    assert ((after - before).abs() / before).max() < 0.01
    assert torch.equal(moved[:, 0], rods[:, 0])
    assert _inside(replace(placed, points=moved), head, rest) <= 0.01


def test_density_moves_no_other_strand(field: HeadField, rest: torch.Tensor) -> None:
    full = grow(style("curly"), field, rest, 4, strands=COUNT)
    thin = grow(replace(style("curly"), density=0.5), field, rest, 4, strands=COUNT)
    assert torch.equal(full.points, thin.points)
    assert 0.3 < float(thin.present.sum() / full.present.sum()) < 0.7
    assert not (thin.present & ~full.present).any()


def test_same_seed_same_bytes_and_batches_change_nothing(
    head: LinearHead, field: HeadField, rest: torch.Tensor
) -> None:
    grooms = [random_groom(seed) for seed in range(3)]
    bodies = torch.stack([rest, head.template, make_subject(head, 6).rest])
    batch = grow(grooms, field, bodies, [7, 8, 9], strands=COUNT)
    again = grow(grooms, field, bodies, [7, 8, 9], strands=COUNT)
    assert torch.equal(batch.points, again.points) and torch.equal(batch.colors, again.colors)
    for index, groom in enumerate(grooms):
        alone = grow(groom, field, bodies[index], 7 + index, strands=COUNT)
        assert torch.equal(alone.points, batch.points[index])
    other = grow(grooms[0], field, rest, 70, strands=COUNT)
    assert not torch.allclose(other.points, batch.points[0], atol=1e-3)


def test_curls_of_few_points_have_no_corners(field: HeadField, rest: torch.Tensor) -> None:
    for name in ("curly", "afro", "long wavy"):
        step = grow(style(name), field, rest, 2, strands=300, points=12).packed().points.diff(dim=1)
        step = torch.nn.functional.normalize(step[:, 2:], dim=-1)
        turn = (step[:, 1:] * step[:, :-1]).sum(-1).clamp(-1, 1).acos()
        assert turn.rad2deg().quantile(0.9) < 60, name


def test_a_hem_is_cut(field: HeadField, rest: torch.Tensor) -> None:
    strands = grow(style("fringe bob"), field, rest, 1, strands=COUNT).packed()
    heads = field.place(rest[None])
    tips = heads.canonical(strands.points[None])[0, :, -1, 1]
    assert tips.min() > style("fringe bob").cut - 0.02
    uncut = grow(replace(style("fringe bob"), cut=-1.0), field, rest, 1, strands=COUNT).packed()
    assert heads.canonical(uncut.points[None])[0, :, -1, 1].min() < style("fringe bob").cut - 0.03


@pytest.mark.gpu
def test_cuda_grows_what_the_cpu_grows(field: HeadField, rest: torch.Tensor) -> None:
    names = ["buzz", "side part", "long straight", "curly", "bun"]
    bodies = rest.expand(len(names), -1, -1).contiguous()
    grooms, seeds = [style(name) for name in names], list(range(len(names)))
    here = grow(grooms, field, bodies, seeds, strands=COUNT)
    there = grow(grooms, field.to("cuda"), bodies.cuda(), seeds, strands=COUNT).to("cpu")
    assert torch.equal(here.root_triangle, there.root_triangle)
    assert torch.equal(here.present, there.present)
    apart = (here.points - there.points).norm(dim=-1).flatten(1)
    # a strand on the edge between two vertices may take the other: one in a hundred points
    assert apart.quantile(0.99, dim=1).max() < 1e-3
    assert apart.median() < 1e-5
