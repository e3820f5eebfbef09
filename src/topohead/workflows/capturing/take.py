"""The opened take: which cameras take part, and the calibration that the run uses."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from topohead.core import (
    Capture,
    InputError,
    Rig,
    Views,
)
from topohead.io.calibration import read_rig, write_rig
from topohead.io.captures import open_capture, undistorted_views
from topohead.io.runs import RunFolder
from topohead.solvers.calibration import CalibrationReport, refine_cameras, refined_rig
from topohead.solvers.feature_tracks import find_tracks
from topohead.workflows.capture import CaptureConfig

log = logging.getLogger(__name__)


CHECKED_FRAMES = 5
"""Frames whose features tell whether the calibration fits."""


@dataclass(frozen=True)
class Take:
    """The opened take and the cameras that take part."""

    capture: Capture
    names: tuple[str, ...]
    start_path: Path | None

    def views(self, frame: str, height: int | None, readers: int = 1, device: str = "cpu") -> Views:
        """Undistorted pictures of a frame on a device, at most `height` pixels high."""
        return undistorted_views(self.capture, frame, self.names, height, readers, device)


def open_take(config: CaptureConfig) -> Take:
    """The take that the settings name, checked."""
    for flag, path in (("--start", config.start), ("--landmarks", config.landmarks)):
        if path is not None and not path.is_file():
            raise InputError(f"{flag} {path}: no such file")
    capture = open_capture(
        config.source,
        config.units,
        config.views,
        config.frames,
        config.allow_missing,
        config.full,
        calibration=config.calibration,
        component=config.component,
        landmarks=config.landmarks,
    )
    names = capture.rig.cameras.names
    held_out = [name for name in (config.holdout or "").split(",") if name]
    unknown = [name for name in held_out if name not in names]
    if unknown:
        raise InputError(f"--holdout {unknown[0]}: no such camera; the take has {', '.join(names)}")
    kept = tuple(name for name in names if name not in held_out)
    if len(kept) < 2:
        raise InputError(f"--holdout leaves {len(kept)} camera; tracking needs at least two")
    start = None if config.no_start else config.start or capture.start_mesh
    return Take(capture, kept, start)


def bytes_needed(take: Take, config: CaptureConfig) -> int:
    """A generous estimate of what the run still writes."""
    frames = len(take.capture.frames)
    assert config.textures is not None
    # in pictures; working files of wrinkle maps, and the maps unpacked and packed
    textures = {"full": frames, "delta": 1 + frames, "wrinkle": frames + 24, "static": 1,
                "none": 0}[config.textures]  # fmt: skip
    maps = frames if config.detail == "maps" else 0
    relief = maps * config.detail_size**2 * 5.0  # half floats and three bytes a texel
    return int(frames * 12e6 + relief + textures * config.texture_size**2 * 3.5 + 20e6)


def ingest(run: RunFolder, take: Take, config: CaptureConfig) -> Take:
    """The take with the calibration that the run uses: as delivered, or put right."""
    if not run.is_done("ingest"):
        started = time.perf_counter()
        rig = take.capture.rig
        if not config.keep_cameras:
            rig = _checked_rig(run, take, config)
        with run.write("cameras.json") as path:
            write_rig(rig, path)
        run.append_metrics("ingest", seconds=time.perf_counter() - started)
        run.finish("ingest")
    return calibrated(take, run.path)


def calibrated(take: Take, run: Path) -> Take:
    """The take with the calibration of a run."""
    rig = read_rig(run / "cameras.json").select(take.capture.rig.cameras.names)
    return replace(take, capture=replace(take.capture, rig=rig))


def _checked_rig(run: RunFolder, take: Take, config: CaptureConfig) -> Rig:
    """The rig, solved again when a camera has drifted or when that was asked for."""
    frames = spread(take.capture.frames, CHECKED_FRAMES)
    height = max(config.height, 1024)
    views = [take.views(frame, height) for frame in frames]
    complete = [v for v in views if v.cameras.names == take.names]
    rig = take.capture.rig
    if not complete:
        return rig
    try:
        given = complete[0].cameras
        solved, report = refine_cameras(given, find_tracks(complete))
    except InputError as error:
        if config.refine_cameras:
            raise
        log.info("calibration not checked: %s", error)
        return rig
    _tell_calibration(run, report)
    if not (report.drifted or config.refine_cameras):
        return rig
    if report.drifted:
        log.warning(
            "the calibration of %s does not fit the pictures (%.2f px, %.2f px when solved again): "
            "poses and principal points are taken as solved; --keep-cameras forbids that",
            ", ".join(report.drifted),
            float(report.before.max()),
            float(report.after.max()),
        )
    return refined_rig(rig, given, solved)


def _tell_calibration(run: RunFolder, report: CalibrationReport) -> None:
    run.append_metrics(
        "calibration",
        tracks=report.tracks,
        drifted=list(report.drifted),
        cameras={
            name: {
                "before_px": float(report.before[i]),
                "after_px": float(report.after[i]),
                "turned_degrees": float(report.turned[i]),
                "moved_mm": float(report.moved[i]) * 1e3,
            }
            for i, name in enumerate(report.names)
        },
    )


def spread(frames: Sequence[str], count: int) -> list[str]:
    """At most `count` frames, evenly over the take, the first among them."""
    if len(frames) <= count:
        return list(frames)
    step = (len(frames) - 1) / (count - 1)
    return [frames[round(i * step)] for i in range(count)]
