"""Separable filters over pictures on a CUDA device."""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from topohead.solvers.kernels.rows_triton import block_size


@triton.jit
def _filter_kernel(
    source, taps, out, count, length, stride, RADIUS: tl.constexpr, BLOCK: tl.constexpr
):
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = item < count
    place = ((item // stride) % length).to(tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(2 * RADIUS + 1):
        # beyond the border the outermost value goes on
        there = tl.minimum(tl.maximum(place + (k - RADIUS), 0), length - 1)
        value = tl.load(source + item + (there - place) * stride, mask=live, other=0.0)
        total += tl.load(taps + k) * value
    tl.store(out + item, total, mask=live)


def filtered(
    pictures: Float[Tensor, "*N H W"], taps: Float[Tensor, " K"]
) -> Float[Tensor, "*N H W"]:
    """Pictures (float32, contiguous) filtered along rows, then columns; borders are replicated.

    `taps` has an odd number of weights and is symmetric.
    """
    height, width = pictures.shape[-2:]
    rows, both = torch.empty_like(pictures), torch.empty_like(pictures)
    count, radius, block = pictures.numel(), len(taps) // 2, block_size(1024, pictures.numel())
    grid = (triton.cdiv(count, block),)
    _filter_kernel[grid](pictures, taps, rows, count, width, 1, RADIUS=radius, BLOCK=block)
    _filter_kernel[grid](rows, taps, both, count, height, width, RADIUS=radius, BLOCK=block)
    return both
