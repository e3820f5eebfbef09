"""What Blender makes of a file: a program for a Python that has bpy.

    python blender_dump.py FILE OUT.npz RATE FRAME...

Writes shape key names, corners of every face, UVs, source vertices (of our GLB) and the posed
vertices in Blender's world at the frames.
"""

import sys

import bpy
import numpy as np

IMPORTERS = {
    ".glb": lambda path: bpy.ops.import_scene.gltf(filepath=path),
    ".usdc": lambda path: bpy.ops.wm.usd_import(filepath=path),
    # the importer of the menu since 5.0; before, import_scene.fbx
    ".fbx": lambda path: bpy.ops.wm.fbx_import(filepath=path, anim_offset=0.0),
    ".abc": lambda path: bpy.ops.wm.alembic_import(filepath=path, as_background_job=False),
    ".obj": lambda path: bpy.ops.wm.obj_import(filepath=path),
    ".ply": lambda path: bpy.ops.wm.ply_import(
        filepath=path, forward_axis="NEGATIVE_Z", up_axis="Y"
    ),
}

path, out, rate, *frames = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.fps = round(float(rate))
IMPORTERS[path[path.rindex(".") :]](path)
meshes = [item for item in scene.objects if item.type == "MESH"]
body = max(meshes, key=lambda item: len(item.data.vertices))  # joints are drawn by small spheres
keys = body.data.shape_keys
source = body.data.attributes.get("_SOURCE_VERTEX")
index = np.zeros(len(body.data.vertices), np.float32)
if source is not None:
    source.data.foreach_get("value", index)
sizes = np.array([len(face.vertices) for face in body.data.polygons])
corners = np.zeros(sizes.sum(), int)
body.data.loops.foreach_get("vertex_index", corners)
uv = np.zeros(2 * len(corners), np.float32)
if body.data.uv_layers:
    body.data.uv_layers.active.data.foreach_get("uv", uv)
posed = []
for frame in map(int, frames):
    scene.frame_set(frame)
    seen = body.evaluated_get(bpy.context.evaluated_depsgraph_get())
    shape = seen.to_mesh()
    rows = np.zeros(3 * len(shape.vertices), np.float32)
    shape.vertices.foreach_get("co", rows)
    world = np.array(seen.matrix_world)
    posed.append(rows.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3])
np.savez(
    out,
    keys=np.array([key.name for key in keys.key_blocks] if keys else [], str),
    sizes=sizes, corners=corners, uv=uv.reshape(-1, 2), source=index, posed=np.stack(posed),
    fps=scene.render.fps / scene.render.fps_base, start=scene.frame_start, end=scene.frame_end,
)  # fmt: skip
