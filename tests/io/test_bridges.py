"""Bridges to users' topologies: made on first use, read back, refused in one line."""

import json
from dataclasses import replace

import pytest
import torch

from topohead.core import InputError, Mesh
from topohead.geometry.correspondence import interpolate
from topohead.io import bridges
from topohead.io.assets import reference_head
from topohead.io.bridges import CheckedBridge, bridge_to, checked_bridge, read_checked, save_checked
from topohead.io.meshes import write_obj


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache in which the reference head is, and no bridge."""
    from topohead.io.assets import cache_folder

    reference_head(0), reference_head(1)
    there = tmp_path / "cache"
    there.mkdir()
    for file in cache_folder().glob("reference-*"):
        (there / file.name).symlink_to(file)
    monkeypatch.setenv("TOPOHEAD_CACHE", str(there))
    return there


@pytest.fixture
def quick(monkeypatch):
    """Bridges start at the coarse reference head: a quarter of the work."""
    monkeypatch.setattr(bridges, "SOURCE_LEVEL", 0)


def test_a_mesh_is_bridged_once_and_the_file_can_be_passed_on(
    own_cache, quick, tmp_path, monkeypatch
):
    """The reference's own shape in centimetres, turned about, its numbering and cuts its own."""
    head = reference_head(0)
    order = torch.randperm(head.topology.vertex_count, generator=torch.Generator().manual_seed(0))
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    vertices = 100 * (head.template[order] @ turn.T) + torch.tensor([3.0, 150, -7])
    faces = place[head.topology.triangles][:, [0, 1, 2, 2]]
    theirs = type(head.topology)(len(order), faces, torch.zeros(0, 2), 0 * faces)
    write_obj(Mesh(theirs, vertices), tmp_path / "mine.obj")
    found = checked_bridge(tmp_path / "mine.obj")
    assert any("no UVs" in note for note in found.notes)
    assert found.quality.covered > 0.8
    monkeypatch.setattr(bridges, "build_bridge", None)
    again = bridge_to(tmp_path / "mine.obj")
    assert torch.equal(again.points.triangles, found.bridge.points.triangles)

    save_checked(found, tmp_path / "mine.bridge.safetensors")
    passed = checked_bridge(tmp_path / "mine.bridge.safetensors")
    assert passed.quality == found.quality
    identity = 0.7 * torch.randn(80, generator=torch.Generator().manual_seed(2))
    shape = head.vertices(identity, torch.zeros(52))
    made = passed.bridge.vertices(shape)
    assert torch.equal(made, found.bridge.vertices(shape))
    face = head.topology.region_mask("face")[order]
    assert (made - shape[order])[face].norm(dim=1).median() < 1e-3


def test_landmarks_beside_a_mesh_are_held_to(own_cache, quick, tmp_path):
    """A head on its side, which without them would not be found."""
    head = reference_head(0)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    mesh = Mesh(replace(head.topology, landmarks={}, regions={}), head.template @ turn.T)
    write_obj(mesh, tmp_path / "side.obj")
    marks = interpolate(head.topology.landmarks["ibug68"], head.topology.triangles, mesh.vertices)
    file = tmp_path / "side.landmarks.json"
    file.write_text(json.dumps(marks.tolist()))
    quality = checked_bridge(tmp_path / "side.obj").quality
    assert quality.landmarks_max_mm < 0.5
    assert max(quality.lines_mm.values()) < 0.5
    file.write_text(json.dumps((10 * marks).tolist()))
    with pytest.raises(InputError, match=r"landmark \d+ lies .* off the mesh"):
        bridge_to(tmp_path / "side.obj")
    file.write_text("[1, 2]")
    with pytest.raises(InputError, match="expected 68 points"):
        bridge_to(tmp_path / "side.obj")


def test_a_head_that_something_found_is_started_from(own_cache, quick, tmp_path):
    head = reference_head(0)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    mesh = Mesh(replace(head.topology, landmarks={}, regions={}), head.template @ turn.T)
    write_obj(mesh, tmp_path / "side.obj")
    found = checked_bridge(tmp_path / "side.obj", find=lambda mesh: mesh.vertices + 0.0005)
    face = head.topology.region_mask("face")
    assert (found.bridge.placed - mesh.vertices)[face].norm(dim=1).median() < 5e-4


def test_what_is_no_bridge_is_refused(own_cache, tmp_path):
    path = tmp_path / "x.bridge.safetensors"
    with pytest.raises(InputError, match="no bridge at"):
        read_checked(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a bridge"):
        bridge_to(path)


def test_a_ball_fails_a_gate_that_is_named(own_cache, quick, tmp_path):
    import trimesh

    trimesh.creation.icosphere(3, 0.1).export(tmp_path / "ball.obj")
    with pytest.raises(InputError, match=r"ball\.obj: .* fails its gate: \S.*, limit"):
        bridge_to(tmp_path / "ball.obj")


def test_a_mesh_that_is_not_manifold_is_refused(own_cache, tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nv 0 0 -1\nf 1 2 3\nf 2 1 4\nf 1 2 5\n"
    (tmp_path / "fin.obj").write_text(text)
    with pytest.raises(InputError, match="manifold"):
        bridge_to(tmp_path / "fin.obj")


@pytest.mark.slow
def test_ict_passes_its_gates(shared_data):
    found = checked_bridge(shared_data / "ict")
    assert isinstance(found, CheckedBridge)
    assert found.quality.failures(bridges.ICT_EXCEPTIONS) == []
