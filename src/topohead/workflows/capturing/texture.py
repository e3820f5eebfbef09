"""Textures of every frame, or one of the take.

While one frame's texture is made the last one's is written and, on CUDA, the next one's pictures
are read.
"""

import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core import Photographs, Views
from topohead.io.png import write_png
from topohead.io.runs import RunFolder
from topohead.io.undistortion import photographs
from topohead.solvers.colors import CameraColors, solve_colors
from topohead.solvers.fusion import Texture, fuse_frames, fuse_texture
from topohead.workflows.background import Behind, ahead
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take, spread
from topohead.workflows.capturing.tracking import frame_vertices
from topohead.workflows.progress import track as progress

WELL_SEEN = 4
"""Effective number of views that coverage.png shows as white."""

STATIC_FRAMES = 8
"""Frames that make the one texture of `--textures static`."""


def texture(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Textures of every frame, or one of the take, or none."""
    frames = take.capture.frames
    if config.textures == "none" or run.is_done("texture"):
        run.finish("texture")
        return
    with ThreadPoolExecutor(thread_name_prefix="pictures") as workers, Behind(1) as behind:
        writer = _Writer(run, workers, behind)
        if config.textures == "static":
            if not run.has(f"frames/{frames[0]}/texture_srgb.png"):
                started = time.perf_counter()
                chosen = spread(frames, STATIC_FRAMES)
                with closing(_pictures(take, chosen, config.device, workers)) as pictures:
                    pairs = (
                        (views, frame_vertices(run, views.frame))
                        for views in progress(pictures, "texture", len(chosen), 0)
                    )
                    fused = fuse_frames(pairs, head.mesh.topology, config.texture_size)
                writer.put(frames[0], fused, started)
        else:
            _every_frame(run, take, head, config, workers, writer)
    run.finish("texture")


def _every_frame(
    run: RunFolder,
    take: Take,
    head: Head,
    config: CaptureConfig,
    workers: ThreadPoolExecutor,
    writer: "_Writer",
) -> None:
    frames, topology = take.capture.frames, head.mesh.topology
    missing = [f for f in frames if not run.has(f"frames/{f}/texture_srgb.png")]
    if not missing:
        return
    # the cameras' colour corrections are the first frame's for all frames
    wanted = missing if missing[0] == frames[0] else [frames[0], *missing]
    colors: CameraColors | None = None
    with closing(_pictures(take, wanted, config.device, workers)) as pictures:
        counted = progress(missing, "textures", len(frames), len(frames) - len(missing))
        for frame in counted:
            started = time.perf_counter()
            views = next(pictures)
            if colors is None:
                colors = solve_colors(views, topology, frame_vertices(run, views.frame))
                if views.frame != frame:
                    views = next(pictures)
            fused = fuse_texture(
                views, topology, frame_vertices(run, frame), config.texture_size, colors=colors
            )
            writer.put(frame, fused, started)


def _pictures(
    take: Take, frames: Sequence[str], device: str, workers: ThreadPoolExecutor
) -> Generator[Views] | Generator[Photographs]:
    """The frames' pictures: undistorted for the CPU; as stored for a CUDA device, and read ahead.

    Undistorted ones are four times as large, too large to have several frames' at a time.
    """
    if device == "cpu":
        return (take.views(frame, None) for frame in frames)

    def stored(frame: str) -> Photographs:
        taken = photographs(take.capture, frame, workers, take.names)
        masks = None if taken.masks is None else tuple(mask.to(device) for mask in taken.masks)
        return replace(taken, images=tuple(i.to(device) for i in taken.images), masks=masks)

    return ahead(stored, frames, 1)


class _Writer:
    """Writes textures while the next ones are made; a frame's texture comes last and whole."""

    def __init__(self, run: RunFolder, workers: ThreadPoolExecutor, behind: Behind) -> None:
        self._run, self._workers, self._behind = run, workers, behind

    def put(self, frame: str, fused: Texture, started: float) -> None:
        """Hands a texture over; seconds are counted from `started` to here."""
        codes, coverage = _codes(fused.srgb), _codes(fused.coverage[..., None] / WELL_SEEN)
        seconds = time.perf_counter() - started
        self._behind.do(self._write, frame, codes, coverage, seconds)

    def _write(
        self,
        frame: str,
        codes: UInt8[np.ndarray, "S S 3"],
        coverage: UInt8[np.ndarray, "S S 1"],
        seconds: float,
    ) -> None:
        folder = self._run.path / "frames" / frame
        write_png(folder / "coverage.png", coverage, self._workers)
        self._run.append_metrics("texture", frame, seconds=seconds)
        write_png(folder / "texture_srgb.png", codes, self._workers)


def _codes(values: Float[Tensor, "S S K"]) -> UInt8[np.ndarray, "S S K"]:
    """8-bit codes of values in [0, 1], on the host."""
    return values.clamp(0, 1).mul_(255).round_().to(torch.uint8).cpu().numpy()
