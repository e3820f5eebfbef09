"""Textures and source pictures in sizes that a page can show, made when they are asked for."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from topohead.core import Capture, InputError
from topohead.io.captures import undistorted_views
from topohead.io.images import read_pixels
from topohead.io.results import RunResult, open_source


def texture_preview(path: Path, size: int) -> bytes:
    """A JPEG of the texture, `size` texels wide; never enlarged."""
    pixels = read_pixels(path)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    height, width = pixels.shape[:2]
    if size < width:
        shape = (size, max(1, round(height * size / width)))
        pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
    return jpeg(_eight_bits(pixels[..., :3]), 92)


def jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """RGB [H W 3] as JPEG without chroma subsampling."""
    whole_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *whole_chroma]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), options)
    return data.tobytes()


def _eight_bits(pixels: NDArray) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    peak = 1.0 if pixels.dtype == np.float32 else 65_535.0
    return np.rint(np.clip(pixels / peak, 0, 1) * 255).astype(np.uint8)


@dataclass
class SourcePictures:
    """The pictures a run was made from, undistorted. The take is opened at the first request."""

    run: RunResult
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def exist(self) -> bool:
        """Whether the take is still where it was; says nothing of its pictures."""
        source = self.run.config.get("source")
        return bool(source) and Path(str(source)).is_dir()

    @cached_property
    def _capture(self) -> Capture | None:
        return open_source(self.run)

    def jpeg(self, camera: str, frame: str, height: int | None) -> bytes:
        """The pinhole picture of one camera; the rig's median picture becomes `height` high."""
        with self._lock:
            if self._capture is None:
                raise InputError(f"the take of {self.run.path} cannot be opened: no pictures")
            views = undistorted_views(self._capture, frame, [camera], height)
        if not views.images:
            raise InputError(f"camera {camera!r} has no usable picture of frame {frame}")
        return jpeg(_eight_bits(views.images[0].numpy()), 88)
