"""Builds a head in Blender and writes it as FBX or Alembic; a program of its own.

    python blender_worker.py JOB          where bpy is installed, or
    blender --background --factory-startup --python blender_worker.py -- JOB

Blender's Python module is GPL, so nothing of topohead imports this file, and it imports nothing of
topohead: JOB is a folder with `job.json` and `head.npz` (`topohead.io.blender` makes it). Numbers
arrive in Blender's axes and in the file's unit.
"""

import json
import math
import sys
from pathlib import Path

import bpy  # pyright: ignore[reportMissingImports]
import numpy as np
from mathutils import Matrix  # pyright: ignore[reportMissingImports]


def main(folder: Path) -> None:
    """Build what the job describes and write it."""
    job = json.loads((folder / "job.json").read_text())
    head = dict(np.load(folder / "head.npz"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = job["numbers"][0], job["numbers"][-1]
    scene.render.fps = max(1, math.ceil(job["frames_per_second"]))
    scene.render.fps_base = scene.render.fps / job["frames_per_second"]
    scene.unit_settings.scale_length = job["meters"]
    body = build_mesh(job, head)
    if job.get("texture"):
        add_material(body, job["texture"])
    if len(head.get("shapes", ())):
        add_shapes(body, job, head)
    if "share" in head:
        add_joints(body, job, head)
    if job.get("cache"):
        cache = body.modifiers.new("take", "MESH_CACHE")
        cache.cache_format, cache.filepath = "PC2", job["cache"]
        cache.frame_start, cache.interpolation = job["numbers"][0], "NONE"
    bpy.context.view_layer.update()
    (write_fbx if job["to"] == "fbx" else write_abc)(job)


def build_mesh(job, head):
    """An object with the faces, in their order, and the UVs of every corner."""
    used = np.ones(head["faces"].shape, bool)
    used[:, 3] = head["faces"][:, 3] != head["faces"][:, 2]
    faces = [row[keep].tolist() for row, keep in zip(head["faces"], used, strict=True)]
    mesh = bpy.data.meshes.new(job["name"])
    mesh.from_pydata(head["vertices"].tolist(), [], faces)
    if len(head["uv"]):
        layer = mesh.uv_layers.new(name="UVMap")
        corners = head["uv"][head["face_uv"][used]].astype(np.float32)
        layer.data.foreach_set("uv", corners.reshape(-1))
    mesh.shade_smooth()
    body = bpy.data.objects.new(job["name"], mesh)
    bpy.context.scene.collection.objects.link(body)
    return body


def add_material(body, texture):
    """The skin as Blender's usual shader with the picture as its colour."""
    skin = bpy.data.materials.new("skin")
    skin.use_nodes = True
    nodes = skin.node_tree.nodes
    picture = nodes.new("ShaderNodeTexImage")
    picture.image = bpy.data.images.load(texture)
    surface = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    skin.node_tree.links.new(picture.outputs["Color"], surface.inputs["Base Color"])
    body.data.materials.append(skin)


def add_shapes(body, job, head):
    """Shape keys and, frame by frame, their values."""
    body.shape_key_add(name="Basis")
    for name, offsets in zip(job["shape_names"], head["shapes"], strict=True):
        key = body.shape_key_add(name=name)
        moved = (head["vertices"] + offsets).astype(np.float32)
        key.data.foreach_set("co", moved.reshape(-1))
        values = head["weights"][:, job["shape_names"].index(name)]
        key.slider_min, key.slider_max = min(0, values.min()), max(1, values.max())
        for number, value in zip(job["numbers"], values.tolist(), strict=True):
            key.value = value
            key.keyframe_insert("value", frame=number)


def add_joints(body, job, head):
    """An armature with neck and head, the mesh bound to it, and the head's motion."""
    armature = bpy.data.armatures.new("skeleton")
    rig = bpy.data.objects.new("skeleton", armature)
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    joints = {}
    for name, at in (("neck", head["neck"]), ("head", head["head"])):
        bone = armature.edit_bones.new(name)
        bone.head = at.tolist()
        bone.tail = [at[0], at[1], at[2] + 0.08 / job["meters"]]
        joints[name] = bone
    joints["head"].parent = joints["neck"]
    bpy.ops.object.mode_set(mode="OBJECT")
    for name, share in (("neck", 1 - head["share"]), ("head", head["share"])):
        group = body.vertex_groups.new(name=name)
        for index in np.flatnonzero(share > 0).tolist():
            group.add([index], float(share[index]), "REPLACE")
    body.parent = rig
    body.modifiers.new("skeleton", "ARMATURE").object = rig
    moving = rig.pose.bones["head"]
    rest = armature.bones["head"].matrix_local
    moving.rotation_mode = "QUATERNION"
    last = None
    for number, pose in zip(job["numbers"], head["poses"].tolist(), strict=True):
        basis = rest.inverted() @ Matrix(pose) @ rest
        turn = basis.to_quaternion()
        if last is not None:
            turn.make_compatible(last)
        moving.location, moving.rotation_quaternion, last = basis.to_translation(), turn, turn
        moving.keyframe_insert("location", frame=number)
        moving.keyframe_insert("rotation_quaternion", frame=number)


def write_fbx(job):
    """FBX whose unit and up axis are in its header; animation sampled at every frame."""
    up = {"axis_up": "Z", "axis_forward": "Y"} if job["axis"] == "z-up" else {}
    bpy.ops.export_scene.fbx(
        filepath=job["out"], object_types={"ARMATURE", "MESH"}, add_leaf_bones=False,
        apply_scale_options="FBX_SCALE_UNITS", mesh_smooth_type="FACE", path_mode="STRIP",
        bake_anim=len(job["numbers"]) > 1, bake_anim_use_nla_strips=False,
        bake_anim_use_all_actions=False, bake_anim_simplify_factor=0, **up,
    )  # fmt: skip


def write_abc(job):
    """Alembic with a sample a frame."""
    bpy.ops.wm.alembic_export(
        filepath=job["out"], start=job["numbers"][0], end=job["numbers"][-1],
        as_background_job=False, evaluation_mode="RENDER",
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
