"""OpenCV's FileStorage YAML (or XML): many cameras, a stereo pair, or one file a camera.

* many: a sequence `cameras`, each with `name`, `image_width`, `image_height`, `camera_matrix`,
  `distortion_coefficients`, the pose world → camera as `R` (matrix or Rodrigues vector) and `T`;
* stereo: `M1 D1 M2 D2` and `R T`, which carry the first camera's frame to the second's; in one file
  or in a pair such as `intrinsics.yml` and `extrinsics.yml`;
* a folder of CAM.yml, each with what an entry of `cameras` holds.

OpenCV's pixel centres are integers, ours half-integers: 0.5 is added to the principal point.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from topohead.core import Distortion, InputError, Rig
from topohead.io.atomic import atomic_write
from topohead.io.calibration.entries import (
    Entry,
    build_rig,
    metres_per_unit,
    opencv_coefficients,
    opencv_lens,
)

YAML_SUFFIXES = (".yml", ".yaml")
_MATRIX = ("camera_matrix", "cameraMatrix", "K", "M")
_LENS = ("distortion_coefficients", "dist_coeffs", "distCoeffs", "D")
_ROTATION = ("R", "rvec", "rotation", "Rot")
_TRANSLATION = ("T", "tvec", "translation", "t")
_PAIR = ("left", "right")
Look = Callable[..., Any]


def read_opencv(path: Path, units: str | None = None) -> Rig:
    """A rig from a file, or from a folder of files, metres; `units` are those of the board."""
    folder = path if path.is_dir() else path.parent
    beside = sorted(p for p in folder.iterdir() if p.suffix.lower() in YAML_SUFFIXES)
    files = [path] if path.is_file() else beside
    with _opened(files) as storages:
        look = _looker(storages)
        cameras = look(["cameras"])
        if cameras is not None:
            entries = [_camera(_looker([n]), None, path) for n in _items(cameras, path)]
        elif _is_stereo(look):
            entries = _stereo(look, path)
        elif path.is_file() and look(_MATRIX) is None:
            entries = _split_pair(path, beside)
        else:
            entries = [
                _camera(_looker([storage]), file.stem, file)
                for storage, file in zip(storages, files, strict=True)
            ]
    return build_rig(entries, metres_per_unit(units, path), path)


def _split_pair(path: Path, files: list[Path]) -> list[Entry]:
    """A stereo calibration whose other half is in another file beside this one."""
    with _opened(files) as storages:
        look = _looker(storages)
        if _is_stereo(look):
            return _stereo(look, path)
    raise InputError(
        f"{path} is half a stereo calibration; expected M1 D1 M2 D2 and R T, in it or beside it"
    )


def _is_stereo(look: Look) -> bool:
    needed = (_numbered(_MATRIX, 1), _numbered(_MATRIX, 2), _ROTATION, _TRANSLATION)
    return all(look(names) is not None for names in needed)


def _stereo(look: Look, path: Path) -> list[Entry]:
    """Two cameras: the first is the world, the second relative to it."""
    relative = _pose(look, f"{path}")
    return [
        _entry(
            str(look([f"name{n}"]) or _PAIR[n - 1]),
            look(_numbered(_MATRIX, n)),
            look(_numbered(_LENS, n)),
            _size(look, path),
            np.eye(4) if n == 1 else relative,
            look,
            path,
        )
        for n in (1, 2)
    ]


def _camera(look: Look, name: str | None, path: Path) -> Entry:
    name = str(look(["name"]) or name or "")
    if not name:
        raise InputError(f"{path}: an entry of 'cameras' has no 'name'")
    pose = _pose(look, f"{path}: camera {name!r}")
    return _entry(name, look(_MATRIX), look(_LENS), _size(look, path), pose, look, path)


def _entry(
    name: str, matrix: Any, lens: Any, size: tuple[int, int], pose: np.ndarray, look: Look,
    path: Path,
) -> Entry:  # fmt: skip
    where = f"{path}: camera {name!r}"
    if matrix is None or np.shape(matrix) != (3, 3):
        raise InputError(f"{where} needs a 3×3 camera_matrix")
    intrinsics = np.array(matrix, float)
    intrinsics[:2, 2] += 0.5
    numbers = [] if lens is None else np.asarray(lens, float).ravel().tolist()
    if look(["fisheye_model"]) or look(["distortion_model"]) == "fisheye":
        if len(numbers) != 4:
            raise InputError(f"{where}: a fisheye lens has 4 coefficients, got {len(numbers)}")
        return Entry(name, size, intrinsics, pose, Distortion("fisheye", tuple(numbers)))
    return Entry(name, size, intrinsics, pose, opencv_lens(numbers, where))


def _pose(look: Look, where: str) -> np.ndarray:
    rotation, translation = look(_ROTATION), look(_TRANSLATION)
    if rotation is None or translation is None:
        raise InputError(f"{where} has no pose; expected R (3×3 or Rodrigues vector) and T")
    rotation, translation = np.asarray(rotation, float), np.asarray(translation, float).ravel()
    if rotation.size == 3:
        rotation = cv2.Rodrigues(rotation.ravel())[0]
    if rotation.shape != (3, 3) or len(translation) != 3:
        raise InputError(f"{where}: expected R of 3×3 (or 3) and T of 3 numbers")
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _size(look: Look, path: Path) -> tuple[int, int]:
    whole = look(["image_size", "imageSize", "size"])
    if whole is not None:
        width, height = np.asarray(whole).ravel()[:2]
    else:
        width, height = look(["image_width", "width"]), look(["image_height", "height"])
    if width is None or height is None:
        raise InputError(f"{path} has no picture size; add image_width and image_height")
    return int(width), int(height)


def _numbered(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for name in names)


# --- FileStorage -------------------------------------------------------------------------------


@contextmanager
def _opened(paths: list[Path]) -> Iterator[list[cv2.FileStorage]]:
    storages: list[cv2.FileStorage] = []
    try:
        for path in paths:
            try:
                storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
            except (cv2.error, SystemError) as error:
                raise InputError(
                    f"{path} is no OpenCV storage (first line %YAML:1.0 expected)"
                ) from error
            if not storage.isOpened():
                raise InputError(f"{path} cannot be opened")
            storages.append(storage)
        yield storages
    finally:
        for storage in storages:
            storage.release()


def _looker(storages: list) -> Look:
    """look(names): the first value found under any of the names in any of the files or nodes."""

    def look(names: tuple[str, ...] | list[str]) -> Any:
        for storage in storages:
            for name in names:
                node = storage.getNode(name)
                if not node.empty() and not node.isNone():
                    return _value(node)
        return None

    return look


def _value(node: cv2.FileNode) -> Any:
    if node.isString():
        return node.string()
    if node.isInt() or node.isReal():
        return node.real()
    if node.isMap() and not node.getNode("data").empty():
        return node.mat()
    if node.isSeq() and node.size() and (node.at(0).isReal() or node.at(0).isInt()):
        return np.array([node.at(i).real() for i in range(node.size())])
    return node


def _items(node: Any, path: Path) -> list[cv2.FileNode]:
    if not isinstance(node, cv2.FileNode) or not node.isSeq():
        raise InputError(f"{path}: 'cameras' must be a sequence of cameras")
    return [node.at(i) for i in range(node.size())]


def write_opencv(rig: Rig, path: Path) -> None:
    """Writes all cameras into one file, poses world → camera."""
    if path.suffix.lower() not in YAML_SUFFIXES:
        raise InputError(f"{path} should end in .yml or .yaml")
    with atomic_write(path) as temporary:
        storage = cv2.FileStorage(str(temporary), cv2.FILE_STORAGE_WRITE)
        storage.startWriteStruct("cameras", cv2.FILE_NODE_SEQ)
        for index in range(len(rig.cameras)):
            _write_camera(storage, rig, index)
        storage.endWriteStruct()
        storage.release()


def _write_camera(storage: cv2.FileStorage, rig: Rig, index: int) -> None:
    name, lens = rig.cameras.names[index], rig.distortion[index]
    fisheye = lens.model == "fisheye"
    numbers = lens.coefficients if fisheye else opencv_coefficients(lens, f"camera {name!r}")
    matrix = rig.cameras.intrinsics[index].double().numpy().copy()
    matrix[:2, 2] -= 0.5
    pose = rig.cameras.world_to_camera[index].double().numpy()
    width, height = rig.cameras.size(index)
    storage.startWriteStruct("", cv2.FILE_NODE_MAP)
    storage.write("name", name)
    storage.write("image_width", width)
    storage.write("image_height", height)
    storage.write("fisheye_model", int(fisheye))
    storage.write("camera_matrix", matrix)
    storage.write("distortion_coefficients", np.array([numbers], float))
    storage.write("R", np.ascontiguousarray(pose[:3, :3]))
    storage.write("T", np.ascontiguousarray(pose[:3, 3:]))
    storage.endWriteStruct()
