"""Small things to look at: a run with errors and pictures, a rig, splats."""

import http.client
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from planted_run import (
    ellipsoid_topology,
    performance,
    planted_rig,
    write_planted_run,
    write_planted_take,
)
from topohead.geometry.skinning import RigPerformance, rigged
from topohead.io.assets import reference_head
from topohead.io.calibration import write_rig
from topohead.io.gltf_rig import write_rig_glb
from topohead.viewer.pages import Page
from topohead.viewer.server import SceneServer

PAGE_PARTS = Page(
    '<html><link rel="stylesheet" href="style.css">\n<script type="module" src="page.js"></script>',
    "b{}",
    "plain()",
    "splats()",
)
"""A page that shows nothing: what the server does needs no built one."""

FRAMES = 11  # a chunk and a bit
RATE = 12.5
SHIFT = (9, -6)  # pixels


def write_shown_run(folder: Path) -> Path:
    """A run of eleven frames with its take, per-vertex errors and one doubtful frame.

    Principal points are far off the pictures' centres: the planted pictures are shifted.
    """
    truth, topology = performance(FRAMES), ellipsoid_topology()
    take = write_planted_take(folder / "take", truth, topology)
    for path in take.glob("frames/*/*.png"):
        shifted = np.roll(np.asarray(Image.open(path)), (SHIFT[1], SHIFT[0]), (0, 1))
        Image.fromarray(shifted).save(path)
    run = write_planted_run(folder, truth, topology, source=str(take))
    rig = planted_rig()
    rig.cameras.intrinsics[:, :2, 2] += torch.tensor(SHIFT)
    write_rig(rig, take / "cameras.json", frames_per_second=RATE)
    write_rig(rig, run / "cameras.json")
    save_file(planted_errors(), run / "evaluation.safetensors")
    return run


def hide_frames(run: Path, kept: int) -> dict[Path, Path]:
    """Makes a run look as when it had `kept` frames; renaming the keys to the values undoes it."""
    (run / "run.json").write_text(json.dumps({"verb": "capture", "stages": ["track"]}))
    states = sorted(run.glob("frames/*/state.safetensors"))[kept:]
    hidden = {state.with_name("hidden"): state for state in states}
    for path, state in hidden.items():
        state.rename(path)
    return hidden


def planted_errors() -> dict[str, torch.Tensor]:
    """Errors of the face's vertices: frame t is t/10 mm off everywhere, one vertex unknown."""
    face = ellipsoid_topology().regions["face"]
    surface = torch.arange(FRAMES)[:, None].expand(-1, len(face)) / 10.0
    surface = surface.clone()
    surface[:, 0] = torch.nan
    return {"face_vertices": face, "surface_mm": surface.contiguous()}


def write_shown_rig(path: Path, frames: int = 4) -> Path:
    """The reference head at its coarsest; its animation closes the eyes."""
    head = reference_head(0)
    rig = rigged(head.topology, head.template, head.expression_basis, torch.eye(4))
    weights = torch.zeros(frames, 52)
    weights[:, [0, 7]] = torch.linspace(0, 1, frames)[:, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rig_glb(path, RigPerformance(rig, weights, poses, RATE))
    return path


def write_shown_splats(path: Path, count: int = 400) -> Path:
    """A red ball of Gaussians as 3DGS PLY."""
    points = np.random.default_rng(0).normal(size=(count, 3))
    points *= 0.1 / np.linalg.norm(points, axis=1, keepdims=True)
    colour = (np.array([0.9, 0.1, 0.1]) - 0.5) / 0.28209479
    rows = np.concatenate(
        [points, np.tile(colour, (count, 1)), np.full((count, 1), 4.0),
         np.full((count, 3), np.log(0.012)), np.tile([1.0, 0, 0, 0], (count, 1))], 1
    )  # fmt: skip
    names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    header = "".join(f"property float {name}\n" for name in names.split())
    start = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{header}end_header\n"
    path.write_bytes(start.encode() + rows.astype("<f4").tobytes())
    return path


def ask(
    server: SceneServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; `Range=...` and the like become headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.headers.items()), answer.read()
