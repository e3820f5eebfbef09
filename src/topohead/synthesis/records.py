"""The folder of a staged take: what a real rig would deliver, and the truth beside it."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from topohead.core import Mesh
from topohead.io.atomic import atomic_write, write_text
from topohead.io.calibration import write_rig
from topohead.io.curves import write_curves_npz
from topohead.io.expressions import (
    Performance,
    live_link_angles,
    live_link_eyes,
    write_live_link,
)
from topohead.io.images import write_image
from topohead.io.meshes import write_obj
from topohead.rendering.shading import linear_to_srgb
from topohead.synthesis.charts import uv_frame
from topohead.synthesis.render import LitHead
from topohead.synthesis.skin import SkinMaps
from topohead.synthesis.subjects import Surfaces
from topohead.synthesis.takes import Picture, Take, landmarks, lit_texture, start_noise


def frame_name(frame: int) -> str:
    """Frames count from 1, six digits."""
    return f"{frame + 1:06d}"


def truth_file(out: Path, frame: int) -> Path:
    """Written last of a frame's files, so its presence says that the frame is done."""
    return out / "truth" / "frames" / f"{frame_name(frame)}.safetensors"


def write_picture(out: Path, frame: int, picture: Picture, kind: str, quality: int) -> None:
    """The picture, its mask, and what of it is hair where there is some."""
    name = frame_name(frame)
    image = out / "frames" / name / f"{picture.camera}.{kind}"
    write_image(image, picture.image, quality=quality)
    write_image(out / "masks" / name / f"{picture.camera}.png", picture.mask)
    if picture.hair is not None:
        write_image(out / "truth" / "hair" / name / f"{picture.camera}.png", picture.hair)


def write_truth(out: Path, take: Take, frame: int, surfaces: Surfaces) -> None:
    """Vertices, filmed surface and hair (world metres), pose since frame 1, coefficients, gaze."""
    tensors = {
        "vertices": surfaces.vertices.float().clone(),
        "surface": surfaces.surface.float().clone(),
        "pose": take.motion.poses[frame].double().contiguous(),
        "expression": take.motion.coefficients[frame].float().contiguous(),
        "gaze": take.motion.gaze[frame].float().contiguous(),
    }
    strands = take.strands(take.motion, frame, surfaces)
    if strands is not None:
        tensors["hair"] = strands.points.float().contiguous()
    with atomic_write(truth_file(out, frame)) as temporary:
        save_file(tensors, temporary)


def write_statics(
    out: Path, take: Take, surfaces: Surfaces, lit: LitHead, start_noise_mm: float
) -> None:
    """Everything that does not change from frame to frame, of the take's first frame."""
    topology = take.subject.head.topology
    exact = Mesh(topology, surfaces.vertices)
    noisy = Mesh(topology, start_noise(take, surfaces.vertices, start_noise_mm))
    _write_maps(out, take, lit)
    _write_mesh(exact, out / "start.obj", "start.png")
    _write_mesh(exact, out / "start" / "exact.obj", "../start.png")
    _write_mesh(noisy, out / "start" / "noisy.obj", "../start.png")
    _write_mesh(exact, out / "truth" / "mesh.obj", "lit_srgb.png")
    regions = {name: members.tolist() for name, members in topology.regions.items()}
    write_text(out / "truth" / "regions.json", json.dumps(regions))
    if take.charts:  # charts are places on the template
        with atomic_write(out / "truth" / "template.safetensors") as temporary:
            save_file({"vertices": take.subject.head.template.float().contiguous()}, temporary)
    _write_mesh(Mesh(take.subject.finer, surfaces.surface), out / "truth" / "surface.obj", None)
    strands = take.strands(take.motion, 0, surfaces)
    if strands is not None:
        write_curves_npz(strands, out / "truth" / "hair.npz")
    rate = take.motion.frames_per_second
    write_rig(take.rig.handed_over, out / "cameras.json", frames_per_second=rate)
    write_rig(take.rig.exact, out / "truth" / "cameras.json")
    found = {frame_name(0): landmarks(take, 0)}
    text = {f: {c: {str(i): xy for i, xy in marks.items()} for c, marks in views.items()}
            for f, views in found.items()}  # fmt: skip
    write_text(out / "landmarks.json", json.dumps(text, indent=1))
    _write_performance(out / "truth" / "expression.csv", take)


def describe(take: Take, settings: dict[str, Any]) -> dict[str, Any]:
    """`truth.json`: what was asked for, and what came of it that no other file holds."""
    response = take.rig.response
    names = take.rig.exact.cameras.names
    hair = {} if take.hair is None else {"groom": asdict(take.hair.groom)}
    return hair | {
        "settings": settings,
        "units": "m",
        "frames_per_second": take.motion.frames_per_second,
        "motion": take.motion.source,
        "topology": take.subject.head.topology.name,
        "identity": [round(float(x), 6) for x in take.subject.identity],
        "head_to_world": take.subject.place.tolist(),
        "eyeballs": [
            {"center": globe.center.tolist(), "radius": globe.radius}
            for globe in take.subject.globes
        ],
        "skin": asdict(take.skin),
        "light": asdict(take.lighting),
        "cameras": {
            name: {
                "gain": response.gain[i].tolist(),
                "offset": response.offset[i].tolist(),
                "vignetting": float(response.vignetting[i]),
                "quarter_turns": take.rig.turns[i],
            }
            for i, name in enumerate(names)
        },
        "charts": [asdict(chart) | uv_frame(chart, take.subject.head) for chart in take.charts],
        "notes": {
            "vertices": "the tracked topology; the first rows of surface, so exactly on it",
            "surface": "one Catmull-Clark step finer, displaced by wrinkles; this was filmed",
            "pose": "moves the head of frame 1 to this frame, world",
            "untracked": "the plug that closes the neck, and teeth in the place of the reference "
            "head's plain bands, are filmed but not in the meshes",
            "regions": "by name on the head model's topology",
        },
    }


def _write_mesh(mesh: Mesh, path: Path, texture: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_obj(mesh, path, texture)


def _write_maps(out: Path, take: Take, lit: LitHead) -> None:
    """All pictures in UV space, at once: a large one takes seconds to encode."""
    texture = linear_to_srgb(lit_texture(take, lit))
    pictures = {
        "start.png": texture,
        "truth/lit_srgb.png": texture,
        "truth/albedo_srgb.png": linear_to_srgb(take.maps.albedo),
        "truth/roughness.png": take.maps.roughness,
        "truth/normal.png": tangent_normals(take, take.maps),
    }
    with ThreadPoolExecutor() as pool:
        list(pool.map(write_image, (out / name for name in pictures), pictures.values()))


def tangent_normals(take: Take, maps: SkinMaps) -> Float[Tensor, "S S 3"]:
    """The pores as a tangent-space normal map, (n + 1) / 2, x along u, y along v."""
    subject, atlas = take.subject, take.materials.atlas
    topology, size = subject.head.topology, len(maps.height)
    corner = subject.rest[topology.triangles].double()
    uv = topology.uv[topology.triangle_uv].double()
    e = torch.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], 2)
    d = torch.stack([uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], 2)
    # metres along the surface for a unit of u and of v: columns of E·D⁻¹, one value for the map
    per_uv = (e @ torch.linalg.pinv(d)).norm(dim=1)
    scale = per_uv.median(0).values.float()
    slope = atlas[: size * size, 4:6].cpu().reshape(size, size, 2) / scale
    normal = torch.cat([-slope, torch.ones(size, size, 1)], -1)
    return torch.nn.functional.normalize(normal, dim=-1) / 2 + 0.5


def _write_performance(path: Path, take: Take) -> None:
    """The played coefficients as a Live Link CSV; head angles come from the poses."""
    motion = take.motion
    track = Performance(
        torch.arange(len(motion)).double() / motion.frames_per_second,
        motion.coefficients.double(),
        live_link_angles(motion.poses[:, :3, :3].double()),
        live_link_eyes(motion.gaze.double()),
    )
    with atomic_write(path) as temporary:
        write_live_link(track, temporary)
