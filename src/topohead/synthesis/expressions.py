"""Random faces: coefficients of actions that people make together, and where the eyes look."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import ARKIT_52
from topohead.io.expressions import FULL_LOOK, Performance, gaze_of_looks
from topohead.synthesis.draws import normals, uniforms

KINDS = (0.3, 0.5, 0.2)
"""Shares of one action, of 2–6 together, of frames of a recording (else of the second kind)."""

MOVES = (
    "eyeBlink*", "eyeSquint*", "eyeWide*", "jawForward", "jawLeft", "jawRight", "jawOpen",
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmile*",
    "mouthFrown*", "mouthDimple*", "mouthStretch*", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthPress*", "mouthLowerDown*", "mouthUpperUp*",
    "browDown*", "browInnerUp", "browOuterUp*", "cheekPuff", "cheekSquint*", "noseSneer*",
    "tongueOut", "look",
)  # fmt: skip
"""What is drawn: an action, both sides of one (`*`), or a turn of the eyes."""

ONE_SIDED = 0.3
"""Share of two-sided moves that one side makes alone."""

CLOSED = 0.4
"""Greatest mouthClose: further, the chin's skin would be drawn over the lower teeth."""

OPPOSED = (
    ("eyeBlink*", "eyeWide*"), ("eyeSquint*", "eyeWide*"), ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"), ("mouthSmile*", "mouthFrown*"), ("browDown*", "browOuterUp*"),
    ("browDown*", "browInnerUp"), ("mouthSmile*", "mouthPucker"), ("mouthSmile*", "mouthFunnel"),
    ("mouthStretch*", "mouthPucker"), ("mouthStretch*", "mouthFunnel"),
    ("mouthDimple*", "mouthPucker"), ("mouthPucker", "mouthFunnel"),
    ("mouthRollLower", "mouthLowerDown*"), ("mouthRollLower", "mouthShrugLower"),
    ("mouthRollLower", "mouthFunnel"), ("mouthRollUpper", "mouthFunnel"),
    ("mouthRollUpper", "mouthUpperUp*"), ("mouthRollUpper", "mouthShrugUpper"),
    ("mouthShrugLower", "mouthLowerDown*"), ("mouthPress*", "jawOpen"),
    ("mouthPress*", "mouthFunnel"), ("mouthPress*", "mouthUpperUp*"),
    ("mouthPress*", "mouthLowerDown*"), ("cheekPuff", "jawOpen"), ("cheekPuff", "tongueOut"),
    ("mouthPress*", "tongueOut"), ("mouthRollLower", "tongueOut"), ("mouthPucker", "tongueOut"),
    ("mouthShrugLower", "jawOpen"), ("mouthShrugLower", "tongueOut"),
)  # fmt: skip
"""Actions that work against each other: together no more than one at full strength."""


def draw_expressions(
    seed: int, indices: Int[Tensor, " B"] | list[int] | range, recording: Performance | None = None
) -> tuple[Float[Tensor, "B 52"], Float[Tensor, "B 2 2"]]:
    """Coefficients of ARKIT_52 and gaze (yaw, pitch of the left, then the right eye; radians).

    A function of (seed, index), and of the recording's rows for the fifth that are taken from it.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    kind = np.searchsorted(np.cumsum(KINDS)[:-1], uniforms(seed, numbers, "kind", 1)[:, 0], "right")
    rows, gaze = _composed(seed, numbers, kind == 0)
    if recording is not None and (kind == 2).any():
        times = recording.times.numpy()
        place = uniforms(seed, numbers[kind == 2], "frame", 1)[:, 0]
        frame = np.minimum((place * len(times)).astype(int), len(times) - 1)
        taken = recording.coefficients[torch.from_numpy(frame)].float().clamp(0, 1)
        rows[kind == 2] = taken.numpy()
        gaze[kind == 2] = gaze_of_looks(taken).numpy()
    return torch.from_numpy(rows).float(), torch.from_numpy(gaze).float()


def _composed(
    seed: int, numbers: np.ndarray, single: np.ndarray
) -> tuple[Float[np.ndarray, "B 52"], Float[np.ndarray, "B 2 2"]]:
    """One move, or 2–6, each of random strength and side, made possible together."""
    moves = len(MOVES)
    rank = uniforms(seed, numbers, "moves", moves).argsort(1).argsort(1)
    many = 2 + np.floor(5 * uniforms(seed, numbers, "count", 1))
    used = rank < np.where(single[:, None], 1, many)
    strength = (0.2 + 0.8 * uniforms(seed, numbers, "strength", moves)) * used
    side = uniforms(seed, numbers, "side", moves)
    rows = np.zeros((len(numbers), len(ARKIT_52)))
    for k, name in enumerate(MOVES[:-1]):
        for column, suffix in _columns(name):
            other = {"Left": side[:, k] < ONE_SIDED / 2, "Right": side[:, k] > 1 - ONE_SIDED / 2}
            absent = other["Right" if suffix == "Left" else "Left"] if suffix else False
            rows[:, column] = strength[:, k] * ~np.asarray(absent)
    gaze = _looks(seed, numbers) * used[:, -1, None, None]
    _say_looks(rows, gaze)
    return _possible(rows), gaze


def _looks(seed: int, numbers: np.ndarray) -> Float[np.ndarray, "B 2 2"]:
    """Both eyes together, with a little vergence."""
    turn = np.radians([14.0, 9.0]) * normals(seed, numbers, "look", 2)
    turn = np.clip(turn, -np.radians([32.0, 22.0]), np.radians([32.0, 22.0]))
    inward = np.radians(3.0) * uniforms(seed, numbers, "vergence", 1)
    eyes = np.repeat(turn[:, None], 2, 1)
    eyes[:, 0, 0] -= inward[:, 0]
    eyes[:, 1, 0] += inward[:, 0]
    return eyes


def _say_looks(rows: np.ndarray, gaze: np.ndarray) -> None:
    """The eyeLook actions of a gaze, which move the lids along; inverse of `gaze_of_looks`."""
    for eye, (side, outward) in enumerate((("Left", 1.0), ("Right", -1.0))):
        yaw, pitch = outward * gaze[:, eye, 0] / FULL_LOOK, gaze[:, eye, 1] / FULL_LOOK
        for name, value in (("Out", yaw), ("In", -yaw), ("Up", pitch), ("Down", -pitch)):
            rows[:, ARKIT_52.index(f"eyeLook{name}{side}")] = np.clip(value, 0, 1)


def _possible(rows: np.ndarray) -> Float[np.ndarray, "B 52"]:
    """Coefficients with opposed actions weakened, and with what an action needs of others."""
    jaw, close, tongue = (ARKIT_52.index(n) for n in ("jawOpen", "mouthClose", "tongueOut"))
    # a tongue comes out of an open mouth; lips are closed over an open jaw, else they overlap
    rows[:, close] *= CLOSED * (rows[:, tongue] == 0)
    rows[:, jaw] = np.maximum(rows[:, jaw], np.maximum(0.5 * rows[:, tongue], rows[:, close]))
    for first, second in OPPOSED:
        for a, side in _columns(first):
            for b, other in _columns(second):
                if not side or not other or side == other:
                    over = np.maximum(rows[:, a] + rows[:, b], 1)
                    rows[:, a] /= over
                    rows[:, b] /= over
    rows[:, close] = np.minimum(rows[:, close], rows[:, jaw])
    rows[:, tongue] = np.minimum(rows[:, tongue], 2 * rows[:, jaw])
    for side in ("Left", "Right"):
        shut = ARKIT_52.index(f"eyeBlink{side}")
        lowered = 0.4 * rows[:, ARKIT_52.index(f"eyeLookDown{side}")]
        lowered += 0.3 * rows[:, ARKIT_52.index(f"eyeSquint{side}")]
        rows[:, shut] = np.minimum(rows[:, shut], 1 - np.minimum(lowered, 0.6))
    return rows


def _columns(name: str) -> list[tuple[int, str]]:
    """The coefficients of a move and their sides."""
    if not name.endswith("*"):
        return [(ARKIT_52.index(name), "")]
    return [(ARKIT_52.index(name[:-1] + side), side) for side in ("Left", "Right")]
