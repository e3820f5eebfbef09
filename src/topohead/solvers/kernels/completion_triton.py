"""`kernels.completion` on CUDA tensors: the loops over texels that wait for a colour.

`wanted` int64 [N] are places of texels in the flattened texture, all of them on islands.
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from topohead.solvers.kernels.fusion_triton import corner_weights, load_three


@triton.jit
def _cell(position, count):
    """The lower of two neighbouring cells around a position in texels, and the way to the next."""
    place = tl.minimum(tl.maximum(position - 0.5, 0.0), count - 1.001)
    lower = place.to(tl.int32)
    return lower, place - lower


@triton.jit
def _texel(wanted, count, triangle_map, size, corners, BLOCK: tl.constexpr):
    """Number, place, existence, triangle and barycentrics of a block of wanted texels."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = n < count
    place = tl.load(wanted + n, live, 0)
    t = tl.load(triangle_map + place, live, 0)
    x, y = (place % size).to(tl.float32) + 0.5, (place // size).to(tl.float32) + 0.5
    wa, wb, wc = corner_weights(corners, t, live, x, y)
    return n, place, live, t, wa, wb, wc


@triton.jit
def lend_mirrored(
    wanted, count, triangle_map, size, corners, sources, color, seen, lent, BLOCK: tl.constexpr
):
    """`lent` [N 4]: what the other side of the head shows, and how far it is known there.

    `sources` float32 [T 3 2] are the corners' places on the other side, in texels (NaN: none).
    """
    n, _place, live, t, wa, wb, wc = _texel(wanted, count, triangle_map, size, corners, BLOCK)
    place = sources + 6 * t
    first = tl.load(place, live, float("nan"))
    live = live & (tl.abs(first) < 1e9)  # not where it is NaN
    across = wa * tl.load(place, live, 0.0) + wb * tl.load(place + 2, live, 0.0)
    down = wa * tl.load(place + 1, live, 0.0) + wb * tl.load(place + 3, live, 0.0)
    column, dx = _cell(across + wc * tl.load(place + 4, live, 0.0), size)
    row, dy = _cell(down + wc * tl.load(place + 5, live, 0.0), size)
    red = tl.zeros([BLOCK], tl.float32)
    green, blue, total = red, red, red
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            there = (row + i).to(tl.int64) * size + column + j
            w = (dy if i else 1.0 - dy) * (dx if j else 1.0 - dx) * tl.load(seen + there, live, 0.0)
            r, g, b = load_three(color, there, live)
            red, green, blue, total = red + w * r, green + w * g, blue + w * b, total + w
    inverse = tl.where(total > 0.0, 1.0 / tl.where(total > 0.0, total, 1.0), 0.0)
    exists = n < count
    tl.store(lent + 4 * n, red * inverse, exists)
    tl.store(lent + 4 * n + 1, green * inverse, exists)
    tl.store(lent + 4 * n + 2, blue * inverse, exists)
    tl.store(lent + 4 * n + 3, total, exists)


@triton.jit
def lend_interpolated(
    wanted, count, triangle_map, size, corners, triangles, values, lent, BLOCK: tl.constexpr
):
    """`lent` [N 4]: vertex colours [V 3] carried to the wanted texels, wholly known."""
    n, _place, live, t, wa, wb, wc = _texel(wanted, count, triangle_map, size, corners, BLOCK)
    ar, ag, ab = load_three(values, tl.load(triangles + 3 * t, live, 0), live)
    br, bg, bb = load_three(values, tl.load(triangles + 3 * t + 1, live, 0), live)
    cr, cg, cb = load_three(values, tl.load(triangles + 3 * t + 2, live, 0), live)
    tl.store(lent + 4 * n, wa * ar + wb * br + wc * cr, live)
    tl.store(lent + 4 * n + 1, wa * ag + wb * bg + wc * cg, live)
    tl.store(lent + 4 * n + 2, wa * ab + wb * bb + wc * cb, live)
    tl.store(lent + 4 * n + 3, 1.0, live)


@triton.jit
def _moved(offset, p, row, column, dx, dy, small, channel: tl.constexpr, live):
    """A membrane's value of one channel between its cells."""
    place = offset + 3 * ((p * small + row) * small + column) + channel
    upper = tl.load(place, live, 0.0) * (1.0 - dx) + tl.load(place + 3, live, 0.0) * dx
    place += 3 * small
    lower = tl.load(place, live, 0.0) * (1.0 - dx) + tl.load(place + 3, live, 0.0) * dx
    return upper * (1.0 - dy) + lower * dy


@triton.jit
def place_beneath(
    wanted, count, lent, triangle_map, parts, offset, small, size, color, seen, BLOCK: tl.constexpr
):
    """Blend what is lent (moved by the membrane of its part) beneath what is known, in place.

    `parts` uint8 [T] chooses among the membranes `offset` float32 [P small small 3].
    """
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = n < count
    weight = tl.load(lent + 4 * n + 3, exists, 0.0)
    live = exists & (weight > 0.0)
    place = tl.load(wanted + n, live, 0)
    p = tl.load(parts + tl.load(triangle_map + place, live, 0), live, 0).to(tl.int32)
    shrink = small / size
    column, dx = _cell(((place % size).to(tl.float32) + 0.5) * shrink, small)
    row, dy = _cell(((place // size).to(tl.float32) + 0.5) * shrink, small)
    known = tl.load(seen + place, live, 0.0)
    share = known / tl.maximum(known + (1.0 - known) * weight, 1e-6)
    for channel in tl.static_range(3):
        source = tl.load(lent + 4 * n + channel, live, 0.0)
        source += _moved(offset, p, row, column, dx, dy, small, channel, live)
        old = tl.load(color + 3 * place + channel, live, 0.0)
        tl.store(color + 3 * place + channel, share * old + (1.0 - share) * source, live)
    tl.store(seen + place, known + (1.0 - known) * weight, live)


@triton.jit
def shrink_known(color, seen, triangle_map, size, packed, factor, BLOCK: tl.constexpr):
    """Cell means of (colour × known, known, on an island): `packed` [size/f size/f 5]."""
    small = size // factor
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < small * small
    x, y = index % small, index // small
    red = tl.zeros([BLOCK], tl.float32)
    green, blue, known, island = red, red, red, red
    scale = 1.0 / (factor * factor)
    for i in range(factor):
        for j in range(factor):
            place = (y * factor + i) * size + x * factor + j
            live = inside & (tl.load(triangle_map + place, inside, -1) >= 0)
            w = tl.load(seen + place, live, 0.0) * scale
            r, g, b = load_three(color, place, live)
            red, green, blue, known = red + w * r, green + w * g, blue + w * b, known + w
            island += tl.where(live, scale, 0.0)
    target = packed + 5 * index
    tl.store(target, red, inside)
    tl.store(target + 1, green, inside)
    tl.store(target + 2, blue, inside)
    tl.store(target + 3, known, inside)
    tl.store(target + 4, island, inside)
