"""Textures as the published method makes them: millions of Gaussians, fitted frame by frame."""

import time

import torch
from safetensors.torch import load_file, save_file

from topohead.io.images import write_image
from topohead.io.runs import RunFolder
from topohead.solvers import published_texture
from topohead.workflows import tracking_state
from topohead.workflows.capture import CaptureConfig
from topohead.workflows.capturing.first import Head
from topohead.workflows.capturing.take import Take
from topohead.workflows.progress import track as progress

COLORS = "published_colors.safetensors"
"""In a frame's folder: its Gaussians' colours, near which the next frame's stay."""


def is_wanted(config: CaptureConfig) -> bool:
    """Whether a run's textures are made here: not on the CPU, which would take hours a frame."""
    return (config.solver, config.textures, config.device) == ("published", "full", "cuda")


def make_all(run: RunFolder, take: Take, head: Head, config: CaptureConfig) -> None:
    """The dense stage of the published method for every frame, in the order of the frames."""
    frames, device = take.capture.frames, torch.device(config.device)
    scene = tracking_state.published_scene(head.mesh, config.seed)
    settings = published_texture.PublishedTextureConfig(size=config.texture_size, seed=config.seed)
    layout = published_texture.make_layout(scene, settings, device)
    done = 0
    while done < len(frames) and run.has(f"frames/{frames[done]}/texture_srgb.png"):
        done += 1
    last = None
    if 0 < done < len(frames):
        last = load_file(run.path / "frames" / frames[done - 1] / COLORS)["colors"].to(device)
    for index, frame in progress(list(enumerate(frames))[done:], "textures", len(frames), done):
        started = time.perf_counter()
        gaussians = load_file(run.path / "frames" / frame / "state.safetensors")
        views = take.views(frame, None).to(device)
        last = published_texture.fit_colors(
            views, scene, tracking_state.published_state(gaussians), layout, settings, last
        )
        picture, is_drawn = published_texture.draw_texture(last, layout)
        if index + 1 < len(frames):
            with run.write(f"frames/{frame}/{COLORS}") as path:
                save_file({"colors": last.cpu()}, path)
        folder = run.path / "frames" / frame
        write_image(folder / "coverage.png", is_drawn.float().cpu())
        run.append_metrics("texture", frame, seconds=time.perf_counter() - started)
        write_image(folder / "texture_srgb.png", picture.cpu())
        if index:
            (run.path / "frames" / frames[index - 1] / COLORS).unlink(missing_ok=True)
