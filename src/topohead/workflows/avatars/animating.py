"""The steps of `topohead avatar animate`: who looks on, and pictures."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.geometry.avatars import Avatar
from topohead.io.avatars import read_avatar
from topohead.io.clips import CLIP, CameraPath, Clip, read_camera_path, write_clip
from topohead.io.videos import check_sound, write_video
from topohead.rendering.avatars import Player
from topohead.rendering.shading import portrait_camera
from topohead.workflows.avatar import AnimateConfig, AnimateResult
from topohead.workflows.avatars.driving import Drive, open_drive
from topohead.workflows.avatars.pictures import over
from topohead.workflows.progress import track as progress

VIDEO = "video.mp4"


def run(config: AnimateConfig) -> AnimateResult:
    """The whole of `topohead avatar animate`."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no CUDA device; leave it out")
    avatar = read_avatar(config.avatar)
    _refuse_foreign(config.out)
    if config.audio is not None:
        check_sound(config.audio)
    drive = _cut(open_drive(config.drive, avatar, config.fps, config.flame), config.frames)
    if config.still_head:
        still = torch.eye(4, dtype=torch.float64).repeat(len(drive.poses), 1, 1)
        drive = replace(drive, poses=still)
    camera = camera_path(config, avatar, drive)
    clip = Clip(
        config.avatar, avatar.rig.topology.fingerprint, drive.weights, drive.gaze, drive.poses,
        camera,
    )  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    write_clip(config.out / CLIP, clip)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = clip_pictures(avatar.to(device), clip, config.background)
    write_video(config.out / VIDEO, pictures, clip.frames_per_second, config.audio)
    return AnimateResult(config.out, len(clip.weights), clip.frames_per_second)


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder for the clip")
    if out.is_dir() and any(out.iterdir()) and not (out / CLIP).exists():
        raise InputError(f"--out {out} is not empty and holds no clip; choose another folder")


def _cut(drive: Drive, frames: int | None) -> Drive:
    if frames is None:
        return drive
    if frames < 1:
        raise InputError(f"--frames expects a number above zero, got {frames}")
    first = slice(0, frames)
    return replace(
        drive, weights=drive.weights[first], gaze=drive.gaze[first], poses=drive.poses[first]
    )


def camera_path(config: AnimateConfig, avatar: Avatar, drive: Drive) -> CameraPath:
    """The camera of every frame of the clip."""
    count, rate = len(drive.weights), drive.frames_per_second
    if config.camera in ("static", "orbit"):
        if config.size < 16 or config.size % 2:
            raise InputError(f"--size expects an even number of pixels above 15, got {config.size}")
        size = (config.size, config.size)
        yaws = [0.0] * count
        if config.camera == "orbit":
            yaws = [2 * math.pi * t / count for t in range(count)]
        views = [portrait_camera(avatar.rig.neutral, size, yaw, margin=1.25) for yaw in yaws]
        poses, lenses = (torch.stack(list(parts)) for parts in zip(*views, strict=True))
        return CameraPath(poses, lenses, size, rate)
    if config.camera in drive.cameras:
        one = drive.cameras[config.camera]
        width, height = (edge // 2 * 2 for edge in one.size)
        poses, lenses = one.world_to_camera[:count], one.intrinsics[:count]
        return CameraPath(
            poses.expand(count, -1, -1), lenses.expand(count, -1, -1), (width, height), rate
        )
    path = Path(config.camera)
    if not path.is_file():
        known = ", ".join(["static", "orbit", *drive.cameras])
        raise InputError(f"--camera {config.camera}: expected {known}, or an npz file of a path")
    return _around(read_camera_path(path), avatar, count, rate, path)


def _around(path: CameraPath, avatar: Avatar, count: int, rate: float, file: Path) -> CameraPath:
    """A stored path about this head: what its cameras look at is moved to the head's middle.

    A path of one camera stands still; another one must be as long as the clip.
    """
    if len(path.intrinsics) not in (1, count) and len(path.intrinsics) < count:
        raise InputError(
            f"--camera {file} has {len(path.intrinsics)} frames and the clip {count}; cut the clip "
            "by --frames"
        )
    pose = path.world_to_camera
    turn, shift = pose[:, :3, :3], pose[:, :3, 3]
    centers, ways = -(turn.mT @ shift[..., None])[..., 0], turn[:, 2]
    # the point nearest to all optical axes; of parallel ones the least-norm answer
    across = torch.eye(3).double() - ways[:, :, None] * ways[:, None, :]
    target = (
        torch.linalg.pinv(across.sum(0), rtol=1e-6) @ (across @ centers[..., None]).sum(0)[:, 0]
    )
    points = avatar.rig.neutral.double()
    middle = (points.amin(0) + points.amax(0)) / 2
    moved = pose.clone()
    moved[:, :3, 3] = shift + turn @ (target - middle)
    lens = path.intrinsics
    if len(pose) == 1:
        moved, lens = moved.expand(count, -1, -1), lens.expand(count, -1, -1)
    size = (path.size[0] // 2 * 2, path.size[1] // 2 * 2)
    return CameraPath(moved[:count], lens[:count], size, rate)


def clip_pictures(
    avatar: Avatar, clip: Clip, background: tuple[float, float, float]
) -> Iterator[Float[Tensor, "H W 3"]]:
    """The clip's pictures, one after the other."""
    camera, player = clip.camera, Player(avatar)
    for t in progress(range(len(clip.weights)), "pictures"):
        image, alpha = player.draw(
            clip.weights[t], clip.gaze[t], clip.poses[t].float(),
            camera.world_to_camera[t : t + 1].float(), camera.intrinsics[t : t + 1].float(),
            camera.size,
        )  # fmt: skip
        yield over(image[0], alpha[0], background)
