# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportOperatorIssue=false, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""Nearest neighbours on a CUDA device without a table of all distances."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_SET = 8192
"""Points whose numbers leave a distance enough bits."""

QUERIES = 16
"""Queries that a program answers one after another."""

GROUPS = 512
"""Groups that the points fall into, each of which remembers its two nearest."""


def nearest_indices(
    queries: Float[Tensor, "B Q 3"], points: Float[Tensor, "B N 3"], count: int
) -> Int[Tensor, "B Q K"]:
    """Indices of the `count` nearest of at most `LARGEST_SET` points, nearest first.

    A squared distance and the point's number share 32 bits, so distances that differ by less than
    a thousandth count as equal. Of more than 1,024 points, those whose numbers are alike modulo 512
    send two: of the 12 nearest one is missed about once in a thousand times.
    """
    batch, many = queries.shape[:2]
    size = triton.next_power_of_2(max(points.shape[1], 2 * count))
    assert size <= LARGEST_SET
    groups = min(size // 2, GROUPS)
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
            GROUPS=groups,
            KEPT=triton.next_power_of_2(count),
            QUERIES=QUERIES,
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
    GROUPS: tl.constexpr,
    KEPT: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """All points of a batch element against a few queries."""
    group = tl.arange(0, GROUPS)
    kept = tl.arange(0, KEPT)
    batch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * QUERIES
    for k in range(QUERIES):
        q = first + k
        exists = q < many
        asked = queries + (batch * many + q) * 3
        qx = tl.load(asked, exists, 0.0)
        qy = tl.load(asked + 1, exists, 0.0)
        qz = tl.load(asked + 2, exists, 0.0)
        low = tl.full([GROUPS], 0x7FFFFFFF, tl.int32)
        high = low
        for member in tl.static_range(SIZE // GROUPS):
            number = group + member * GROUPS
            live = number < total
            there = points + (batch * total + number) * 3
            dx = tl.load(there, live, 0.0) - qx
            dy = tl.load(there + 1, live, 0.0) - qy
            dz = tl.load(there + 2, live, 0.0) - qz
            square = tl.where(live, dx * dx + dy * dy + dz * dz, 3e38)
            # positive floats are ordered as their bits are; the lowest make room for the number
            key = (square.to(tl.int32, bitcast=True) & ~(SIZE - 1)) | number
            high = tl.minimum(high, tl.maximum(low, key))
            low = tl.minimum(low, key)
        both = tl.reshape(tl.join(low, high), [2 * GROUPS])
        best = 0x7FFFFFFF - tl.topk(0x7FFFFFFF - both, KEPT)
        index = (best & (SIZE - 1)).to(tl.int64)
        place = found + (batch * many + q) * count + kept
        tl.store(place, index, kept < tl.where(exists, count, 0))
