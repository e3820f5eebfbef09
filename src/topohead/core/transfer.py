"""Bringing pictures to a device while others compute there, and what it makes back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, local

import numpy as np
import torch
from torch import Tensor

graph_lock = Lock()
"""Held while a CUDA graph is recorded, and by whoever, on another thread, calls what would end the
recording with an error: libraries that allocate on the device or wait for all of it."""

_of_thread = local()


def brought(pictures: Sequence[Tensor], device: torch.device | str) -> tuple[Tensor, ...]:
    """Pictures on a device, ready when this returns.

    Those that are there already stay. To a CUDA device the others go through pinned memory, on a
    stream of their own: a thread may bring the next pictures over while others compute on the
    default stream.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return tuple(picture.to(device) for picture in pictures)
    if all(
        picture.is_cuda and device.index in (None, picture.get_device()) for picture in pictures
    ):
        return tuple(pictures)
    with aside(device) as there:
        there += [
            p.to(device) if p.is_cuda else p.pin_memory().to(device, non_blocking=True)
            for p in pictures
        ]
    return tuple(there)


@contextmanager
def aside(device: torch.device) -> Iterator[list[Tensor]]:
    """Work on a CUDA device beside its default stream, done when the block is left.

    What is put on the list may then be used, and dropped, on the default stream. A thread has one
    stream for all that it does so: memory is kept apart by streams, and what one has left lies idle
    while another's is asked of the driver, for which all others wait.
    """
    stream = _own_stream(device)
    made: list[Tensor] = []
    with torch.cuda.stream(stream):
        yield made
    for tensor in made:
        tensor.record_stream(torch.cuda.default_stream(device))
    stream.synchronize()


def _own_stream(device: torch.device) -> torch.cuda.Stream:
    """The calling thread's on a device."""
    index = torch.cuda.current_device() if device.index is None else device.index
    streams: dict[int, torch.cuda.Stream] = _of_thread.__dict__.setdefault("streams", {})
    if index not in streams:
        streams[index] = torch.cuda.Stream(index)
    return streams[index]


def pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Room on the host to which a CUDA device copies without waiting; its values are void."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def fetched(values: Tensor) -> np.ndarray:
    """Values as an array on the host; from a CUDA device through pinned memory, which is fast."""
    if not values.is_cuda:
        return values.numpy()
    host = pinned(values.shape, values.dtype)
    host.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return host.numpy()
