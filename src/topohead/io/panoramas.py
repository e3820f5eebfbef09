"""Panoramas of light: equirectangular pictures of linear radiance."""

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError

_START = b"#?"


def read_panorama(path: Path) -> Float[Tensor, "H W 3"]:
    """Linear radiance of a Radiance .hdr file, twice as wide as high."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"panorama {path} cannot be read: {error.strerror}") from error
    pixels = None
    if data.startswith(_START):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise InputError(f"panorama {path} is not a Radiance picture (.hdr); convert it")
    height, width = pixels.shape[:2]
    if width != 2 * height:
        raise InputError(f"panorama {path} is {width}x{height}; expected twice as wide as high")
    return torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1], np.float32))
