# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""Nearest neighbours on a CUDA device without a table of all distances."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_SET = 8192
"""Points that the registers of one program hold."""

QUERIES = 16
"""Queries that a program answers one after another."""


def nearest_indices(
    queries: Float[Tensor, "B Q 3"], points: Float[Tensor, "B N 3"], count: int
) -> Int[Tensor, "B Q K"]:
    """Indices of the `count` nearest of at most `LARGEST_SET` points, nearest first.

    A squared distance and the point's number share 32 bits, so distances that differ by less than
    a thousandth count as equal.
    """
    batch, many = queries.shape[:2]
    size = triton.next_power_of_2(max(points.shape[1], 2 * count))
    assert size <= LARGEST_SET
    found = torch.empty(batch, many, count, dtype=torch.int64, device=queries.device)
    with torch.cuda.device_of(queries):
        _nearest[(triton.cdiv(many, QUERIES), batch)](
            queries.contiguous(),
            points.contiguous(),
            found,
            many,
            points.shape[1],
            count,
            SIZE=size,
            KEPT=triton.next_power_of_2(count),
            QUERIES=QUERIES,
            num_warps=8 if size > 2048 else 4,
        )
    return found


@triton.jit
def _nearest(
    queries,
    points,
    found,
    many,
    total,
    count,
    SIZE: tl.constexpr,
    KEPT: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """All points of a batch element against a few queries."""
    number = tl.arange(0, SIZE)
    kept = tl.arange(0, KEPT)
    live = number < total
    batch = tl.program_id(1).to(tl.int64)
    there = points + (batch * total + number) * 3
    x = tl.load(there, live, 0.0)
    y = tl.load(there + 1, live, 0.0)
    z = tl.load(there + 2, live, 0.0)
    first = tl.program_id(0) * QUERIES
    for k in range(QUERIES):
        q = first + k
        exists = q < many
        asked = queries + (batch * many + q) * 3
        dx = x - tl.load(asked, exists, 0.0)
        dy = y - tl.load(asked + 1, exists, 0.0)
        dz = z - tl.load(asked + 2, exists, 0.0)
        square = tl.where(live, dx * dx + dy * dy + dz * dz, float("inf"))
        # positive floats are ordered as their bits are; the lowest bits make room for the number
        key = (square.to(tl.int32, bitcast=True) & ~(SIZE - 1)) | number
        best = 0x7FFFFFFF - tl.topk(0x7FFFFFFF - key, KEPT)
        index = (best & (SIZE - 1)).to(tl.int64)
        place = found + (batch * many + q) * count + kept
        tl.store(place, index, kept < tl.where(exists, count, 0))
