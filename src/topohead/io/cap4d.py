"""Photos that CAP4D tracked (Taubner et al. 2025): fit.npz, alignment.npz, images/ and bg/.

`fit.npz` has the cameras and the head's motion, `alignment.npz` where the 5,023 vertices of FLAME
lie in every picture, and how surely. Their axes: X = diag(1, −1, −1) · (R(rot) · v + tra), then
`extr` from world to camera, OpenCV's axes, then a pinhole. Metres, axis and angle, pixels.
"""

import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import Cameras, InputError
from topohead.io.flame import BLINK, EXPRESSIONS, SHAPES, VERTICES, Flame
from topohead.io.images import IMAGE_SUFFIXES, image_size

log = logging.getLogger(__name__)

FLAME_VERTICES, FLAME_EXPRESSIONS = VERTICES, EXPRESSIONS
FLIP = np.diag([1.0, -1.0, -1.0])
RIGID = 1e-3


@dataclass(frozen=True)
class TrackedPhotos:
    """C cameras × T instants of one person, as files; `masks` are empty without bg/.

    `poses` move FLAME's own frame (y up, face along +z, metres) to the world of the cameras, whose
    axes are OpenCV's. `points` are pixels of FLAME's vertices, `sigma` their deviations, `boxes`
    x0 y0 x1 y1 around the head. `gaze` is yaw (to the person's left) and pitch (up), radians.
    """

    cameras: Cameras
    pictures: tuple[tuple[Path, ...], ...]
    masks: tuple[tuple[Path, ...], ...]
    poses: Float[Tensor, "T 4 4"]
    gaze: Float[Tensor, "T 2"]
    points: Float[Tensor, "C T 5023 2"]
    sigma: Float[Tensor, "C T 5023"]
    boxes: Float[Tensor, "C T 4"]
    valid: Bool[Tensor, "C T"]
    frames_per_second: float | None
    motion: "FlameMotion | None" = None


@dataclass(frozen=True)
class FlameMotion:
    """What FLAME does over T instants: its neutral person, and each one's face, in its own frame.

    `faces` have expressions but eyes at rest; poses and gaze as in `TrackedPhotos`.
    """

    neutral: Float[Tensor, "5023 3"]
    faces: Float[Tensor, "T 5023 3"]
    poses: Float[Tensor, "T 4 4"]
    gaze: Float[Tensor, "T 2"]
    frames_per_second: float | None


def is_tracked_photos(path: Path) -> bool:
    """Whether a folder is of this layout."""
    return (path / "fit.npz").is_file() and (path / "images").is_dir()


def read_tracked_photos(path: Path, flame: Flame | None = None) -> TrackedPhotos:
    """The folder, checked: counts, sizes, rigid cameras, finite numbers.

    With FLAME itself points are where `fit.npz` puts its vertices, and `alignment.npz` is not
    needed.
    """
    file = path / "fit.npz"
    fit = _arrays(file, (*_MOTION, "fx", "fy", "cx", "cy", "extr", "resolutions", "camera_order"))
    names = tuple(str(name) for name in fit["camera_order"])
    motion = None if flame is None else _motion(fit, flame, file)
    instants = len(fit["rot"])
    _check_width(fit, file)
    if motion is not None:
        found = _projected(motion, fit, names, path)
    else:
        wanted = ("vertex_coords", "vertex_confidences", "crop_boxes")
        found = _arrays(path / "alignment.npz", wanted)
    shape = (len(names), instants, FLAME_VERTICES, 2)
    if found["vertex_coords"].shape != shape:
        raise InputError(
            f"{path / 'alignment.npz'}: vertex_coords is {found['vertex_coords'].shape}, expected "
            f"{shape} for {len(names)} cameras and the {instants} instants of fit.npz"
        )
    cameras = _cameras(fit, names, path)
    pictures = _files(path / "images", names, instants)
    masks = _files(path / "bg", names, instants) if (path / "bg").is_dir() else ()
    for index, row in enumerate(pictures):
        width, height = image_size(row[0])
        if (width, height) != cameras.size(index):
            expected = "×".join(map(str, cameras.size(index)))
            hint = (
                "; resolutions are height, width" if cameras.size(index) == (height, width) else ""
            )
            raise InputError(f"{row[0]} is {width}×{height}, fit.npz says {expected}{hint}")
    poses, gaze, rate = _moved(fit)
    valid = found.get("valid_mask", np.ones((len(names), instants), bool))
    return TrackedPhotos(
        cameras, pictures, masks, poses, gaze,
        torch.from_numpy(found["vertex_coords"]).double(),
        torch.from_numpy(found["vertex_confidences"][..., 0]).double(),
        torch.from_numpy(found["crop_boxes"]).double(),
        torch.from_numpy(valid.astype(bool)), rate, motion,
    )  # fmt: skip


_MOTION = ("rot", "tra", "eye_rot", "expr")


def read_motion(path: Path, flame: Flame) -> FlameMotion:
    """The performance in a fit.npz by itself, such as CAP4D's driving sequences."""
    fit = _arrays(path, _MOTION)
    _check_width(fit, path)
    return _motion(fit, flame, path)


def _motion(fit: dict[str, np.ndarray], flame: Flame, path: Path) -> FlameMotion:
    shape = torch.zeros(SHAPES) if "shape" not in fit else torch.from_numpy(fit["shape"]).flatten()
    if shape.shape != (SHAPES,):
        raise InputError(f"{path}: shape has {len(shape)} numbers, expected {SHAPES}")
    if not flame.blinks and bool(fit["expr"][:, -1].any()):
        log.warning("lids do not close: %s is not beside the FLAME file", BLINK)
    neck = torch.from_numpy(fit["neck_rot"]) if "neck_rot" in fit else None
    expressions = torch.from_numpy(fit["expr"])
    still = torch.zeros(len(expressions), 3)
    neutral = flame.vertices(shape, torch.zeros(1, FLAME_EXPRESSIONS), still[:1])[0]
    poses, gaze, rate = _moved(fit)
    faces = flame.vertices(shape, expressions, still, neck)
    return FlameMotion(neutral, faces, poses, gaze, rate)


def _moved(fit: dict[str, np.ndarray]) -> tuple[Tensor, Tensor, float | None]:
    """Poses in OpenCV's world, gaze, and frames a second (None for stills)."""
    poses = np.tile(np.eye(4), (len(fit["rot"]), 1, 1))
    poses[:, :3, :3] = FLIP @ Rotation.from_rotvec(fit["rot"]).as_matrix()
    poses[:, :3, 3] = fit["tra"] @ FLIP
    ways = Rotation.from_rotvec(fit["eye_rot"]).as_matrix()[:, :, 2]
    gaze = np.stack([np.arctan2(ways[:, 0], ways[:, 2]), np.arcsin(ways[:, 1].clip(-1, 1))], 1)
    rate = float(fit["fps"]) if "fps" in fit else -1.0
    return torch.from_numpy(poses), torch.from_numpy(gaze), rate if rate > 0 else None


def _check_width(fit: dict[str, np.ndarray], path: Path) -> None:
    if fit["expr"].shape[1:] != (FLAME_EXPRESSIONS,):
        raise InputError(
            f"{path}: expr is {fit['expr'].shape[1:]} wide, expected {FLAME_EXPRESSIONS} (FLAME "
            "2023 without jaw)"
        )
    counts = {name: len(fit[name]) for name in _MOTION}
    if len(set(counts.values())) > 1 or not counts["rot"]:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"{path}: expected as many rows in each of its arrays, got {told}")


def _projected(
    motion: FlameMotion, fit: dict[str, np.ndarray], names: tuple[str, ...], path: Path
) -> dict[str, np.ndarray]:
    """What alignment.npz would say if FLAME's vertices were seen where they are."""
    cameras = _cameras(fit, names, path)
    world = motion.faces @ motion.poses[:, :3, :3].mT + motion.poses[:, None, :3, 3]
    matrices = cameras.intrinsics @ cameras.world_to_camera[:, :3]
    flat = torch.einsum("cij,tpj->ctpi", matrices[:, :, :3], world) + matrices[:, None, None, :, 3]
    if bool((flat[..., 2] <= 0).any()):
        raise InputError(f"{path / 'fit.npz'} puts the head behind a camera")
    pixels = flat[..., :2] / flat[..., 2:]
    boxes = torch.cat([pixels.amin(2), pixels.amax(2)], -1)
    found = {
        "vertex_coords": pixels.numpy(),
        "vertex_confidences": np.ones((*pixels.shape[:3], 1)),
        "crop_boxes": boxes.numpy(),
    }
    return found | ({"valid_mask": fit["valid_mask"]} if "valid_mask" in fit else {})


def _arrays(path: Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no npz archive ({error})") from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise InputError(f"{path} has no array {missing[0]!r}; expected what CAP4D's tracker wrote")
    for name in needed:
        values = arrays[name]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"{path}: {name} has numbers that are none (NaN)")
    return arrays


def _cameras(fit: dict[str, np.ndarray], names: tuple[str, ...], path: Path) -> Cameras:
    extr = torch.from_numpy(fit["extr"]).double()
    turn = extr[:, :3, :3]
    off = float((turn @ turn.mT - torch.eye(3).double()).abs().max())
    if off > RIGID or bool((torch.linalg.det(turn) < 0).any()):
        raise InputError(f"{path / 'fit.npz'}: extr is not rigid (off by {off:.2g})")
    lens = torch.eye(3, dtype=torch.float64).repeat(len(names), 1, 1)
    for (row, column), name in (((0, 0), "fx"), ((1, 1), "fy"), ((0, 2), "cx"), ((1, 2), "cy")):
        lens[:, row, column] = torch.from_numpy(fit[name].reshape(-1)).double()
    sizes = torch.from_numpy(fit["resolutions"].astype(np.int64)).flip(1)
    return Cameras(names, extr, lens, sizes)


def _files(root: Path, names: tuple[str, ...], instants: int) -> tuple[tuple[Path, ...], ...]:
    """Each camera's pictures in the order of their names; as many as there are instants."""
    found = []
    for name in names:
        folder = root / name
        if not folder.is_dir():
            raise InputError(f"camera {name!r} of fit.npz has no folder {folder}")
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
        if len(files) != instants:
            raise InputError(
                f"{folder} has {len(files)} pictures and fit.npz {instants} instants; expected one "
                "each"
            )
        found.append(tuple(files))
    return tuple(found)
