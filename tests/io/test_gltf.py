"""GLB sequences: what goes in comes out, and the Khronos validator has nothing to say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image

from khronos import issues
from planted_run import ellipsoid_topology, performance, striped_texture
from topohead.core import InputError, Topology
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.morphs import split_seams
from topohead.io.gltf import read_glb, write_glb


@pytest.fixture
def texture(tmp_path: Path) -> Path:
    Image.fromarray(striped_texture()).save(tmp_path / "skin.png")
    return tmp_path / "skin.png"


def quads_and_triangles() -> Topology:
    """Two quads and a triangle around them, one vertex in no face, a UV seam between the quads."""
    return Topology(
        vertex_count=8,
        faces=torch.tensor([[0, 1, 2, 3], [3, 2, 4, 4], [1, 5, 6, 2]]),
        uv=torch.rand(9, 2, generator=torch.Generator().manual_seed(0)),
        face_uv=torch.tensor([[0, 1, 2, 3], [3, 2, 4, 4], [5, 6, 7, 8]]),
        name="patch",
    )


def test_sequence_comes_back_with_vertices_faces_and_uvs(tmp_path: Path, texture: Path) -> None:
    topology, vertices = ellipsoid_topology(), performance(5).float()
    worst = write_glb(tmp_path / "a.glb", topology, vertices, texture, 24.0)
    back = read_glb(tmp_path / "a.glb")
    assert worst < 1e-4
    assert (back.vertices - vertices).norm(dim=-1).max() < 1e-7
    assert torch.equal(back.topology.faces, topology.faces)
    assert torch.equal(back.topology.is_quad, topology.is_quad)
    there, here = back.topology.uv[back.topology.face_uv], topology.uv[topology.face_uv]
    assert (there - here).abs().max() < 1e-6
    assert back.frames_per_second == 24.0
    assert back.names == ("000001", "000002", "000003", "000004", "000005")


def test_mixed_faces_and_loose_vertices_survive(tmp_path: Path) -> None:
    topology = quads_and_triangles()
    vertices = torch.rand(1, 8, 3, generator=torch.Generator().manual_seed(1))
    write_glb(tmp_path / "b.glb", topology, vertices)
    back = read_glb(tmp_path / "b.glb")
    assert torch.equal(back.vertices, vertices)
    assert torch.equal(back.topology.faces, topology.faces)
    assert torch.equal(back.topology.is_quad, topology.is_quad)


def test_a_mesh_without_uvs_goes_without_texture(tmp_path: Path, texture: Path) -> None:
    full = ellipsoid_topology()
    bare = Topology(
        full.vertex_count, full.faces, torch.zeros(0, 2), torch.zeros_like(full.face_uv)
    )
    vertices = performance(2).float()
    write_glb(tmp_path / "n.glb", bare, vertices)
    back = read_glb(tmp_path / "n.glb")
    assert (back.vertices - vertices).norm(dim=-1).max() < 1e-7
    assert torch.equal(back.topology.faces, bare.faces) and len(back.topology.uv) == 0
    with pytest.raises(InputError, match="needs UVs"):
        write_glb(tmp_path / "n.glb", bare, vertices, texture)


def test_normals_follow_the_shape(tmp_path: Path) -> None:
    """Base plus a frame's offset is that frame's own normal."""
    topology, vertices = ellipsoid_topology(), performance(3).float()
    write_glb(tmp_path / "m.glb", topology, vertices)
    gltf = pygltflib.GLTF2.load_binary(str(tmp_path / "m.glb"))
    primitive, blob = gltf.meshes[0].primitives[0], gltf.binary_blob()

    def rows(index: int) -> np.ndarray:
        accessor = gltf.accessors[index]
        start = gltf.bufferViews[accessor.bufferView].byteOffset or 0
        return np.frombuffer(blob, "<f4", accessor.count * 3, start).reshape(-1, 3)

    found = rows(primitive.attributes.NORMAL) + rows(primitive.targets[1]["NORMAL"])
    expected = vertex_normals(vertices[2], topology.triangles).numpy()
    assert np.allclose(found, expected[split_seams(topology).source_vertex], atol=1e-5)


def test_seams_split_only_where_uvs_differ() -> None:
    split = split_seams(quads_and_triangles())
    # vertices 1 and 2 have two UVs each; 7 lies in no face and keeps one copy
    assert np.bincount(split.source_vertex).tolist() == [1, 2, 2, 1, 1, 1, 1, 1]
    assert split.triangles.shape == (5, 3)


def test_many_frames_shrink_to_few_offsets_within_tolerance(tmp_path: Path) -> None:
    noise = torch.randn(30, 768, 3, generator=torch.Generator().manual_seed(2)) * 5e-6
    vertices = (performance(30) + noise).float()
    worst = write_glb(tmp_path / "c.glb", ellipsoid_topology(), vertices, pca_above=10)
    gltf = pygltflib.GLTF2.load_binary(str(tmp_path / "c.glb"))
    error = (read_glb(tmp_path / "c.glb").vertices - vertices).norm(dim=-1).max() * 1000
    assert error <= 0.05
    assert abs(worst - float(error)) < 1e-3
    # the motion has one shape; noise of 5 µm fits under the tolerance
    assert len(gltf.meshes[0].primitives[0].targets) <= 2


def test_full_rank_motion_still_keeps_the_tolerance(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    vertices = torch.randn(12, 768, 3, generator=generator) * 1e-3 + performance(1).float()
    write_glb(tmp_path / "d.glb", ellipsoid_topology(), vertices, pca_above=5)
    error = (read_glb(tmp_path / "d.glb").vertices - vertices).norm(dim=-1).max() * 1000
    assert error <= 0.05


def test_other_programs_read_it(tmp_path: Path, texture: Path) -> None:
    """trimesh sees the first frame; UVs land on the same texels; normals are unit and outward."""
    topology, vertices = ellipsoid_topology(), performance(3).float()
    write_glb(tmp_path / "e.glb", topology, vertices, texture)
    scene = trimesh.load(tmp_path / "e.glb", process=False)
    (mesh,) = scene.geometry.values()
    split = split_seams(topology)
    assert np.allclose(mesh.vertices, vertices[0].numpy()[split.source_vertex], atol=1e-7)
    assert np.array_equal(mesh.faces, split.triangles)
    # trimesh, like us, counts v from below
    assert np.allclose(mesh.visual.uv, topology.uv.numpy()[split.source_uv], atol=1e-6)
    assert mesh.visual.material.baseColorTexture.size == (128, 128)
    normals = np.asarray(mesh.vertex_normals)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * mesh.vertices).sum(1) > 0).all()


def test_accessors_are_aligned_and_bounded(tmp_path: Path, texture: Path) -> None:
    write_glb(tmp_path / "f.glb", ellipsoid_topology(), performance(4).float(), texture)
    gltf = pygltflib.GLTF2.load_binary(str(tmp_path / "f.glb"))
    assert all((view.byteOffset or 0) % 4 == 0 for view in gltf.bufferViews)
    primitive = gltf.meshes[0].primitives[0]
    bounded = [primitive.attributes.POSITION, *(t["POSITION"] for t in primitive.targets)]
    assert all(gltf.accessors[k].min and gltf.accessors[k].max for k in bounded)
    assert gltf.meshes[0].extras["targetNames"] == ["000002", "000003", "000004"]
    weights = gltf.accessors[gltf.animations[0].samplers[0].output]
    assert weights.count == 4 * 3


def test_upright_turn_leaves_stored_vertices_in_the_world(tmp_path: Path) -> None:
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    vertices = performance(2).float()
    write_glb(tmp_path / "g.glb", ellipsoid_topology(), vertices, upright=turn)
    assert (read_glb(tmp_path / "g.glb").vertices - vertices).abs().max() < 1e-7
    scene = trimesh.load(tmp_path / "g.glb", process=False)
    turned = scene.to_geometry().vertices if hasattr(scene, "to_geometry") else scene.dump(True)
    split = split_seams(ellipsoid_topology())
    expected = vertices[0].numpy()[split.source_vertex] * [1, -1, -1]
    assert np.allclose(np.sort(turned, 0), np.sort(expected, 0), atol=1e-6)


def test_bad_input_is_said_in_one_line(tmp_path: Path) -> None:
    topology, vertices = ellipsoid_topology(), performance(2).float()
    broken = vertices.clone()
    broken[1, 3] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        write_glb(tmp_path / "h.glb", topology, broken)
    (tmp_path / "no.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"no\.png"):
        write_glb(tmp_path / "h.glb", topology, vertices, tmp_path / "no.png")
    assert not (tmp_path / "h.glb").exists()
    trimesh.creation.box().export(tmp_path / "box.glb")
    with pytest.raises(InputError, match="read_mesh"):
        read_glb(tmp_path / "box.glb")


@pytest.mark.parametrize("case", ["sequence", "pca", "single", "mixed", "jpeg", "profile", "bare"])
def test_khronos_validator_accepts(case: str, tmp_path: Path, texture: Path) -> None:
    topology, vertices, path = ellipsoid_topology(), performance(8).float(), tmp_path / "v.glb"
    if case == "sequence":
        write_glb(path, topology, vertices, texture, upright=torch.eye(4))
    elif case == "pca":
        write_glb(path, topology, vertices, texture, pca_above=3)
    elif case == "single":
        write_glb(path, topology, vertices[:1])
    elif case == "bare":
        no_uv = torch.zeros_like(topology.face_uv)
        write_glb(path, replace(topology, uv=torch.zeros(0, 2), face_uv=no_uv), vertices)
    elif case == "mixed":
        write_glb(path, quads_and_triangles(), torch.rand(2, 8, 3))
    else:
        picture = Image.fromarray(striped_texture())
        texture = tmp_path / ("skin.jpg" if case == "jpeg" else "wide.png")
        profile = None
        if case == "profile":
            from PIL import ImageCms

            profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        picture.save(texture, icc_profile=profile)
        write_glb(path, topology, vertices[:2], texture, normals=False)
    assert issues(path) == []
