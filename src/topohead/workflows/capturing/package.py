"""What a finished run hands over: the sequence, the curves, the report."""

import logging
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import (
    InputError,
)
from topohead.io.gltf import write_glb
from topohead.io.runs import RunFolder
from topohead.io.textures import find_texture
from topohead.workflows.capture import CaptureConfig, CaptureResult
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take
from topohead.workflows.capturing.tracked import frame_gaze, frame_vertices
from topohead.workflows.progress import track as progress

log = logging.getLogger(__name__)


def package(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> CaptureResult:
    """The sequence in one GLB, and what there is to say about the run."""
    frames = take.capture.frames
    sequence = run.path / "sequence.glb"
    if not (run.is_done("package") and sequence.exists()):
        vertices = torch.stack([frame_vertices(run, frame) for frame in frames])
        stored = find_texture(run.path, frames[0], frames)
        for _ in progress(range(1), "package"):
            write_glb(
                sequence,
                head.mesh.topology,
                vertices,
                None if stored is None else stored.picture,
                take.capture.frames_per_second,
                names=frames,
                upright=head.upright.float(),
            )
        _write_expression(run, take, head, vertices)
        run.finish("package")
    rows = [row for row in run.metrics() if row.get("stage") == "track"]
    seconds = [row["seconds"] for row in rows[1:]] or [row["seconds"] for row in rows]
    return CaptureResult(
        run.path,
        len(frames),
        tuple(row["frame"] for row in rows if row["doubtful"]),
        sum(seconds) / max(len(seconds), 1),
        sequence,
        None,
    )


def _write_expression(
    run: RunFolder, take: Take, head: Head, vertices: Float[Tensor, "T V 3"]
) -> None:
    """expression.csv: an extra, for which no finished take may be lost."""
    from topohead.workflows.rigging import expression_track, write_expression

    try:
        track = expression_track(head, vertices)
        rate = take.capture.frames_per_second
        looks = [g for f in take.capture.frames if (g := frame_gaze(run, f)) is not None]
        gaze = torch.stack(looks) if len(looks) == len(take.capture.frames) else None
        write_expression(run.path / "expression.csv", track, head.upright, rate, gaze)
    except (RuntimeError, ValueError) as error:  # torch and LAPACK raise these on broken numbers
        log.warning("no expression.csv: %s", error)


def report(run: RunFolder) -> Path | None:
    """report.html and evaluation.json; they can be had again from `topohead evaluate`."""
    from topohead.workflows.report import write_report

    try:
        return write_report(run.path)
    except InputError as error:
        log.warning("no report: %s", error)
        return None
