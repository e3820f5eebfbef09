"""What all calibration readers share: one entry a camera, units, lenses, a rig that is checked."""

import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from topohead.core import Cameras, Distortion, InputError, Rig

log = logging.getLogger(__name__)

METRES = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}
"""Metres in one of each unit that a calibration may be in."""


@dataclass(frozen=True)
class Entry:
    """One calibrated camera as read: pixel centres at half-integers, lengths in the file's unit."""

    name: str
    size: tuple[int, int]
    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    lens: Distortion


def metres_per_unit(units: str | None, path: Path) -> float:
    """Metres in one unit of length of a calibration: mm, cm, m, or a number of metres.

    A number serves formats whose scale is free (COLMAP): `0.153` says one unit is 153 mm.
    """
    if units is None:
        raise InputError(f"{path} does not say its unit of length; add --units mm, cm or m")
    if units in METRES:
        return METRES[units]
    try:
        scale = float(units)
    except ValueError:
        scale = 0.0
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(
            f"unit {units!r} is unknown ({path}); expected mm, cm, m or metres per unit as a number"
        )
    return scale


def build_rig(entries: list[Entry], scale: float, path: Path) -> Rig:
    """The rig in metres; a camera that cannot be one is an error that names it."""
    if not entries:
        raise InputError(f"{path} holds no calibrated camera")
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} holds camera {twice[0]!r} twice; expected one pose a camera")
    for entry in entries:
        _check(entry, path)
    pose = torch.from_numpy(np.stack([entry.world_to_camera for entry in entries]).astype(float))
    pose[:, :3, 3] *= scale
    cameras = Cameras(
        tuple(names),
        pose,
        torch.from_numpy(np.stack([entry.intrinsics for entry in entries]).astype(float)),
        torch.tensor([entry.size for entry in entries]),
    )
    return Rig(cameras, tuple(entry.lens for entry in entries))


def _check(entry: Entry, path: Path) -> None:
    where = f"{path}: camera {entry.name!r}"
    numbers = np.concatenate(
        [entry.intrinsics.ravel(), entry.world_to_camera.ravel(), entry.lens.coefficients]
    )
    if not np.isfinite(numbers).all():
        raise InputError(f"{where} holds a number that is not finite")
    if min(entry.size) <= 0:
        raise InputError(f"{where} has size {entry.size}; expected width and height above zero")
    fx, fy = entry.intrinsics[0, 0], entry.intrinsics[1, 1]
    if min(fx, fy) <= 0:
        raise InputError(f"{where} has focal lengths {fx:g}, {fy:g}; expected above zero")
    lower = [entry.intrinsics[1, 0], *entry.intrinsics[2] - (0, 0, 1)]
    if np.abs(lower).max() > 1e-9 * fx:
        raise InputError(f"{where} has intrinsics that are not upper triangular")
    rotation = entry.world_to_camera[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(rotation) < 0:
        raise InputError(
            f"{where} has a pose whose 3×3 part is no rotation "
            f"(off by {error:.2g}, determinant {np.linalg.det(rotation):.3g})"
        )
    x, y = entry.intrinsics[0, 2] / entry.size[0], entry.intrinsics[1, 2] / entry.size[1]
    if not (-1 < x < 2 and -1 < y < 2):
        raise InputError(
            f"{where} has its principal point at ({x:.2g}, {y:.2g}) of an image of {entry.size}; "
            "are size and intrinsics in the same pixels?"
        )


def opencv_lens(numbers: list[float], where: str) -> Distortion:
    """A lens from OpenCV's vector k1 k2 p1 p2 [k3 [k4 k5 k6]]; longer ones must end in zeros."""
    if len(numbers) not in (0, 1, 2, 3, 4, 5, 8, 12, 14):
        raise InputError(f"{where}: {len(numbers)} OpenCV coefficients; expected 4, 5 or 8")
    if any(numbers[8:]):
        raise InputError(f"{where}: thin-prism and tilt coefficients are not supported")
    k1, k2, p1, p2, k3, k4, k5, k6 = (list(numbers) + [0.0] * 8)[:8]
    if k4 or k5 or k6:
        return Distortion("rational", (k1, k2, p1, p2, k3, k4, k5, k6))
    if not any(numbers):
        return Distortion()
    return Distortion("brown", (k1, k2, k3, 0.0, p1, p2))


def opencv_coefficients(lens: Distortion, where: str) -> list[float]:
    """OpenCV's vector of a lens that is not a fisheye; the inverse of `opencv_lens`."""
    if lens.model == "none":
        return [0.0] * 5
    if lens.model == "rational":
        return list(lens.coefficients)
    if lens.model == "brown":
        k1, k2, k3, k4, p1, p2 = lens.coefficients
        if k4:
            raise InputError(f"{where}: this format has no place for k4 = {k4:g}")
        return [k1, k2, p1, p2, k3]
    raise InputError(f"{where}: lens model '{lens.model}' has no OpenCV vector of this kind")


def name_cameras(pictures: list[str], poses: list[np.ndarray], path: Path) -> list[tuple[str, int]]:
    """Camera names and, for each, one of its pictures, from formats that calibrate pictures.

    A camera is called like its picture (000001/CAM.jpg) or like the folder (CAM/000001.jpg):
    whichever gives every camera one pose.
    """
    for called in (_stem, _folder):
        first: dict[str, int] = {}
        for index, picture in enumerate(pictures):
            first.setdefault(called(picture), index)
        agree = all(
            np.allclose(poses[first[called(picture)]], pose, rtol=1e-6, atol=1e-6)
            for picture, pose in zip(pictures, poses, strict=True)
        )
        if agree and "" not in first:
            return list(first.items())
    raise InputError(
        f"{path} gives a camera several poses; expected one pose a camera of pictures named "
        "000001/CAM.jpg or CAM/000001.jpg: calibrate with the cameras held fixed"
    )


def _stem(picture: str) -> str:
    return PurePosixPath(picture.replace("\\", "/")).stem


def _folder(picture: str) -> str:
    return PurePosixPath(picture.replace("\\", "/")).parent.name
