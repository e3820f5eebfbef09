"""Textures of a run, however they are kept: a picture a frame, a base and deltas, or wrinkle maps.

`textures/wrinkles.json` belongs to `textures/base_srgb.png` and the maps beside it, see
`rendering.wrinkle_maps` and docs/capture.md.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core.errors import InputError
from topohead.io.images import image_size, read_image, read_pixels
from topohead.io.texture_deltas import read_delta
from topohead.rendering.wrinkle_maps import play_maps

BASE = "textures/base_srgb.png"
"""The texture of a whole take, below the run folder."""

WRINKLES = "textures/wrinkles.json"


def picture_file(frame: str) -> str:
    """A frame's own texture, below the run folder."""
    return f"frames/{frame}/texture_srgb.png"


def delta_file(frame: str) -> str:
    """What differs in a frame from the base, below the run folder."""
    return f"frames/{frame}/texture_delta.safetensors"


@dataclass(frozen=True)
class StoredTexture:
    """Where a frame's texture is kept; equal for frames that share one.

    `picture` is a whole texture: the frame's, the take's, or the base that `delta` or `weights` (of
    the maps that `wrinkles` lists) change.
    """

    picture: Path
    delta: Path | None = None
    wrinkles: Path | None = None
    weights: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Texels along a side, from the header alone."""
        return image_size(self.picture)[0]

    def read(self) -> Float[Tensor, "S S 3"]:
        """The texture as srgb float32 in [0, 1]; row 0 is the top (v = 1)."""
        if self.delta is not None:
            codes = read_delta(self.delta, read_codes(self.picture))
            return torch.from_numpy(codes).float().div_(255)
        if self.wrinkles is not None:
            maps = _weighted_maps(self.wrinkles, self.weights)
            return torch.from_numpy(play_maps(read_codes(self.picture), maps))
        return read_image(self.picture)


def find_texture(run: Path, frame: str, frames: Sequence[str]) -> StoredTexture | None:
    """Where a frame's texture is; the first frame's where only that has one; None without any."""
    for name in (frame, frames[0]):
        own = run / picture_file(name)
        if own.exists():
            return StoredTexture(own)
        if (run / delta_file(name)).exists():
            return StoredTexture(run / BASE, delta=run / delta_file(name))
        weights = _frame_weights(run / WRINKLES).get(name)
        if weights is not None:
            return StoredTexture(run / BASE, wrinkles=run / WRINKLES, weights=tuple(weights))
    return None


def read_texture(run: Path, frame: str) -> Float[Tensor, "S S 3"] | None:
    """A frame's texture (srgb, row 0 at v = 1), whichever way the run keeps it; None without any.

    Deltas are exact to the tolerance in their files (2 codes of 255 unless it was set otherwise);
    wrinkle maps give what the take's maps and the frame's weights say.
    """
    run = Path(run)
    frames = sorted(path.name for path in run.glob("frames/*"))
    found = find_texture(run, frame, frames or [frame])
    return None if found is None else found.read()


def read_codes(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An 8-bit colour picture as it is stored."""
    codes = read_pixels(path)
    if codes.dtype != np.uint8 or codes.ndim != 3 or codes.shape[2] != 3:
        raise InputError(f"{path} holds {codes.dtype} {codes.shape}; expected 8-bit colours")
    return codes


def _frame_weights(path: Path) -> dict[str, Sequence[float]]:
    return _document(path)["frames"] if path.exists() else {}


def _weighted_maps(
    path: Path, weights: Sequence[float]
) -> Iterator[tuple[UInt8[np.ndarray, "S S 3"], float, float]]:
    """Codes, scale and weight of each map."""
    for entry, weight in zip(_document(path)["maps"], weights, strict=True):
        yield read_codes(path.parent / entry["file"]), float(entry["scale"]), float(weight)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is no JSON (line {error.lineno}); it was changed by hand: run the capture "
            "again with `--restart texture`"
        ) from error
    return document
