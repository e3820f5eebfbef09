"""COLMAP models, text and binary: `cameras`, `images`, and from 3.12 on `rigs`.

COLMAP's axes, pixel centres and quaternions (wxyz, world → camera) are ours; its scale is free.
File layout: COLMAP documentation, "Output Format".
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from topohead.core import Distortion, InputError, Rig
from topohead.io.atomic import atomic_write, write_text
from topohead.io.calibration.entries import Entry, build_rig, metres_per_unit, name_cameras

_MODELS: dict[str, tuple[int, int]] = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
}
"""Number and parameter count of each supported lens model."""

_OTHER_COUNTS = {7: 5, 8: 4, 9: 5, 10: 12, 11: 16}
"""Parameter counts of unsupported models, so that reading can go past an unused one."""

_POINT_GREY = 128
_CAMERA_SENSOR = 0  # COLMAP's number for a camera among the kinds of sensor


@dataclass(frozen=True)
class _Camera:
    model: str
    size: tuple[int, int]
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    world_to_camera: np.ndarray


def find_model(folder: Path) -> Path | None:
    """The folder of a COLMAP model in or under a project's folder."""
    for inner in ("", "sparse/0", "sparse", "colmap/sparse/0"):
        place = folder / inner
        for suffix in (".bin", ".txt"):
            if all((place / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
                return place
    return None


def read_colmap(folder: Path, units: str | None = None) -> Rig:
    """One pose a camera from a model's folder, metres.

    Pictures of one camera must agree on its pose. Where they do not, because every instant placed
    the whole rig anew, the poses within COLMAP's rig are taken and the rig's frame is the world.
    """
    binary = (folder / "images.bin").is_file() and (folder / "cameras.bin").is_file()
    try:
        cameras = _cameras_binary(folder) if binary else _cameras_text(folder)
        images = _images_binary(folder) if binary else _images_text(folder)
        rig = _rig_poses(folder, binary)
    except (OSError, ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise InputError(f"COLMAP model in {folder} cannot be read ({error})") from error
    scale = metres_per_unit(units, folder)
    names = [image.name for image in images]
    if not images:
        raise InputError(f"COLMAP model in {folder} has no registered picture")
    try:
        named = name_cameras(names, [image.world_to_camera for image in images], folder)
        poses = [image.world_to_camera for image in images]
    except InputError:
        if not rig or any(image.camera not in rig for image in images):
            raise
        poses = [rig[image.camera] for image in images]
        named = name_cameras(names, poses, folder)
    entries = []
    for name, index in named:
        camera = cameras.get(images[index].camera)
        where = f"{folder}: camera {name!r}"
        if camera is None:
            raise InputError(f"{where} refers to a camera that the model does not hold")
        matrix, lens = _intrinsics(camera, where)
        entries.append(Entry(name, camera.size, matrix, poses[index], lens))
    return build_rig(entries, scale, folder)


def _intrinsics(camera: _Camera, where: str) -> tuple[np.ndarray, Distortion]:
    if camera.model not in _MODELS:
        raise InputError(f"{where} has lens model {camera.model}; supported: {', '.join(_MODELS)}")
    numbers = camera.numbers
    if camera.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        numbers = (numbers[0], *numbers)
    fx, fy, cx, cy, *lens = numbers
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if camera.model == "OPENCV_FISHEYE":
        return matrix, Distortion("fisheye", tuple(lens))
    if not any(lens):
        return matrix, Distortion()
    if camera.model == "FULL_OPENCV":
        k1, k2, p1, p2, k3, *above = lens
        if any(above):
            return matrix, Distortion("rational", tuple(lens))
        return matrix, Distortion("brown", (k1, k2, k3, 0.0, p1, p2))
    k1, k2, p1, p2 = (*lens, 0.0, 0.0, 0.0)[:4]
    return matrix, Distortion("brown", (k1, k2, 0.0, 0.0, p1, p2))


def _pose(numbers: tuple[float, ...]) -> np.ndarray:
    """4×4 of a quaternion wxyz and a translation."""
    w, x, y, z = np.array(numbers[:4]) / np.linalg.norm(numbers[:4])
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = numbers[4:7]
    return pose


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """wxyz of a rotation matrix, exact to rounding (eigenvector form, Bar-Itzhack 2000)."""
    r = rotation
    symmetric = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    x, y, z, w = np.linalg.eigh(symmetric)[1][:, -1]
    return np.array([w, x, y, z]) * (1.0 if w >= 0 else -1.0)


# --- text --------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    return [line for line in text.splitlines() if not line.startswith("#")]


def _cameras_text(folder: Path) -> dict[int, _Camera]:
    cameras = {}
    for line in _lines(folder / "cameras.txt"):
        if line.strip():
            number, model, width, height, *rest = line.split()
            numbers = tuple(float(value) for value in rest)
            expected = _MODELS.get(model, (0, len(numbers)))[1]
            if len(numbers) != expected:
                raise ValueError(f"camera {number}: {model} takes {expected} parameters")
            cameras[int(number)] = _Camera(model, (int(width), int(height)), numbers)
    return cameras


def _images_text(folder: Path) -> list[_Image]:
    images = []
    lines = iter(_lines(folder / "images.txt"))
    for line in lines:
        if not line.strip():
            continue
        _, *pose, camera, name = line.split(maxsplit=9)
        images.append(_Image(name.strip(), int(camera), _pose(tuple(float(v) for v in pose))))
        next(lines, None)  # the picture's points, perhaps an empty line
    return images


def _rig_poses(folder: Path, binary: bool) -> dict[int, np.ndarray]:
    """Pose rig → camera by camera number, of the model's only rig; empty if there is none."""
    path = folder / ("rigs.bin" if binary else "rigs.txt")
    if not path.is_file():
        return {}
    rigs = _rigs_binary(path) if binary else _rigs_text(path)
    return rigs[0] if len(rigs) == 1 else {}


def _rigs_text(path: Path) -> list[dict[int, np.ndarray]]:
    rigs = []
    for line in _lines(path):
        parts = line.split()
        if not parts:
            continue
        poses = {int(parts[3]): np.eye(4)} if int(parts[1]) else {}
        at = 4
        while at < len(parts):
            kind, sensor, has_pose = parts[at], int(parts[at + 1]), parts[at + 2] == "1"
            at += 3
            if has_pose:
                if kind == "CAMERA":
                    poses[sensor] = _pose(tuple(float(v) for v in parts[at : at + 7]))
                at += 7
        rigs.append(poses)
    return rigs


# --- binary ------------------------------------------------------------------------------------


class _Bytes:
    """Little-endian values of a file, one after the other."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def name(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text


def _cameras_binary(folder: Path) -> dict[int, _Camera]:
    file = _Bytes(folder / "cameras.bin")
    names = {number: (name, count) for name, (number, count) in _MODELS.items()}
    cameras = {}
    for _ in range(file.take("Q")[0]):
        number, model, width, height = file.take("IiQQ")
        if model not in names and model not in _OTHER_COUNTS:
            raise ValueError(f"camera {number} has unknown lens model number {model}")
        name, count = names.get(model) or (f"number {model}", _OTHER_COUNTS[model])
        cameras[number] = _Camera(name, (width, height), file.take(f"{count}d"))
    return cameras


def _images_binary(folder: Path) -> list[_Image]:
    file = _Bytes(folder / "images.bin")
    images = []
    for _ in range(file.take("Q")[0]):
        _, *pose, camera = file.take("I7dI")
        name = file.name()
        (points,) = file.take("Q")
        file.at += 24 * points  # x, y, number of the 3D point
        images.append(_Image(name, camera, _pose(tuple(pose))))
    return images


def _rigs_binary(path: Path) -> list[dict[int, np.ndarray]]:
    file = _Bytes(path)
    rigs = []
    for _ in range(file.take("Q")[0]):
        _, sensors = file.take("II")
        poses: dict[int, np.ndarray] = {}
        for place in range(sensors):
            kind, sensor = file.take("iI")
            has_pose = place > 0 and file.take("B")[0]
            pose = _pose(file.take("7d")) if has_pose else np.eye(4)
            if kind == _CAMERA_SENSOR and (place == 0 or has_pose):
                poses[sensor] = pose
        rigs.append(poses)
    return rigs


# --- writing -----------------------------------------------------------------------------------


def write_colmap(
    rig: Rig,
    folder: Path,
    binary: bool = False,
    suffix: str = ".png",
    points: Float[np.ndarray, "N 3"] | None = None,
) -> None:
    """Writes `cameras`, `images` and `points3D`; pictures are named CAM.png.

    `points` are grey and belong to no picture; without them `points3D` is empty.
    """
    cameras = [_to_colmap(rig, index) for index in range(len(rig.cameras))]
    poses = []
    for pose in rig.cameras.world_to_camera.double().numpy():
        poses.append((*_quaternion(pose[:3, :3]).tolist(), *pose[:3, 3].tolist()))
    pictures = [f"{name}{suffix}" for name in rig.cameras.names]
    write = _write_binary if binary else _write_text
    cloud = np.zeros((0, 3)) if points is None else points
    write(folder, cameras, list(zip(pictures, poses, strict=True)), cloud)


def _to_colmap(rig: Rig, index: int) -> _Camera:
    lens, where = rig.distortion[index], f"camera {rig.cameras.names[index]!r}"
    (fx, skew, cx), (_, fy, cy) = rig.cameras.intrinsics[index, :2].double().tolist()
    if skew:
        raise InputError(f"{where}: COLMAP has no place for skew {skew:g}")
    model, numbers = "PINHOLE", ()
    if lens.model == "fisheye":
        model, numbers = "OPENCV_FISHEYE", lens.coefficients
    elif lens.model == "rational":
        model, numbers = "FULL_OPENCV", lens.coefficients
    elif lens.model == "brown":
        k1, k2, k3, k4, p1, p2 = lens.coefficients
        if k4:
            raise InputError(f"{where}: COLMAP has no place for k4 = {k4:g}")
        model = "FULL_OPENCV" if k3 else "OPENCV"
        numbers = (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0) if k3 else (k1, k2, p1, p2)
    return _Camera(model, rig.cameras.size(index), (fx, fy, cx, cy, *numbers))


def _write_text(
    folder: Path, cameras: list[_Camera], images: list, points: Float[np.ndarray, "N 3"]
) -> None:
    rows = [
        f"{n} {c.model} {c.size[0]} {c.size[1]} {' '.join(repr(v) for v in c.numbers)}"
        for n, c in enumerate(cameras, 1)
    ]
    write_text(folder / "cameras.txt", "\n".join(rows) + "\n")
    rows = [
        f"{n} {' '.join(repr(v) for v in pose)} {n} {name}\n"
        for n, (name, pose) in enumerate(images, 1)
    ]
    write_text(folder / "images.txt", "\n".join(rows) + "\n")
    grey = " ".join([str(_POINT_GREY)] * 3)
    rows = [f"{n} {x!r} {y!r} {z!r} {grey} -1\n" for n, (x, y, z) in enumerate(points.tolist(), 1)]
    write_text(folder / "points3D.txt", "".join(rows))


def _write_binary(
    folder: Path, cameras: list[_Camera], images: list, points: Float[np.ndarray, "N 3"]
) -> None:
    parts = [struct.pack("<Q", len(cameras))]
    for number, camera in enumerate(cameras, 1):
        parts.append(struct.pack("<IiQQ", number, _MODELS[camera.model][0], *camera.size))
        parts.append(struct.pack(f"<{len(camera.numbers)}d", *camera.numbers))
    _write_bytes(folder / "cameras.bin", parts)
    parts = [struct.pack("<Q", len(images))]
    for number, (name, pose) in enumerate(images, 1):
        parts.append(struct.pack("<I7dI", number, *pose, number))
        parts.append(name.encode() + b"\0" + struct.pack("<Q", 0))
    _write_bytes(folder / "images.bin", parts)
    parts = [struct.pack("<Q", len(points))]
    for number, point in enumerate(points.tolist(), 1):
        parts.append(struct.pack("<Q3d3BdQ", number, *point, *[_POINT_GREY] * 3, -1.0, 0))
    _write_bytes(folder / "points3D.bin", parts)


def _write_bytes(path: Path, parts: list[bytes]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"".join(parts))
