"""Rigs of virtual cameras around a head, with the faults that real rigs have."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Distortion, InputError, Rig

DISTANCE = 1.1
"""Metres from the head's centre to a camera."""

WIDTH = 0.95
"""A head's largest extent to the side or in depth, over its height from chin to crown."""

ELEVATIONS = (2.0, 24.0, -20.0, 12.0, -8.0, 40.0)
"""Degrees above the horizon, taken in turn along the arc."""


@dataclass(frozen=True)
class Response:
    """How each camera's picture differs from scene light, all in linear light.

    `gain` and `offset` per camera and channel; `vignetting` is the share of light lost in the
    picture's corner.
    """

    gain: Float[Tensor, "C 3"]
    offset: Float[Tensor, "C 3"]
    vignetting: Float[Tensor, " C"]


@dataclass(frozen=True)
class StageRig:
    """True cameras, the slightly wrong calibration that is handed over, and their colours.

    `turns` counts the quarter turns (−1, 0 or 1, anticlockwise) of each sensor in its mount.
    """

    exact: Rig
    handed_over: Rig
    response: Response
    turns: tuple[int, ...]


@dataclass(frozen=True)
class RigSettings:
    """Numbers of a rig; angles in degrees, pixels at a picture of 4096 on its long side."""

    cameras: int = 16
    held_out: int = 0
    width: int = 512
    height: int = 375
    arc: float = 100.0
    turned: float = 0.35
    principal_point: float = 60.0
    distortion: float = 1.0
    calibration_error_px: float = 0.1
    color_sigma: float = 0.03

    @property
    def count(self) -> int:
        """Cameras for tracking and held out together."""
        return self.cameras + self.held_out


def build_rig(
    settings: RigSettings, target: Float[Tensor, "3"], extent: float, seed: int
) -> StageRig:
    """Cameras on an arc about `target` (world metres), a head `extent` metres tall in their view.

    Cameras spread over ±`arc` and several elevations, some turned a quarter in their mounts,
    with an off-centre principal point and a lens. `calibration_error_px` is the rms error in the
    stored picture of the handed-over calibration, from its pose, focal length and centre.
    """
    if not 3 <= settings.count <= 60:
        raise InputError(f"a rig has 3 to 60 cameras, got {settings.count}; change --cameras")
    if min(settings.width, settings.height) < 32:
        raise InputError(
            f"pictures of {settings.width}×{settings.height} are too small; the least is 32×32"
        )
    random = np.random.default_rng([seed, 21])
    azimuths = _azimuths(settings, random)
    poses, intrinsics, sizes, lenses, turns = [], [], [], [], []
    scale = max(settings.width, settings.height) / 4096
    for index, azimuth in enumerate(azimuths):
        turn = int(random.choice([-1, 1])) if random.random() < settings.turned else 0
        elevation = ELEVATIONS[index % len(ELEVATIONS)] + random.uniform(-4, 4)
        distance = DISTANCE * random.uniform(0.93, 1.07)
        width, height = settings.width, settings.height
        # fit head height and depth into the picture as it is mounted, with air for some motion
        upright = (height, width) if turn == 0 else (width, height)
        reach = min(upright[0] / extent, upright[1] / (WIDTH * extent))
        focal = distance * reach / 1.3 * random.uniform(0.98, 1.02)
        shift = random.uniform(-1, 1, 2) * settings.principal_point * scale
        aim = target + torch.tensor(random.uniform(-0.006, 0.006, 3))
        poses.append(_aimed(aim, azimuth, elevation, distance, turn * 90 + random.uniform(-3, 3)))
        intrinsics.append(
            [
                [focal, 0.0, width / 2 + shift[0]],
                [0.0, focal * random.uniform(0.999, 1.001), height / 2 + shift[1]],
                [0.0, 0.0, 1.0],
            ]
        )
        sizes.append([width, height])
        lenses.append(_lens(random, settings.distortion))
        turns.append(turn)
    cameras = Cameras(
        _names(settings),
        torch.stack(poses),
        torch.tensor(intrinsics, dtype=torch.float64),
        torch.tensor(sizes),
    )
    exact = Rig(cameras, tuple(lenses))
    handed_over = _disturbed(exact, settings.calibration_error_px, random)
    return StageRig(exact, handed_over, _response(settings, random), tuple(turns))


def _names(settings: RigSettings) -> tuple[str, ...]:
    """cam00 …, and hold00 … for held-out cameras, which stand between the others."""
    held = np.linspace(0, settings.count - 1, settings.held_out + 2)[1:-1].round().astype(int)
    names, tracking = [], 0
    for index in range(settings.count):
        if index in held:
            names.append(f"hold{int(np.searchsorted(held, index)):02d}")
        else:
            names.append(f"cam{tracking:02d}")
            tracking += 1
    return tuple(names)


def _azimuths(settings: RigSettings, random: np.random.Generator) -> np.ndarray:
    """Degrees to the head's left, denser in front, where a face is filmed from."""
    steps = np.linspace(-1, 1, settings.count)
    jitter = random.uniform(-0.25, 0.25, settings.count) * 2 / settings.count
    steps = np.clip(steps + np.where(np.abs(steps) < 1, jitter, 0), -1, 1)
    return settings.arc * (0.75 * steps + 0.25 * steps**3)


def _aimed(
    target: Float[Tensor, "3"], azimuth: float, elevation: float, distance: float, roll: float
) -> Float[Tensor, "4 4"]:
    """World to camera of a camera that sees `target` in its axis; angles in degrees."""
    a, e, r = np.radians([azimuth, elevation, roll])
    outward = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.cross([0.0, 1.0, 0.0], outward)
    right /= np.linalg.norm(right)
    down = -np.cross(outward, right)
    turned = np.stack([np.cos(r) * right + np.sin(r) * down, np.cos(r) * down - np.sin(r) * right])
    pose = np.eye(4)
    pose[:3, :3] = np.concatenate([turned, -outward[None]])
    pose[:3, 3] = -pose[:3, :3] @ (target.numpy() + distance * outward)
    return torch.tensor(pose)


def _lens(random: np.random.Generator, strength: float) -> Distortion:
    """A mild barrel lens, brown k1 k2 k3 k4 p1 p2: a few pixels of 512 at the border."""
    k1, k2, k3 = random.uniform([-0.22, -0.1, -0.05], [-0.08, 0.2, 0.05])
    p1, p2 = random.uniform(-8e-4, 8e-4, 2)
    values = strength * np.array([k1, k2, k3, 0.0, p1, p2])
    return Distortion("brown", tuple(float(x) for x in values))


def _disturbed(rig: Rig, error_px: float, random: np.random.Generator) -> Rig:
    """The rig with small independent errors: each of three causes makes error/√3 pixels rms."""
    cameras = rig.cameras
    count, share = len(cameras), error_px / np.sqrt(3)
    intrinsics, poses = cameras.intrinsics.clone(), cameras.world_to_camera.clone()
    focal = intrinsics[:, 0, 0]
    # per axis 1/√2 of the error; a rotation by δ moves the picture by focal·δ
    center = torch.tensor(random.normal(0, share / np.sqrt(2), (count, 2)))
    turn = torch.tensor(random.normal(0, share / np.sqrt(2), (count, 3)))
    # a relative error of the focal length acts at a typical quarter of the picture's width
    zoom = torch.tensor(random.normal(0, share, count)) / (cameras.sizes.amin(1) / 4)
    intrinsics[:, :2, 2] += center
    intrinsics[:, 0, 0] *= 1 + zoom
    intrinsics[:, 1, 1] *= 1 + zoom
    turn = turn / focal[:, None]
    turn[:, 2] *= 2.0  # a roll acts through the lever of the head's half size only
    skew = torch.zeros(count, 3, 3, dtype=torch.float64)
    skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 2] = -turn[:, 2], turn[:, 1], -turn[:, 0]
    rotation = torch.matrix_exp(skew - skew.mT)
    # turn about the camera's own centre
    poses[:, :3] = rotation @ poses[:, :3]
    disturbed = replace(cameras, intrinsics=intrinsics, world_to_camera=poses)
    return Rig(disturbed, rig.distortion)


def _response(settings: RigSettings, random: np.random.Generator) -> Response:
    sigma = settings.color_sigma
    count = settings.count
    exposure = random.normal(0, sigma, (count, 1)) + random.normal(0, sigma / 2, (count, 3))
    offset = random.normal(0, sigma / 30, (count, 3))  # of full scale; black stays nearly black
    return Response(
        torch.tensor(np.exp(exposure)),
        torch.tensor(offset),
        torch.tensor(random.uniform(0.02, 0.15, count)) * (sigma > 0),
    )
