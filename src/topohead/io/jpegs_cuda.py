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

from topohead.core.transfer import aside, graph_lock

log = logging.getLogger(__name__)

_BASELINE, _ADOBE, _SCAN = 0xC0, 0xEE, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # those three begin tables, not frames


def is_there() -> bool:
    """Whether this machine can: torchvision brings NVIDIA's decoder."""
    return torch.cuda.is_available() and _decoder() is not None


def is_plain(file: bytes) -> bool:
    """Whether the device reads this JPEG file as the CPU does.

    That is baseline, 8 bits deep, grey or Y Cb Cr; not progressive, RGB or of four inks.
    """
    at = 2
    while at + 4 <= len(file) and file[at] == 0xFF:
        kind, length = file[at + 1], int.from_bytes(file[at + 2 : at + 4], "big")
        if kind == 0xFF:  # filling
            at += 1
            continue
        body = file[at + 4 : at + 2 + length]
        if kind in _FRAMES:
            names = body[6::3]
            return kind == _BASELINE and body[0] == 8 and len(names) in (1, 3) and names != b"RGB"
        stored_plainly = kind == _ADOBE and body.startswith(b"Adobe") and body[11:12] == b"\0"
        if kind == _SCAN or stored_plainly:
            return False
        at += 2 + length
    return False


def decoded(
    files: Sequence[bytes], device: torch.device
) -> tuple[UInt8[Tensor, "_ _ 3"], ...] | None:
    """The pictures' srgb codes on the device, ready when this returns; None if one is refused.

    Files without chroma subsampling give the CPU's codes to the bit. Where chroma is halved the
    device repeats it and the CPU interpolates: colours of fine edges differ, brightness does not.
    One thread at a time decodes, and none while a CUDA graph is recorded.
    """
    if not files:
        return ()
    decode = _decoder()
    assert decode is not None, "asked for where it is not"
    host = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
    with graph_lock, aside(device) as pictures:
        try:
            planes = decode(host, device)
        except RuntimeError as error:  # damage: the CPU reads it, or says what is wrong
            log.debug("not decoded on %s: %s", device, error)
            return None
        pictures += [plane.permute(1, 2, 0).contiguous() for plane in planes]
    return tuple(pictures)


@cache
def _decoder() -> Callable[[list[Tensor], torch.device], list[Tensor]] | None:
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        log.info("JPEG files are decoded on the CPU; faster on CUDA: pip install torchvision")
        return None
    return lambda files, device: decode_jpeg(files, ImageReadMode.RGB, device=device)
