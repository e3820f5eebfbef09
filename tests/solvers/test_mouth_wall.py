"""The mouth's wall is pushed back behind skin that has come through it, and only there."""

import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.mouth_wall import THICKNESS, mouth_wall, wall_behind


@pytest.fixture(scope="module")
def cheek() -> Mesh:
    """A sheet of skin that faces +z and 3 mm behind it a wall that faces -z; quads of 2 mm."""
    x, y = torch.meshgrid(torch.arange(21) - 10.0, torch.arange(15) - 7.0, indexing="xy")
    skin = torch.stack([2 * x, 2 * y, -0.01 * x**2], -1).reshape(-1, 3) / 1e3
    index = torch.arange(len(skin)).reshape(x.shape)
    corners = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
    faces = torch.stack(corners, -1).reshape(-1, 4)
    wall = skin - torch.tensor([0, 0, 3e-3])
    faces = torch.cat([faces, faces.flip(1) + len(skin)])
    number = torch.arange(2 * len(skin))
    regions = {"skin": number[: len(skin)], "mouth_socket": number[len(skin) :]}
    regions["face"] = regions["skin"]
    topology = Topology(len(number), faces, torch.zeros(1, 2), torch.zeros_like(faces), regions)
    return Mesh(topology, torch.cat([skin, wall]))


def _dented(mesh: Mesh, depth: float) -> torch.Tensor:
    """The skin alone moved inwards, `depth` in the middle and less and less around."""
    vertices, skin = mesh.vertices.clone(), mesh.topology.regions["skin"]
    near = (vertices[skin, :2].square().sum(1) / 0.007**2).neg().exp()
    vertices[skin, 2] -= depth * near
    return vertices


def _in_front(mesh: Mesh, vertices: torch.Tensor) -> torch.Tensor:
    """How far each of the wall is in front of the skin whose vertex has its number, metres."""
    skin, socket = (mesh.topology.regions[name] for name in ("skin", "mouth_socket"))
    normals = vertex_normals(vertices.double(), mesh.topology.triangles)[skin]
    return ((vertices[socket] - vertices[skin]).double() * normals).sum(1)


def test_wall_in_front_of_the_skin_goes_behind(cheek: Mesh) -> None:
    wall = mouth_wall(cheek.topology, cheek.vertices)
    assert wall is not None
    dented = _dented(cheek, 0.0045)
    assert _in_front(cheek, dented).max() > 1e-3
    moved = wall_behind(wall, dented)
    assert _in_front(cheek, moved).max() < -0.7 * THICKNESS
    skin = cheek.topology.regions["skin"]
    assert torch.equal(moved[skin], dented[skin])
    still = (cheek.vertices[:, :2].norm(dim=1) > 0.02) & (moved == dented).all(1)
    assert still.sum() == (cheek.vertices[:, :2].norm(dim=1) > 0.02).sum()


def test_wall_that_is_behind_stays_to_the_bit(cheek: Mesh) -> None:
    wall = mouth_wall(cheek.topology, cheek.vertices)
    assert wall is not None
    dented = _dented(cheek, 0.0015)
    assert torch.equal(wall_behind(wall, dented), dented)


def test_normals_of_a_few_are_those_among_all(cheek: Mesh) -> None:
    wall = mouth_wall(cheek.topology, cheek.vertices)
    assert wall is not None
    dented = _dented(cheek, 0.004).double()
    there, _, normals = wall.behind(dented)
    assert (there >= 0).any()
    everywhere = vertex_normals(dented, wall.skin)[there]
    assert torch.equal(normals[there >= 0], everywhere[there >= 0])


def test_a_mesh_without_a_mouth_has_no_wall(cheek: Mesh) -> None:
    topology = Topology(
        cheek.topology.vertex_count, cheek.topology.faces, cheek.topology.uv, cheek.topology.face_uv
    )
    assert mouth_wall(topology, cheek.vertices) is None
