"""Blendshape scores over time, as programs around MediaPipe's face landmarker keep them.

CSV: a header of ARKit's names, a row a frame, perhaps with a column of time. JSON: a list of
frames, or an object that has one under `frames`, and maybe `fps`. A frame is an object of names and
scores, or MediaPipe's own list of categories, or an object that holds either beside a time and the
face's matrix. `_neutral` is passed over, `tongueOut` may lack.
"""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, InputError
from topohead.io.expressions import Performance, live_link_angles

log = logging.getLogger(__name__)

OPTIONAL = ("tongueOut",)
DEFAULT_RATE = 30.0

TIMES = {
    "timestamp_ms": 1e-3, "timestampMs": 1e-3, "time_ms": 1e-3, "timestamp_us": 1e-6, "time": 1.0,
    "time_s": 1.0, "seconds": 1.0,
}  # fmt: skip
"""Names of times, and what makes seconds of them."""

SCORES = ("blendshapes", "face_blendshapes", "faceBlendshapes", "scores", "categories")
MATRICES = ("facial_transformation_matrixes", "facialTransformationMatrixes", "matrix")

Row = tuple[float | None, dict[str, float], Tensor | None]
"""Time in seconds, scores by name (none where no face was found), and how the head is turned."""


def is_scores(path: Path) -> bool:
    """Whether a file is JSON, or a CSV without Live Link's time codes."""
    if path.suffix.lower() == ".json":
        return True
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return "timecode" not in [name.lower() for name in header] and any(
        name in header for name in ARKIT_52
    )


def read_scores(path: Path, rate: float | None = None) -> Performance:
    """The performance in a file of scores; the eyes' turn is what their actions say, so zero here.

    Frames without time are `rate` a second: what is given, else the file's own, else 30. Frames
    without a face are left out and told; whoever resamples goes straight across them.
    """
    rows, told = _json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path)
    if not rows:
        raise InputError(f"{path} has no frames; expected blendshape scores, one set a frame")
    each = 1 / (rate or told or DEFAULT_RATE)
    clock = all(time is not None for time, _, _ in rows)
    faces = [k for k, (_, scores, _) in enumerate(rows) if scores]
    if not faces:
        raise InputError(f"{path}: no frame has a face; expected ARKit's names and scores")
    if len(faces) < len(rows):
        log.warning("%d of %d frames have no face", len(rows) - len(faces), len(rows))
    coefficients, turns, times = [], [], []
    for k in faces:
        time, scores, turn = rows[k]
        missing = [name for name in ARKIT_52 if name not in scores and name not in OPTIONAL]
        if missing:
            raise InputError(f"{path}, frame {k + 1}: it has no score {missing[0]!r} (ARKit's 52)")
        coefficients.append([scores.get(name, 0.0) for name in ARKIT_52])
        turns.append(torch.eye(3, dtype=torch.float64) if turn is None else turn)
        times.append(time if clock and time is not None else k * each)
    stamps = torch.tensor(times, dtype=torch.float64)
    values = torch.tensor(coefficients, dtype=torch.float64)
    if not bool(torch.isfinite(values).all() and torch.isfinite(stamps).all()):
        raise InputError(f"{path} has scores or times that are no numbers (NaN)")
    if bool((stamps[1:] <= stamps[:-1]).any()):
        at = int((stamps[1:] <= stamps[:-1]).nonzero()[0, 0]) + 2
        raise InputError(f"{path}, frame {at}: its time is not after the one before")
    return Performance(
        stamps - stamps[0], values, live_link_angles(torch.stack(turns)),
        torch.zeros(len(stamps), 2, 3, dtype=torch.float64),
    )  # fmt: skip


def _csv_rows(path: Path) -> tuple[list[Row], float | None]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text file ({error})") from None
    header = [name.strip() for name in rows[0]] if rows else []
    found: list[Row] = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {number}: expected {len(header)} values as in the header, got "
                f"{len(row)}"
            )
        cells = dict(zip(header, row, strict=True))
        # a frame without a face has empty cells
        scores = {name: cells[name] for name in ARKIT_52 if cells.get(name, "").strip()}
        found.append(
            (
                _time({name: cells[name] for name in TIMES if name in cells}, path, number),
                {name: _number(text, path, number) for name, text in scores.items()},
                None,
            )
        )
    return found, None


def _json_rows(path: Path) -> tuple[list[Row], float | None]:
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error})") from None
    rate = None
    if isinstance(document, Mapping):
        rate = document.get("fps", document.get("frames_per_second"))
        document = document.get("frames")
    if not isinstance(document, Sequence) or isinstance(document, str):
        raise InputError(f"{path}: expected a list of frames, or an object with one under 'frames'")
    if rate is not None and not (isinstance(rate, int | float) and rate > 0):
        raise InputError(f"{path}: fps is {rate!r}; expected a number above zero")
    return [_frame(entry, path, k) for k, entry in enumerate(document, start=1)], rate


def _frame(entry: Any, path: Path, number: int) -> Row:
    """One frame of a JSON file, in whichever of its forms."""
    time, turn = None, None
    if isinstance(entry, Mapping):
        time = _time(entry, path, number)
        matrices = next((entry[name] for name in MATRICES if name in entry), None)
        turn = _turn(matrices, path, number)
        held = [entry[name] for name in SCORES if name in entry]
        entry = held[0] if held else entry
    while True:
        if isinstance(entry, Mapping) and "categories" in entry:
            entry = entry["categories"]
        elif isinstance(entry, list) and entry and isinstance(entry[0], list):
            entry = entry[0]  # one list a face, of which the first counts
        elif isinstance(entry, list) and entry and "categories" in entry[0]:
            entry = entry[0]
        else:
            break
    if isinstance(entry, Mapping):
        pairs = [(name, entry[name]) for name in ARKIT_52 if name in entry]
    elif isinstance(entry, list):
        pairs = [_category(one, path, number) for one in entry]
    else:
        raise InputError(f"{path}, frame {number}: expected scores by name, got {entry!r:.40}")
    scores = {name: _number(value, path, number) for name, value in pairs if name in ARKIT_52}
    return time, scores, turn


def _category(one: Any, path: Path, number: int) -> tuple[str, Any]:
    if isinstance(one, Mapping):
        for name in ("category_name", "categoryName", "displayName", "name"):
            if one.get(name) and "score" in one:
                return str(one[name]), one["score"]
    raise InputError(
        f"{path}, frame {number}: expected categories with category_name and score, got {one!r:.40}"
    )


def _time(cells: Mapping[str, Any], path: Path, number: int) -> float | None:
    for name, unit in TIMES.items():
        if name in cells:
            return unit * _number(cells[name], path, number)
    return None


def _number(value: Any, path: Path, number: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{path}, frame {number}: {value!r:.40} is no number") from None


def _turn(given: Any, path: Path, number: int) -> Float[Tensor, "3 3"] | None:
    """The rotation in a face's matrix: nested rows (Python), or 16 numbers by column (the web)."""
    try:
        if isinstance(given, Mapping):
            given = [given]
        if not given:
            return None
        if isinstance(given[0], Mapping):
            matrix = np.array(given[0]["data"], np.float64).reshape(4, 4).T
        else:
            matrix = np.array(given, np.float64)
            matrix = matrix.reshape(-1, 4, 4)[0] if matrix.ndim > 1 else matrix.reshape(4, 4).T
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}, frame {number}: expected a face's matrix of 4 by 4") from None
    u, sizes, vt = np.linalg.svd(matrix[:3, :3])
    if not (sizes[2] > 0 and sizes[0] < 1.1 * sizes[2] and np.linalg.det(u @ vt) > 0):
        raise InputError(f"{path}, frame {number}: the face's matrix is no rotation")
    return torch.from_numpy(u @ vt)
