"""The median of samples' residuals on a CUDA device, exactly and without sorting them.

Positive floats sort like their bits, so three counts of 11, 10 and 10 bits find any rank (radix
selection). Whole numbers add up to the same in every order.
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from topohead.solvers.kernels.rows_triton import block_size

_BINS = 2048
"""Room for one count; the later two use half of it."""
_LAST = tl.constexpr(20)
"""The first count's lowest bit."""


@triton.jit
def _chosen(counts, rank, BINS: tl.constexpr):
    """The bin that holds a rank (from 0), and the rank within it."""
    bins = tl.arange(0, BINS)
    number = tl.load(counts + bins)
    upto = tl.cumsum(number, axis=0)
    before = upto <= rank
    return tl.sum(before.to(tl.int32), axis=0), rank - tl.sum(tl.where(before, number, 0), axis=0)


@triton.jit
def _ranks(counts, BINS: tl.constexpr):
    """How many there are, and the ranks of the two in the middle."""
    number = tl.sum(tl.load(counts + tl.arange(0, BINS)), axis=0)
    return (
        number,
        tl.maximum(number - 1, 0) // 2,
        tl.minimum(number // 2, tl.maximum(number - 1, 0)),
    )


@triton.jit(do_not_specialize=["count"])
def _spread_kernel(stats, keys, counts, count, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """Bits of every sample's spread (−1: not seen), and how many share their highest."""
    s = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = s < count
    total = tl.load(stats + 4 * s, mask=live, other=0.0)
    energy = tl.load(stats + 4 * s + 1, mask=live, other=0.0)
    views = tl.load(stats + 4 * s + 2, mask=live, other=0.0)
    robust = tl.load(stats + 4 * s + 3, mask=live, other=0.0)
    spread = tl.maximum(energy, 0.0) / tl.maximum(3 * total * robust, 1e-12)
    key = tl.where(views >= 2, spread.to(tl.int32, bitcast=True), -1)
    tl.store(keys + s, key, mask=live)
    tl.atomic_add(counts + (key >> _LAST), 1, mask=live & (key >= 0), sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _count_kernel(
    keys, counts, count, STAGE: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr
):
    """Counts by the next ten bits those that share the higher bits of the two in the middle."""
    low, high, _number = _prefixes(counts, STAGE, BINS)
    s = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + s, mask=s < count, other=-1)
    above: tl.constexpr = 30 - 10 * STAGE
    bin = (key >> (above - 10)) & 1023
    out = counts + (2 * STAGE - 1) * BINS
    tl.atomic_add(out + bin, 1, mask=(key >= 0) & (key >> above == low), sem="relaxed")
    tl.atomic_add(out + BINS + bin, 1, mask=(key >= 0) & (key >> above == high), sem="relaxed")


@triton.jit
def _prefixes(counts, STAGE: tl.constexpr, BINS: tl.constexpr):
    """Higher bits of the two in the middle, as far as `STAGE` counts tell, and how many count."""
    number, first, second = _ranks(counts, BINS)
    low, first = _chosen(counts, first, BINS)
    high, second = _chosen(counts, second, BINS)
    for stage in range(1, STAGE):
        own = counts + (2 * stage - 1) * BINS
        bin, first = _chosen(own, first, BINS)
        low = low * 1024 + bin
        bin, second = _chosen(own + BINS, second, BINS)
        high = high * 1024 + bin
    return low, high, number


@triton.jit
def _learn_kernel(noise, counts, learnt, least, most, BINS: tl.constexpr):
    """The noise times the root of the median, within bounds; the noise where nothing counts."""
    low, high, number = _prefixes(counts, 3, BINS)
    low = low.to(tl.float32, bitcast=True)
    high = high.to(tl.float32, bitcast=True)
    before = tl.load(noise)
    fresh = before * tl.sqrt(0.5 * (low + high))
    fresh = tl.minimum(tl.maximum(fresh, least), most)
    tl.store(learnt, tl.where(number > 0, fresh, before))


def learnt_noise(
    noise: Float[Tensor, ""], stats: Float[Tensor, "S 4"], least: float, most: float
) -> Float[Tensor, ""]:
    """`noise` times the root of the median spread of the residuals under it, in [least, most].

    `stats` are those of `photometric.accumulate`; a sample in two views or more has the spread
    energy / (3 pixels · robust weight). Without such samples the noise stays.
    """
    count, device = len(stats), stats.device
    keys = torch.empty(count, dtype=torch.int32, device=device)
    counts = torch.zeros(5, _BINS, dtype=torch.int32, device=device)
    learnt = torch.empty_like(noise)
    block = block_size(512, count)
    grid = (triton.cdiv(count, block),)
    _spread_kernel[grid](stats, keys, counts, count, BINS=_BINS, BLOCK=block)
    for stage in (1, 2):
        _count_kernel[grid](keys, counts, count, STAGE=stage, BINS=_BINS, BLOCK=block)
    _learn_kernel[(1,)](noise, counts, learnt, least, most, BINS=_BINS)
    return learnt
