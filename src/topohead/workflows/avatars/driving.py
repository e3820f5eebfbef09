"""What drives an avatar: recordings, scores, clips, captures, and what CAP4D's tracker leaves."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.geometry.avatars import Avatar
from topohead.io.assets import reference_head
from topohead.io.cap4d import is_tracked_photos, read_motion, read_tracked_photos
from topohead.io.clips import CLIP, FLIP, CameraPath, read_clip
from topohead.io.expressions import gaze_of_looks, read_live_link, resampled
from topohead.io.flame import read_flame
from topohead.io.images import IMAGE_SUFFIXES
from topohead.io.scores import is_scores, read_scores
from topohead.io.videos import VIDEO_SUFFIXES
from topohead.solvers.point_tracks import fit_faces
from topohead.synthesis.performances import euler
from topohead.workflows import rigging
from topohead.workflows.avatars.photos import tracked_heads
from topohead.workflows.progress import track as progress

CSV_RATE = 30.0
"""Frames a second where a recording's rows come at no usual rate."""

USUAL_RATES = (24.0, 25.0, 30.0, 48.0, 50.0, 60.0)
RATE_DOUBT = 0.03
"""Stamps of whole milliseconds and of 60 frames a second are that far off."""


@dataclass(frozen=True)
class Drive:
    """A performance in the head frame; `cameras` are those of the run that it is from."""

    weights: Float[Tensor, "T 52"]
    gaze: Float[Tensor, "T 2 2"]
    poses: Float[Tensor, "T 4 4"]
    frames_per_second: float
    cameras: dict[str, CameraPath]


def open_drive(path: Path, avatar: Avatar, fps: float | None, flame: Path | None = None) -> Drive:
    """What plays, whichever it is; refused in one line where it cannot."""
    if fps is not None and not fps > 0:
        raise InputError(f"--fps expects a number above zero, got {fps:g}")
    if not path.exists():
        raise InputError(
            f"--drive {path}: no such file; expected a Live Link CSV, scores, a clip or a run"
        )
    if path.is_dir() and (path / CLIP).is_file():
        path = path / CLIP
    if path.is_dir() and is_tracked_photos(path):
        return _photos_drive(path, avatar, fps, flame)
    if path.is_dir() and (path / "fit.npz").is_file():
        path = path / "fit.npz"
    if path.is_dir():
        return _run_drive(path, avatar, fps)
    if path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise InputError(
            f"--drive {path} is a picture or a video, in which nobody tracked a face; expected a "
            "Live Link CSV, MediaPipe's scores, a clip, a run, or what CAP4D's tracker left"
        )
    if path.name == CLIP:
        return _clip_drive(path, fps)
    if path.suffix.lower() == ".npz":
        return _flame_drive(path, avatar, fps, flame)
    return _recorded_drive(path, avatar, fps)


def _recorded_drive(path: Path, avatar: Avatar, fps: float | None) -> Drive:
    """Weights over time as a phone or MediaPipe tells them, at an even rate."""
    told = read_scores(path, fps) if is_scores(path) else read_live_link(path)
    rate = fps or _own_rate(told.times)
    played = resampled(told, rate)
    weights = played.coefficients.clamp(0, 1)
    eyes = -played.eye_rotation[..., :2]  # Live Link: to the right and down are positive
    gaze = eyes if bool(eyes.abs().amax() > 0) else gaze_of_looks(weights)
    # Live Link counts yaw and pitch the other way round
    turns = euler(played.head_rotation.double() * torch.tensor([-1.0, -1.0, 1.0]).double())
    return Drive(weights.float(), gaze.float(), _about(turns, avatar.rig.head.double()), rate, {})


def _own_rate(times: Float[Tensor, " T"]) -> float:
    """Frames a second of a recording whose rows may skip: the usual rate that is next to theirs."""
    if len(times) < 2:
        return CSV_RATE
    rate = 1 / float(times.diff().median())
    usual = min(USUAL_RATES, key=lambda one: abs(one - rate))
    return usual if abs(usual - rate) < RATE_DOUBT * usual else CSV_RATE


def _about(turns: Float[Tensor, "T 3 3"], joint: Float[Tensor, "3"]) -> Float[Tensor, "T 4 4"]:
    """Rotations about the head's joint as rigid motions."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(turns), 1, 1)
    poses[:, :3, :3] = turns
    poses[:, :3, 3] = joint - turns @ joint
    return poses


def _clip_drive(path: Path, fps: float | None) -> Drive:
    """What another avatar played; its camera goes by the name `clip`."""
    clip = read_clip(path)
    _refuse_rate(path, fps, clip.frames_per_second)
    return Drive(
        clip.weights.float(), clip.gaze.float(), clip.poses.double(), clip.frames_per_second,
        {"clip": clip.camera},
    )  # fmt: skip


def _refuse_rate(path: Path, fps: float | None, own: float) -> None:
    if fps is not None and abs(fps - own) > 1e-6:
        raise InputError(f"--fps {fps:g}: {path} plays at {own:g} frames a second; leave it out")


def _photos_drive(path: Path, avatar: Avatar, fps: float | None, flame: Path | None) -> Drive:
    """Photos or a video that CAP4D tracked: our head in each of them."""
    photos = read_tracked_photos(path, None if flame is None else read_flame(flame))
    rate = _told_rate(path, fps, photos.frames_per_second)
    found = tracked_heads(photos, path)
    gaze = photos.gaze[:, None].expand(-1, 2, -1)
    return Drive(found.weights, gaze.float(), _moved(found.poses, avatar), rate, {})


def _flame_drive(path: Path, avatar: Avatar, fps: float | None, flame: Path | None) -> Drive:
    """A fit.npz alone: FLAME's own file says what its numbers mean."""
    if flame is None:
        raise InputError(
            f"--drive {path}: FLAME's numbers mean nothing without its file; give yours with "
            "--flame, or drive with a Live Link CSV, scores or a run (a camera path such as "
            "orbit.npz goes to --camera)"
        )
    motion = read_motion(path, read_flame(flame))
    rate = _told_rate(path, fps, motion.frames_per_second)
    for _ in progress(range(1), "head"):
        place, weights = fit_faces(reference_head(0), motion.neutral, motion.faces)
    gaze = motion.gaze[:, None].expand(-1, 2, -1)
    return Drive(
        weights.float().clamp(0, 1), gaze.float(), _moved(motion.poses @ place, avatar), rate, {}
    )


def _told_rate(path: Path, fps: float | None, own: float | None) -> float:
    if own is not None:
        _refuse_rate(path, fps, own)
    rate = own or fps
    if rate is None:
        raise InputError(f"--drive {path} are stills; say how many a second with --fps")
    return rate


def _moved(heads: Float[Tensor, "T 4 4"], avatar: Avatar) -> Float[Tensor, "T 4 4"]:
    """Poses from heads in a world of OpenCV's axes: turned as they face, moved as they move.

    Where the camera stood is not known of a path, so the first frame's joint stays where it is.
    """
    upright = FLIP @ heads
    joint = avatar.rig.head.double()
    poses = _about(upright[:, :3, :3], joint)
    places = upright[:, :3, :3] @ joint + upright[:, :3, 3]
    poses[:, :3, 3] += places - places[0]
    return poses


def _run_drive(path: Path, avatar: Avatar, fps: float | None) -> Drive:
    """A run's own motion, its head poses and cameras carried into its head's frame."""
    take = rigging.open_tracked(path)
    if fps is not None and abs(fps - take.frames_per_second) > 1e-6:
        raise InputError(
            f"--fps {fps:g}: {path} plays at {take.frames_per_second:g} frames a second; leave it "
            "out, or drive with its expression.csv"
        )
    head = take.head
    track = rigging.expression_track(head, take.run.vertices)
    upright = head.upright.double()
    back = torch.linalg.inv(upright)
    poses = upright @ track.poses.double() @ back
    gaze = gaze_of_looks(track.weights) if take.run.gaze is None else take.run.gaze
    cameras = {}
    if take.run.rig is not None:
        rig = take.run.rig.cameras
        for index, name in enumerate(rig.names):
            width, height = rig.size(index)
            cameras[name] = CameraPath(
                (rig.world_to_camera[index].double() @ back)[None],
                rig.intrinsics[index].double()[None],
                (width, height),
                take.frames_per_second,
            )
    return Drive(track.weights.float(), gaze.float(), poses, take.frames_per_second, cameras)
