"""Bringing pictures to a device while others compute there, and what it makes back."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def brought(pictures: Sequence[Tensor], device: torch.device | str) -> tuple[Tensor, ...]:
    """Pictures on a device, ready when this returns.

    Those that are there already stay. To a CUDA device the others go through pinned memory, on a
    stream of their own: a thread may bring the next pictures over while others compute on the
    default stream.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return tuple(picture.to(device) for picture in pictures)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        there = [
            p.to(device) if p.is_cuda else p.pin_memory().to(device, non_blocking=True)
            for p in pictures
        ]
    for picture in there:
        picture.record_stream(torch.cuda.default_stream(device))
    stream.synchronize()
    return tuple(there)


def fetched(values: Tensor) -> np.ndarray:
    """Values as an array on the host; from a CUDA device through pinned memory, which is fast."""
    if not values.is_cuda:
        return values.numpy()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return host.numpy()
