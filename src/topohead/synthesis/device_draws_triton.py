# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""`Draws.uniform` on a CUDA device in one launch, bit for bit."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 1024


def uniform(keys: Int[Tensor, "B 2"], salt: int, count: int) -> Float[Tensor, "B N"]:
    """Uniform in [0, 1), multiples of 2⁻²⁴."""
    drawn = torch.empty(len(keys), count, device=keys.device)
    total = drawn.numel()
    with torch.cuda.device_of(keys):
        _uniform[(triton.cdiv(total, BLOCK),)](
            keys.contiguous(), drawn, salt & 0xFFFF, salt >> 16, count, total, BLOCK=BLOCK
        )
    return drawn


@triton.jit
def _mixed(words):
    words = (words ^ (words >> 16)) * 0x7FEB352D
    words = (words ^ (words >> 15)) * 0x846CA68B
    return words ^ (words >> 16)


@triton.jit(do_not_specialize=["salt_low", "salt_high", "count", "total"])
def _uniform(keys, drawn, salt_low, salt_high, count, total, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = place < total
    sample = (place // count).to(tl.int64)
    first = tl.load(keys + 2 * sample, live, 0).to(tl.uint32)
    second = tl.load(keys + 2 * sample + 1, live, 0).to(tl.uint32)
    # in halves, since a salt of 32 bits would change the argument's type
    salt = (salt_high.to(tl.uint32) << 16) | salt_low.to(tl.uint32)
    words = _mixed(((place % count).to(tl.uint32) + first) ^ salt)
    words = _mixed(words ^ second) >> 8
    tl.store(drawn + place, words.to(tl.float32) * 5.9604644775390625e-08, live)
