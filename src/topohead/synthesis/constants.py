"""Small constant tensors, made once a device."""

from functools import cache

import torch
from torch import Tensor


@cache
def constant(values: tuple, device: torch.device) -> Tensor:
    """A float32 tensor of nested tuples, never to be written to.

    Copied to a GPU once: a copy in every call would wait for the GPU, and could not be captured
    into a CUDA graph.
    """
    return torch.tensor(values, dtype=torch.float32, device=device)
