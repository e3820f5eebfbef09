"""Face rigs as GLB: named morph targets, a neck and a head joint, and one performance of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import ARKIT_52, BoundSplats, InputError
from topohead.geometry.avatars import ExpressionChange
from topohead.geometry.morphs import split_seams
from topohead.geometry.skinning import FaceRig, RigPerformance
from topohead.io.atomic import atomic_write
from topohead.io.gltf import add_mesh, mesh_extras, open_glb, stored_topology
from topohead.io.gltf_parts import GlbPack, accessor_values, add_material
from topohead.io.gltf_splats import add_expression, add_splats

NEGLIGIBLE = 1e-6
"""Metres: smaller motions of a blendshape are left out of the file."""


def write_rig_glb(
    path: Path,
    played: RigPerformance,
    texture: Path | None = None,
    normal_map: Path | None = None,
    splats: BoundSplats | None = None,
    change: ExpressionChange | None = None,
) -> None:
    """Write a rig and its performance as GLB, y up.

    The neutral mesh has the 52 actions as morph targets under their ARKit names. Two joints carry
    it, `neck` and `head` above it; one animation moves weights and head. Vertices are stored in the
    rig's own frame; the node `upright` turns the joints to y up. Pictures and splats as in
    `write_glb`; `change` makes the splats an avatar's.
    """
    import pygltflib

    rig = played.rig
    finite = all(bool(torch.isfinite(x).all()) for x in (rig.neutral, rig.blendshapes))
    if not len(played.weights) or not finite:
        raise InputError(f"{path}: expected at least one frame and finite shapes")
    if texture is not None and not len(rig.topology.uv):
        raise InputError(f"{path}: a texture needs UVs and the mesh has none; write without it")
    pack, split = GlbPack(), split_seams(rig.topology)
    shapes = rig.blendshapes.detach().cpu().double()
    shapes = torch.where(shapes.norm(dim=-1, keepdim=True) < NEGLIGIBLE, 0.0, shapes)
    neutral = rig.neutral.detach().cpu().double()
    frames = torch.cat([neutral[None], neutral + shapes])
    each = np.eye(len(frames), dtype=np.float32)[:, 1:]
    morphs = shapes.numpy().astype(np.float32)
    mesh = add_mesh(
        pack, rig.topology, split, frames, morphs, each, True, sparse=True,
        tangents=normal_map is not None,
    )  # fmt: skip
    mesh.extras = mesh_extras(
        rig.topology, ARKIT_52, {"rig": True, "frames_per_second": played.frames_per_second}
    )
    if splats is not None:
        add_splats(pack, mesh, rig.topology, splats)
        if change is not None:
            add_expression(pack, mesh, rig, change)
    joints, shares = _skin_weights(rig.head_share.numpy()[split.source_vertex])
    mesh.primitives[0].attributes.JOINTS_0 = pack.accessor(joints, "VEC4")
    mesh.primitives[0].attributes.WEIGHTS_0 = pack.accessor(shares, "VEC4")
    add_material(pack, texture, normal_map)
    _add_joints(pack, rig)
    pack.gltf.animations.append(_animation(pack, played))
    pack.gltf.scenes = [pygltflib.Scene(nodes=[0, 3])]
    pack.gltf.scene = 0
    with atomic_write(path) as partial:
        pack.save(partial)


def _skin_weights(share: NDArray) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Joints [N 4] (0 neck, 1 head) and their weights, a joint without weight being 0."""
    weights = np.zeros((len(share), 4), np.float32)
    joints = np.zeros((len(share), 4), np.uint8)
    weights[:, 0], weights[:, 1] = share, 1 - share.astype(np.float32)
    joints[:, 0] = 1
    still = weights[:, 0] <= 0
    joints[still, 0], weights[still, 0], weights[still, 1] = 0, 1, 0
    return joints, weights


def _add_joints(pack: GlbPack, rig: FaceRig) -> None:
    """Nodes upright → neck → head and, beside them, the skinned mesh.

    A skinned mesh takes no transform of its own node or parents, so it stands at the root.
    """
    import pygltflib

    neck, head = rig.neck.double(), rig.head.double()
    upright = rig.upright.detach().cpu().double()
    # an identity says nothing, and the validator would rather not read it
    still = torch.equal(upright, torch.eye(4).double())
    matrix = None if still else upright.T.reshape(-1).tolist()  # column-major
    pack.gltf.nodes = [
        pygltflib.Node(name="upright", matrix=matrix, children=[1]),
        pygltflib.Node(name="neck", translation=neck.tolist(), children=[2]),
        pygltflib.Node(name="head", translation=(head - neck).tolist()),
        pygltflib.Node(name="face", mesh=0, skin=0),
    ]
    inverse = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    inverse[:, 3, :3] = -torch.stack([neck, head]).numpy()  # column-major: the last row shifts
    binds = pack.accessor(inverse.reshape(2, 16), "MAT4", None)
    pack.gltf.skins.append(
        pygltflib.Skin(name="head", inverseBindMatrices=binds, skeleton=1, joints=[1, 2])
    )


def _animation(pack: GlbPack, played: RigPerformance) -> Any:
    """One animation of the mesh's weights and of the head joint's rotation and translation."""
    import pygltflib

    turns, shifts = _joint_motion(played)
    count = len(played.weights)
    times = np.arange(count, dtype=np.float32) / np.float32(played.frames_per_second)
    clock = pack.accessor(times, "SCALAR", None, bounds=True)
    tracks: Sequence[tuple[int, str, NDArray, str]] = (
        (3, "weights", played.weights.numpy(), "SCALAR"),
        (2, "rotation", turns, "VEC4"),
        (2, "translation", shifts, "VEC3"),
    )
    animation = pygltflib.Animation(name="performance", samplers=[], channels=[])
    for index, (node, path, values, kind) in enumerate(tracks):
        output = pack.accessor(values, kind, None)
        animation.samplers.append(pygltflib.AnimationSampler(input=clock, output=output))
        target = pygltflib.AnimationChannelTarget(node=node, path=path)
        animation.channels.append(pygltflib.AnimationChannel(sampler=index, target=target))
    return animation


def _joint_motion(played: RigPerformance) -> tuple[NDArray, NDArray]:
    """Quaternions [T 4] (xyzw, neighbours on one hemisphere) and translations under the neck."""
    poses = played.poses.double().numpy()
    head, neck = played.rig.head.double().numpy(), played.rig.neck.double().numpy()
    turns = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    flips = np.sign(np.sum(turns[1:] * turns[:-1], 1))
    turns[1:] *= np.cumprod(np.where(flips < 0, -1, 1))[:, None]
    return turns, poses[:, :3, 3] + poses[:, :3, :3] @ head - neck


def read_rig_glb(path: Path) -> RigPerformance:
    """The rig and performance of a GLB that `write_rig_glb` wrote, quads and vertex order kept."""
    gltf, blob, extras = open_glb(path)
    if not extras.get("rig"):
        raise InputError(f"{path} is no rig but a sequence; expected a file that `rig` wrote")
    topology, first_copy = stored_topology(gltf, blob)
    primitive = gltf.meshes[0].primitives[0]
    attributes = primitive.attributes

    def rows(index: int) -> Tensor:
        return torch.from_numpy(accessor_values(gltf, blob, index).astype(np.float32))

    def per_vertex(index: int) -> Tensor:
        return rows(index)[first_copy]

    joints, shares = per_vertex(attributes.JOINTS_0), per_vertex(attributes.WEIGHTS_0)
    weights, turns, shifts = (rows(s.output) for s in gltf.animations[0].samplers)
    neck, head = -rows(gltf.skins[0].inverseBindMatrices)[:, 12:15]
    rotations = Rotation.from_quat(turns.numpy()).as_matrix()
    poses = torch.eye(4, dtype=torch.float64).repeat(len(turns), 1, 1)
    poses[:, :3, :3] = torch.from_numpy(rotations)
    poses[:, :3, 3] = shifts + neck - poses[:, :3, :3] @ head.double()
    rig = FaceRig(
        topology,
        per_vertex(attributes.POSITION),
        torch.stack([per_vertex(target["POSITION"]) for target in primitive.targets]),
        (shares * (joints == 1)).sum(1),
        torch.tensor(gltf.nodes[0].matrix or torch.eye(4).tolist()).reshape(4, 4).T,
        neck,
        head,
    )
    weights = weights.reshape(len(turns), -1)
    return RigPerformance(rig, weights, poses, float(extras["frames_per_second"]))
