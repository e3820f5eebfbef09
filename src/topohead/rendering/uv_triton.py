# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportCallIssue=false
"""Texel maps on a CUDA device: which triangle a texel shows, and colours carried off the islands.

The nearest island texel is found exactly, along columns first and then along rows (Felzenszwalb &
Huttenlocher 2012), within a few dozen texels, so a search is cheaper than the lower envelope.
"""

import os

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int, Int8
from torch import Tensor

from topohead.rendering.mesh_triton import draw

_LAST_ID = 0x7FFFFFFF
_NOWHERE = tl.constexpr(127)


def draw_texels(
    uv: Float[Tensor, "U 2"], triangle_uv: Int[Tensor, "T 3"], size: int
) -> Int[Tensor, "S S"]:
    """The triangle under each texel's centre, int32, −1 outside the islands."""
    places = uv.double()
    texels = torch.stack(
        [places[:, 0] * size, (1 - places[:, 1]) * size, torch.ones_like(places[:, 0])], 1
    )
    triangles = triangle_uv.to(torch.int32).contiguous()
    ids = torch.arange(len(triangles), dtype=torch.int32, device=uv.device)
    sizes = torch.tensor([[size, size]], dtype=torch.int32, device=uv.device)
    keys = draw(texels.float()[None], triangles, ids, sizes, (size, size), False, 0.5)[0]
    shown = keys.bitwise_and(_LAST_ID).bitwise_xor_(_LAST_ID)
    return shown.masked_fill_(keys == 0, -1).int()


def island_offsets(triangle: Int[Tensor, "S S"], reach: int) -> Int8[Tensor, "S S"]:
    """Rows to the nearest island texel of the same column; 127: none within `reach` (< 127)."""
    size = len(triangle)
    offsets = torch.empty(size, size, dtype=torch.int8, device=triangle.device)
    block = _block(size)
    with torch.cuda.device_of(triangle):
        _nearest_row[(triton.cdiv(size * size, block),)](
            triangle, offsets, size, reach, BLOCK=block
        )
    return offsets


def carry_outwards(
    picture: Float[Tensor, "S S 3"], offsets: Int8[Tensor, "S S"], reach: int
) -> None:
    """Texels up to `reach` beyond the islands take the nearest island texel's colour, in place."""
    size = len(offsets)
    block = _block(size)
    with torch.cuda.device_of(picture):
        _carry[(triton.cdiv(size * size, block),)](picture, offsets, size, reach, BLOCK=block)


def _block(size: int) -> int:
    """Texels of one program; many under the interpreter, which runs them one after another."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return 256
    return min(triton.next_power_of_2(size * size), 2**14)


@triton.jit(do_not_specialize=["size"])
def _nearest_row(triangle, offsets, size, reach, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size * size
    x, y = index % size, index // size
    nearest = tl.full([BLOCK], _NOWHERE, tl.int32)
    away = tl.full([BLOCK], _NOWHERE, tl.int32)
    for step in range(-reach, reach + 1):
        row = y + step
        there = inside & (row >= 0) & (row < size)
        t = tl.load(triangle + row * size + x, there, -1)
        distance = tl.maximum(step, -step)
        closer = (t >= 0) & (distance < away)
        nearest, away = tl.where(closer, step, nearest), tl.where(closer, distance, away)
    tl.store(offsets + index, nearest.to(tl.int8), inside)


@triton.jit(do_not_specialize=["size"])
def _carry(picture, offsets, size, reach, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size * size
    x, y = index % size, index // size
    own = tl.load(offsets + index, inside, 0).to(tl.int32)
    if tl.max(tl.where(own == 0, 0, 1)) == 0:
        return
    best = tl.full([BLOCK], 2147483647, tl.int32)
    column, row = x, tl.zeros([BLOCK], tl.int32)
    for step in range(-reach, reach + 1):
        there = inside & (own != 0) & (x + step >= 0) & (x + step < size)
        down = tl.load(offsets + index + step, there, _NOWHERE).to(tl.int32)
        square = step * step + down * down
        closer = (down != _NOWHERE) & (square < best)
        best = tl.where(closer, square, best)
        column, row = tl.where(closer, x + step, column), tl.where(closer, down, row)
    wanted = inside & (own != 0) & (best <= reach * reach)
    source = picture + 3 * ((y + row) * size + column)
    target = picture + 3 * index
    for channel in tl.static_range(3):
        tl.store(target + channel, tl.load(source + channel, wanted, 0.0), wanted)
