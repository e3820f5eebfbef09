"""Subject masks: grey coverage, or face-part labels as numbers or Pascal-VOC colours."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from topohead.core.errors import InputError
from topohead.io.images import read_pixels

FACE_PARTS: tuple[str, ...] = (
    "background", "skin", "brow_left", "brow_right", "eye_left", "eye_right", "nose", "lip_upper",
    "mouth_inner", "lip_lower", "hair", "ear_left", "ear_right", "glasses",
)  # fmt: skip
"""Names of the labels in Topo4D's masks, by number."""


def read_coverage(path: Path) -> Float[Tensor, "H W"]:
    """The subject's coverage in [0, 1] of a mask of any kind.

    Grey is coverage, unless it stays below the number of face parts: then it holds labels, and all
    but background covers. An alpha channel that varies is coverage. Colours are labels.
    """
    return unit(read_stored_coverage(path))


def read_stored_coverage(path: Path) -> Float[Tensor, "H W"] | UInt8[Tensor, "H W"]:
    """`read_coverage`, but codes, 255 for one, where 8 bits say it all: a quarter of the bytes."""
    pixels = read_pixels(path)
    values = _alpha(pixels)
    if values is None:
        grey = _grey(pixels)
        if grey is not None and grey.max() >= len(FACE_PARTS):
            values = grey
        else:
            values = np.where(read_labels(path).numpy() > 0, np.uint8(255), np.uint8(0))
    if values.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(values))
    return torch.from_numpy(values.astype(np.float32) / np.float32(65535))


def unit(coverage: Float[Tensor, "*S"] | UInt8[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Codes of coverage in [0, 1]; what is no code stays."""
    if coverage.dtype != torch.uint8:
        return coverage
    # not by torch, which would start threads in every reader
    return torch.from_numpy(np.divide(coverage.numpy(), np.float32(255), dtype=np.float32))


def read_labels(path: Path) -> Int[Tensor, "H W"]:
    """Face-part numbers (`FACE_PARTS`) from a mask of numbers or of colours."""
    pixels = read_pixels(path)
    grey = _grey(pixels)
    if grey is None:
        return torch.from_numpy(_labels_of_colours(pixels[..., :3], path))
    if grey.max() >= len(FACE_PARTS):
        found = ", ".join(str(v) for v in np.unique(grey)[-3:])
        raise InputError(f"mask {path} holds labels {found}; expected 0 to {len(FACE_PARTS) - 1}")
    return torch.from_numpy(grey.astype(np.int64))


def part_colours() -> np.ndarray:
    """Pascal-VOC colours of the face parts, uint8 [14 3], R G B: label bits dealt to channels."""
    label = np.arange(len(FACE_PARTS))
    colours = np.zeros((len(label), 3), np.int64)
    for level in range(3):
        for channel in range(3):
            colours[:, channel] |= ((label >> (3 * level + channel)) & 1) << (7 - level)
    return colours.astype(np.uint8)


def _labels_of_colours(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Labels, whichever way round the channels were stored.

    Swapped channels trade skin for left eye, and a face shows more skin than eye: that decides
    where both orders fit.
    """
    forward, backward = _look_up(pixels), _look_up(pixels[..., ::-1])
    candidates = [labels for labels in (forward, backward) if (labels >= 0).all()]
    if not candidates:
        unknown = pixels[(forward < 0) & (backward < 0)]
        unknown = unknown if len(unknown) else pixels[forward < 0]
        found = ", ".join(str(tuple(int(c) for c in row)) for row in np.unique(unknown, axis=0)[:4])
        raise InputError(
            f"mask {path} has colours outside the face-part table, such as {found}; "
            "expected grey coverage, labels 0 to 13, or their Pascal-VOC colours"
        )
    skin, eye = FACE_PARTS.index("skin"), FACE_PARTS.index("eye_left")
    return max(candidates, key=lambda labels: int((labels == skin).sum() - (labels == eye).sum()))


def _look_up(pixels: np.ndarray) -> np.ndarray:
    """Labels of R, G, B colours; −1 for a colour outside the table."""

    def code(colour: np.ndarray) -> np.ndarray:
        wide = colour.astype(np.int64)
        return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]

    known = code(part_colours())
    order = np.argsort(known)
    codes = code(pixels)
    place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    return np.where(known[order][place] == codes, order[place], -1)


def _alpha(pixels: np.ndarray) -> np.ndarray | None:
    if pixels.ndim != 3 or pixels.shape[2] != 4:
        return None
    alpha = pixels[..., 3]
    return None if (alpha == alpha.flat[0]).all() else alpha


def _grey(pixels: np.ndarray) -> np.ndarray | None:
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 0] if (pixels[..., :1] == pixels[..., 1:3]).all() else None
