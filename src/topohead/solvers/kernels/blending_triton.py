"""The blend of `solvers.blending` on CUDA tensors: outliers, means, and bands of a window.

Everything is arranged in planes: `colors` float16 [C 3 h w], `weights` float32 [C h w], pyramids
float32 [C 4 h w] of (difference × known, known). A window is square and divided into cells;
`listed` int32 [cells cells C] names the views that are to be looked at in each, `number` int32
[cells cells] tells how many.
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from topohead.solvers.kernels.fusion_triton import BLOCK, CELL

KNOWN = tl.constexpr(1e-12)
NONE = tl.constexpr(255)


@triton.jit
def _planes(stack, view, place, area, live):
    """Three planes of a view as float32."""
    start = stack + view.to(tl.int64) * 3 * area + place
    return (
        tl.load(start, live, 0.0).to(tl.float32),
        tl.load(start + area, live, 0.0).to(tl.float32),
        tl.load(start + 2 * area, live, 0.0).to(tl.float32),
    )


@triton.jit
def _vote(colors, weights, view, place, area, red, green, blue, FAR: tl.constexpr):
    """A view's say on texels, and its luminance, or its distance from a colour if `FAR`.

    Votes grow slowly with weight: three fair views outvote one that looks straight.
    """
    w = tl.load(weights + view.to(tl.int64) * area + place)
    r, g, b = _planes(colors, view, place, area, w > 0.0)
    if FAR:
        r, g, b = r - red, g - green, b - blue
        value = tl.sqrt(r * r + g * g + b * b)
    else:
        value = 0.299 * r + 0.587 * g + 0.114 * b
    return tl.sqrt(tl.sqrt(w)), value


@triton.jit
def _median(colors, weights, listed, count, place, area, red, green, blue, FAR: tl.constexpr):
    """Weighted medians: the least value at or below which half of a texel's votes lie.

    The views left are parted at their mean, in each texel for itself, until they are of one value.
    """
    half = tl.zeros(place.shape, tl.float32)
    pivot, number = half, half
    for k in range(count):
        vote, value = _vote(
            colors, weights, tl.load(listed + k), place, area, red, green, blue, FAR
        )
        half += 0.5 * vote
        pivot += tl.where(vote > 0.0, value, 0.0)
        number += tl.where(vote > 0.0, 1.0, 0.0)
    # sums of the same votes in another order may miss a half by a rounding
    half *= 0.999999
    pivot = pivot / tl.maximum(number, 1.0)
    low = tl.full(place.shape, -float("inf"), tl.float32)
    high = tl.full(place.shape, float("inf"), tl.float32)
    parted = number > 0.0
    steps = 0
    while (tl.max(parted.to(tl.int32)) > 0) & (steps <= count):
        below = tl.zeros(place.shape, tl.float32)
        lower_sum, lower_number, upper_sum, upper_number = below, below, below, below
        lowest = tl.full(place.shape, float("inf"), tl.float32)
        above = lowest
        highest = tl.full(place.shape, -float("inf"), tl.float32)
        top = highest
        for k in range(count):
            vote, value = _vote(
                colors, weights, tl.load(listed + k), place, area, red, green, blue, FAR
            )
            lower = (vote > 0.0) & (value <= pivot)
            below += tl.where(lower, vote, 0.0)
            lower = lower & (value > low)
            lower_sum += tl.where(lower, value, 0.0)
            lower_number += tl.where(lower, 1.0, 0.0)
            lowest = tl.minimum(lowest, tl.where(lower, value, float("inf")))
            highest = tl.maximum(highest, tl.where(lower, value, -float("inf")))
            upper = (vote > 0.0) & (value > pivot) & (value <= high)
            upper_sum += tl.where(upper, value, 0.0)
            upper_number += tl.where(upper, 1.0, 0.0)
            above = tl.minimum(above, tl.where(upper, value, float("inf")))
            top = tl.maximum(top, tl.where(upper, value, -float("inf")))
        down = (below >= half) | (upper_number == 0.0)
        low = tl.where(parted & ~down, pivot, low)
        high = tl.where(parted, tl.where(down, highest, top), high)
        mean = tl.where(down, lower_sum, upper_sum)
        mean = mean / tl.maximum(tl.where(down, lower_number, upper_number), 1.0)
        pivot = tl.where(parted, mean, pivot)
        parted = parted & (tl.where(down, lowest, above) < high)
        steps += 1
    return high


@triton.jit
def settle(
    colors, weights, listed, number, views, side, floor, spread,
    mean, best, top, left, size, apron, total_canvas, effective_canvas,
    BLOCK_TEXELS: tl.constexpr,
):  # fmt: skip
    """Outliers weakened in `weights`; weighted means, best two views, sums for the canvas.

    As `kernels.fusion.reject_outliers`, `weighted_mean` and `best_two`; one program works on texels
    of one cell. `mean` is [3 side side], `best` uint8 [2 side side]; the canvases are [size size].
    """
    cell, cells = tl.program_id(1), side // CELL
    index = tl.program_id(0) * BLOCK_TEXELS + tl.arange(0, BLOCK_TEXELS)
    row, column = cell // cells * CELL + index // CELL, cell % cells * CELL + index % CELL
    count, listed = tl.load(number + cell), listed + cell * views
    area = side * side
    place = row * side + column
    zero = tl.zeros([BLOCK_TEXELS], tl.float32)
    middle = _median(colors, weights, listed, count, place, area, zero, zero, zero, False)
    red, green, blue = zero, zero, zero
    closest = tl.full([BLOCK_TEXELS], float("inf"), tl.float32)
    for k in range(count):
        view = tl.load(listed + k)
        vote, value = _vote(colors, weights, view, place, area, zero, zero, zero, False)
        away = tl.where(vote > 0.0, tl.abs(value - middle), float("inf"))
        r, g, b = _planes(colors, view, place, area, vote > 0.0)
        closer = away < closest
        red, green = tl.where(closer, r, red), tl.where(closer, g, green)
        blue, closest = tl.where(closer, b, blue), tl.where(closer, away, closest)
    typical = _median(colors, weights, listed, count, place, area, red, green, blue, True)
    typical = tl.where(typical < 1e30, typical, 0.0)
    inverse_scale = 1.0 / tl.maximum(floor, spread * typical)

    total, squares, mean_red, mean_green, mean_blue = zero, zero, zero, zero, zero
    first, second = zero, zero
    first_view = tl.full([BLOCK_TEXELS], NONE, tl.int32)
    second_view = first_view
    for k in range(count):
        view = tl.load(listed + k)
        stack = weights + view.to(tl.int64) * area + place
        w = tl.load(stack)
        seen = w > 0.0
        r, g, b = _planes(colors, view, place, area, seen)
        dr, dg, db = r - red, g - green, b - blue
        ratio = tl.sqrt(dr * dr + dg * dg + db * db) * inverse_scale
        kept = tl.maximum(1.0 - ratio * ratio, 0.0)
        w = tl.where(seen, w * kept * kept, 0.0)
        tl.store(stack, w)
        total, squares = total + w, squares + w * w
        mean_red, mean_green = mean_red + w * r, mean_green + w * g
        mean_blue = mean_blue + w * b
        ahead, follows = w > first, w > second
        second_view = tl.where(ahead, first_view, tl.where(follows, view, second_view))
        second = tl.where(ahead, first, tl.where(follows, w, second))
        first_view, first = tl.where(ahead, view, first_view), tl.where(ahead, w, first)
    inverse = tl.where(total > 0.0, 1.0 / tl.where(total > 0.0, total, 1.0), 0.0)
    tl.store(mean + place, mean_red * inverse)
    tl.store(mean + area + place, mean_green * inverse)
    tl.store(mean + 2 * area + place, mean_blue * inverse)
    tl.store(best + place, first_view.to(tl.uint8))
    tl.store(best + area + place, second_view.to(tl.uint8))

    x, y = left + column, top + row
    inner = (row >= apron) & (row < side - apron) & (y < size) & (x < size)
    inner = inner & (column >= apron) & (column < side - apron)
    tl.store(total_canvas + y * size + x, total, inner)
    several = squares > 0.0
    effective = total * total / tl.where(several, squares, 1.0)
    tl.store(effective_canvas + y * size + x, tl.where(several, effective, 0.0), inner)


@triton.constexpr_function
def _binomial(i):
    """(1, 4, 6, 4, 1)/16 at i ∈ −2 … 2."""
    return (0.0625, 0.25, 0.375)[2 - abs(i)]


@triton.jit
def shrink_differences(colors, weights, mean, listed, number, views, side, packed, shrunk):
    """The first reduction: `packed` [C 4 side/2 side/2] of differences from the mean, weights.

    Like OpenCV's pyrDown. Only in cells whose list names the view; elsewhere nothing is written.
    """
    half = side // 2
    index = tl.arange(0, BLOCK * BLOCK)
    row, column = tl.program_id(1) * BLOCK, tl.program_id(0) * BLOCK
    cell = (2 * row // CELL) * (side // CELL) + 2 * column // CELL
    y, x = row + index // BLOCK, column + index % BLOCK
    exists = (y < half) & (x < half)
    area, small = side * side, half * half
    for k in range(tl.load(number + cell)):
        view = tl.load(listed + cell * views + k)
        stack = weights + view.to(tl.int64) * area
        sr = tl.zeros([BLOCK * BLOCK], tl.float32)
        sg, sb, known, total = sr, sr, sr, sr
        for i in range(-2, 3):  # not unrolled: half the registers
            away = tl.maximum(i, -i)
            down = tl.where(away == 0, 0.375, tl.where(away == 1, 0.25, 0.0625))
            for j in tl.static_range(-2, 3):
                fy, fx = 2 * y + i, 2 * x + j
                inside = exists & (fy >= 0) & (fx >= 0) & (fy < side) & (fx < side)
                place = fy * side + fx
                w = tl.load(stack + place, inside, 0.0)
                seen = w > 0.0
                tap = down * _binomial(j)
                r, g, b = _planes(colors, view, place, area, seen)
                sr += tap * (r - tl.load(mean + place, seen, 0.0))
                sg += tap * (g - tl.load(mean + area + place, seen, 0.0))
                sb += tap * (b - tl.load(mean + 2 * area + place, seen, 0.0))
                known += tl.where(seen, tap, 0.0)
                total += tap * w
        target = packed + view.to(tl.int64) * 4 * small + y * half + x
        tl.store(target, sr, exists)
        tl.store(target + small, sg, exists)
        tl.store(target + 2 * small, sb, exists)
        tl.store(target + 3 * small, known, exists)
        tl.store(shrunk + view.to(tl.int64) * small + y * half + x, total, exists)


@triton.jit
def shrink_planes(
    finer, coarser, flags, views, cells, side, LEVEL: tl.constexpr, PLANES: tl.constexpr
):
    """A further reduction, from [C PLANES side side], which is level `LEVEL` of the window.

    `flags` uint8 [cells cells C] tells in which cells a view's pyramid can hold anything; where
    none of a program's texels lies in one, nothing is written.
    """
    half = side // 2
    index = tl.arange(0, BLOCK * BLOCK)
    row, column = tl.program_id(1) * BLOCK, tl.program_id(0) * BLOCK
    y, x = row + index // BLOCK, column + index % BLOCK
    exists = (y < half) & (x < half)
    view = tl.program_id(2)
    step: tl.constexpr = 64 >> (LEVEL + 1)
    cell = (y // step) * cells + x // step
    if tl.max(tl.load(flags + cell * views + view, exists, 0).to(tl.int32)) == 0:
        return
    for plane in tl.static_range(PLANES):
        source = finer + (view * PLANES + plane).to(tl.int64) * side * side
        total = tl.zeros([BLOCK * BLOCK], tl.float32)
        for i in tl.static_range(-2, 3):
            for j in tl.static_range(-2, 3):
                fy, fx = 2 * y + i, 2 * x + j
                inside = exists & (fy >= 0) & (fx >= 0) & (fy < side) & (fx < side)
                tap = _binomial(i) * _binomial(j)
                total += tap * tl.load(source + fy * side + fx, inside, 0.0)
        target = coarser + (view * PLANES + plane).to(tl.int64) * half * half
        tl.store(target + y * half + x, total, exists)


@triton.jit
def _up_tap(position, i: tl.constexpr):
    """What the neighbour i ∈ −1 … 1 of a coarse texel adds to a finer one, as pyrUp does."""
    odd = position % 2 == 1
    if i == 0:
        return tl.where(odd, 0.5, 0.75)
    if i == 1:
        return tl.where(odd, 0.5, 0.125)
    return tl.where(odd, 0.0, 0.125)


@triton.jit
def _raised_mean(packed, view, side, y, x, live):
    """Known means of a view's coarser level [C 4 side side], interpolated at finer texels."""
    area = side * side
    start = packed + view.to(tl.int64) * 4 * area
    sr = tl.zeros(y.shape, tl.float32)
    sg, sb = sr, sr
    for i in tl.static_range(-1, 2):
        for j in tl.static_range(-1, 2):
            cy, cx = y // 2 + i, x // 2 + j
            inside = live & (cy >= 0) & (cx >= 0) & (cy < side) & (cx < side)
            place = cy * side + cx
            known = tl.load(start + 3 * area + place, inside, 0.0)
            fine = known > KNOWN
            share = _up_tap(y, i) * _up_tap(x, j) / tl.where(fine, known, 1.0)
            sr += share * tl.load(start + place, fine, 0.0)
            sg += share * tl.load(start + area + place, fine, 0.0)
            sb += share * tl.load(start + 2 * area + place, fine, 0.0)
    return sr, sg, sb


@triton.jit
def _raised(picture, side, y, x, live):
    """A coarser picture [3 side side] interpolated at finer texels."""
    area = side * side
    sr = tl.zeros(y.shape, tl.float32)
    sg, sb = sr, sr
    for i in tl.static_range(-1, 2):
        for j in tl.static_range(-1, 2):
            cy, cx = y // 2 + i, x // 2 + j
            inside = live & (cy >= 0) & (cx >= 0) & (cy < side) & (cx < side)
            place, share = cy * side + cx, _up_tap(y, i) * _up_tap(x, j)
            sr += share * tl.load(picture + place, inside, 0.0)
            sg += share * tl.load(picture + area + place, inside, 0.0)
            sb += share * tl.load(picture + 2 * area + place, inside, 0.0)
    return sr, sg, sb


@triton.jit
def collapse_band(
    packed, weights, coarser, below, corrected, listed, number, views, cells, side,
    LEVEL: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """`corrected` [3 side side]: this band's weighted mean over views, and all coarser bands.

    `packed` and `weights` are this level's, `coarser` the next level's pyramid, `below` what this
    kernel made of it; both are unused at the top. `cells` is how many a row of the window has.
    """
    index = tl.arange(0, BLOCK * BLOCK)
    row, column = tl.program_id(1) * BLOCK, tl.program_id(0) * BLOCK
    y, x = row + index // BLOCK, column + index % BLOCK
    exists = (y < side) & (x < side)
    area, place = side * side, y * side + x
    # a block may hold several cells at coarse levels: each texel looks up its own
    step: tl.constexpr = 64 >> LEVEL
    cell = tl.where(exists, (y // step) * cells + x // step, 0)
    sr = tl.zeros([BLOCK * BLOCK], tl.float32)
    sg, sb, total = sr, sr, sr
    own = tl.load(number + cell, exists, 0)
    for k in range(tl.max(own)):
        live = exists & (k < own)
        view = tl.load(listed + cell * views + k, live, 0)
        share = tl.load(weights + view.to(tl.int64) * area + place, live, 0.0)
        start = packed + view.to(tl.int64) * 4 * area + place
        known = tl.load(start + 3 * area, live, 0.0)
        live = live & (share > 0.0) & (known > KNOWN)
        inverse = 1.0 / tl.where(live, known, 1.0)
        r, g = tl.load(start, live, 0.0) * inverse, tl.load(start + area, live, 0.0) * inverse
        b = tl.load(start + 2 * area, live, 0.0) * inverse
        if not TOP:
            ur, ug, ub = _raised_mean(coarser, view, side // 2, y, x, live)
            r, g, b = r - ur, g - ug, b - ub
        share = tl.where(live, share, 0.0)
        sr, sg, sb, total = sr + share * r, sg + share * g, sb + share * b, total + share
    known = total > KNOWN
    inverse = tl.where(known, 1.0 / tl.where(known, total, 1.0), 0.0)
    sr, sg, sb = sr * inverse, sg * inverse, sb * inverse
    if not TOP:
        ur, ug, ub = _raised(below, side // 2, y, x, exists)
        sr, sg, sb = sr + ur, sg + ug, sb + ub
    tl.store(corrected + place, sr, exists)
    tl.store(corrected + area + place, sg, exists)
    tl.store(corrected + 2 * area + place, sb, exists)


@triton.jit
def _finest(colors, weights, coarser, mr, mg, mb, view, place, area, side, y, x, live):
    """One view's weight, and weight × what its colour says beyond its coarser level."""
    known = live & (view != NONE)
    safe = tl.where(known, view, 0)
    w = tl.load(weights + safe.to(tl.int64) * area + place, known, 0.0)
    r, g, b = _planes(colors, safe, place, area, known)
    ur, ug, ub = _raised_mean(coarser, safe, side // 2, y, x, known)
    return w, w * (r - mr - ur), w * (g - mg - ug), w * (b - mb - ub)


@triton.jit
def write_colors(
    colors, weights, mean, best, coarser, below, side, top, left, size, apron, canvas,
    BANDED: tl.constexpr,
):  # fmt: skip
    """The window's inner part of the `canvas` [size size 3]: mean, finest band, coarser bands."""
    index = tl.arange(0, BLOCK * BLOCK)
    row, column = tl.program_id(1) * BLOCK + apron, tl.program_id(0) * BLOCK + apron
    y, x = row + index // BLOCK, column + index % BLOCK
    exists = (y < side - apron) & (x < side - apron) & (top + y < size) & (left + x < size)
    area, place = side * side, y * side + x
    first = tl.load(best + place, exists, NONE).to(tl.int32)
    seen = first != NONE
    if tl.min(first) == NONE:
        return
    r, g = tl.load(mean + place, seen, 0.0), tl.load(mean + area + place, seen, 0.0)
    b = tl.load(mean + 2 * area + place, seen, 0.0)
    if BANDED:
        second = tl.load(best + area + place, exists, NONE).to(tl.int32)
        w, sr, sg, sb = _finest(
            colors, weights, coarser, r, g, b, first, place, area, side, y, x, seen
        )
        w2, sr2, sg2, sb2 = _finest(
            colors, weights, coarser, r, g, b, second, place, area, side, y, x, seen
        )
        total = w + w2
        known = total > KNOWN
        inverse = tl.where(known, 1.0 / tl.where(known, total, 1.0), 0.0)
        ur, ug, ub = _raised(below, side // 2, y, x, seen)
        r += (sr + sr2) * inverse + ur
        g += (sg + sg2) * inverse + ug
        b += (sb + sb2) * inverse + ub
    target = canvas + 3 * ((top + y) * size + left + x)
    tl.store(target, r, seen)
    tl.store(target + 1, g, seen)
    tl.store(target + 2, b, seen)
