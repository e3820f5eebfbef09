"""Landmark files: iBUG-68 pixels of the stored pictures, by frame and camera."""

import json
from collections.abc import Sequence
from pathlib import Path

from topohead.core import InputError, Rig
from topohead.io.agreement import listed
from topohead.io.layouts import Layout

Landmarks = dict[str, dict[str, dict[int, tuple[float, float]]]]


def read_landmarks(path: Path, first_frame: str) -> Landmarks:
    """iBUG-68 pixels by frame, camera and index, from JSON nested that way.

    A file without the frame level, {camera: {index: [x, y]}}, speaks of `first_frame`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"landmarks {path} are not readable JSON ({error})") from error
    try:
        flat = any(isinstance(p, list) for camera in document.values() for p in camera.values())
        by_frame = {first_frame: document} if flat else document
        return {
            frame: {
                camera: {int(i): (float(x), float(y)) for i, (x, y) in points.items()}
                for camera, points in cameras.items()
            }
            for frame, cameras in by_frame.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"landmarks {path} are not {{frame: {{camera: {{index: [x, y]}}}}}} ({error})"
        ) from error


def landmarks_of(
    layout: Layout, given: Path | str | None, frames: Sequence[str], stored: Rig, final: Rig
) -> Landmarks | None:
    """Landmarks of the chosen frames and of the rig's cameras, or None without a file.

    The file speaks of pictures at the size of `stored`; the answer is in pixels of `final`.
    """
    path = Path(given) if given is not None else layout.landmarks
    if path is None:
        return None
    known = sorted(layout.pictures.cameras(layout.pictures.frames))
    kept: Landmarks = {}
    for frame, cameras in read_landmarks(path, layout.pictures.frames[0]).items():
        for camera, points in cameras.items():
            if camera not in known:
                told = listed(known)
                raise InputError(f"landmarks {path} name camera {camera!r}; there are {told}")
            if frame in frames and camera in stored.cameras.names:
                index = stored.cameras.names.index(camera)
                size = stored.cameras.size(index)
                _check(points, size, f"landmarks {path}: camera {camera!r}")
                u, v = (final.cameras.sizes[index] / stored.cameras.sizes[index]).tolist()
                scaled = {i: (x * u, y * v) for i, (x, y) in points.items()}
                kept.setdefault(frame, {})[camera] = scaled
    return kept


def _check(points: dict[int, tuple[float, float]], size: tuple[int, int], where: str) -> None:
    """Indices of the 68, and pixels that may lie somewhat outside the picture, not far."""
    width, height = size
    for index, (x, y) in points.items():
        if not 0 <= index < 68:
            raise InputError(f"{where} has index {index}; expected iBUG's 0 to 67")
        if not (-width < x < 2 * width and -height < y < 2 * height):
            raise InputError(
                f"{where} has point {index} at ({x:g}, {y:g}), far outside its {width}×{height} "
                "picture; expected pixels of the stored picture"
            )
