"""Expression tracks: ARKit-52 coefficients over time, as Live Link Face writes them."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, InputError

TIMECODE_BASE = 60
"""Live Link Face counts 60 timecode frames a second, whatever its recording rate."""

SECONDS_A_DAY = 86_400.0
FULL_LOOK = 0.55
"""Radians that an eye turns at a full eyeLook action: about what ARKit reports."""
_COLUMNS = tuple(name[0].upper() + name[1:] for name in ARKIT_52)
_ROTATIONS = tuple(
    part + axis for part in ("Head", "LeftEye", "RightEye") for axis in ("Yaw", "Pitch", "Roll")
)


@dataclass(frozen=True)
class Performance:
    """A face over time.

    `times` in seconds from the first row, ascending, not necessarily even. `coefficients` follow
    `ARKIT_52`. Rotations are yaw, pitch, roll in radians; `eye_rotation` holds left, then right.
    """

    times: Float[Tensor, " T"]
    coefficients: Float[Tensor, "T 52"]
    head_rotation: Float[Tensor, "T 3"]
    eye_rotation: Float[Tensor, "T 2 3"]

    def __len__(self) -> int:
        return len(self.times)


def read_live_link(path: str | Path) -> Performance:
    """The performance in a Live Link Face CSV, at its own irregular times.

    Rows skip when the phone was busy, so time comes from the timecode and never from counting
    rows. A recording across midnight goes on past 24 h. Columns may stand in any order and be
    parted by commas, semicolons (as spreadsheets save, perhaps with decimal commas) or tabs.
    Rotations may be absent, and so may TongueOut, which older recordings do not have.
    """
    path = Path(path)
    header, rows = _read_rows(path)
    names = {name.lower(): name for name in ("Timecode", *_COLUMNS, *_ROTATIONS)}
    column = {names.get(n.strip().lower(), n.strip()): index for index, n in enumerate(header)}
    needed = ("Timecode", *(name for name in _COLUMNS if name != "TongueOut"))
    missing = [name for name in needed if name not in column]
    if missing:
        raise InputError(
            f"{path} is no Live Link Face CSV: expected a column '{missing[0]}' "
            f"({len(missing)} missing), got {len(header)} columns; export it from the app as CSV"
        )
    times, last, days = [], -np.inf, 0.0
    for number, row in enumerate(rows, start=2):
        seconds = _parse_timecode(row[column["Timecode"]], path, number) + days
        if seconds < last - SECONDS_A_DAY / 2:
            days += SECONDS_A_DAY
            seconds += SECONDS_A_DAY
        if seconds <= last:
            raise InputError(
                f"{path}, line {number}: timecode {row[column['Timecode']]} does not come after "
                "the row before; sort the rows or remove the double one"
            )
        times.append(seconds)
        last = seconds
    values, rotations = np.zeros((len(rows), 52)), np.zeros((len(rows), 9))
    for table, known in ((values, _COLUMNS), (rotations, _ROTATIONS)):
        there = [index for index, name in enumerate(known) if name in column]
        table[:, there] = _numbers(path, rows, [column[known[index]] for index in there])
    _check_range(path, values, 2.0, "coefficients", "0 to 1")
    _check_range(path, rotations, 2 * np.pi, "angles", "radians")
    return Performance(
        torch.tensor(np.array(times) - times[0]),
        torch.tensor(values),
        torch.tensor(rotations[:, :3]),
        torch.tensor(rotations[:, 3:].reshape(-1, 2, 3)),
    )


def write_live_link(performance: Performance, path: str | Path) -> None:
    """Write a performance as a Live Link Face CSV; the timecode starts at 00:00:00:00.000."""
    rows = torch.cat(
        [
            performance.coefficients,
            performance.head_rotation,
            performance.eye_rotation.flatten(1),
        ],
        1,
    ).tolist()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Timecode", "BlendShapeCount", *_COLUMNS, *_ROTATIONS])
        for time, row in zip(performance.times.tolist(), rows, strict=True):
            writer.writerow([_format_timecode(time), len(row), *(f"{x:.10f}" for x in row)])


def picked(performance: Performance, rows: Int[Tensor, " N"]) -> Performance:
    """Some rows of a performance, its time beginning at the first of them."""
    times = performance.times[rows]
    return Performance(
        times - times[0],
        performance.coefficients[rows],
        performance.head_rotation[rows],
        performance.eye_rotation[rows],
    )


def resampled(performance: Performance, rate: float) -> Performance:
    """The performance at even steps of 1/rate seconds, linear between its rows.

    The last step is the one before the last row's end; angles go the short way round.
    """
    stamps = performance.times.double().numpy()
    count = int(np.floor((stamps[-1] - stamps[0]) * rate + 1e-6)) + 1
    times = stamps[0] + np.arange(count) / rate

    def at(values: Tensor) -> Tensor:
        rows = values.double().flatten(1).numpy()
        columns = [np.interp(times, stamps, column) for column in rows.T]
        return torch.from_numpy(np.stack(columns, 1)).reshape(count, *values.shape[1:])

    def turned(angles: Tensor) -> Tensor:
        return at(torch.from_numpy(np.unwrap(angles.double().numpy(), axis=0)))

    return Performance(
        torch.from_numpy(times - times[0]),
        at(performance.coefficients),
        turned(performance.head_rotation),
        turned(performance.eye_rotation),
    )


def live_link_angles(rotations: Float[Tensor, "T 3 3"]) -> Float[Tensor, "T 3"]:
    """Head yaw, pitch, roll of rotations in a y-up, z-forward frame, radians, as the app has them.

    R = yaw about +y · pitch about +x · roll about +z, of which Live Link counts yaw and pitch the
    other way round.
    """
    yaw = torch.atan2(rotations[:, 0, 2], rotations[:, 2, 2])
    pitch = -torch.asin(rotations[:, 1, 2].clamp(-1, 1))
    roll = torch.atan2(rotations[:, 1, 0], rotations[:, 1, 1])
    return torch.stack([-yaw, -pitch, roll], 1)


def gaze_of_looks(coefficients: Float[Tensor, "T 52"]) -> Float[Tensor, "T 2 2"]:
    """Yaw (to the person's left) and pitch (up) of both eyes, radians, that eyeLook actions say."""

    def at(name: str) -> Float[Tensor, " T"]:
        return coefficients[:, ARKIT_52.index(name)]

    left_yaw = at("eyeLookOutLeft") - at("eyeLookInLeft")
    right_yaw = at("eyeLookInRight") - at("eyeLookOutRight")
    left_pitch = at("eyeLookUpLeft") - at("eyeLookDownLeft")
    right_pitch = at("eyeLookUpRight") - at("eyeLookDownRight")
    left, right = torch.stack([left_yaw, left_pitch], -1), torch.stack([right_yaw, right_pitch], -1)
    return FULL_LOOK * torch.stack([left, right], 1)


def with_looks(
    coefficients: Float[Tensor, "T 52"], gaze: Float[Tensor, "T 2 2"]
) -> Float[Tensor, "T 52"]:
    """The coefficients with the eyeLook actions that a gaze asks for, in [0, 1]."""
    share = gaze / FULL_LOOK
    found = coefficients.clone()
    for eye, side in enumerate(("Left", "Right")):
        # the left eye turns out to the left, the right one in
        toward_left, toward_right = ("Out", "In") if eye == 0 else ("In", "Out")
        yaw, pitch = share[:, eye].unbind(1)
        pairs = {toward_left: yaw, toward_right: -yaw, "Up": pitch, "Down": -pitch}
        for way, value in pairs.items():
            # plus zero: a file need not tell −0 from 0
            found[:, ARKIT_52.index(f"eyeLook{way}{side}")] = value.clamp(0, 1).to(found) + 0.0
    return found


def live_link_eyes(gaze: Float[Tensor, "T 2 2"]) -> Float[Tensor, "T 2 3"]:
    """Yaw, pitch, roll of both eyes as the app has them: to the right and down are positive."""
    return torch.cat([-gaze, torch.zeros_like(gaze[..., :1])], -1)


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            parted = max(",;\t", key=file.readline().count)
            file.seek(0)
            rows = [row for row in csv.reader(file, delimiter=parted) if row]
    except OSError as error:
        raise InputError(f"cannot read the performance {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text file; expected a Live Link Face CSV") from error
    if len(rows) < 2:
        raise InputError(f"{path} has no rows; expected a header and one row a frame")
    header, body = rows[0], rows[1:]
    if parted != ",":
        body = [[cell.replace(",", ".") for cell in row] for row in body]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {number}: expected {len(header)} values as in the header, "
                f"got {len(row)}; is the file cut off?"
            )
    return header, body


def _numbers(path: Path, rows: list[list[str]], columns: list[int]) -> np.ndarray:
    values = np.zeros((len(rows), len(columns)))
    for line, row in enumerate(rows, start=2):
        try:
            values[line - 2] = [float(row[index]) for index in columns]
        except ValueError as error:
            raise InputError(
                f"{path}, line {line}: expected numbers in every column, {error}"
            ) from error
    if not np.isfinite(values).all():
        line = int(np.argmax(~np.isfinite(values).all(1))) + 2
        raise InputError(f"{path}, line {line}: a coefficient is not finite; remove the row")
    return values


def _check_range(path: Path, values: np.ndarray, limit: float, what: str, expected: str) -> None:
    """Percentages and degrees look like a performance, of another face."""
    if np.abs(values).max(initial=0) > limit:
        line = int(np.argmax(np.abs(values).max(1) > limit)) + 2
        raise InputError(
            f"{path}, line {line}: {what} reach {np.abs(values).max():.4g}; expected {expected}"
        )


def _parse_timecode(text: str, path: Path, line: int) -> float:
    try:
        hours, minutes, seconds, frames = text.strip().split(":")
        whole = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
        return whole + float(frames) / TIMECODE_BASE
    except ValueError as error:
        raise InputError(
            f"{path}, line {line}: expected a timecode HH:MM:SS:FF.mmm, got '{text}'"
        ) from error


def _format_timecode(seconds: float) -> str:
    # whole thousandths of a timecode frame, so that 59.9996 frames carry into the second
    ticks = round(seconds * TIMECODE_BASE * 1000)
    whole, thousandths = divmod(ticks, TIMECODE_BASE * 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}:{thousandths / 1000:06.3f}"
