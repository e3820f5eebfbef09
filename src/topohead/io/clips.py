"""Clips as animation.npz: what an avatar plays and the camera that looks on, CAP4D's names.

Arrays `extr`, `fx`, `fy`, `cx`, `cy`, `resolution` (height, width) and `fps` are those of CAP4D's
orbit.npz (Taubner et al. 2025): cameras in a world with OpenCV's axes, y down; so a clip's camera
may serve another one.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, InputError
from topohead.io.atomic import atomic_write

CLIP = "animation.npz"
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""Between y up with the face along +z and OpenCV's axes."""

DEFAULT_RATE = 24.0
_LENS = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True)
class CameraPath:
    """A pinhole camera over N frames, its world y up: metres, pixels, size (width, height)."""

    world_to_camera: Float[Tensor, "N 4 4"]
    intrinsics: Float[Tensor, "N 3 3"]
    size: tuple[int, int]
    frames_per_second: float


@dataclass(frozen=True)
class Clip:
    """What an avatar plays: ARKit-52 weights, gaze and head poses; `avatar` is its folder."""

    avatar: Path
    topology: str
    weights: Float[Tensor, "T 52"]
    gaze: Float[Tensor, "T 2 2"]
    poses: Float[Tensor, "T 4 4"]
    camera: CameraPath

    @property
    def frames_per_second(self) -> float:
        return self.camera.frames_per_second


def write_clip(path: Path, clip: Clip) -> None:
    """Write a clip; the avatar's folder is told as it stands on this disk."""
    camera = clip.camera
    lens = camera.intrinsics.double()
    values = (lens[:, 0, 0], lens[:, 1, 1], lens[:, 0, 2], lens[:, 1, 2])
    arrays: dict[str, Any] = {
        "avatar": np.array(str(clip.avatar.resolve())),
        "topology_hash": np.array(clip.topology),
        "expression_names": np.array(ARKIT_52),
        "expr": clip.weights.float().numpy(),
        "gaze": clip.gaze.float().numpy(),
        "poses": clip.poses.double().numpy(),
        "extr": (camera.world_to_camera.double() @ FLIP).numpy(),
        **{name: value[:, None].numpy() for name, value in zip(_LENS, values, strict=True)},
        "resolution": np.array(camera.size[::-1]),
        "fps": np.array(camera.frames_per_second),
    }
    with atomic_write(path) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read_camera_path(path: Path) -> CameraPath:
    """The camera of an orbit.npz, a cam_static.npz or a clip."""
    return _camera(_arrays(path), path)


def read_clip(path: Path) -> Clip:
    """A clip that `write_clip` wrote."""
    arrays = _arrays(path)
    camera = _camera(arrays, path)
    missing = [n for n in ("avatar", "topology_hash", "expr", "gaze", "poses") if n not in arrays]
    if missing:
        raise InputError(f"{path} is no clip: it has no array {missing[0]!r}; animate again")
    rows = {name: torch.from_numpy(arrays[name]) for name in ("expr", "gaze", "poses")}
    if rows["expr"].shape[1:] != (len(ARKIT_52),):
        raise InputError(f"{path}: expected {len(ARKIT_52)} expression weights a frame")
    return Clip(
        Path(str(arrays["avatar"])), str(arrays["topology_hash"]), rows["expr"], rows["gaze"],
        rows["poses"], camera,
    )  # fmt: skip


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path} is no npz archive ({error})") from None


def _camera(arrays: dict[str, np.ndarray], path: Path) -> CameraPath:
    missing = [name for name in ("extr", *_LENS, "resolution") if name not in arrays]
    if missing:
        raise InputError(
            f"{path} has no camera: no array {missing[0]!r}; expected CAP4D's orbit.npz or a clip"
        )
    extr = torch.from_numpy(arrays["extr"]).double()
    turn = extr[:, :3, :3]
    off = float((turn @ turn.mT - torch.eye(3).double()).abs().max())
    if off > 1e-3 or bool((torch.linalg.det(turn) < 0).any()):
        raise InputError(f"{path}: its extr are not rigid (off by {off:.2g}); expected rotations")
    count = len(extr)
    lens = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    for (row, column), name in zip(((0, 0), (1, 1), (0, 2), (1, 2)), _LENS, strict=True):
        lens[:, row, column] = torch.from_numpy(arrays[name].reshape(-1)).double()
    height, width = (int(x) for x in arrays["resolution"].reshape(-1)[:2])
    rate = float(arrays["fps"]) if "fps" in arrays else DEFAULT_RATE
    return CameraPath(extr @ FLIP, lens, (width, height), rate)
