"""Rows of teeth: sizes, rigid rows, and that closed lips hide them."""

from dataclasses import replace

import pytest
import torch

from topohead.geometry.cameras import look_at
from topohead.geometry.meshes import boundary_edges, triangle_areas
from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.rendering.mesh import rasterize
from topohead.synthesis.skin import random_skin
from topohead.synthesis.teeth import BANDS, Teeth, make_teeth

HEADS = 20


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head()


@pytest.fixture(scope="module")
def teeth(head: LinearHead) -> Teeth:
    return make_teeth(head, replace(random_skin(1), tooth_disorder=1.0), 1)


def _people(head: LinearHead, **actions: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rest shapes and shapes with the actions of random people [B V 3]."""
    generator = torch.Generator().manual_seed(5)
    identity = torch.randn(HEADS, len(head.identity_basis), generator=generator).clamp(-2.2, 2.2)
    still = torch.zeros(HEADS, 52)
    moved = head.expressions(**actions).expand(HEADS, -1)
    return head.vertices(0.8 * identity, still), head.vertices(0.8 * identity, moved)


def _teeth_pixels(
    head: LinearHead, teeth: Teeth, skin: torch.Tensor, rows: torch.Tensor
) -> tuple[int, int]:
    """Pixels of pictures of the mouth, 0.2 mm each, from three sides, that show teeth or gums:
    where the inside of the mouth would be seen without them, and where skin would be."""
    topology = head.topology
    shown = ~topology.triangle_mask(*BANDS)
    outside = topology.triangles[shown]
    inner = topology.region_mask("mouth_interior")[outside].all(1)
    triangles = torch.cat([outside, teeth.topology.triangles + len(skin)])
    vertices = torch.cat([skin, rows])
    target = skin[topology.regions["lips"]].mean(0).double()
    up = torch.tensor([0.0, 1.0, 0.0]).double()
    through = across = 0
    for sideways in (-0.6, 0.0, 0.6):
        eye = target + torch.tensor([sideways, 0.0, 1.0]).double()
        focal = (target - eye).norm() / 0.0002
        intrinsics = torch.tensor([[focal, 0, 160], [0, focal, 160], [0, 0, 1]]).double()
        view = (look_at(eye, target, up), intrinsics, (320, 320))
        tooth = rasterize(vertices, triangles, *view).triangle >= len(outside)
        below = rasterize(vertices, outside, *view).triangle
        open_ = (below < 0) | inner[below.clamp(min=0).long()]
        through += int((tooth & open_).sum())
        across += int((tooth & ~open_).sum())
    return through, across


def test_closed_lips_hide_teeth_of_random_heads(head: LinearHead, teeth: Teeth) -> None:
    rest, pressed = _people(head, mouthPressLeft=0.6, mouthPressRight=0.6)
    for skin, moved in zip(rest, pressed, strict=True):
        for shape in (skin, moved):
            through, across = _teeth_pixels(head, teeth, shape, teeth.placed(skin, shape))
            assert across == 0
            assert through < 3000  # of 300,000: the lips of some heads part at rest
    forward = teeth.placed(rest[0], rest[0]) + torch.tensor([0.0, 0.0, 0.012])
    assert _teeth_pixels(head, teeth, rest[0], forward)[1] > 0  # what crosses is seen


def test_open_mouths_show_both_rows(head: LinearHead, teeth: Teeth) -> None:
    rest, opened = _people(head, jawOpen=0.6, mouthUpperUpLeft=0.5, mouthUpperUpRight=0.5)
    placed = teeth.placed(rest, opened)  # all heads at once
    for skin, rows in zip(opened[:4], placed[:4], strict=True):
        assert _teeth_pixels(head, teeth, skin, rows)[0] > 2000
    single = teeth.placed(rest[3], opened[3])
    assert torch.allclose(placed[3], single, atol=1e-5)


def test_upper_row_stays_and_lower_row_moves_rigidly(head: LinearHead, teeth: Teeth) -> None:
    rest, opened = _people(head, jawOpen=0.8)
    before, after = teeth.placed(rest, rest), teeth.placed(rest, opened)
    upper, lower = teeth.topology.regions["upper"], teeth.topology.regions["lower"]
    assert torch.allclose(before[:, upper], after[:, upper], atol=2e-5)
    assert (after[:, lower, 1] < before[:, lower, 1] - 0.002).float().mean() > 0.95
    pairs = lower[torch.randperm(len(lower), generator=torch.Generator().manual_seed(0))[:200]]
    chords = [(x[:, pairs, None] - x[:, None, pairs]).norm(dim=-1) for x in (before, after)]
    assert torch.allclose(chords[0], chords[1], atol=2e-6)


def test_rows_are_of_human_size(head: LinearHead) -> None:
    teeth = make_teeth(head, replace(random_skin(1), tooth_disorder=0.0), 1)
    crowns = torch.zeros(len(teeth.vertices), dtype=torch.bool)
    crowns[teeth.topology.regions["crowns"]] = True
    for name, narrow, wide in (("upper", 0.050, 0.070), ("lower", 0.046, 0.068)):
        mine = torch.zeros_like(crowns)
        mine[teeth.topology.regions[name]] = True
        extent = teeth.vertices[mine & crowns].amax(0) - teeth.vertices[mine & crowns].amin(0)
        assert narrow < extent[0] < wide
        assert 0.035 < extent[2] < 0.058
    mirrored = teeth.vertices * torch.tensor([-1.0, 1, 1])
    exact = torch.cdist(mirrored, teeth.vertices, compute_mode="donot_use_mm_for_euclid_dist")
    assert exact.amin(1).max() < 1e-6
    # upper incisors overlap the lower ones, and lie in front of them
    front = crowns & (teeth.vertices[:, 0].abs() < 0.003)
    upper, lower = (teeth.vertices[front & _mask(teeth, n)] for n in ("upper", "lower"))
    assert upper[:, 1].min() < lower[:, 1].max() - 0.001
    assert upper[:, 2].max() > lower[:, 2].max() + 0.001


def _mask(teeth: Teeth, name: str) -> torch.Tensor:
    mask = torch.zeros(len(teeth.vertices), dtype=torch.bool)
    mask[teeth.topology.regions[name]] = True
    return mask


def test_crowns_are_closed_below_and_faces_look_outward(teeth: Teeth) -> None:
    topology = teeth.topology
    triangles = topology.triangles
    crown = _mask(teeth, "crowns")[triangles].all(1)
    corners = teeth.vertices[triangles[crown]].double()
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert 2e-6 < float(volume) < 3e-5  # 28 crowns of a third of a millilitre, open at their necks
    assert triangle_areas(teeth.vertices, triangles).isfinite().all()
    assert boundary_edges(topology).shape[1] == 2
    assert topology.uv.min() >= 0 and topology.uv.max() <= 1
    assert teeth.colors.min() > 0.02 and teeth.colors.max() < 0.8


def test_people_have_teeth_of_their_own(head: LinearHead) -> None:
    first, again, other = (make_teeth(head, random_skin(s), s) for s in (1, 1, 2))
    assert torch.equal(first.vertices, again.vertices) and torch.equal(first.colors, again.colors)
    assert not torch.equal(first.vertices, other.vertices)
