"""A portrait by path tracing: the same head, skin, camera and light in Mitsuba 3, as reference.

Light is reflected between skin and skin, shadows are exact, grain is what is left. Without hair
and without things worn; skin is opaque, so its softness is not there either.
"""

import importlib.util
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.rendering.portrait_light import harmonics
from topohead.rendering.portraits import PortraitHeads, PortraitMesh, SceneBatch, smooth_normals
from topohead.synthesis import pathtrace

SKY_ROWS = 64


def pathtraced_portrait(
    mesh: PortraitMesh,
    heads: PortraitHeads,
    albedo: Float[Tensor, "S S 3"],
    roughness: Float[Tensor, "S S"],
    scenes: SceneBatch,
    index: int,
    size: tuple[int, int],
    samples: int,
) -> Float[Tensor, "H W 4"]:
    """Linear light and coverage of one head of a batch, `samples` paths a pixel for each light.

    The sky and every lamp are traced apart and added up: lamps hide nothing. Specular level 0.35;
    the camera's principal point is the picture's middle.
    """
    if importlib.util.find_spec("mitsuba") is None:
        raise InputError("path tracing needs Mitsuba 3: pip install 'topohead[pathtrace]'")
    width, height = size
    intrinsics = scenes.intrinsics[index]
    middle = intrinsics.new_tensor([width / 2, height / 2])
    if (intrinsics[:2, 2] - middle).abs().max() > 1e-6:
        raise InputError("expected a camera whose principal point is the picture's middle")
    lamps = [
        {"position": row[:3].tolist(), "radius": float(row[3]), "radiance": row[4:].tolist()}
        for row in scenes.lamps[index]
        if float(row[3]) > 0
    ]
    camera = {"name": "portrait", "focal": float(intrinsics[0, 0]), "size": [width, height],
              "world_to_camera": scenes.world_to_camera[index].tolist()}  # fmt: skip
    job = {"cameras": [camera], "samples": samples, "seed": 700, "gloss": 1.0,
           "light": {"lamps": lamps, "balls": True, "apart": True}}  # fmt: skip
    skin = mesh.textured.bool()
    normals = smooth_normals(heads.vertices, mesh)[index]
    corners = mesh.triangles[skin].long().flatten()
    with tempfile.TemporaryDirectory(prefix="topohead-pathtrace-") as name:
        folder = Path(name)
        np.savez(
            folder / "scene.npz",
            skin_vertices=heads.vertices[index][corners].numpy(),
            skin_normals=normals[corners].numpy(),
            skin_uv=mesh.corner_uv[skin].reshape(-1, 2).numpy(),
            skin_triangles=np.arange(len(corners)).reshape(-1, 3),
            albedo=albedo.numpy(),
            roughness=roughness.numpy(),
            height=np.zeros((8, 8), np.float32),
            sky=_panorama(scenes.sky[index]),
        )
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        pathtrace.run_job(folder)
        return torch.from_numpy(np.load(folder / "portrait.npy"))


def _panorama(sky: Float[Tensor, "16 3"]) -> Float[np.ndarray, "H W 3"]:
    """Radiance as Mitsuba's `envmap` reads it: top row up, first column −z, then +x."""
    down = math.pi * (torch.arange(SKY_ROWS, dtype=torch.float64) + 0.5) / SKY_ROWS
    turn = math.pi * (torch.arange(2 * SKY_ROWS, dtype=torch.float64) + 0.5) / SKY_ROWS
    ring = down.sin()[:, None]
    parts = (turn.sin() * ring, down.cos()[:, None].expand(-1, 2 * SKY_ROWS), -turn.cos() * ring)
    radiance = harmonics(torch.stack(torch.broadcast_tensors(*parts), -1)) @ sky.double()
    return radiance.clamp(min=0).float().numpy()
