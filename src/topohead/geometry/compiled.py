"""Where kernels take the place of tensor algebra."""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def compiled(values: Tensor) -> bool:
    """Whether Triton kernels may work on values: on CUDA, float32, no gradients asked for.

    Only where TOPOHEAD_KERNELS=1 asks for them: they agree with the CPU in Triton's interpreter,
    but have not been tested on a device.
    """
    fits = values.is_cuda and values.dtype == torch.float32 and not values.requires_grad
    return fits and os.environ.get("TOPOHEAD_KERNELS") == "1" and _triton()


@cache
def _triton() -> bool:
    return find_spec("triton") is not None
