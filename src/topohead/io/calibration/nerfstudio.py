"""nerfstudio's `transforms.json`: camera → world, OpenGL camera axes, a world that was moved."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topohead.core import Distortion, InputError, Rig
from topohead.io.atomic import write_text
from topohead.io.calibration.entries import Entry, build_rig, metres_per_unit, name_cameras

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's y up, z back ↔ OpenCV's y down, z forward
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE",)
_LENS = ("k1", "k2", "k3", "k4", "p1", "p2")


def read_nerfstudio(path: Path, units: str | None = None) -> Rig:
    """A rig in the world before `applied_transform` and `applied_scale`, metres."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} has no list 'frames' with an entry per picture")
    scale = metres_per_unit(units, path)
    paths = [str(frame.get("file_path", "")) for frame in frames]
    poses = [
        _pose(frame, document, f"{path}: frame {name!r}")
        for frame, name in zip(frames, paths, strict=True)
    ]
    entries = []
    for name, index in name_cameras(paths, poses, path):
        size, intrinsics, lens = _intrinsics({**document, **frames[index]}, f"{path}: {name!r}")
        entries.append(Entry(name, size, intrinsics, poses[index], lens))
    return build_rig(entries, scale, path)


def _pose(frame: dict, document: dict, where: str) -> np.ndarray:
    """world → camera in OpenCV axes, in the world before nerfstudio moved it."""
    matrix = _matrix(frame.get("transform_matrix"), where, "transform_matrix")
    applied = document.get("applied_transform")
    moved = np.eye(4) if applied is None else _matrix(applied, where, "applied_transform")
    matrix[:3, 3] /= float(document.get("applied_scale", 1.0))
    to_world = np.linalg.inv(moved) @ matrix @ _FLIP
    return np.linalg.inv(to_world)


def _matrix(value: Any, where: str, name: str) -> np.ndarray:
    try:
        matrix = np.array(value, float)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(f"{where} needs a {name} of 4×4 (or 3×4) numbers")
    return np.vstack([matrix, [0, 0, 0, 1]]) if len(matrix) == 3 else matrix


def _intrinsics(values: dict, where: str) -> tuple[tuple[int, int], np.ndarray, Distortion]:
    """Size, matrix and lens from a frame's own values over the file's."""
    if "w" not in values or "h" not in values:
        raise InputError(f"{where} has no picture size; expected 'w' and 'h'")
    width, height = int(values["w"]), int(values["h"])
    fx = values.get("fl_x")
    if fx is None and "camera_angle_x" in values:
        fx = 0.5 * width / math.tan(0.5 * float(values["camera_angle_x"]))
    if fx is None:
        raise InputError(f"{where} has no focal length; expected 'fl_x' or 'camera_angle_x'")
    fx, fy = float(fx), float(values.get("fl_y", fx))
    cx, cy = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return (width, height), matrix, _lens(values, where)


def _lens(values: dict, where: str) -> Distortion:
    model = str(values.get("camera_model", "OPENCV")).upper()
    if model not in (*_PERSPECTIVE, *_FISHEYE):
        supported = ", ".join((*_PERSPECTIVE, *_FISHEYE))
        raise InputError(f"{where} has lens model {model!r}; supported: {supported}")
    if any(float(values.get(name, 0)) for name in ("k5", "k6")):
        raise InputError(f"{where} has k5 or k6; nerfstudio's lens ends at k4")
    numbers = tuple(float(values.get(name, 0)) for name in _LENS)
    if model in _FISHEYE:
        return Distortion("fisheye", numbers[:4])
    return Distortion("brown", numbers) if any(numbers) else Distortion()


def write_nerfstudio(rig: Rig, path: Path, suffix: str = ".png") -> None:
    """Writes `transforms.json` with each picture's own intrinsics; pictures are images/CAM.png."""
    models = {"OPENCV_FISHEYE" if d.model == "fisheye" else "OPENCV" for d in rig.distortion}
    if len(models) > 1:
        raise InputError("transforms.json holds one lens model; fisheye and others do not mix")
    frames = []
    for index, (name, lens) in enumerate(zip(rig.cameras.names, rig.distortion, strict=True)):
        (fx, skew, cx), (_, fy, cy) = rig.cameras.intrinsics[index, :2].double().tolist()
        if skew:
            raise InputError(f"camera {name!r}: transforms.json has no place for skew {skew:g}")
        if lens.model == "rational":
            raise InputError(f"camera {name!r}: transforms.json has no rational lens")
        width, height = rig.cameras.size(index)
        to_world = torch.linalg.inv(rig.cameras.world_to_camera[index].double()).numpy() @ _FLIP
        frames.append(
            {
                "file_path": f"images/{name}{suffix}",
                "transform_matrix": to_world.tolist(),
                **{"w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy},
                **dict(zip(_LENS, lens.coefficients, strict=False)),
            }
        )
    document = {"camera_model": models.pop(), "frames": frames}
    write_text(path, json.dumps(document, indent=1) + "\n")
