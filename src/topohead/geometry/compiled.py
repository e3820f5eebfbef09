"""Where kernels take the place of tensor algebra."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def compiled(values: Tensor) -> bool:
    """Whether Triton kernels work on values: on CUDA, float32, no gradients asked for."""
    fits = values.is_cuda and values.dtype == torch.float32 and not values.requires_grad
    return fits and _triton()


@cache
def _triton() -> bool:
    return find_spec("triton") is not None
