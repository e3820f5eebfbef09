# Triton annotates launches with what kernels see; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false
"""A virtual sensor on a CUDA device: `sensor_cpu.expose` in float32, with the same noise.

Stored pictures agree to 1e-5 of full scale, so that a pixel in some hundreds differs by one code.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_BLOCK = 256
TURN = tl.constexpr(2.0 * math.pi)


def expose(
    light: Float[Tensor, "H W 3"], weights: Float[Tensor, " K"], numbers: Float[Tensor, "11"],
    key: int,
) -> Float[Tensor, "H W 3"]:  # fmt: skip
    """The stored picture, srgb in [0, 1]; `numbers` are the centre (2), falloff, gain (3), offset
    (3), read and shot noise of `sensor_cpu.expose`, float32; `key` is 2³² to 2⁶³ − 1."""
    height, width = light.shape[:2]
    light = light.contiguous()
    blurred, out = torch.empty_like(light), torch.empty_like(light)
    with torch.cuda.device_of(light):
        _blur_columns[(triton.cdiv(3 * width, _BLOCK), height)](
            light, weights, blurred, height, 3 * width, len(weights), BLOCK=_BLOCK
        )
        _expose[(triton.cdiv(width, _BLOCK), height)](
            blurred, weights, numbers, out, key, width, len(weights), BLOCK=_BLOCK
        )
    return out


@triton.jit
def mirrored(index, count):
    """The place inside a row of `count` that a place beyond its ends repeats."""
    index = (index + 64 * count) % (2 * count)  # a remainder takes the sign of what is divided
    return tl.minimum(index, 2 * count - 1 - index)


@triton.jit(do_not_specialize=["height", "length", "taps"])
def _blur_columns(light, weights, blurred, height, length, taps, BLOCK: tl.constexpr):
    """The blur from row to row; a row is `length` numbers."""
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(1)
    inside = x < length
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(taps):
        row = mirrored(y + k - taps // 2, height).to(tl.int64)
        total += tl.load(weights + k) * tl.load(light + row * length + x, inside, 0.0)
    tl.store(blurred + y.to(tl.int64) * length + x, total, inside)


@triton.jit(do_not_specialize=["key", "width", "taps"])
def _expose(blurred, weights, numbers, out, key, width, taps, BLOCK: tl.constexpr):
    """The blur along rows, and all that follows it."""
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(1)
    inside = x < width
    start = y.to(tl.int64) * width
    red = tl.zeros((BLOCK,), tl.float32)
    green = tl.zeros((BLOCK,), tl.float32)
    blue = tl.zeros((BLOCK,), tl.float32)
    for k in range(taps):
        at = blurred + 3 * (start + mirrored(x + k - taps // 2, width))
        weight = tl.load(weights + k)
        red += weight * tl.load(at, inside, 0.0)
        green += weight * tl.load(at + 1, inside, 0.0)
        blue += weight * tl.load(at + 2, inside, 0.0)
    dx = x.to(tl.float32) + 0.5 - tl.load(numbers)
    dy = y.to(tl.float32) + 0.5 - tl.load(numbers + 1)
    lens = 1.0 - tl.load(numbers + 2) * (dx * dx + dy * dy)
    zero = tl.zeros((BLOCK,), tl.uint32)
    a, b, c, d = tl.philox(key, (y * width + x).to(tl.uint32), zero, zero, zero)
    first, second = normal_pair(a, b)
    third, _ = normal_pair(c, d)
    place = out + 3 * (start + x)
    _store(place, red, lens, first, numbers, 0, inside)
    _store(place, green, lens, second, numbers, 1, inside)
    _store(place, blue, lens, third, numbers, 2, inside)


@triton.jit
def _store(place, value, lens, noise, numbers, channel: tl.constexpr, inside):
    """Colour response, noise and the sRGB curve of a channel."""
    value = value * lens * tl.load(numbers + 3 + channel) + tl.load(numbers + 6 + channel)
    read, shot = tl.load(numbers + 9), tl.load(numbers + 10)
    value += tl.sqrt(read * read + shot * shot * tl.maximum(value, 0.0)) * noise
    value = tl.minimum(tl.maximum(value, 0.0), 1.0)
    bright = 1.055 * tl.exp2(tl.log2(tl.maximum(value, 1e-6)) / 2.4) - 0.055
    tl.store(place + channel, tl.where(value <= 0.0031308, 12.92 * value, bright), inside)


@triton.jit
def normal_pair(first, second):
    """Two standard normals of two words; see `sensor_cpu`."""
    # shifted words are below 2²³: signed is the same number and converts in one instruction
    u = ((first >> 9).to(tl.int32).to(tl.float32) + 0.5) * (1.0 / 8388608)
    angle = TURN * (((second >> 9).to(tl.int32).to(tl.float32) + 0.5) * (1.0 / 8388608))
    radius = tl.sqrt(-2.0 * tl.log(u))
    return radius * tl.cos(angle), radius * tl.sin(angle)
