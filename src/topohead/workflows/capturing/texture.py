"""Textures of every frame, or one of the take.

While one frame's texture is made the last one's is written and, on CUDA, the next one's pictures
are read.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core import Mesh, Photographs, Views
from topohead.io.png import write_png
from topohead.io.runs import RunFolder
from topohead.io.textures import BASE, picture_file
from topohead.io.undistortion import photographs
from topohead.solvers.colors import CameraColors, solve_colors
from topohead.solvers.fusion import Texture, fuse_frames, fuse_texture
from topohead.workflows.background import Behind, ahead
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing import published_texture
from topohead.workflows.capturing.dynamic import DynamicStore, make_wrinkles
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take, spread
from topohead.workflows.capturing.tracking import frame_vertices
from topohead.workflows.progress import Sight, show, watched
from topohead.workflows.progress import track as progress

WELL_SEEN = 4
"""Effective number of views that coverage.png shows as white."""

SHOWN_TEXELS = 512
"""Edge of textures shown while the run lasts."""

STATIC_FRAMES = 8
"""Frames that make the one texture of a take."""


def texture(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Textures of every frame, or one of the take, or none; see `CaptureConfig.textures`."""
    if config.textures == "none" or run.is_done("texture"):
        run.finish("texture")
        return
    if published_texture.is_wanted(config):
        published_texture.make_all(run, take, head, config)
    else:
        with ThreadPoolExecutor(thread_name_prefix="pictures") as workers, Behind(1) as behind:
            fusion = _Fusion(run, take, head, config, workers)
            if config.textures in ("static", "full"):
                _whole_pictures(fusion, behind)
            else:
                _changing_textures(fusion, behind)
    run.finish("texture")


@dataclass(frozen=True)
class _Fusion:
    """Makes a run's textures, and writes those that are whole pictures."""

    run: RunFolder
    take: Take
    head: Head
    config: CaptureConfig
    workers: ThreadPoolExecutor

    def of_the_take(self) -> tuple[Texture, float]:
        """One texture from a few frames, and the seconds that it took."""
        started = time.perf_counter()
        chosen = spread(self.take.capture.frames, STATIC_FRAMES)
        with closing(self._pictures(chosen)) as pictures:
            pairs = (
                (views, frame_vertices(self.run, views.frame))
                for views in progress(pictures, "texture", len(chosen), 0)
            )
            fused = fuse_frames(pairs, self.head.mesh.topology, self.config.texture_size)
        self._show(chosen[0], fused, started)
        return fused, time.perf_counter() - started

    def of_frames(self, missing: Sequence[str]) -> Iterator[tuple[str, Texture, float]]:
        """The missing frames' textures as they are made, and when each was begun."""
        frames, topology = self.take.capture.frames, self.head.mesh.topology
        if not missing:
            return
        # the cameras' colour corrections are the first frame's for all frames
        wanted = missing if missing[0] == frames[0] else [frames[0], *missing]
        colors: CameraColors | None = None
        with closing(self._pictures(wanted)) as pictures:
            for frame in progress(missing, "textures", len(frames), len(frames) - len(missing)):
                started = time.perf_counter()
                views = next(pictures)
                if colors is None:
                    colors = solve_colors(views, topology, frame_vertices(self.run, views.frame))
                    if views.frame != frame:
                        views = next(pictures)
                vertices, size = frame_vertices(self.run, frame), self.config.texture_size
                fused = fuse_texture(views, topology, vertices, size, colors=colors)
                self._show(frame, fused, started)
                yield frame, fused, started

    def _show(self, frame: str, fused: Texture, started: float) -> None:
        """Shows a frame's textured mesh, the texture made small."""
        if not watched():
            return
        stride = -(-self.config.texture_size // SHOWN_TEXELS)
        mesh = Mesh(self.head.mesh.topology, frame_vertices(self.run, frame))
        small = fused.srgb[stride // 2 :: stride, stride // 2 :: stride].contiguous()
        seconds = {"texture, s a frame": time.perf_counter() - started}
        show(Sight(frame, seconds, {"head": mesh}, small))

    def _pictures(self, frames: Sequence[str]) -> Generator[Views] | Generator[Photographs]:
        """Undistorted for the CPU; as stored for a CUDA device, and read ahead.

        Undistorted ones are four times as large, too large to have several frames' at a time.
        """
        take, device = self.take, self.config.device
        if device == "cpu":
            return (take.views(frame, None) for frame in frames)
        return ahead(
            lambda frame: photographs(take.capture, frame, self.workers, take.names).to(device),
            frames,
            1,
        )

    def write(
        self,
        frame: str,
        codes: UInt8[np.ndarray, "S S 3"],
        coverage: UInt8[np.ndarray, "S S 1"],
        seconds: float,
    ) -> None:
        """A frame's texture comes last and whole: it says that the frame is done."""
        folder = self.run.path / "frames" / frame
        write_png(folder / "coverage.png", coverage, self.workers)
        self.run.append_metrics("texture", frame, seconds=seconds)
        write_png(self.run.path / picture_file(frame), codes, self.workers)


def _whole_pictures(fusion: _Fusion, behind: Behind) -> None:
    run, frames = fusion.run, fusion.take.capture.frames
    if fusion.config.textures == "static":
        if not run.has(picture_file(frames[0])):
            fused, seconds = fusion.of_the_take()
            fusion.write(frames[0], _codes(fused.srgb), _shown(fused), seconds)
        return
    missing = [f for f in frames if not run.has(picture_file(f))]
    for frame, fused, started in fusion.of_frames(missing):
        codes, coverage = _codes(fused.srgb), _shown(fused)
        behind.do(fusion.write, frame, codes, coverage, time.perf_counter() - started)


def _changing_textures(fusion: _Fusion, behind: Behind) -> None:
    run, frames = fusion.run, fusion.take.capture.frames
    wrinkle = fusion.config.textures == "wrinkle"
    topology, size = fusion.head.mesh.topology, fusion.config.texture_size
    store = DynamicStore(run, topology, size, wrinkle)
    if not run.has(BASE):
        fused, seconds = fusion.of_the_take()
        run.append_metrics("texture", seconds=seconds)
        store.write_base(_codes(fused.srgb), _shown(fused), fusion.workers)
    missing = [f for f in frames if not store.has(f)]
    for frame, fused, started in fusion.of_frames(missing):
        codes, seen = _codes(fused.srgb), (fused.coverage > 0).cpu().numpy()
        seconds = time.perf_counter() - started
        behind.do(store.write_frame, frame, codes, seen, fusion.workers, seconds)
    if wrinkle:
        behind.wait()
        make_wrinkles(store, fusion.head, frames)


def _shown(fused: Texture) -> UInt8[np.ndarray, "S S 1"]:
    """Coverage as a picture."""
    return _codes(fused.coverage[..., None] / WELL_SEEN)


def _codes(values: Float[Tensor, "S S K"]) -> UInt8[np.ndarray, "S S K"]:
    """8-bit codes of values in [0, 1], on the host."""
    return values.clamp(0, 1).mul_(255).round_().to(torch.uint8).cpu().numpy()
