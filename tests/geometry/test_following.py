"""What a bridge moves that has no place on the other head."""

from dataclasses import replace

import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry import alignment
from topohead.geometry.bridge import bind, small_parts
from topohead.geometry.filling import LeastBending, turned_over
from topohead.geometry.following import BOUND, CONTINUED, FOLLOWING, SOLID, kinds
from topohead.io.assets import reference_head


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


@pytest.fixture(scope="module")
def mixed(head):
    """To the head's own mesh: chin continued, one eyeball a body, the other a shell."""
    t = head.topology
    bridge = bind(
        head.neutral(), Mesh(Topology(t.vertex_count, t.faces, t.uv, t.face_uv), head.template)
    )
    kind = bridge.kind.clone()
    kind[(head.template[:, 1] < -0.09) & t.region_mask("face")] = CONTINUED
    kind[t.regions["eye_left"]] = SOLID
    kind[t.regions["eye_right"]] = FOLLOWING
    return replace(bridge, kind=kind)


def test_everything_comes_along_when_the_head_moves_and_grows(head, mixed):
    pose = torch.eye(4)
    pose[:3, :3] = 1.3 * torch.linalg.matrix_exp(
        torch.tensor([[0, 0.3, -1.0], [-0.3, 0, 0.2], [1.0, -0.2, 0]])
    )
    pose[:3, 3] = torch.tensor([2.0, -1, 0.5])
    moved = mixed.vertices(alignment.apply(pose, head.template))
    assert (moved - alignment.apply(pose, head.template)).abs().max() < 1e-5


def test_bodies_keep_their_shape_on_another_person(head, mixed):
    identity = 1.5 * torch.randn(80, generator=torch.Generator().manual_seed(3))
    shape = head.vertices(identity, torch.zeros(52))
    made = mixed.vertices(shape)
    for region, kept in (("eye_left", True), ("nose", False)):
        rows = head.topology.regions[region]
        fitted = alignment.rigid(head.template[rows], made[rows], scale=True)
        gap = (alignment.apply(fitted, head.template[rows]) - made[rows]).norm(dim=1).max()
        assert (gap < 1e-5) == kept
    chin = mixed.kind == CONTINUED
    assert (made - shape)[chin].norm(dim=1).mean() < 0.003
    assert (made - shape)[~chin & (mixed.kind == BOUND)].norm(dim=1).max() < 1e-4


def test_actions_move_bodies_and_shells_but_not_what_is_far(head, mixed):
    blink = head.expressions(eyeBlinkRight=1.0)[None]
    deltas = torch.tensordot(blink, head.expression_basis, 1)
    carried = mixed.deltas(head.template, deltas)[0]
    chin = mixed.kind == CONTINUED
    assert carried[chin].norm(dim=1).max() < 1e-3
    assert carried[mixed.kind == FOLLOWING].norm(dim=1).max() > 1e-3


def test_least_bending_leaves_what_is_known_and_is_smooth(head):
    t = head.topology
    free = t.region_mask("nose")
    field = head.template[:, :1] * 2 + 1
    broken = torch.where(free[:, None], torch.rand(len(field), 1), field)
    filled = LeastBending.of(t, free)(broken)
    assert torch.equal(filled[~free], field[~free])
    assert (filled - field)[free].abs().max() < 0.02 < (broken - field)[free].abs().max()


def test_triangles_that_turn_over_are_found(head):
    inside = head.topology.region_mask("skin")
    assert not turned_over(head.topology, head.template, head.template, inside).any()
    flipped = head.template * torch.tensor([-1.0, 1, 1])
    bad = turned_over(head.topology, head.template, flipped, inside)
    normal_x = bad[inside[head.topology.triangles].all(1)].float().mean()
    assert normal_x > 0.4


def test_parts_of_a_mesh_are_told_apart(head):
    t = head.topology
    mesh = Mesh(Topology(t.vertex_count, t.faces, t.uv, t.face_uv), head.template)
    small = small_parts(mesh)
    eyes = t.region_mask("eyes")
    assert small[eyes].all() and not small[t.region_mask("skin")].any()
    near = torch.ones(t.vertex_count, dtype=torch.bool)
    near[t.regions["scalp"]] = False
    reach = torch.where(t.region_mask("tongue"), 0.001, 0.02)
    bodies = (t.region_mask("eye_left"), t.region_mask("eye_right"))
    kind = kinds(mesh.topology, near, small, bodies, reach, 0.004)
    assert (kind[t.regions["scalp"]] == CONTINUED).all()
    assert (kind[t.regions["nose"]] == BOUND).all()
    assert (kind[t.regions["eye_left"]] == SOLID).all()
    assert (kind[t.regions["eye_right"]] == SOLID + 1).all()
    assert small[t.regions["tongue"]].all()
    assert (kind[t.regions["tongue"]] == FOLLOWING).all()
