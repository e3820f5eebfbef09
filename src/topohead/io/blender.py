"""FBX and Alembic through Blender, which runs in a process of its own (its module is GPL)."""

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import ARKIT_52, InputError, Topology
from topohead.geometry.placement import Axis, placement
from topohead.geometry.skinning import RigPerformance

WORKER = Path(__file__).with_name("blender_worker.py")
MISSING = (
    "FBX and Alembic need Blender: give --blender the program, or the Python of an environment of "
    "its own with bpy (python3.11 -m venv blender && blender/bin/pip install bpy)"
)


@dataclass(frozen=True)
class BlenderFile:
    """What is written where: axes and unit as in `geometry.placement`, frame numbers, rate."""

    to: Literal["fbx", "abc"]
    path: Path
    name: str
    axis: Axis
    meters: float
    frames_per_second: float
    numbers: tuple[int, ...]
    texture: Path | None = None


def find_blender(given: Path | None) -> list[str]:
    """The command that runs a script in Blender: a program, or a Python that has bpy.

    Looked for in `given`, TOPOHEAD_BLENDER, this interpreter, and on the PATH.
    """
    chosen = given or os.environ.get("TOPOHEAD_BLENDER")
    if chosen:
        found = shutil.which(str(chosen))
        if found is None:
            raise InputError(f"--blender {chosen} is no program; {MISSING}")
        return _command(found)
    if importlib.util.find_spec("bpy") is not None:
        return [sys.executable]
    found = shutil.which("blender")
    if found is None:
        raise InputError(MISSING)
    return _command(found)


def _command(program: str) -> list[str]:
    if "python" in Path(program).name:
        return [program]
    return [
        program, "--background", "--factory-startup", "--python-exit-code", "1",
        "--python",
    ]  # fmt: skip


def _turned(file: BlenderFile) -> Any:
    """From the file's axes to those in which Blender must see the data to write them.

    Blender writes Alembic as y up whatever it is told, and turns what it takes for z up; FBX says
    its up axis, so z-up data pass as they are.
    """
    stays = file.to == "fbx" and file.axis == "z-up"
    return placement(None, "y-up" if stays else "z-up")


def write_rig_fbx(
    file: BlenderFile, played: RigPerformance, folder: Path, command: Sequence[str]
) -> None:
    """A rig that stands in the file's axes and unit: mesh, ARKit shape keys, joints, motion."""
    played = _turned(file).performance(played)
    rig = played.rig
    arrays = {
        "shapes": rig.blendshapes.float().numpy(),
        "weights": played.weights.float().numpy(),
        "share": rig.head_share.double().numpy(),
        "neck": rig.neck.double().numpy(),
        "head": rig.head.double().numpy(),
        "poses": played.poses.double().numpy(),
    }
    _run(file, rig.topology, rig.neutral, arrays, {"shape_names": list(ARKIT_52)}, folder, command)


def write_shapes_fbx(
    file: BlenderFile,
    topology: Topology,
    first: Float[Tensor, "V 3"],
    morphs: NDArray[np.float32],
    weights: NDArray[np.float32],
    folder: Path,
    command: Sequence[str],
) -> None:
    """A sequence as shape keys over its first frame, values frame by frame."""
    turn = _turned(file)
    arrays = {"shapes": turn.offsets(torch.from_numpy(morphs)).numpy(), "weights": weights}
    names = [f"offset_{k + 1:03d}" for k in range(len(morphs))]
    _run(file, topology, turn.points(first), arrays, {"shape_names": names}, folder, command)


def write_alembic(
    file: BlenderFile,
    topology: Topology,
    shapes: Iterator[Float[Tensor, "V 3"]],
    folder: Path,
    command: Sequence[str],
) -> None:
    """A sequence as Alembic, a sample a frame; the points pass through a file, frame by frame."""
    turn, cache = _turned(file), folder / "take.pc2"
    first = None
    with cache.open("wb") as stream:
        count = len(file.numbers)
        stream.write(
            struct.pack("<12siiffi", b"POINTCACHE2", 1, topology.vertex_count, 0, 1, count)
        )
        for points in shapes:
            turned = turn.points(points).float().contiguous()
            first = turned if first is None else first
            stream.write(turned.numpy().tobytes())
    assert first is not None, "a sequence has a frame"
    told = {"cache": str(cache)} if len(file.numbers) > 1 else {}
    _run(file, topology, first, {}, told, folder, command)


def _run(
    file: BlenderFile,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    arrays: dict[str, NDArray],
    more: dict[str, Any],
    folder: Path,
    command: Sequence[str],
) -> None:
    """Write the job into `folder` and have Blender do it."""
    everything: dict[str, Any] = arrays | {
        "vertices": vertices.float().numpy(),
        "faces": topology.faces.numpy(),
        "uv": topology.uv.float().numpy(),
        "face_uv": topology.face_uv.numpy(),
    }
    np.savez(folder / "head.npz", **everything)
    job = {
        "to": file.to,
        "out": str(file.path.resolve()),
        "name": file.name,
        "axis": file.axis,
        "meters": file.meters,
        "frames_per_second": file.frames_per_second,
        "numbers": list(file.numbers),
        "texture": None if file.texture is None else str(file.texture.resolve()),
        **more,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    words = [*command, str(WORKER), *(["--"] if len(command) > 1 else []), str(folder.resolve())]
    # Blender must find its own modules, not ours
    quiet = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode != 0 or not file.path.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise InputError(
            f"Blender ({command[0]}) wrote no {file.to}: {said}; is it Blender, or a Python with "
            "bpy, of version 4.2 or newer?"
        )
