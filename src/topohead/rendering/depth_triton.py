# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""Which depths of a stack of depth maps may be used, on a CUDA device."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


def mean_depth(depth: Float[Tensor, "C H W"]) -> Float[Tensor, " C"]:
    """Mean of every view's finite depths, float32; not a number where nothing is seen."""
    seen = depth.isfinite()
    total = torch.where(seen, depth, 0.0).sum((1, 2), dtype=torch.float64)
    return (total / seen.sum((1, 2))).float()


def usable_depth(
    depth: Float[Tensor, "C H W"], reach: int, tolerance: Float[Tensor, " C"]
) -> Float[Tensor, "C H W"]:
    """Depth with −1 where a neighbour within `reach` pixels is empty (inf) or jumps.

    Two pixels may differ by their view's `tolerance` (the depths' unit) times their distance,
    the larger of rows and columns. Near an occluding edge a pixel mixes two surfaces, and a
    filtered one more of them. Where `tolerance` is not a number nothing is usable. Beyond the
    picture all is empty.
    """
    usable = torch.empty_like(depth, memory_format=torch.contiguous_format)
    views, height, width = depth.shape
    if usable.numel() == 0:
        return usable
    block = 256
    with torch.cuda.device_of(depth):
        _usable[(triton.cdiv(height * width, block), views)](
            depth.contiguous(),
            tolerance.to(depth),
            usable,
            height,
            width,
            REACH=reach,
            BLOCK=block,
        )
    return usable


@triton.jit(do_not_specialize=["height", "width"])
def _usable(depth, tolerance, usable, height, width, REACH: tl.constexpr, BLOCK: tl.constexpr):
    """A block of pixels of one view."""
    view = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y = pixel % width, pixel // width
    picture = depth + view * height * width
    inside = y < height
    center = tl.load(picture + pixel, inside, float("inf"))
    step = tl.load(tolerance + view)
    good = center < 1e20
    for dy in tl.static_range(-REACH, REACH + 1):
        for dx in tl.static_range(-REACH, REACH + 1):
            near_x, near_y = x + dx, y + dy
            within = inside & (near_x >= 0) & (near_x < width) & (near_y >= 0) & (near_y < height)
            other = tl.load(picture + near_y * width + near_x, within, float("inf"))
            limit = step * _reach_of(dx, dy)
            good = good & (tl.abs(other - center) <= limit)
    tl.store(usable + view * height * width + pixel, tl.where(good, center, -1.0), inside)


@triton.constexpr_function
def _reach_of(dx, dy):
    return max(abs(dx), abs(dy))
