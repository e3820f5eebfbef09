"""Textures of every frame, or one of the take."""

import time

from topohead.io.images import write_image
from topohead.io.runs import RunFolder
from topohead.solvers.fusion import Texture, fuse_frames, fuse_texture
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing import published_texture
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
    if published_texture.is_wanted(config):
        published_texture.make_all(run, take, head, config)
    elif config.textures == "static":
        if not run.has(f"frames/{frames[0]}/texture_srgb.png"):
            started = time.perf_counter()
            chosen = progress(spread(frames, STATIC_FRAMES), "texture")
            pairs = ((take.views(f, None), frame_vertices(run, f)) for f in chosen)
            fused = fuse_frames(pairs, head.mesh.topology, config.texture_size)
            _write_texture(run, frames[0], fused, time.perf_counter() - started)
    else:
        done = [f for f in frames if run.has(f"frames/{f}/texture_srgb.png")]
        missing = [f for f in frames if f not in done]
        colors = None
        for frame in progress(missing, "textures", len(frames), len(done)):
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
            _write_texture(run, frame, fused, time.perf_counter() - started)
    run.finish("texture")


def _camera_colors(run: RunFolder, take: Take, head: Head):
    """The cameras' colour corrections, from the first frame: the same for all frames."""
    from topohead.solvers.colors import solve_colors

    frame = take.capture.frames[0]
    return solve_colors(take.views(frame, None), head.mesh.topology, frame_vertices(run, frame))


def _write_texture(run: RunFolder, frame: str, fused: Texture, seconds: float) -> None:
    folder = run.path / "frames" / frame
    write_image(folder / "coverage.png", (fused.coverage / WELL_SEEN).clamp(max=1))
    run.append_metrics("texture", frame, seconds=seconds)
    write_image(folder / "texture_srgb.png", fused.srgb)
