"""Textures beside an exported file: copied as they are, or made smaller."""

import shutil
from pathlib import Path

from topohead.core import InputError
from topohead.io.images import image_size, read_pixels
from topohead.io.sequences import NORMAL_MAP, TEXTURE
from topohead.workflows.export import ExportConfig
from topohead.workflows.exporting.source import Source


def add_textures(source: Source, config: ExportConfig, folder: Path) -> dict[str, str]:
    """Copies the wanted textures into `folder`; gives the picture's name for each frame.

    Frames that share a picture share the copy. Empty when there is none, or none is wanted.
    """
    sequence = source.sequence
    if config.textures == "none" or not len(sequence.topology.uv):
        return {}
    frames = sequence.frames if config.textures == "all" else sequence.frames[:1]
    found = {frame: sequence.picture(frame, TEXTURE) for frame in frames}
    names: dict[Path, str] = {}
    given: dict[str, str] = {}
    for frame, path in found.items():
        if path is None:
            continue
        if path not in names:
            stem = f"{sequence.name}_{frame}" if config.textures == "all" else sequence.name
            names[path] = add_picture(path, folder, f"{stem}_texture", config.texture_size)
        given[frame] = names[path]
    if len(given) == 1:
        return dict.fromkeys(sequence.frames, next(iter(given.values())))
    return given


def add_normal_map(source: Source, config: ExportConfig, folder: Path) -> str | None:
    """Copies the first frame's normal map into `folder`; gives its name, None without one."""
    sequence = source.sequence
    path = sequence.picture(sequence.frames[0], NORMAL_MAP)
    if path is None or config.textures == "none" or not len(sequence.topology.uv):
        return None
    return add_picture(path, folder, f"{sequence.name}_normal", config.texture_size)


def add_picture(path: Path, folder: Path, stem: str, edge: int | None) -> str:
    """A copy whose longer side has at most `edge` pixels; gives its name."""
    target = folder / f"{stem}{path.suffix.lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    if edge is not None and edge < 1:
        raise InputError(f"--texture-size expects a number of texels above zero, got {edge}")
    width, height = image_size(path)
    if edge is None or max(width, height) <= edge:
        shutil.copyfile(path, target)
        return target.name
    import cv2

    factor = edge / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = read_pixels(path)
    smaller = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if not cv2.imwrite(str(target), smaller[..., ::-1] if smaller.ndim == 3 else smaller):
        raise InputError(f"could not write {target}")
    return target.name
