"""Face rigs as UsdSkel: joints neck and head, ARKit-named blend shapes, one animation of both."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import ARKIT_52, Rig
from topohead.geometry.morphs import unit_normals
from topohead.geometry.skinning import FaceRig, RigPerformance
from topohead.io.usd import (
    StageFacts,
    add_cameras,
    add_mesh,
    add_skin,
    new_stage,
    pxr,
    set_points,
)

JOINTS = ("neck", "neck/head")
NEGLIGIBLE = 1e-6
"""Share of the largest motion of any shape below which a vertex is left out of a blend shape."""


def write_rig_usd(
    path: Path,
    facts: StageFacts,
    played: RigPerformance,
    texture: str | None = None,
    *,
    normal_map: str | None = None,
    normals: bool = True,
    cameras: Rig | None = None,
) -> None:
    """Write a rig that stands in the stage's axes and unit, and what it plays.

    `facts.numbers` are the frames' time codes. The neutral mesh is `/NAME/rig/mesh`, its blend
    shapes lie below it.
    """
    (UsdSkel,) = pxr("UsdSkel")

    rig, root = played.rig, f"/{facts.name}/rig"
    with new_stage(path, facts) as stage:
        skinned = UsdSkel.Root.Define(stage, root)
        mesh = add_mesh(stage, f"{root}/mesh", rig.topology)
        set_points(mesh, rig.topology, rig.neutral, None, normals)
        skeleton = _add_skeleton(stage, f"{root}/skeleton", rig)
        animation = _add_animation(stage, f"{root}/performance", played, facts.numbers)
        UsdSkel.BindingAPI.Apply(skinned.GetPrim())
        binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
        binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
        UsdSkel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel().SetTargets(
            [animation.GetPath()]
        )
        _bind_joints(binding, rig)
        _add_blend_shapes(stage, mesh, binding, rig, normals)
        _set_bounds(skinned, played, facts.numbers)
        add_skin(stage, mesh, facts, {} if texture is None else {0: texture}, normal_map)
        if cameras is not None:
            add_cameras(stage, facts, cameras)


def _add_skeleton(stage: Any, path: str, rig: FaceRig) -> Any:
    Gf, UsdSkel, Vt = pxr("Gf", "UsdSkel", "Vt")

    skeleton = UsdSkel.Skeleton.Define(stage, path)
    skeleton.CreateJointsAttr(JOINTS)
    neck, head = rig.neck.double(), rig.head.double()

    def matrices(*places: Tensor) -> Any:
        rows = [Gf.Matrix4d().SetTranslate(Gf.Vec3d(place.tolist())) for place in places]
        return Vt.Matrix4dArray(rows)

    skeleton.CreateBindTransformsAttr(matrices(neck, head))
    skeleton.CreateRestTransformsAttr(matrices(neck, head - neck))
    return skeleton


def _add_animation(stage: Any, path: str, played: RigPerformance, numbers: tuple[int, ...]) -> Any:
    """Joint motion and weights, a sample a frame."""
    Gf, UsdSkel, Vt = pxr("Gf", "UsdSkel", "Vt")

    animation = UsdSkel.Animation.Define(stage, path)
    animation.CreateJointsAttr(JOINTS)
    animation.CreateBlendShapesAttr(ARKIT_52)
    neck, head = played.rig.neck.double(), played.rig.head.double()
    poses = played.poses.double()
    turns = Rotation.from_matrix(poses[:, :3, :3].numpy()).as_quat()
    flips = np.sign(np.sum(turns[1:] * turns[:-1], 1))
    turns[1:] *= np.cumprod(np.where(flips < 0, -1, 1))[:, None]  # the short way between frames
    shifts = poses[:, :3, 3] + poses[:, :3, :3] @ head - neck
    still = Gf.Quatf(1, 0, 0, 0)
    animation.CreateScalesAttr(Vt.Vec3hArray([Gf.Vec3h(1, 1, 1)] * 2))
    places, rotations = animation.CreateTranslationsAttr(), animation.CreateRotationsAttr()
    weights = animation.CreateBlendShapeWeightsAttr()
    for row, number in enumerate(numbers):
        x, y, z, w = turns[row].tolist()
        rotations.Set(Vt.QuatfArray([still, Gf.Quatf(w, x, y, z)]), number)
        ends = [Gf.Vec3f(neck.tolist()), Gf.Vec3f(shifts[row].tolist())]
        places.Set(Vt.Vec3fArray(ends), number)
        values = played.weights[row].float().numpy()
        weights.Set(Vt.FloatArray.FromNumpy(np.ascontiguousarray(values)), number)
    return animation


def _bind_joints(binding: Any, rig: FaceRig) -> None:
    """How much of the neck's and the head's motion each vertex follows."""
    Gf, Vt = pxr("Gf", "Vt")

    share = rig.head_share.float().numpy()
    weights = np.stack([1 - share, share], 1).astype(np.float32)
    indices = np.tile(np.array([0, 1], np.int32), (len(share), 1))
    binding.CreateJointIndicesPrimvar(False, 2).Set(Vt.IntArray.FromNumpy(indices.reshape(-1)))
    binding.CreateJointWeightsPrimvar(False, 2).Set(Vt.FloatArray.FromNumpy(weights.reshape(-1)))
    binding.CreateGeomBindTransformAttr(Gf.Matrix4d(1))


def _add_blend_shapes(stage: Any, mesh: Any, binding: Any, rig: FaceRig, normals: bool) -> None:
    """A sparse blend shape an action, named after it."""
    UsdSkel, Vt = pxr("UsdSkel", "Vt")

    floor = NEGLIGIBLE * float(rig.blendshapes.norm(dim=-1).max())
    rest = unit_normals(rig.neutral.float(), rig.topology) if normals else None
    targets = []
    for name, offsets in zip(ARKIT_52, rig.blendshapes.float(), strict=True):
        shape = UsdSkel.BlendShape.Define(stage, mesh.GetPath().AppendChild(name))
        moved = (offsets.norm(dim=-1) > floor).nonzero()[:, 0].numpy()
        turned = None
        if rest is not None:
            turned = unit_normals(rig.neutral.float() + offsets, rig.topology) - rest
            # neighbours of what moves turn as well
            moved = np.union1d(moved, np.flatnonzero(np.abs(turned).max(1) > 1e-3))
        shape.CreatePointIndicesAttr(Vt.IntArray.FromNumpy(moved.astype(np.int32)))
        rows = np.ascontiguousarray(offsets.numpy()[moved])
        shape.CreateOffsetsAttr(Vt.Vec3fArray.FromNumpy(rows))
        if turned is not None:
            rows = np.ascontiguousarray(turned[moved].astype(np.float32))
            shape.CreateNormalOffsetsAttr(Vt.Vec3fArray.FromNumpy(rows))
        targets.append(shape.GetPath())
    binding.CreateBlendShapesAttr(ARKIT_52)
    binding.CreateBlendShapeTargetsRel().SetTargets(targets)


def _set_bounds(skinned: Any, played: RigPerformance, numbers: tuple[int, ...]) -> None:
    """Bounds of the posed face: only the skeleton knows them, readers should not have to."""
    (Vt,) = pxr("Vt")

    extent = skinned.CreateExtentAttr()
    rig = played.rig
    for row, number in enumerate(numbers):
        weights, poses = played.weights[row : row + 1], played.poses[row : row + 1]
        posed: Float[Tensor, "V 3"] = rig.vertices(weights, poses)[0]
        bounds = torch.stack([posed.amin(0), posed.amax(0)]).float().numpy()
        extent.Set(Vt.Vec3fArray.FromNumpy(bounds), number)
