# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""Triton kernels of the portraits' sensor: `portraits_sensor_cpu` in float32, the same noise."""

import triton
import triton.language as tl

from topohead.rendering.sensor_triton import mirrored, normal_pair


@triton.jit
def _backdrop(picture, x, y, c: tl.constexpr, height, width, mask):
    left, top = tl.floor(x), tl.floor(y)
    fx, fy = x - left, y - top
    i0 = tl.minimum(tl.maximum(top.to(tl.int32), 0), height - 1)
    i1 = tl.minimum(tl.maximum(top.to(tl.int32) + 1, 0), height - 1)
    j0 = tl.minimum(tl.maximum(left.to(tl.int32), 0), width - 1)
    j1 = tl.minimum(tl.maximum(left.to(tl.int32) + 1, 0), width - 1)
    upper = (1.0 - fx) * tl.load(picture + 3 * (i0 * width + j0) + c, mask, 0.0).to(tl.float32)
    upper += fx * tl.load(picture + 3 * (i0 * width + j1) + c, mask, 0.0).to(tl.float32)
    lower = (1.0 - fx) * tl.load(picture + 3 * (i1 * width + j0) + c, mask, 0.0).to(tl.float32)
    lower += fx * tl.load(picture + 3 * (i1 * width + j1) + c, mask, 0.0).to(tl.float32)
    return (1.0 - fy) * upper + fy * lower


@triton.jit(do_not_specialize=["height", "width", "back_height", "back_width"])
def composite(
    color, coverage, pictures, index, window, out, height, width, back_height, back_width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Premultiplied light of a part of a row, laid over a backdrop."""
    task = tl.program_id(0).to(tl.int64)
    b, y = task // height, (task % height).to(tl.float32)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = x < width
    place = window + 4 * b
    picture = pictures + tl.load(index + b).to(tl.int64) * back_height * back_width * 3
    row = tl.load(place + 1) + tl.load(place + 3) * (y + 0.5) / height.to(tl.float32)
    row = row * back_height.to(tl.float32) - 0.5
    column = tl.load(place) + tl.load(place + 2) * (x.to(tl.float32) + 0.5) / width.to(tl.float32)
    column = column * back_width.to(tl.float32) - 0.5
    row = row + tl.zeros_like(column)
    at = task * width + x
    rest = 1.0 - tl.load(coverage + at, inside, 1.0)
    shown = inside & (rest > 0.0)
    for c in tl.static_range(3):
        behind = _backdrop(picture, column, row, c, back_height, back_width, shown)
        tl.store(out + 3 * at + c, tl.load(color + 3 * at + c, inside, 0.0) + rest * behind, inside)


@triton.jit(do_not_specialize=["height", "length", "count"])
def blur_columns(light, taps, out, height, length, count, BLOCK: tl.constexpr):
    """The blur from row to row; a row is `length` numbers."""
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    task = tl.program_id(0).to(tl.int64)
    b, y = task // height, task % height
    inside = x < length
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(count):
        row = b * height + mirrored(y + k - count // 2, height)
        total += tl.load(taps + b * count + k) * tl.load(light + row * length + x, inside, 0.0)
    tl.store(out + task * length + x, total, inside)


@triton.jit
def _store(place, value, lens, noise, numbers, channel: tl.constexpr, inside):
    """Colour response, noise and the sRGB curve of a channel."""
    value = value * lens * tl.load(numbers + channel)
    read, shot = tl.load(numbers + 4), tl.load(numbers + 5)
    value += tl.sqrt(read * read + shot * shot * tl.maximum(value, 0.0)) * noise
    value = tl.minimum(tl.maximum(value, 0.0), 1.0)
    bright = 1.055 * tl.exp2(tl.log2(tl.maximum(value, 1e-6)) / 2.4) - 0.055
    tl.store(place + channel, tl.where(value <= 0.0031308, 12.92 * value, bright), inside)


@triton.jit(do_not_specialize=["height", "width", "count"])
def expose(light, taps, numbers, keys, out, height, width, count, BLOCK: tl.constexpr):
    """The blur along rows, and all that follows it."""
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    task = tl.program_id(0).to(tl.int64)
    b, y = task // height, (task % height).to(tl.int32)
    inside = x < width
    red = tl.zeros((BLOCK,), tl.float32)
    green = tl.zeros((BLOCK,), tl.float32)
    blue = tl.zeros((BLOCK,), tl.float32)
    for k in range(count):
        at = light + 3 * (task * width + mirrored(x + k - count // 2, width))
        weight = tl.load(taps + b * count + k)
        red += weight * tl.load(at, inside, 0.0)
        green += weight * tl.load(at + 1, inside, 0.0)
        blue += weight * tl.load(at + 2, inside, 0.0)
    own = numbers + 6 * b
    across, down = width.to(tl.float32), height.to(tl.float32)
    dx, dy = x.to(tl.float32) + 0.5 - 0.5 * across, y.to(tl.float32) + 0.5 - 0.5 * down
    falloff = tl.load(own + 3) / (0.25 * (across * across + down * down))
    lens = 1.0 - falloff * (dx * dx + dy * dy)
    zero = tl.zeros((BLOCK,), tl.uint32)
    words = tl.philox(tl.load(keys + b), (y * width + x).to(tl.uint32), zero, zero, zero)
    first, second = normal_pair(words[0], words[1])
    third, _ = normal_pair(words[2], words[3])
    place = out + 3 * (task * width + x)
    _store(place, red, lens, first, own, 0, inside)
    _store(place, green, lens, second, own, 1, inside)
    _store(place, blue, lens, third, own, 2, inside)
