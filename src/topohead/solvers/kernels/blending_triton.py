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
def _gray(red, green, blue):
    return 0.299 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _distance(red, green, blue, r, g, b):
    return tl.sqrt((red - r) * (red - r) + (green - g) * (green - g) + (blue - b) * (blue - b))


@triton.jit
def settle(
    colors, weights, listed, number, views, side, floor, spread,
    mean, best, top, left, size, apron, total_canvas, effective_canvas,
    BLOCK_TEXELS: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Outliers weakened in `weights`; weighted means, best two views, sums for the canvas.

    One program works on texels of one cell, views side by side, at most `MOST` of them. The
    weighted median of a texel is the least value below or at which half of the votes lie.
    `mean` is [3 side side], `best` uint8 [2 side side]; the canvases are [size size].
    """
    cell, cells = tl.program_id(1), side // CELL
    index = tl.program_id(0) * BLOCK_TEXELS + tl.arange(0, BLOCK_TEXELS)
    row, column = cell // cells * CELL + index // CELL, cell % cells * CELL + index % CELL
    count = tl.load(number + cell)
    area = side * side
    place = row * side + column
    k = tl.arange(0, MOST)[None, :]
    view = tl.load(listed + cell * views + k, k < count, 0)
    start = view.to(tl.int64) * area + place[:, None]
    w = tl.load(weights + start, k < count, 0.0)
    seen = w > 0.0
    vote = tl.sqrt(tl.sqrt(w))
    r, g, b = _planes(colors, view, place[:, None], area, seen)
    value = _gray(r, g, b)
    below = tl.zeros([BLOCK_TEXELS, MOST], tl.float32)
    for j in range(count):
        other = tl.load(listed + cell * views + j)
        theirs = tl.load(weights + other.to(tl.int64) * area + place)
        rj, gj, bj = _planes(colors, other, place, area, theirs > 0.0)
        lower = _gray(rj, gj, bj)[:, None] <= value
        below += tl.where(lower, tl.sqrt(tl.sqrt(theirs))[:, None], 0.0)
    half = 0.5 * tl.sum(vote, 1)[:, None]
    # sums of the same votes in another order may miss a half by a rounding
    chosen = seen & (below >= half * 0.999999)
    middle = tl.argmin(tl.where(chosen, value, float("inf")), 1)[:, None] == k
    mr, mg = tl.sum(tl.where(middle, r, 0.0), 1), tl.sum(tl.where(middle, g, 0.0), 1)
    mb = tl.sum(tl.where(middle, b, 0.0), 1)
    far = _distance(r, g, b, mr[:, None], mg[:, None], mb[:, None])
    below = tl.zeros([BLOCK_TEXELS, MOST], tl.float32)
    for j in range(count):
        other = tl.load(listed + cell * views + j)
        theirs = tl.load(weights + other.to(tl.int64) * area + place)
        rj, gj, bj = _planes(colors, other, place, area, theirs > 0.0)
        lower = _distance(rj, gj, bj, mr, mg, mb)[:, None] <= far
        below += tl.where(lower, tl.sqrt(tl.sqrt(theirs))[:, None], 0.0)
    chosen = seen & (below >= half * 0.999999)
    typical = tl.min(tl.where(chosen, far, float("inf")), 1)
    typical = tl.where(typical < 1e30, typical, 0.0)
    ratio = far / tl.maximum(floor, spread * typical)[:, None]
    kept = tl.maximum(1.0 - ratio * ratio, 0.0)
    w = tl.where(seen, w * kept * kept, 0.0)
    # all programs' loops over the old weights of these texels end here
    tl.debug_barrier()
    tl.store(weights + start, w, k < count)

    total, squares = tl.sum(w, 1), tl.sum(w * w, 1)
    inverse = tl.where(total > 0.0, 1.0 / tl.where(total > 0.0, total, 1.0), 0.0)
    tl.store(mean + place, tl.sum(w * r, 1) * inverse)
    tl.store(mean + area + place, tl.sum(w * g, 1) * inverse)
    tl.store(mean + 2 * area + place, tl.sum(w * b, 1) * inverse)
    ahead = tl.argmax(w, 1)[:, None] == k
    rest = tl.where(ahead, 0.0, w)
    second = tl.argmax(rest, 1)[:, None] == k
    first_view = tl.sum(tl.where(ahead, view, 0), 1)
    second_view = tl.sum(tl.where(second, view, 0), 1)
    tl.store(best + place, tl.where(total > 0.0, first_view, NONE).to(tl.uint8))
    followed = tl.max(rest, 1) > 0.0
    tl.store(best + area + place, tl.where(followed, second_view, NONE).to(tl.uint8))

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
