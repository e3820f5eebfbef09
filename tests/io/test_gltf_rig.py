"""Rigs as GLB: an independent player of the glTF gives the same meshes; validators agree."""

from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
from PIL import Image

from khronos import issues
from planted_run import ellipsoid, ellipsoid_topology, striped_texture
from topohead.core import ARKIT_52, InputError
from topohead.geometry.morphs import split_seams
from topohead.geometry.skinning import RigPerformance, rigged
from topohead.io.gltf import read_glb, write_glb
from topohead.io.gltf_rig import read_rig_glb, write_rig_glb
from topohead.synthesis.performances import euler


def planted(frames: int = 5) -> RigPerformance:
    """An ellipsoid with local bumps for actions; its lower rim hardly follows the head."""
    topology, neutral = ellipsoid_topology(), ellipsoid().float()
    generator = torch.Generator().manual_seed(3)
    centers = neutral[torch.randint(len(neutral), (52,), generator=generator)]
    bumps = torch.exp(-(neutral - centers[:, None]).square().sum(-1) / 0.02**2)
    shapes = bumps[..., None] * torch.randn(52, 1, 3, generator=generator) * 0.01
    shapes[bumps < 0.01] = 0
    shapes[4] = 0  # an action that this head cannot make
    upright = torch.eye(4)
    upright[:3, :3] = euler(torch.tensor([0.5, 0.2, -0.3]))
    share = ((neutral[:, 1] + 0.11) / 0.05).clamp(0, 1)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    angles = torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    poses[:, :3, :3] = euler(angles)
    poses[:, :3, 3] = torch.randn(frames, 3, generator=generator) * 0.02
    weights = torch.rand(frames, 52, generator=generator)
    rig = rigged(topology, neutral, shapes, upright, share)
    return RigPerformance(rig, weights, poses, 24.0)


def play(path: Path) -> np.ndarray:
    """Vertices [T N 3] of a skinned, animated GLB, straight from the glTF specification."""
    gltf, blob = pygltflib.GLTF2.load_binary(str(path)), None
    blob = gltf.binary_blob()
    kinds = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}

    def raw(view: int, kind: int, count: int) -> np.ndarray:
        return np.frombuffer(blob, kinds[kind], count, gltf.bufferViews[view].byteOffset or 0)

    def rows(index: int) -> np.ndarray:
        a = gltf.accessors[index]
        width = widths[a.type]
        out = np.zeros((a.count, width))
        if a.bufferView is not None:
            out[:] = raw(a.bufferView, a.componentType, a.count * width).reshape(-1, width)
        if a.sparse is not None:
            where = raw(a.sparse.indices.bufferView, a.sparse.indices.componentType, a.sparse.count)
            values = raw(a.sparse.values.bufferView, a.componentType, a.sparse.count * width)
            out[where] = values.reshape(-1, width)
        return out

    animation, skin = gltf.animations[0], gltf.skins[0]
    tracks = {
        (channel.target.node, channel.target.path): rows(animation.samplers[channel.sampler].output)
        for channel in animation.channels
    }
    face = next(k for k, node in enumerate(gltf.nodes) if node.mesh is not None)
    primitive = gltf.meshes[0].primitives[0]
    base = rows(primitive.attributes.POSITION)
    targets = np.stack([rows(target["POSITION"]) for target in primitive.targets])
    joints = rows(primitive.attributes.JOINTS_0).astype(int)
    shares = rows(primitive.attributes.WEIGHTS_0)
    assert np.allclose(shares.sum(1), 1, atol=1e-6)
    binds = rows(skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)
    weights = tracks[face, "weights"].reshape(-1, len(targets))

    def local(node: int, t: int) -> np.ndarray:
        entry, matrix = gltf.nodes[node], np.eye(4)
        if entry.matrix is not None:
            return np.array(entry.matrix).reshape(4, 4).T
        x, y, z, w = tracks.get((node, "rotation"), [entry.rotation or [0, 0, 0, 1]] * (t + 1))[t]
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        shift = tracks.get((node, "translation"), [entry.translation or [0, 0, 0]] * (t + 1))
        matrix[:3, 3] = shift[t]
        return matrix

    parent = {child: k for k, node in enumerate(gltf.nodes) for child in node.children or []}
    frames = []
    for t in range(len(weights)):
        places = []
        for joint, bind in zip(skin.joints, binds, strict=True):
            place, node = np.eye(4), joint
            while node is not None:
                place, node = local(node, t) @ place, parent.get(node)
            places.append(place @ bind)
        matrices = np.einsum("nj,njab->nab", shares, np.stack(places)[joints])
        shape = base + np.tensordot(weights[t], targets, 1)
        frames.append(np.einsum("nab,nb->na", matrices[:, :3, :3], shape) + matrices[:, :3, 3])
    return np.stack(frames)


@pytest.fixture
def texture(tmp_path: Path) -> Path:
    Image.fromarray(striped_texture()).save(tmp_path / "skin.png")
    return tmp_path / "skin.png"


def test_any_player_gives_the_same_meshes(tmp_path: Path, texture: Path) -> None:
    performance = planted()
    write_rig_glb(tmp_path / "rig.glb", performance, texture)
    rig = performance.rig
    world = performance.vertices().double()
    expected = world @ rig.upright[:3, :3].double().T + rig.upright[:3, 3].double()
    source = split_seams(rig.topology).source_vertex
    assert np.abs(play(tmp_path / "rig.glb") - expected.numpy()[:, source]).max() < 1e-5


def test_rig_comes_back(tmp_path: Path) -> None:
    performance = planted()
    write_rig_glb(tmp_path / "rig.glb", performance)
    back = read_rig_glb(tmp_path / "rig.glb")
    assert torch.equal(back.rig.topology.faces, performance.rig.topology.faces)
    assert (back.vertices() - performance.vertices()).norm(dim=-1).max() < 1e-5
    assert (back.rig.head_share - performance.rig.head_share).abs().max() < 1e-6
    assert back.frames_per_second == 24.0
    gltf = pygltflib.GLTF2.load_binary(str(tmp_path / "rig.glb"))
    assert gltf.meshes[0].extras["targetNames"] == list(ARKIT_52)
    assert [node.name for node in gltf.nodes] == ["upright", "neck", "head", "face"]
    # bumps are local: the file holds what they move
    assert any(accessor.sparse is not None for accessor in gltf.accessors)


def test_sequence_and_rig_are_not_confused(tmp_path: Path) -> None:
    performance = planted(2)
    write_rig_glb(tmp_path / "rig.glb", performance)
    write_glb(tmp_path / "take.glb", performance.rig.topology, performance.vertices())
    with pytest.raises(InputError, match="read_rig_glb"):
        read_glb(tmp_path / "rig.glb")
    with pytest.raises(InputError, match="no rig but a sequence"):
        read_rig_glb(tmp_path / "take.glb")


@pytest.mark.parametrize("frames", [1, 6])
def test_khronos_validator_accepts(frames: int, tmp_path: Path, texture: Path) -> None:
    path = tmp_path / "rig.glb"
    write_rig_glb(path, planted(frames), texture if frames > 1 else None)
    assert issues(path) == []
