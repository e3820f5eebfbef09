"""Camera calibrations of several programs, read to and written from one `Rig` in metres."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from topohead.core import InputError, Rig
from topohead.io.calibration.colmap import find_model, read_colmap, write_colmap
from topohead.io.calibration.entries import METRES, metres_per_unit
from topohead.io.calibration.metashape import is_metashape, read_metashape, write_metashape
from topohead.io.calibration.nerfstudio import read_nerfstudio, write_nerfstudio
from topohead.io.calibration.opencv import YAML_SUFFIXES, read_opencv, write_opencv
from topohead.io.calibration.ours import read_ours, write_ours

__all__ = ["METRES", "Format", "find_calibration", "format_of", "read_rig", "write_rig"]

Format = Literal["ours", "metashape", "colmap", "nerfstudio", "opencv"]

_EXPECTED = (
    "expected cameras.json (ours), a Metashape XML, a COLMAP model, transforms.json (nerfstudio), "
    "or OpenCV YAML"
)


def read_rig(path: Path | str, units: str | None = None, *, component: str | None = None) -> Rig:
    """The rig of a calibration of any format, or of the one that a folder holds, in metres.

    `units` is mm, cm, m or a number of metres per unit; only our format carries its own, which
    `units` overrides. `component` chooses among several components of a Metashape file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no calibration at {path}; {_EXPECTED}")
    path = find_calibration(path) if path.is_dir() else path
    match format_of(path):
        case "ours":
            return read_ours(path, units)
        case "metashape":
            return read_metashape(path, units, component)
        case "colmap":
            return read_colmap(path if path.is_dir() else path.parent, units)
        case "nerfstudio":
            return read_nerfstudio(path, units)
        case "opencv":
            return read_opencv(path, units)


def write_rig(
    rig: Rig,
    path: Path | str,
    format: Format = "ours",
    units: Literal["mm", "cm", "m"] = "m",
    frames_per_second: float | None = None,
    suffix: str = ".png",
    points: Float[np.ndarray, "N 3"] | None = None,
) -> None:
    """Writes a rig, lengths in `units`; only our format says which, and the take's frame rate.

    `path` is a file, for COLMAP (text) a folder. What a format has no place for is an error. COLMAP
    and nerfstudio name a picture of every camera: CAM and `suffix`. `points` are for COLMAP, in the
    file's unit.
    """
    path = Path(path)
    if format == "ours":
        write_ours(rig, path, units, frames_per_second)
        return
    pose = rig.cameras.world_to_camera.clone()
    pose[:, :3, 3] /= metres_per_unit(units, path)
    rig = Rig(replace(rig.cameras, world_to_camera=pose), rig.distortion)
    match format:
        case "metashape":
            write_metashape(rig, path)
        case "colmap":
            write_colmap(rig, path, suffix=suffix, points=points)
        case "nerfstudio":
            write_nerfstudio(rig, path, suffix)
        case "opencv":
            write_opencv(rig, path)


def find_calibration(folder: Path) -> Path:
    """The one calibration in a take's folder: ours if there is one, else the only other."""
    if (folder / "cameras.json").is_file():
        return folder / "cameras.json"
    found = [p for p in (folder / "transforms.json", folder / "cameras.xml") if p.is_file()]
    if not any(p.suffix == ".xml" for p in found):
        found += [p for p in sorted(folder.glob("*.xml")) if is_metashape(p)]
    model = find_model(folder)
    found += [model] if model else []
    if any(p.suffix.lower() in YAML_SUFFIXES for p in folder.iterdir()):
        found.append(folder)
    if not found:
        raise InputError(f"no calibration in {folder}; {_EXPECTED}")
    if len(found) > 1:
        told = ", ".join(str(p.relative_to(folder)) for p in found)
        raise InputError(f"{folder} holds several calibrations ({told}); name one: --calibration")
    return found[0]


def format_of(path: Path) -> Format:
    """The format of a calibration file, or of a folder with a COLMAP model or OpenCV YAML."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return "colmap" if find_model(path) else "opencv"
    if suffix == ".json":
        return "nerfstudio" if _has_frames(path) else "ours"
    if suffix == ".xml":
        return "metashape" if is_metashape(path) else "opencv"
    if suffix in YAML_SUFFIXES:
        return "opencv"
    if path.stem in ("cameras", "images") and suffix in (".txt", ".bin"):
        return "colmap"
    raise InputError(f"{path} is no calibration that is known; {_EXPECTED}")


def _has_frames(path: Path) -> bool:
    try:
        return "frames" in json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from error
