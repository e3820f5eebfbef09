"""What `solvers.sightlines` works out per view, on CUDA tensors: pictures, edges, trust, focus.

Maps of all views lie in one stack [C h w] of the largest height and width; `sizes` int32 [C 2] is
how much of it (width, height) a view fills.
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from topohead.solvers.kernels.fusion_triton import unpack

FAR = tl.constexpr(1e6)
"""Stands for the depth of nothing."""


@triton.jit
def pack_pixels(image, count, pixels, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Pixels of [H W 3] in one word each: uint8 as 8 bits, float32 (then `WIDE`) as 16."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    place = image + 3 * index
    r, g, b = (
        tl.load(place, inside, 0),
        tl.load(place + 1, inside, 0),
        tl.load(place + 2, inside, 0),
    )
    if WIDE:
        r, g, b = _code(r), _code(g), _code(b)
        tl.store(pixels + index, r | (g << 16) | (b << 32), inside)
    else:
        r, g, b = r.to(tl.int32), g.to(tl.int32), b.to(tl.int32)
        tl.store(pixels + index, r | (g << 8) | (b << 16), inside)


@triton.jit
def _code(value):
    clamped = tl.minimum(tl.maximum(value.to(tl.float32), 0.0), 1.0)
    return (clamped * 65535.0 + 0.5).to(tl.int64)


@triton.jit
def _is_step(depth, part_map, place, here, part, jump, inside):
    """Whether a neighbour within the picture is another surface."""
    there = tl.load(depth + place, inside, 0.0)
    there = tl.where(there < FAR, there, FAR)
    other = tl.load(part_map + place, inside, 255)
    return inside & ((tl.abs(there - here) > jump) | (other != part))


@triton.jit
def find_edges(depth, part_map, sizes, jumps, edges, height, width, BLOCK: tl.constexpr):
    """`edges` uint8 [C h w]: 1 beside a step in depth (by `jumps` [C]) or a border of parts."""
    view = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y = pixel % width, pixel // width
    wide, high = tl.load(sizes + 2 * view), tl.load(sizes + 2 * view + 1)
    exists = (x < wide) & (y < high)
    shift = view.to(tl.int64) * height * width
    depth, part_map = depth + shift, part_map + shift
    here = tl.load(depth + pixel, exists, FAR)
    here = tl.where(here < FAR, here, FAR)
    part = tl.load(part_map + pixel, exists, 255)
    jump = tl.load(jumps + view)
    edge = _is_step(depth, part_map, pixel - 1, here, part, jump, exists & (x > 0))
    edge = edge | _is_step(depth, part_map, pixel + 1, here, part, jump, exists & (x + 1 < wide))
    edge = edge | _is_step(depth, part_map, pixel - width, here, part, jump, exists & (y > 0))
    below = exists & (y + 1 < high)
    edge = edge | _is_step(depth, part_map, pixel + width, here, part, jump, below)
    tl.store(edges + shift + pixel, edge.to(tl.uint8), y < height)


@triton.jit
def column_distance(edges, sizes, distance, height, width, reach, BLOCK: tl.constexpr):
    """`distance` int16 [C h w] to the nearest edge in a pixel's column; reach + 1: further."""
    view = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = pixel // width
    high = tl.load(sizes + 2 * view + 1)
    shift = view.to(tl.int64) * height * width
    nearest = tl.full([BLOCK], reach + 1, tl.int32)
    for step in range(-reach, reach + 1):
        inside = (y + step >= 0) & (y + step < high) & (y < high)
        edge = tl.load(edges + shift + pixel + step * width, inside, 0).to(tl.int32)
        away = tl.maximum(step, -step)
        nearest = tl.where(edge > 0, tl.minimum(nearest, away), nearest)
    tl.store(distance + shift + pixel, nearest.to(tl.int16), y < height)


@triton.jit
def feather(
    distance, depth, sizes, margins, feathers, mask, trust, height, width, reach,
    MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`trust` float32 [C h w] from the distance to edges (exact up to `reach` pixels) × mask."""
    view = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y = pixel % width, pixel // width
    wide, high = tl.load(sizes + 2 * view), tl.load(sizes + 2 * view + 1)
    exists = (x < wide) & (y < high)
    shift = view.to(tl.int64) * height * width
    beyond = (reach + 1) * (reach + 1)
    square = tl.full([BLOCK], beyond, tl.int32)
    for step in range(-reach, reach + 1):
        inside = exists & (x + step >= 0) & (x + step < wide)
        down = tl.load(distance + shift + pixel + step, inside, 32767).to(tl.int32)
        reached = step * step + down * down
        square = tl.where(down <= reach, tl.minimum(square, reached), square)
    away = tl.sqrt(square.to(tl.float32))
    ramp = (away - tl.load(margins + view)) / tl.load(feathers + view)
    ramp = tl.minimum(tl.maximum(ramp, 0.0), 1.0)
    seen = exists & (tl.load(depth + shift + pixel, exists, float("inf")) < FAR)
    value = tl.where(seen, ramp * ramp * (3.0 - 2.0 * ramp), 0.0)
    if MASKED:
        value *= tl.load(mask + shift + pixel, exists, 0.0)
    tl.store(trust + shift + pixel, value, y < height)


@triton.jit
def _mirrored(place, count):
    """Reflection about the border pixels' centres, as OpenCV does by default."""
    place = tl.where(place < 0, -place, place)
    return tl.where(place >= count, 2 * count - 2 - place, place)


@triton.jit
def blur_rows(pixels, height, width, taps, rows, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Mean of the channels blurred along rows by three Gaussians: `rows` [3 H W].

    `taps` float32 [3 33] are their weights about the middle one.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < height * width
    x, y = index % width, index // width
    line = pixels + y * width
    fine = tl.zeros([BLOCK], tl.float32)
    middle, coarse = fine, fine
    for k in range(33):
        r, g, b = unpack(tl.load(line + _mirrored(x + k - 16, width), inside, 0), WIDE)
        gray = (r + g + b) / 3.0
        fine += tl.load(taps + k) * gray
        middle += tl.load(taps + 33 + k) * gray
        coarse += tl.load(taps + 66 + k) * gray
    place, plane = rows + index, height * width
    tl.store(place, fine, inside)
    tl.store(place + plane, middle, inside)
    tl.store(place + 2 * plane, coarse, inside)


@triton.jit
def contrast(
    pixels, rows, height, width, taps, trust, small_height, small_width, stride, sums,
    WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`sums` float32 [3 programs]: fine² and coarse² contrasts where a view is trusted, and count.

    Blurs along columns what `blur_rows` has blurred along rows. `trust` [small_height stride] is
    interpolated; more than a half counts.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < height * width
    x, y = index % width, index // width
    u = (x + 0.5) * (small_width / width) - 0.5
    v = (y + 0.5) * (small_height / height) - 0.5
    u = tl.minimum(tl.maximum(u, 0.0), small_width - 1.0)
    v = tl.minimum(tl.maximum(v, 0.0), small_height - 1.0)
    left, upper = u.to(tl.int32), v.to(tl.int32)
    right, lower = tl.minimum(left + 1, small_width - 1), tl.minimum(upper + 1, small_height - 1)
    du, dv = u - left, v - upper
    above = tl.load(trust + upper * stride + left, inside, 0.0) * (1.0 - du)
    above += tl.load(trust + upper * stride + right, inside, 0.0) * du
    under = tl.load(trust + lower * stride + left, inside, 0.0) * (1.0 - du)
    under += tl.load(trust + lower * stride + right, inside, 0.0) * du
    seen = inside & (above * (1.0 - dv) + under * dv > 0.5)
    if tl.max(seen.to(tl.int32)) == 0:
        return
    plane = height * width
    fine = tl.zeros([BLOCK], tl.float32)
    middle, coarse = fine, fine
    for k in range(33):
        place = rows + _mirrored(y + k - 16, height) * width + x
        fine += tl.load(taps + k) * tl.load(place, seen, 0.0)
        middle += tl.load(taps + 33 + k) * tl.load(place + plane, seen, 0.0)
        coarse += tl.load(taps + 66 + k) * tl.load(place + 2 * plane, seen, 0.0)
    r, g, b = unpack(tl.load(pixels + index, seen, 0), WIDE)
    sharp = tl.where(seen, (r + g + b) / 3.0 - fine, 0.0)
    broad = tl.where(seen, middle - coarse, 0.0)
    # each program its own place: the sum must not depend on the order in which they run
    program, programs = tl.program_id(0), tl.num_programs(0)
    tl.store(sums + program, tl.sum(sharp * sharp))
    tl.store(sums + programs + program, tl.sum(broad * broad))
    tl.store(sums + 2 * programs + program, tl.sum(seen.to(tl.float32)))
