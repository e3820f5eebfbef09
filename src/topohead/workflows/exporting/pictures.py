"""Textures beside an exported file: copied as they are, or made smaller."""

import shutil
from pathlib import Path

import numpy as np
import torch

from topohead.core import InputError
from topohead.geometry.bridge import Bridge
from topohead.io.images import image_size, read_image, write_image
from topohead.io.textures import StoredTexture
from topohead.rendering.uv_carrying import carried_texture
from topohead.workflows.export import ExportConfig
from topohead.workflows.exporting.source import Source
from topohead.workflows.progress import track as progress


def add_textures(source: Source, config: ExportConfig, folder: Path) -> dict[str, str]:
    """Copies the wanted textures into `folder`; gives the picture's name for each frame.

    Frames that share a picture share the copy. Empty when there is none, or none is wanted.
    """
    sequence = source.sequence
    if config.texture_size is not None and config.texture_size < 1:
        raise InputError(f"--texture-size expects texels above zero, got {config.texture_size}")
    if config.textures == "none" or not len(sequence.topology.uv):
        return {}
    frames = sequence.frames if config.textures == "all" else sequence.frames[:1]
    names: dict[StoredTexture, str] = {}
    given: dict[str, str] = {}
    for frame in progress(frames, "textures"):
        stored = sequence.texture(frame)
        if stored is None:
            continue
        if stored not in names:
            stem = f"{sequence.name}_{frame}" if config.textures == "all" else sequence.name
            bridge = None if source.bridge is None else source.bridge.bridge
            edge = config.texture_size
            names[stored] = _add_texture(stored, folder, f"{stem}_texture", edge, bridge)
        given[frame] = names[stored]
    if len(given) == 1:
        return dict.fromkeys(sequence.frames, next(iter(given.values())))
    return given


def add_normal_map(source: Source, config: ExportConfig, folder: Path) -> str | None:
    """Copies the first frame's normal map into `folder`; gives its name, None without one."""
    sequence = source.sequence
    path = sequence.normal_map(sequence.frames[0])
    if path is None or config.textures == "none" or not len(sequence.topology.uv):
        return None
    return add_picture(path, folder, f"{sequence.name}_normal", config.texture_size)


def _add_texture(
    stored: StoredTexture, folder: Path, stem: str, edge: int | None, bridge: Bridge | None
) -> str:
    """A frame's texture as a picture of its own, however the run keeps it; gives its name.

    Over a bridge it is drawn anew in the target's UVs.
    """
    if bridge is None and stored == StoredTexture(stored.picture):
        return add_picture(stored.picture, folder, stem, edge)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}.png"
    picture = _shrunk(stored.read().numpy(), edge)
    if bridge is None:
        write_image(target, torch.from_numpy(picture))
    else:
        write_image(target, carried_texture(torch.from_numpy(picture), bridge, len(picture)))
    return target.name


def add_picture(path: Path, folder: Path, stem: str, edge: int | None) -> str:
    """A copy whose longer side has at most `edge` pixels; gives its name."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{stem}{path.suffix.lower()}"
    if edge is None or max(image_size(path)) <= edge:
        shutil.copyfile(path, target)
    else:
        write_image(target, torch.from_numpy(_shrunk(read_image(path).numpy(), edge)))
    return target.name


def _shrunk(picture: np.ndarray, edge: int | None) -> np.ndarray:
    """The picture with its longer side at most `edge`, areas averaged."""
    import cv2

    height, width = picture.shape[:2]
    if edge is None or max(width, height) <= edge:
        return picture
    factor = edge / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
