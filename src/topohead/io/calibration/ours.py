"""`cameras.json`: OpenCV convention, one entry a camera, its unit inside the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from topohead.core import Distortion, InputError, Rig
from topohead.io.atomic import write_text
from topohead.io.calibration.entries import Entry, build_rig, metres_per_unit, opencv_lens

_MODELS = ("none", "brown", "rational", "fisheye")


def read_ours(path: Path, units: str | None = None) -> Rig:
    """A rig from `cameras.json`; `units` overrides the file's own when given."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(document, dict) or not isinstance(document.get("cameras"), dict):
        raise InputError(f"{path} has no object 'cameras' with an entry per camera")
    convention = document.get("convention", "opencv")
    if convention != "opencv":
        raise InputError(f"{path}: convention {convention!r} is unknown; expected 'opencv'")
    unit = units or document.get("units") or document.get("unit")
    scale = metres_per_unit(unit, path)
    centers = document.get("pixel_centers", "half-integer")
    if centers not in ("half-integer", "integer"):
        raise InputError(
            f"{path}: pixel_centers {centers!r} is unknown; expected 'half-integer' or 'integer'"
        )
    shift = 0.5 if centers == "integer" else 0.0
    shared = document.get("distortion_model")
    entries = [
        _entry(name, camera, shared, shift, path) for name, camera in document["cameras"].items()
    ]
    return build_rig(entries, scale, path)


def write_ours(
    rig: Rig, path: Path, units: str = "m", frames_per_second: float | None = None
) -> None:
    """Writes `cameras.json`, lengths in `units`, with the take's frame rate if it is known."""
    scale = metres_per_unit(units, path)
    cameras = {}
    for index, (name, lens) in enumerate(zip(rig.cameras.names, rig.distortion, strict=True)):
        pose = rig.cameras.world_to_camera[index].double().clone()
        pose[:3, 3] /= scale
        cameras[name] = {
            "size": list(rig.cameras.size(index)),
            "intrinsics": rig.cameras.intrinsics[index].double().tolist(),
            "world_to_camera": pose.tolist(),
            "distortion_model": lens.model,
            "distortion": list(lens.coefficients),
        }
    document = {
        "convention": "opencv",
        "units": units,
        "pixel_centers": "half-integer",
        **({} if frames_per_second is None else {"frames_per_second": frames_per_second}),
        "cameras": cameras,
    }
    write_text(path, json.dumps(document, indent=1) + "\n")


def _entry(name: str, camera: Any, shared: Any, shift: float, path: Path) -> Entry:
    missing = [k for k in ("size", "intrinsics", "world_to_camera") if k not in camera]
    if missing:
        raise InputError(f"{path}: camera {name!r} has no {missing[0]!r}")
    try:
        intrinsics = np.array(camera["intrinsics"], float).reshape(3, 3)
        pose = np.array(camera["world_to_camera"], float)
        pose = np.vstack([pose, [0, 0, 0, 1]]) if pose.shape == (3, 4) else pose.reshape(4, 4)
        width, height = (int(side) for side in camera["size"])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: camera {name!r} needs size [W, H], intrinsics 3×3, world_to_camera 4×4"
        ) from error
    intrinsics[:2, 2] += shift
    model = camera.get("distortion_model", shared)
    lens = _lens(model, camera.get("distortion", []), f"{path}: camera {name!r}")
    return Entry(name, (width, height), intrinsics, pose, lens)


def _lens(model: Any, values: list, where: str) -> Distortion:
    """A lens by model name, or by the list of its coefficients' names in the order given."""
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: distortion must be a list of numbers") from error
    if model is None or model == "none":
        if any(numbers):
            raise InputError(
                f"{where} has distortion {values} but no distortion_model; "
                f"expected one of {', '.join(_MODELS)}"
            )
        return Distortion()
    if isinstance(model, list):
        return _named_lens(model, numbers, where)
    if model in ("opencv", "radtan"):
        return opencv_lens(numbers, where)
    if model not in _MODELS:
        known = ", ".join(_MODELS)
        raise InputError(f"{where} has unknown lens model {model!r}; supported: {known}")
    try:
        return Distortion(model, tuple(numbers))
    except ValueError as error:  # a wrong number of coefficients
        raise InputError(f"{where}: {error}") from error


def _named_lens(names: list, numbers: list[float], where: str) -> Distortion:
    """Brown or rational coefficients in any order, each under its OpenCV name."""
    known = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
    unknown = [name for name in names if name not in known]
    if unknown or len(names) != len(numbers) or len(set(names)) != len(names):
        raise InputError(
            f"{where}: distortion_model lists {names} for {len(numbers)} coefficients; "
            f"expected one name each out of {', '.join(known)}"
        )
    value = dict(zip(names, numbers, strict=True))
    order = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    return opencv_lens([value.get(name, 0.0) for name in order], where)
