# torchvision is optional
# pyright: reportMissingImports=false
"""JPEG files decoded on a CUDA device, all of an instant at once."""

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from topohead.core.transfer import aside

log = logging.getLogger(__name__)


def is_there() -> bool:
    """Whether this machine can: torchvision brings NVIDIA's decoder."""
    return torch.cuda.is_available() and _decoder() is not None


def decoded(
    files: Sequence[bytes], device: torch.device
) -> tuple[UInt8[Tensor, "_ _ 3"], ...] | None:
    """The pictures' srgb codes on the device, ready when this returns; None if one is refused.

    Files without chroma subsampling give the CPU's codes to the bit. Where chroma is halved the
    device repeats it and the CPU interpolates: colours of fine edges differ, brightness does not.
    """
    if not files:
        return ()
    decode = _decoder()
    assert decode is not None, "asked for where it is not"
    with aside(device) as pictures:
        try:
            planes = decode([torch.from_numpy(np.frombuffer(f, np.uint8).copy()) for f in files])
        except RuntimeError as error:  # four inks, damage: the CPU reads it, or says what is wrong
            log.debug("not decoded on %s: %s", device, error)
            return None
        pictures += [plane.permute(1, 2, 0).contiguous() for plane in planes]
    return tuple(pictures)


@cache
def _decoder() -> Callable[[list[Tensor]], list[Tensor]] | None:
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        log.info("JPEG files are decoded on the CPU; faster on CUDA: pip install torchvision")
        return None
    return lambda files: decode_jpeg(files, ImageReadMode.RGB, device="cuda")
