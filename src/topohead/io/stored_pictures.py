"""Pictures and masks of an instant as they are stored: read by threads, brought to a device."""

from collections.abc import Sequence
from concurrent.futures import Executor

import torch
from torch import Tensor

from topohead.core import Capture
from topohead.core.transfer import brought
from topohead.io import jpegs_cuda
from topohead.io.missing import MissingFrame

Stored = tuple[Tensor, Tensor | None]
"""A picture [H W 3] and its mask [H W], each 8-bit codes or values in [0, 1]."""


def stored_picture(capture: Capture, frame: str, name: str) -> Stored | None:
    """A camera's picture and mask; None where they are missing."""
    image = capture.read_stored or capture.read_image
    try:
        return image(frame, name), _mask(capture, frame, name)
    except MissingFrame:
        return None


def stored_on_device(
    capture: Capture,
    frame: str,
    names: Sequence[str],
    workers: Executor,
    device: torch.device,
    decodes: bool = True,
) -> dict[int, Stored]:
    """The cameras' pictures and masks on a CUDA device, ready, by their place in `names`.

    JPEG files are decoded there, all at once, where the device reads them as the CPU does
    (`decodes`: and nothing speaks against it); other pictures by the workers. What is missing under
    `allow_missing` is left out.
    """
    decodes = decodes and capture.read_jpeg is not None and jpegs_cuda.is_there()

    def read(name: str) -> tuple[Tensor | bytes, Tensor | None] | None:
        file = _file(capture, frame, name) if decodes else None
        if file is None:
            return stored_picture(capture, frame, name)
        return file, _mask(capture, frame, name)

    found = {i: one for i, one in enumerate(workers.map(read, names)) if one is not None}
    files = {i: image for i, (image, _) in found.items() if isinstance(image, bytes)}
    decoded = jpegs_cuda.decoded(list(files.values()), device)
    if decoded is None:
        return stored_on_device(capture, frame, names, workers, device, decodes=False)
    images = dict(zip(files, decoded, strict=True))
    masks = {i: mask for i, (_, mask) in found.items() if mask is not None}
    others = {i: image for i, (image, _) in found.items() if not isinstance(image, bytes)}
    there = brought([*masks.values(), *others.values()], device)
    images |= dict(zip(others, there[len(masks) :], strict=True))
    masks_there = dict(zip(masks, there[: len(masks)], strict=True))
    return {i: (images[i], masks_there.get(i)) for i in found}


def _mask(capture: Capture, frame: str, name: str) -> Tensor | None:
    read = capture.read_stored_mask or capture.read_mask
    return None if read is None else read(frame, name)


def _file(capture: Capture, frame: str, name: str) -> bytes | None:
    """A JPEG file that the device reads as the CPU does; None of any other picture."""
    assert capture.read_jpeg is not None
    try:
        file = capture.read_jpeg(frame, name)
    except MissingFrame:
        return None
    return file if file is not None and jpegs_cuda.is_plain(file) else None
