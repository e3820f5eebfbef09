"""Vertices that a bridge put down beside their place are found back by what both families know."""

from dataclasses import replace

import pytest
import torch

from topohead.core import Mesh
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.lines import INNER, drawn, hausdorff, landmark_lines, nearest_along
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.registered import tangential
from topohead.io.assets import reference_head
from topohead.models.sliding import BELIEF, common_slide, held, skin_mesh


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


@pytest.fixture(scope="module")
def misplaced(head):
    """A family that is the reference's own, by a bridge that put foreheads and cheeks 3 mm low."""
    template = head.template
    weight = 1 - torch.exp(-(((template[:, 1] + 0.03) / 0.04) ** 2))  # the middle of the face stays
    down = -0.003 * weight[:, None] * torch.tensor([0.0, 1.0, 0.0])
    normals = vertex_normals(template, head.topology.triangles)
    skin = skin_mesh(head)
    places, _ = closest_points(template + tangential(down, normals), skin)
    inside = head.topology.region_mask("skin")[:, None]
    corners = skin.topology.triangles
    mean = torch.where(inside, interpolate(places, corners, template), template)
    modes = torch.stack([interpolate(places, corners, row) for row in head.identity_basis])
    return replace(head, template=mean, identity_basis=torch.where(inside, modes, 0.0))


@pytest.mark.slow
def test_a_bridge_that_slid_is_led_back(head, misplaced):
    skin = skin_mesh(head)
    found = common_slide(head, misplaced, skin, skin)
    wanted = (head.template - misplaced.template).double()
    face = head.topology.region_mask("face") & ~head.topology.region_mask("lips", "eyelids", "nose")
    far = face & (wanted.norm(dim=1) > 0.002)
    assert far.sum() > 50
    assert (BELIEF * wanted - found)[far].norm(dim=1).mean() < 0.25 * wanted[far].norm(dim=1).mean()
    opposite = head.topology.mirror
    flip = torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(found, found[opposite] * flip)


def test_landmarks_and_lines_are_held(head):
    shift = torch.tensor([0.0, 0.001, 0.0]).double()
    places = held(head.template.double() + shift, head, head)
    marks = head.topology.landmarks["ibug68"]
    moved = interpolate(marks, head.topology.triangles, places - head.template)[INNER]
    assert moved.norm(dim=1).max() < 2.5e-4
    for way in landmark_lines(head.topology, head.template).values():
        assert hausdorff(drawn(places, way), drawn(head.template, way)) < 6e-4
    scalp = head.topology.region_mask("scalp")
    assert torch.allclose((places - head.template)[scalp], shift, atol=1e-4)


def test_points_of_a_line_are_found_on_it(head):
    topology, template = head.topology, head.template
    for way in landmark_lines(topology, template).values():
        points = drawn(template, way)
        found = nearest_along(topology, template, way, points)
        assert (interpolate(found, topology.triangles, template) - points).norm(dim=1).max() < 1e-6


def test_skin_meshes_know_their_landmarks(head):
    mesh: Mesh = skin_mesh(head)
    marks = [
        interpolate(t.landmarks["ibug68"], t.triangles, head.template)
        for t in (head.topology, mesh.topology)
    ]
    assert (marks[0] - marks[1]).norm(dim=1).median() < 1e-6
