"""What a staged head does: expression coefficients and a rigid head pose for every frame."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from topohead.core import ARKIT_52, InputError
from topohead.io.expressions import Performance, gaze_of_looks

# The range of motion: what happens, one pose after another. Every pose is held for a moment.
_SCRIPT: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.65, "mouthLowerDownLeft": 0.2, "mouthLowerDownRight": 0.2, "browInnerUp": 0.3},
    {"mouthSmile*": 0.9, "cheekSquint*": 0.6, "eyeSquint*": 0.4, "mouthUpperUp*": 0.25},
    {"browInnerUp": 0.9, "browOuterUp*": 0.9, "eyeWide*": 0.7, "eyeLookUp*": 0.5},
    {"browDown*": 0.9, "eyeSquint*": 0.6, "noseSneer*": 0.5, "mouthPress*": 0.4},
    {"eyeBlink*": 1.0},
    {"mouthPucker": 0.9, "mouthFunnel": 0.2, "eyeLookInLeft": 0.5, "eyeLookOutRight": 0.5},
    {"mouthSmileLeft": 0.9, "cheekSquintLeft": 0.7, "eyeBlinkLeft": 0.9, "mouthLeft": 0.4,
     "browOuterUpRight": 0.8},
    {"jawRight": 0.6, "mouthRight": 0.5, "noseSneerRight": 0.6, "eyeLookOutLeft": 0.6,
     "eyeLookInRight": 0.6},
    {"mouthFunnel": 0.8, "jawOpen": 0.25, "browInnerUp": 0.4},
    {"mouthFrown*": 0.8, "mouthShrugLower": 0.6, "browInnerUp": 0.6, "eyeLookDown*": 0.6},
    {"cheekPuff": 0.8, "mouthPucker": 0.2},
    {"jawOpen": 0.9, "mouthStretch*": 0.5, "eyeWide*": 0.9, "browOuterUp*": 0.8,
     "mouthLowerDown*": 0.5, "mouthUpperUp*": 0.4},
)  # fmt: skip

SECONDS_A_POSE = 0.4
"""From one pose of the script to the next: brisk, as people do a range of motion."""

BLEND_SECONDS = 0.12
"""How long a recorded take is blended in from the neutral first frame."""


PACED_FRAMES = 12
"""Frames over which the head's travel is measured when its tempo is chosen."""


@dataclass(frozen=True)
class Motion:
    """What the stage plays, one row a frame; the first row is neutral and unmoved.

    `coefficients` follow `ARKIT_52` in [0, 1]. `gaze` is the yaw and pitch of both eyes, left
    first, radians; yaw turns to the person's left, pitch up. `poses` move the head from where it
    is in the first frame, world metres. `source` says where the rows come from.
    """

    coefficients: Float[Tensor, "T 52"]
    gaze: Float[Tensor, "T 2 2"]
    poses: Float[Tensor, "T 4 4"]
    frames_per_second: float
    source: str

    def __len__(self) -> int:
        return len(self.coefficients)

    def at(self, time: float) -> "Motion":
        """The instant at `time`, in frames from the first; linear between frames, clamped."""
        time = min(max(time, 0.0), len(self) - 1.0)
        before = min(int(time), max(len(self) - 2, 0))
        after, weight = min(before + 1, len(self) - 1), time - before
        pose = torch.lerp(self.poses[before], self.poses[after], weight)
        u, _, v = torch.linalg.svd(pose[:3, :3])  # back to a rotation
        pose[:3, :3] = u @ v
        return Motion(
            torch.lerp(self.coefficients[before], self.coefficients[after], weight)[None],
            torch.lerp(self.gaze[before], self.gaze[after], weight)[None],
            pose[None],
            self.frames_per_second,
            self.source,
        )


def scripted(count: int, frames_per_second: float, seed: int = 0) -> Motion:
    """A range of motion: neutral, then jaw, smile, brows, blink, pucker, one-sided and extreme.

    The script is compressed when the take is short, so that even a few frames move; the order of
    poses after the first two, and their strengths, come from the seed.
    """
    random = np.random.default_rng([seed, 11])
    order = [0, 1, *(2 + random.permutation(len(_SCRIPT) - 2))]
    keys = [np.zeros(52)]
    for index in order:
        keys.append(_pose_row(_SCRIPT[index]) * random.uniform(0.75, 1.0))
        keys.append(keys[-1] * random.uniform(0.1, 0.4))  # relax half-way before the next
    seconds = np.arange(len(keys)) * SECONDS_A_POSE / 2
    times = np.arange(count) / frames_per_second
    curve = PchipInterpolator(seconds, np.stack(keys))  # no overshoot: stays within [0, 1]
    rows = torch.tensor(curve(times % seconds[-1])).clamp(0, 1)
    return Motion(
        rows, gaze_of_looks(rows), _still(count), frames_per_second, "scripted range of motion"
    )


def recorded(
    performance: Performance,
    count: int,
    frames_per_second: float,
    start: float | None = None,
) -> Motion:
    """A recorded performance, resampled by its time stamps and started from neutral.

    `start` is in seconds from the recording's first row; None takes the most neutral moment (eyes
    open, lips closed) that livelier frames follow. Nobody is exactly neutral, so the first frame
    is set to neutral and the recording is blended in over `BLEND_SECONDS`; later frames are as
    recorded.
    """
    duration = (count - 1) / frames_per_second
    length = float(performance.times[-1])
    if length < duration:
        raise InputError(
            f"{count} frames at {frames_per_second:g} fps last {duration:.2f} s but the "
            f"performance only {length:.2f} s; ask for fewer frames or a higher rate"
        )
    if start is None:
        start = _most_neutral_start(performance, duration)
    if not 0 <= start <= length - duration:
        raise InputError(
            f"the take would run from {start:.2f} to {start + duration:.2f} s but the performance "
            f"ends at {length:.2f} s; choose a start in 0–{length - duration:.2f} s"
        )
    times = start + np.arange(count) / frames_per_second
    rows = _resample(performance.times, performance.coefficients, times).clamp(0, 1)
    eyes = _resample(performance.times, performance.eye_rotation[..., :2].flatten(1), times)
    eyes = -eyes.reshape(count, 2, 2)  # Live Link: to the right and down are positive
    measured = bool(performance.eye_rotation.abs().amax() > 0)
    gaze = eyes if measured else gaze_of_looks(rows)
    # a smooth step that is 0 in the first frame and 1 from BLEND_SECONDS on (always by frame 3)
    span = max(BLEND_SECONDS, 2 / frames_per_second)
    ramp = torch.tensor(np.arange(count) / frames_per_second / span).clamp(0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    turn = _resample(performance.times, performance.head_rotation, times)
    turn = turn * torch.tensor([-1.0, -1.0, 1.0])  # the same handedness as the eyes
    return Motion(
        rows * ramp[:, None],
        gaze * ramp[:, None, None],
        _rotation_poses((turn - turn[:1]) * ramp[:, None]),
        frames_per_second,
        f"recording from {start:.3f} s, first frame set to neutral, blended in over {span:.3f} s",
    )


def with_head_motion(
    motion: Motion,
    pivot: Float[Tensor, "3"],
    seed: int = 0,
    millimetres_a_frame: float = 3.0,
    degrees: float = 12.0,
) -> Motion:
    """The same faces on a head that nods, turns, tilts and sways smoothly about the neck `pivot`.

    Rotations reach about ±`degrees`. The tempo is chosen so that a point on the face travels
    `millimetres_a_frame` on average over the first `PACED_FRAMES`, at any frame rate. The first
    frame stays where it is; a longer take begins like a shorter one.
    """
    count = len(motion)
    if millimetres_a_frame <= 0:
        return motion
    random = np.random.default_rng([seed, 12])
    fields = _smooth_walk(random, degrees)
    pace = 0.02
    face = pivot.double() + torch.tensor([0.0, 0.15, 0.08], dtype=torch.float64)
    for _ in range(12):  # fixed point: path length grows almost linearly with the pace
        poses = _sway(fields, pace * np.arange(PACED_FRAMES), pivot.double())
        path = (poses[:, :3, :3] @ face + poses[:, :3, 3]).diff(dim=0).norm(dim=-1).mean() * 1000
        pace *= float(np.clip(millimetres_a_frame / max(float(path), 1e-9), 0.5, 2.0))
    return Motion(
        motion.coefficients,
        motion.gaze,
        _sway(fields, pace * np.arange(count), pivot.double()) @ motion.poses,
        motion.frames_per_second,
        motion.source + f", head motion {millimetres_a_frame:g} mm a frame",
    )


def _pose_row(pose: dict[str, float]) -> np.ndarray:
    """Coefficients of a scripted pose; `name*` sets the left and the right action."""
    row = np.zeros(52)
    for name, value in pose.items():
        sides = (name[:-1] + "Left", name[:-1] + "Right") if name.endswith("*") else (name,)
        for side in sides:
            row[ARKIT_52.index(side)] = value
    return row


def _resample(
    times: Float[Tensor, " S"], values: Float[Tensor, "S K"], at: np.ndarray
) -> Float[Tensor, "T K"]:
    """Values at other times, linear between rows (a gap is bridged, not skipped)."""
    stamps = times.numpy()
    columns = [np.interp(at, stamps, column) for column in values.numpy().T]
    return torch.tensor(np.stack(columns, 1))


def _most_neutral_start(performance: Performance, duration: float) -> float:
    """Seconds of the moment with the least activity, open eyes and closed lips weighing most."""
    weights = torch.ones(52, dtype=torch.float64)
    for name in ("eyeBlinkLeft", "eyeBlinkRight", "jawOpen", "mouthFunnel"):
        weights[ARKIT_52.index(name)] = 4.0
    for index, name in enumerate(ARKIT_52):
        if name.startswith("eyeLook"):
            weights[index] = 0.5
    activity = (performance.coefficients * weights).sum(1)
    times = performance.times
    candidates = torch.nonzero(times <= times[-1] - duration)[:, 0]
    # what follows should be worth filming: the more the face moves, the better, in moderation
    after = torch.searchsorted(times, times[candidates] + duration).clamp(max=len(times) - 1)
    change = performance.coefficients.diff(dim=0).abs().sum(1)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), change.cumsum(0)])
    score = activity[candidates] - (total[after] - total[candidates]).clamp(max=8.0)
    return float(times[candidates[score.argmin()]])


def _still(count: int) -> Float[Tensor, "T 4 4"]:
    return torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)


def _rotation_poses(angles: Float[Tensor, "T 3"]) -> Float[Tensor, "T 4 4"]:
    poses = _still(len(angles))
    poses[:, :3, :3] = euler(angles)
    return poses


def euler(angles: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Rotations from yaw (about +y), pitch (about +x), roll (about +z), radians, in that order."""
    yaw, pitch, roll = angles.unbind(-1)
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def rows(*values: Tensor) -> Tensor:
        return torch.stack(values, -1).unflatten(-1, (3, 3))

    cy, sy, cp, sp, cr, sr = *_cs(yaw), *_cs(pitch), *_cs(roll)
    about_y = rows(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_x = rows(one, zero, zero, zero, cp, -sp, zero, sp, cp)
    about_z = rows(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    return about_y @ about_x @ about_z


def _cs(angle: Tensor) -> tuple[Tensor, Tensor]:
    return angle.cos(), angle.sin()


def _smooth_walk(random: np.random.Generator, degrees: float) -> np.ndarray:
    """Amplitude, rate and phase [6 3 3] of sums of sines: three angles, then three shifts."""
    scale = np.radians(degrees) * np.array([1.0, 0.7, 0.45])
    amplitude = np.concatenate([scale, [0.012, 0.008, 0.012]])[:, None] * [0.6, 0.3, 0.15]
    rate = np.array([1.0, 2.1, 3.7]) * random.uniform(0.7, 1.3, (6, 3))
    phase = random.uniform(0, 2 * np.pi, (6, 3))
    return np.stack([amplitude * random.uniform(0.7, 1.2, (6, 3)), rate, phase], -1)


def _sway(
    fields: np.ndarray, phase: np.ndarray, pivot: Float[Tensor, "3"]
) -> Float[Tensor, "T 4 4"]:
    amplitude, rate, offset = np.moveaxis(fields, -1, 0)
    wave = amplitude * np.sin(2 * np.pi * rate * phase[:, None, None] + offset)
    values = torch.tensor((wave - wave[:1]).sum(-1))
    poses = _rotation_poses(values[:, :3])
    poses[:, :3, 3] = pivot - poses[:, :3, :3] @ pivot + values[:, 3:]
    return poses
