"""Textures of every frame, or one of the take."""

import time
from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from topohead.io.images import write_image
from topohead.io.runs import RunFolder
from topohead.io.textures import BASE, picture_file
from topohead.solvers.fusion import Texture, fuse_frames, fuse_texture
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing import published_texture
from topohead.workflows.capturing.dynamic import DynamicStore, make_wrinkles
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take, spread
from topohead.workflows.capturing.tracking import frame_vertices
from topohead.workflows.progress import track as progress

WELL_SEEN = 4
"""Effective number of views that coverage.png shows as white."""

STATIC_FRAMES = 8
"""Frames that make the one texture of a take."""


def texture(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """Textures of every frame, or one of the take, or none; see `CaptureConfig.textures`."""
    if config.textures == "none" or run.is_done("texture"):
        run.finish("texture")
        return
    frames = take.capture.frames
    if published_texture.is_wanted(config):
        published_texture.make_all(run, take, head, config)
    elif config.textures == "static":
        if not run.has(picture_file(frames[0])):
            fused, seconds = _of_the_take(run, take, head, config)
            _write_texture(run, frames[0], fused, seconds)
    elif config.textures == "full":
        missing = [f for f in frames if not run.has(picture_file(f))]
        for frame, fused, seconds in _of_frames(run, take, head, config, missing):
            _write_texture(run, frame, fused, seconds)
    else:
        wrinkle = config.textures == "wrinkle"
        store = DynamicStore(run, head.mesh.topology, config.texture_size, wrinkle)
        if not run.has(BASE):
            fused, seconds = _of_the_take(run, take, head, config)
            run.append_metrics("texture", seconds=seconds)
            store.write_base(fused, _shown(fused))
        missing = [f for f in frames if not store.has(f)]
        for frame, fused, seconds in _of_frames(run, take, head, config, missing):
            store.write_frame(frame, fused, seconds)
        if wrinkle:
            make_wrinkles(store, head, frames)
    run.finish("texture")


def _of_the_take(
    run: RunFolder, take: Take, head: Head, config: CaptureConfig
) -> tuple[Texture, float]:
    """One texture from a few frames, and the seconds that it took."""
    started = time.perf_counter()
    chosen = progress(spread(take.capture.frames, STATIC_FRAMES), "texture")
    pairs = ((take.views(f, None), frame_vertices(run, f)) for f in chosen)
    fused = fuse_frames(pairs, head.mesh.topology, config.texture_size)
    return fused, time.perf_counter() - started


def _of_frames(
    run: RunFolder, take: Take, head: Head, config: CaptureConfig, missing: Sequence[str]
) -> Iterator[tuple[str, Texture, float]]:
    """The missing frames' textures as they are made, and the seconds that each took."""
    count = len(take.capture.frames)
    colors = None
    for frame in progress(missing, "textures", count, count - len(missing)):
        started = time.perf_counter()
        if colors is None:
            colors = _camera_colors(run, take, head)
        fused = fuse_texture(
            take.views(frame, None),
            head.mesh.topology,
            frame_vertices(run, frame),
            config.texture_size,
            colors=colors,
        )
        yield frame, fused, time.perf_counter() - started


def _camera_colors(run: RunFolder, take: Take, head: Head):
    """The cameras' colour corrections, from the first frame: the same for all frames."""
    from topohead.solvers.colors import solve_colors

    frame = take.capture.frames[0]
    return solve_colors(take.views(frame, None), head.mesh.topology, frame_vertices(run, frame))


def _shown(fused: Texture) -> Float[Tensor, "S S"]:
    """Coverage as a picture."""
    return (fused.coverage / WELL_SEEN).clamp(max=1)


def _write_texture(run: RunFolder, frame: str, fused: Texture, seconds: float) -> None:
    write_image(run.path / "frames" / frame / "coverage.png", _shown(fused))
    run.append_metrics("texture", frame, seconds=seconds)
    write_image(run.path / picture_file(frame), fused.srgb)
