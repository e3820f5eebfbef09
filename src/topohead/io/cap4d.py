"""Photos that CAP4D tracked (Taubner et al. 2025): fit.npz, alignment.npz, images/ and bg/.

`fit.npz` has the cameras and the head's motion, `alignment.npz` where the 5,023 vertices of FLAME
lie in every picture, and how surely. Their axes: X = diag(1, −1, −1) · (R(rot) · v + tra), then
`extr` from world to camera, OpenCV's axes, then a pinhole. Metres, axis and angle, pixels.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import Cameras, InputError
from topohead.io.images import IMAGE_SUFFIXES, image_size

FLAME_VERTICES, FLAME_EXPRESSIONS = 5023, 65
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


def is_tracked_photos(path: Path) -> bool:
    """Whether a folder is of this layout."""
    return (path / "fit.npz").is_file() and (path / "images").is_dir()


def read_tracked_photos(path: Path) -> TrackedPhotos:
    """The folder, checked: counts, sizes, rigid cameras, finite numbers."""
    fit = _arrays(path / "fit.npz", ("fx", "fy", "cx", "cy", "extr", "rot", "tra", "eye_rot",
                                     "expr", "resolutions", "camera_order"))  # fmt: skip
    found = _arrays(path / "alignment.npz", ("vertex_coords", "vertex_confidences", "crop_boxes"))
    names = tuple(str(name) for name in fit["camera_order"])
    instants = len(fit["rot"])
    if fit["expr"].shape[1:] != (FLAME_EXPRESSIONS,):
        raise InputError(
            f"{path / 'fit.npz'}: expr is {fit['expr'].shape[1:]} wide, expected "
            f"{FLAME_EXPRESSIONS} (FLAME 2023 without jaw)"
        )
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
    poses = np.tile(np.eye(4), (instants, 1, 1))
    poses[:, :3, :3] = FLIP @ Rotation.from_rotvec(fit["rot"]).as_matrix()
    poses[:, :3, 3] = fit["tra"] @ FLIP
    ways = Rotation.from_rotvec(fit["eye_rot"]).as_matrix()[:, :, 2]
    gaze = np.stack([np.arctan2(ways[:, 0], ways[:, 2]), np.arcsin(ways[:, 1].clip(-1, 1))], 1)
    rate = float(fit["fps"]) if "fps" in fit else -1.0
    valid = found.get("valid_mask", np.ones((len(names), instants), bool))
    return TrackedPhotos(
        cameras, pictures, masks, torch.from_numpy(poses), torch.from_numpy(gaze),
        torch.from_numpy(found["vertex_coords"]).double(),
        torch.from_numpy(found["vertex_confidences"][..., 0]).double(),
        torch.from_numpy(found["crop_boxes"]).double(),
        torch.from_numpy(valid.astype(bool)), rate if rate > 0 else None,
    )  # fmt: skip


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
