# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportOperatorIssue=false, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false
"""Nearest neighbours among any number of points on a CUDA device, exact.

Points are sorted along a Z-order curve (Morton 1966) and cut into blocks, each in a box. Queries
are sorted the same way; a few at a time look at the blocks one after the other, the nearest box
first, until the next is farther from theirs than the farthest of the nearest that they know.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 64
"""Points in a box."""

QUERIES = 32
"""Queries that a program answers together."""

STEPS = 1023
"""Cells of the curve along each axis, less one."""

NONE = 0x7FFF0000
"""Numbers from here on stand for a neighbour that was not found."""


class SortedPoints:
    """Points [N D], D = 3 or 6, ready to be asked; the first three coordinates make the curve.

    Those that are not finite lie beyond all reach. Nothing here waits for the device.
    """

    def __init__(self, points: Float[Tensor, "N D"]) -> None:
        there = points.isfinite().all(1, keepdim=True)
        self.middle = points.masked_fill(~there, 0).sum(0) / there.sum().clamp(min=1)
        placed = (points - self.middle).float()
        near = placed[:, :3]
        self.low = near.masked_fill(~there, torch.inf).amin(0)
        high = near.masked_fill(~there, -torch.inf).amax(0)
        self.step = ((high - self.low).amax() / STEPS).clamp(min=1e-20)
        placed = placed.masked_fill(~there, torch.inf)
        self.order = self._codes(placed).argsort()
        self.total = len(points)
        self.blocks = triton.cdiv(self.total, BLOCK)
        self.columns, self.boxes = _boxed(placed[self.order], BLOCK)

    def nearest(
        self, queries: Float[Tensor, "Q D"], count: int, reach: float
    ) -> Int[Tensor, "Q K"]:
        """Numbers of the nearest `count` points within `reach`, nearest first; −1 where fewer."""
        many = len(queries)
        if many == 0:
            return torch.zeros(0, count, dtype=torch.int64, device=queries.device)
        placed = (queries - self.middle).float()
        placed = placed.masked_fill(placed.isnan(), torch.inf)  # or it would hide its neighbours
        order = self._codes(placed).argsort()
        columns, (low, high) = _boxed(placed[order], QUERIES)
        gap = torch.maximum(
            self.boxes[0][:, None] - high[..., None], low[..., None] - self.boxes[1][:, None]
        )
        near, block = gap.clamp(min=0).square().sum(0).sort(1)
        kept = triton.next_power_of_2(count)
        found = torch.empty(many, kept, dtype=torch.int64, device=queries.device)
        with torch.cuda.device_of(queries):
            _nearest[(triton.cdiv(many, QUERIES),)](
                columns, near, block, self.columns, found, many, columns.shape[1], self.total,
                self.columns.shape[1], self.blocks, min(reach * reach, 3e38),
                WIDTH=queries.shape[1], KEPT=kept, QUERIES=QUERIES, BLOCK=BLOCK,
            )  # fmt: skip
        place = (found.sort(1).values[:, :count]) & 0xFFFFFFFF
        number = torch.where(place < NONE, self.order[place.clamp(max=self.total - 1)], -1)
        return torch.empty_like(number).index_copy_(0, order, number)

    def _codes(self, placed: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """Places on the curve."""
        cell = ((placed[:, :3] - self.low) / self.step).clamp(0, STEPS).to(torch.int64)
        for shift, mask in ((16, 0x30000FF), (8, 0x300F00F), (4, 0x30C30C3), (2, 0x9249249)):
            cell = (cell | (cell << shift)) & mask
        return cell[:, 0] | (cell[:, 1] << 1) | (cell[:, 2] << 2)


def _boxed(
    rows: Float[Tensor, "N D"], size: int
) -> tuple[Float[Tensor, "D P"], Float[Tensor, "2 D B"]]:
    """Coordinates one after the other, filled up with the last row; and boxes of `size` of them."""
    many = triton.cdiv(len(rows), size) * size
    columns = rows[torch.arange(many, device=rows.device).clamp(max=len(rows) - 1)].T.contiguous()
    parts = columns.unflatten(1, (-1, size))
    return columns, torch.stack([parts.amin(2), parts.amax(2)])


# counts differ from call to call: a kernel for each that 16 divides would be compiled anew
@triton.jit(do_not_specialize=["many", "query_stride", "total", "stride", "blocks"])
def _nearest(
    queries,
    near,
    block,
    points,
    found,
    many,
    query_stride,
    total,
    stride,
    blocks,
    reach_square,
    WIDTH: tl.constexpr,
    KEPT: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A few queries against all blocks that may hold one of their nearest."""
    program = tl.program_id(0)
    q = program * QUERIES + tl.arange(0, QUERIES)
    member = tl.arange(0, BLOCK)
    slot = tl.arange(0, KEPT)
    nothing = 0x7FFFFFFFFFFFFFFF
    # a squared distance's bits, ordered as positive floats are, above the point's number
    empty = (reach_square + 0.0 * slot).to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64) << 32
    best = (empty | (0x7FFF0000 + slot).to(tl.int64))[None, :] + tl.zeros([QUERIES, KEPT], tl.int64)
    limit = reach_square + 0.0
    step = 0
    line = program.to(tl.int64) * blocks
    ahead = tl.load(near + line)
    while (step < blocks) & (ahead <= limit):
        number = tl.load(block + line + step).to(tl.int32) * BLOCK + member
        square = tl.zeros([QUERIES, BLOCK], tl.float32)
        for d in tl.static_range(WIDTH):
            there = tl.load(points + d * stride + number)
            here = tl.load(queries + d * query_stride + q)
            offset = there[None, :] - here[:, None]
            square += offset * offset
        key = (square.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number.to(tl.int64)[None, :]
        # what is not finite is infinitely far, or not even that
        key = tl.where((number < total)[None, :] & (square < 3.4e38), key, nothing)
        smallest = tl.min(key, 1)
        largest = tl.max(best, 1)
        better = smallest < largest
        while tl.max(better.to(tl.int32), 0) > 0:
            replaced = (best == largest[:, None]) & better[:, None]
            best = tl.where(replaced, smallest[:, None], best)
            key = tl.where(key == smallest[:, None], nothing, key)
            smallest = tl.min(key, 1)
            largest = tl.max(best, 1)
            better = smallest < largest
        farthest = (tl.max(largest, 0) >> 32).to(tl.int32)
        limit = farthest.to(tl.float32, bitcast=True)
        step += 1
        ahead = tl.load(near + line + tl.minimum(step, blocks - 1))
    place = found + q[:, None] * KEPT + slot[None, :]
    tl.store(place, best, (q < many)[:, None] & (slot < KEPT)[None, :])
