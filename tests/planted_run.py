"""A small head-like subject whose tracking error is planted, so that metrics can be checked.

An ellipsoid of quads with one UV seam stands in for a head (the metrics know nothing of heads);
its front is the face. Vertices are where the truth says, plus what the test plants.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from topohead.core import Cameras, Distortion, Mesh, Rig, Topology
from topohead.geometry.cameras import turned
from topohead.io.calibration import write_rig
from topohead.io.images import write_image
from topohead.io.meshes import write_obj
from topohead.rendering.shading import portrait_camera, render_mesh

RADII = torch.tensor([0.075, 0.11, 0.095], dtype=torch.float64)


def ellipsoid_topology(rings: int = 24, sectors: int = 32) -> Topology:
    """Latitude rings × sectors of quads, counter-clockwise from outside, open at both poles.

    The UV square wraps once around the head; its seam runs down the back.
    """
    vertex = torch.arange(rings * sectors).reshape(rings, sectors)
    uv_row = torch.arange(rings * (sectors + 1)).reshape(rings, sectors + 1)
    faces, face_uv = [], []
    for r in range(rings - 1):
        for s in range(sectors):
            n = (s + 1) % sectors
            faces.append([vertex[r, s], vertex[r, n], vertex[r + 1, n], vertex[r + 1, s]])
            face_uv.append([uv_row[r, s], uv_row[r, s + 1], uv_row[r + 1, s + 1], uv_row[r + 1, s]])
    v, u = torch.meshgrid(
        torch.linspace(0.02, 0.98, rings), torch.linspace(0, 1, sectors + 1), indexing="ij"
    )
    directions = _directions(rings, sectors)
    named = {
        "face": directions[:, 2] > 0.3,
        "lips": (directions[:, 2] > 0.3) & ((directions[:, 1] + 0.35).abs() < 0.15),
        "rigid": directions[:, 1] > 0.4,
    }
    return Topology(
        vertex_count=rings * sectors,
        faces=torch.tensor(faces),
        uv=torch.stack([u, v], -1).reshape(-1, 2),
        face_uv=torch.tensor(face_uv),
        regions={name: torch.nonzero(mask)[:, 0] for name, mask in named.items()},
        name="ellipsoid",
    )


def ellipsoid(rings: int = 24, sectors: int = 32) -> torch.Tensor:
    """Vertices [V 3] of the resting shape, float64 metres: y up, face along +z."""
    return _directions(rings, sectors) * RADII


def ellipsoid_normals(vertices: torch.Tensor) -> torch.Tensor:
    """Exact unit normals of the resting ellipsoid."""
    return torch.nn.functional.normalize(vertices / RADII**2, dim=-1)


def _directions(rings: int, sectors: int) -> torch.Tensor:
    latitude = torch.linspace(-0.47, 0.47, rings, dtype=torch.float64) * math.pi
    # sector 0 is the back (-z); angles grow counter-clockwise seen from above
    longitude = torch.arange(sectors, dtype=torch.float64) / sectors * 2 * math.pi + math.pi
    lat, lon = torch.meshgrid(latitude, longitude, indexing="ij")
    point = [lat.cos() * lon.sin(), lat.sin(), lat.cos() * lon.cos()]
    return torch.stack(point, -1).reshape(-1, 3)


def performance(frames: int = 6, rings: int = 24, sectors: int = 32) -> torch.Tensor:
    """True vertices [T V 3]: the lower face opens and closes smoothly."""
    rest = ellipsoid(rings, sectors)
    lower = torch.exp(-((rest - torch.tensor([0.0, -0.05, 0.08])) ** 2).sum(-1) / 0.03**2)
    opening = torch.tensor([math.sin(0.5 * t) for t in range(frames)], dtype=torch.float64)
    move = torch.tensor([0.0, -0.012, 0.002], dtype=torch.float64)
    return rest + opening[:, None, None] * lower[:, None] * move


def striped_texture(size: int = 128) -> np.ndarray:
    """A picture [S S 3] uint8 whose left, right, top and bottom differ."""
    v, u = np.mgrid[0:size, 0:size] / size
    picture = np.stack([0.45 + 0.3 * u, 0.4 + 0.1 * np.sin(24 * v), 0.3 + 0.4 * v], -1)
    return (picture * 255).astype(np.uint8)


def write_planted_run(
    folder: Path, tracked: torch.Tensor, topology: Topology, **config: object
) -> Path:
    """A run folder as `topohead capture` leaves it, holding these vertices [T V 3]."""
    run = folder / "run"
    first = run / "frames" / "000001"
    first.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"verb": "capture", "topohead": "0.1.0"}))
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"stage": "first", "seconds": 4.0}]
    for t, vertices in enumerate(tracked.float()):
        name = f"{t + 1:06d}"
        frame = run / "frames" / name
        write_obj(Mesh(topology, vertices), frame / "mesh.obj")
        state = {"vertices": vertices.contiguous(), "pose": torch.eye(4), "gains": torch.ones(3, 3)}
        save_file(state, frame / "state.safetensors")
        rows += [
            {"stage": "coarse", "frame": name, "seconds": 0.5 + 0.5 * (t == 0),
             "residual": 0.01 + 0.001 * t, "doubtful": t == 3}
        ]  # fmt: skip
    Image.fromarray(striped_texture()).save(first / "texture_srgb.png")
    if "source" in config:
        write_rig(planted_rig(), run / "cameras.json")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def write_planted_truth(folder: Path, truth: torch.Tensor, topology: Topology) -> Path:
    """A truth folder as `topohead stage` leaves it; its surface is the head itself."""
    path = folder / "truth"
    (path / "frames").mkdir(parents=True)
    write_obj(Mesh(topology, truth[0].float()), path / "mesh.obj")
    write_obj(Mesh(topology, truth[0].float()), path / "surface.obj")
    regions = {name: index.tolist() for name, index in topology.regions.items()}
    (path / "regions.json").write_text(json.dumps(regions))
    for t, vertices in enumerate(truth.float().contiguous()):
        state = {"vertices": vertices, "surface": vertices.clone(), "pose": torch.eye(4)}
        save_file(state, path / "frames" / f"{t + 1:06d}.safetensors")
    Image.fromarray(striped_texture()).save(path / "lit_srgb.png")
    return path


CAMERA_YAWS = {"left": -0.5, "middle": 0.0, "right": 0.5, "spare": 0.25}


def planted_rig(size: tuple[int, int] = (160, 200)) -> Rig:
    """Four cameras around the front, the third mounted on its side."""
    poses, intrinsics, sizes = [], [], []
    for yaw in CAMERA_YAWS.values():
        pose, matrix = portrait_camera(ellipsoid(), size, yaw=yaw, margin=1.3)
        poses.append(pose)
        intrinsics.append(matrix)
        sizes.append(torch.tensor(size))
    cameras = Cameras(
        tuple(CAMERA_YAWS), torch.stack(poses), torch.stack(intrinsics), torch.stack(sizes)
    )
    return turned(Rig(cameras, (Distortion(),) * len(cameras)), [0, 0, 1, 0])


def write_planted_take(
    folder: Path,
    truth: torch.Tensor,
    topology: Topology,
    textures: Sequence[np.ndarray] | None = None,
) -> Path:
    """A take in our layout: pictures of the textured truth through `planted_rig`.

    `textures` are uint8, one a frame; without them all frames have the stripes.
    """
    rig = planted_rig()
    write_rig(rig, folder / "cameras.json")
    for t, vertices in enumerate(truth):
        codes = striped_texture() if textures is None else textures[t]
        texture = torch.from_numpy(codes / np.float32(255))
        for index, name in enumerate(rig.cameras.names):
            picture = render_mesh(
                vertices, topology, texture, rig.cameras.world_to_camera[index],
                rig.cameras.intrinsics[index], rig.cameras.size(index), shading="texture",
                background=(0.1, 0.1, 0.1),
            )  # fmt: skip
            write_image(folder / "frames" / f"{t + 1:06d}" / f"{name}.png", picture)
    return folder
