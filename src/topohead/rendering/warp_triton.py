# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false
"""OpenCV's Lanczos warp on a CUDA device: the same taps at the same positions, so the same pixels.

Positions are rounded to 1/32 pixel as `cv2.remap` does, and its weights are read off itself.
"""

from functools import cache

import cv2
import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_FRACTIONS = tl.constexpr(32)
_ROUNDER = tl.constexpr(1.5 * 2**23)
"""Added to a float32 and taken away again, it rounds to whole numbers, halves to even."""


def remapped(
    picture: Float[Tensor, "H W 3"], grid: Float[Tensor, "2 h w"]
) -> Float[Tensor, "h w 3"]:
    """`cv2.remap` with INTER_LANCZOS4 and BORDER_REPLICATE, clipped to [0, 1], to 1e-6.

    `grid` says where in the picture each pixel lies, x then y, pixel centres at integers.
    """
    height, width, _ = picture.shape
    out = picture.new_empty(*grid.shape[1:], 3)
    count = grid[0].numel()
    with torch.cuda.device_of(picture):
        _remap[(triton.cdiv(count, 128),)](
            picture.contiguous(), grid.contiguous(), _weights(picture.device), out, count, height,
            width, BLOCK=128,
        )  # fmt: skip
    return out


@cache
def _weights(device: torch.device) -> Float[Tensor, "32 8"]:
    """The taps' weights for every fraction of a pixel: what impulses become."""
    fractions = np.arange(32, dtype=np.float32) / 32
    across = np.repeat(7 + fractions[None], 16, 0)
    down = np.repeat(np.arange(16, dtype=np.float32)[:, None], 32, 1)
    seen = cv2.remap(np.eye(16, dtype=np.float32), across, down, cv2.INTER_LANCZOS4)
    return torch.from_numpy(np.ascontiguousarray(seen[4:12].T)).to(device)


@triton.jit
def _whole(x, size):
    """A position in 32nds of a pixel, whole; far outside it is as good as near outside."""
    held = tl.minimum(tl.maximum(x, -8.0), size + 8.0)
    return (held * _FRACTIONS + _ROUNDER - _ROUNDER).to(tl.int32)


@triton.jit(do_not_specialize=["count", "height", "width"])
def _remap(picture, grid, weights, out, count, height, width, BLOCK: tl.constexpr):
    """A block of pixels, three channels and one lane that stays empty."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = pixel < count
    x = _whole(tl.load(grid + pixel, live, 0.0), width)
    y = _whole(tl.load(grid + count + pixel, live, 0.0), height)
    left, upper = (x >> 5) - 3, (y >> 5) - 3
    across, down = weights + 8 * (x & 31), weights + 8 * (y & 31)
    lane = tl.arange(0, 4)[None, :]
    wanted = live[:, None] & (lane < 3)
    total = tl.zeros([BLOCK, 4], tl.float32)
    for row in range(8):
        line = tl.minimum(tl.maximum(upper + row, 0), height - 1) * width
        inside = tl.zeros([BLOCK, 4], tl.float32)
        for column in range(8):
            spot = line + tl.minimum(tl.maximum(left + column, 0), width - 1)
            value = tl.load(picture + 3 * spot[:, None] + lane, wanted, 0.0)
            inside += tl.load(across + column)[:, None] * value
        total += tl.load(down + row)[:, None] * inside
    total = tl.minimum(tl.maximum(total, 0.0), 1.0)
    tl.store(out + 3 * pixel[:, None] + lane, total, wanted)
