"""Textures of every frame, or one of the take.

While one frame's texture is made the last one's is written and, on CUDA, the next one's pictures
are read. Pictures of their own on CUDA are made while frames are tracked: `on_the_way`.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core import Mesh, Photographs, Views
from topohead.core.transfer import fetched
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
from topohead.workflows.capturing.tracked import frame_vertices
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
            fusion = Fusion(run, take, head, config, workers)
            if config.textures in ("static", "full"):
                _whole_pictures(fusion, behind)
            else:
                _changing_textures(fusion, behind)
    run.finish("texture")


class Fusion:
    """Makes a run's textures, and writes those that are whole pictures."""

    def __init__(
        self,
        run: RunFolder,
        take: Take,
        head: Head,
        config: CaptureConfig,
        workers: ThreadPoolExecutor,
    ) -> None:
        self.run, self.take, self.head, self.config = run, take, head, config
        self.workers = workers
        self._colors: CameraColors | None = None

    def of_the_take(self) -> tuple[Texture, float]:
        """One texture from a few frames, and when it was begun."""
        started = time.perf_counter()
        chosen = spread(self.take.capture.frames, STATIC_FRAMES)
        with closing(self._pictures(chosen)) as pictures:
            pairs = (
                (views, frame_vertices(self.run, views.frame))
                for views in progress(pictures, "texture", len(chosen), 0)
            )
            fused = fuse_frames(pairs, self.head.mesh.topology, self.config.texture_size)
        self.show(chosen[0], frame_vertices(self.run, chosen[0]), fused, started)
        return fused, started

    def of_frames(self, missing: Sequence[str]) -> Iterator[tuple[str, Texture, float]]:
        """The missing frames' textures as they are made, and when each was begun."""
        frames = self.take.capture.frames
        with closing(self._pictures(missing)) as pictures:
            for frame in progress(missing, "textures", len(frames), len(frames) - len(missing)):
                started = time.perf_counter()
                views = next(pictures)
                vertices = frame_vertices(self.run, frame)
                fused = self.of_frame(views, vertices)
                self.show(frame, vertices, fused, started)
                yield frame, fused, started

    def of_frame(self, views: Views | Photographs, vertices: Float[Tensor, "V 3"]) -> Texture:
        """One frame's texture; the cameras' colour corrections are the first frame's."""
        topology, first = self.head.mesh.topology, self.take.capture.frames[0]
        if self._colors is None:
            if views.frame == first:
                self._colors = solve_colors(views, topology, vertices)
            else:
                (pictures,) = self._pictures([first])
                self._colors = solve_colors(pictures, topology, frame_vertices(self.run, first))
        return fuse_texture(
            views, topology, vertices, self.config.texture_size, colors=self._colors
        )

    def show(
        self, frame: str, vertices: Float[Tensor, "V 3"], fused: Texture, started: float
    ) -> None:
        """Shows a frame's textured mesh, the texture made small."""
        if not watched():
            return
        stride = -(-self.config.texture_size // SHOWN_TEXELS)
        small = fused.srgb[stride // 2 :: stride, stride // 2 :: stride].contiguous()
        seconds = {"texture, s a frame": time.perf_counter() - started}
        mesh = Mesh(self.head.mesh.topology, vertices)
        show(Sight(frame, seconds, {"head": mesh}, small))

    def _pictures(self, frames: Sequence[str]) -> Generator[Views] | Generator[Photographs]:
        """Undistorted for the CPU; as stored for a CUDA device, and read ahead.

        Undistorted ones are four times as large, too large to have several frames' at a time.
        """
        take, device = self.take, self.config.device
        if device == "cpu":
            return (take.views(frame, None) for frame in frames)
        return ahead(
            lambda frame: photographs(take.capture, frame, self.workers, take.names, device),
            frames,
            threads=2,
        )

    def hand_over(self, behind: Behind, frame: str, fused: Texture, started: float) -> None:
        """Has a frame's texture written behind."""
        codes, coverage = _codes(fused.srgb), _shown(fused)
        behind.do(self._write, frame, codes, coverage, time.perf_counter() - started)

    def _write(
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


class OnTheWay:
    """Makes each frame's texture as soon as its mesh is there, from the pictures it was tracked on.

    Decoding large photographs takes longer than all the rest, so they are decoded once. Tracking
    hands its pictures to `keep`, from whichever thread, and says in `tracked` that one is done.
    """

    def __init__(self, fusion: Fusion, behind: Behind) -> None:
        self._fusion, self._behind = fusion, behind
        self._kept: dict[str, Views | Photographs] = {}

    @property
    def waiting(self) -> tuple[str, ...]:
        """Frames whose pictures are kept."""
        return tuple(self._kept)

    def keep(self, pictures: Views | Photographs) -> None:
        """Pictures that tracking has read."""
        self._kept[pictures.frame] = pictures

    def tracked(self, frame: str, vertices: Float[Tensor, "V 3"]) -> None:
        """A frame's mesh is there: its texture is made, and goes to be written."""
        pictures = self._kept.pop(frame)
        order = self._fusion.take.capture.frames.index
        for other in list(self._kept):  # readers add to it meanwhile
            if order(other) < order(frame):  # of a chunk's run-up
                del self._kept[other]
        if not self._fusion.run.has(picture_file(frame)):
            started = time.perf_counter()
            fused = self._fusion.of_frame(pictures, vertices)
            self._fusion.show(frame, vertices, fused, started)
            self._fusion.hand_over(self._behind, frame, fused, started)


@contextmanager
def on_the_way(
    run: RunFolder, take: Take, head: Head, config: CaptureConfig
) -> Iterator[OnTheWay | None]:
    """What makes textures while frames are tracked; None where they are made afterwards."""
    wanted = config.textures == "full" and config.device == "cuda" and config.jobs == 1
    if not wanted or config.solver != "newton" or run.is_done("texture"):
        yield None
        return
    with ThreadPoolExecutor(thread_name_prefix="pictures") as workers, Behind(1) as behind:
        yield OnTheWay(Fusion(run, take, head, config, workers), behind)


def _whole_pictures(fusion: Fusion, behind: Behind) -> None:
    run, frames = fusion.run, fusion.take.capture.frames
    if fusion.config.textures == "static":
        if not run.has(picture_file(frames[0])):
            fusion.hand_over(behind, frames[0], *fusion.of_the_take())
        return
    missing = [f for f in frames if not run.has(picture_file(f))]
    for frame, fused, started in fusion.of_frames(missing):
        fusion.hand_over(behind, frame, fused, started)


def _changing_textures(fusion: Fusion, behind: Behind) -> None:
    run, frames = fusion.run, fusion.take.capture.frames
    wrinkle = fusion.config.textures == "wrinkle"
    topology, size = fusion.head.mesh.topology, fusion.config.texture_size
    store = DynamicStore(run, topology, size, wrinkle)
    if not run.has(BASE):
        fused, started = fusion.of_the_take()
        run.append_metrics("texture", seconds=time.perf_counter() - started)
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
    return fetched(values.clamp(0, 1).mul_(255).round_().to(torch.uint8))
