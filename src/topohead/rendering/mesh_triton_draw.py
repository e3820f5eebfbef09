# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Triton kernels that draw triangles into buffers of keys; `mesh_triton` tells how they fit.

Both do what `mesh_cpu` does, with the same numbers. Positions in sub-pixels and edge functions are
64-bit integers: corners up to 65,536 pixels away stay exact.
"""

import triton
import triton.language as tl

from topohead.rendering import mesh_cpu

SUBPIXEL_BITS = tl.constexpr(mesh_cpu.SUBPIXEL_BITS)
UNIT = tl.constexpr(1 << mesh_cpu.SUBPIXEL_BITS)
HALF = tl.constexpr(1 << (mesh_cpu.SUBPIXEL_BITS - 1))
GUARD_PIXELS = tl.constexpr(mesh_cpu.GUARD_PIXELS)
LAST_ID = tl.constexpr(0x7FFFFFFF)
ROUNDER = tl.constexpr(1.5 * 2**52)
"""Added to a float64 and taken away again, it rounds to whole numbers, halves to even."""

SMALL_PIXELS = tl.constexpr(64)
"""Bounding boxes up to this size are walked by one thread."""
TILE_WIDTH = tl.constexpr(8)
TILE_HEIGHT = tl.constexpr(8)
AHEAD = tl.constexpr(256)
"""Running sums that are looked through at once for the next large triangle."""
FAR = tl.constexpr(1 << 62)


@triton.jit
def inverse_depth(key):
    """1/depth float32 of a key, zero where nothing is seen."""
    return (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _corner(projected, vertex, near):
    """Whether a vertex can be drawn, its place in sub-pixels (int64), 1/depth (float64)."""
    place = projected + 3 * vertex.to(tl.int64)
    u, v, depth = tl.load(place), tl.load(place + 1), tl.load(place + 2)
    drawable = (depth > near) & (tl.abs(u) < GUARD_PIXELS) & (tl.abs(v) < GUARD_PIXELS)
    x = tl.where(drawable, u, 0.0).to(tl.float64) * UNIT + ROUNDER - ROUNDER
    y = tl.where(drawable, v, 0.0).to(tl.float64) * UNIT + ROUNDER - ROUNDER
    inverse = 1.0 / tl.where(drawable, depth, 1.0).to(tl.float64)
    return drawable, x.to(tl.int64), y.to(tl.int64), inverse


@triton.jit
def _edge(x0, y0, x1, y1):
    """(∂/∂x, ∂/∂y, constant) of an edge function; the constant holds the top-left rule."""
    step_x, step_y = y0 - y1, x1 - x0
    owns_border = (step_x > 0) | ((step_x == 0) & (step_y > 0))
    constant = -step_x * x0 - step_y * y0
    return step_x, step_y, tl.where(owns_border, constant, constant - 1)


@triton.jit
def _set_up(projected, triangles, t, width, height, near, CULL: tl.constexpr):
    """Whether triangles are drawn at all, their pixel bounds, edge functions, 1/depth planes."""
    a_ok, ax, ay, a_inverse = _corner(projected, tl.load(triangles + 3 * t), near)
    b_ok, bx, by, b_inverse = _corner(projected, tl.load(triangles + 3 * t + 1), near)
    c_ok, cx, cy, c_inverse = _corner(projected, tl.load(triangles + 3 * t + 2), near)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    # counter-clockwise from outside means negative area where y points down
    turned = area < 0
    alive = a_ok & b_ok & c_ok & (area != 0)
    if CULL:
        alive = alive & turned
    bx, cx = tl.where(turned, cx, bx), tl.where(turned, bx, cx)
    by, cy = tl.where(turned, cy, by), tl.where(turned, by, cy)
    b_inverse, c_inverse = (
        tl.where(turned, c_inverse, b_inverse),
        tl.where(turned, b_inverse, c_inverse),
    )
    left = tl.maximum((tl.minimum(tl.minimum(ax, bx), cx) + (HALF - 1)) >> SUBPIXEL_BITS, 0)
    top = tl.maximum((tl.minimum(tl.minimum(ay, by), cy) + (HALF - 1)) >> SUBPIXEL_BITS, 0)
    right = tl.minimum((tl.maximum(tl.maximum(ax, bx), cx) - HALF) >> SUBPIXEL_BITS, width - 1)
    bottom = tl.minimum((tl.maximum(tl.maximum(ay, by), cy) - HALF) >> SUBPIXEL_BITS, height - 1)
    alive = alive & (left <= right) & (top <= bottom)
    ux, uy, u0 = _edge(bx, by, cx, cy)
    vx, vy, v0 = _edge(cx, cy, ax, ay)
    wx, wy, w0 = _edge(ax, ay, bx, by)
    scale = 1.0 / tl.where(alive, tl.abs(area), 1).to(tl.float64)
    slope_b = (b_inverse - a_inverse) * scale
    slope_c = (c_inverse - a_inverse) * scale
    bounds = (left, top, right, bottom)
    edges = (ux, uy, u0, vx, vy, v0, wx, wy, w0)
    return alive, bounds, edges, (a_inverse, slope_b, slope_c)


@triton.jit
def _put(keys, x, y, width, wanted, name, edges, plane):
    """Draw triangles called `name` at pixels (x, y), int64, where `wanted`."""
    ux, uy, u0, vx, vy, v0, wx, wy, w0 = edges
    px, py = (x << SUBPIXEL_BITS) + HALF, (y << SUBPIXEL_BITS) + HALF
    u = ux * px + uy * py + u0
    v = vx * px + vy * py + v0
    w = wx * px + wy * py + w0
    inverse = (plane[0] + plane[1] * v.to(tl.float64) + plane[2] * w.to(tl.float64)).to(tl.float32)
    covered = wanted & ((u | v | w) >= 0) & (inverse > 0)
    bits = inverse.to(tl.int32, bitcast=True).to(tl.int64)
    key = (bits << 32) | (name ^ LAST_ID).to(tl.int64)
    # to look before writing was measured to cost more than it saves
    tl.atomic_max(keys + y * width + x, key, mask=covered, sem="relaxed")


_COUNTS = ["vertex_count", "triangle_count", "height", "width"]


@triton.jit(do_not_specialize=_COUNTS)
def draw_small(
    projected,
    triangles,
    ids,
    sizes,
    keys,
    tiles,
    vertex_count,
    triangle_count,
    height,
    width,
    near,
    CULL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Set up a block of triangles in one view, draw the small ones, count tiles of the others."""
    view = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t = tl.minimum(index, triangle_count - 1)
    alive, bounds, edges, plane = _set_up(
        projected + 3 * view * vertex_count,
        triangles,
        t,
        tl.load(sizes + 2 * view),
        tl.load(sizes + 2 * view + 1),
        near,
        CULL,
    )
    left, top, right, bottom = bounds
    alive = alive & (index < triangle_count)
    area = (right - left + 1) * (bottom - top + 1)
    small = alive & (area <= SMALL_PIXELS)
    columns = (right - left + TILE_WIDTH) // TILE_WIDTH
    rows = (bottom - top + TILE_HEIGHT) // TILE_HEIGHT
    count = tl.where(alive & (area > SMALL_PIXELS), columns * rows, 0)
    tl.store(tiles + view * triangle_count + index, count.to(tl.int32), index < triangle_count)
    name = tl.load(ids + t)
    picture = keys + view * height * width
    x, y = left, top
    for _ in range(tl.max(tl.where(small, area, 0), 0).to(tl.int32)):
        _put(picture, x, y, width, small & (y <= bottom), name, edges, plane)
        wraps = x == right
        x, y = tl.where(wraps, left, x + 1), tl.where(wraps, y + 1, y)


@triton.jit(do_not_specialize=[*_COUNTS, "entries"])
def draw_large(
    projected,
    triangles,
    ids,
    sizes,
    keys,
    ends,
    vertex_count,
    triangle_count,
    height,
    width,
    near,
    entries,
    CULL: tl.constexpr,
):
    """Draw a share of all tiles of triangles that were too large for one thread.

    `ends` int64 is the running sum of tiles over views and triangles; tiles lie row by row on the
    triangle's bounding box.
    """
    total = tl.load(ends + entries - 1)
    share = tl.cdiv(total, tl.num_programs(0))
    item = tl.program_id(0) * share
    stop = tl.minimum(item + share, total)
    entry = _first_beyond(ends, entries, item)
    across, down = tl.arange(0, TILE_WIDTH)[None, :], tl.arange(0, TILE_HEIGHT)[:, None]
    while item < stop:
        view, t = entry // triangle_count, entry % triangle_count
        _, bounds, edges, plane = _set_up(
            projected + 3 * view * vertex_count,
            triangles,
            t,
            tl.load(sizes + 2 * view),
            tl.load(sizes + 2 * view + 1),
            near,
            CULL,
        )
        left, top, right, bottom = bounds
        columns = (right - left + TILE_WIDTH) // TILE_WIDTH
        rows = (bottom - top + TILE_HEIGHT) // TILE_HEIGHT
        end = tl.load(ends + entry)
        start, last = end - columns * rows, tl.minimum(stop, end)
        name = tl.load(ids + t)
        row, column = (item - start) // columns, (item - start) % columns
        for _ in range((last - item).to(tl.int32)):
            x = left + column * TILE_WIDTH + across
            y = top + row * TILE_HEIGHT + down
            wanted = (x <= right) & (y <= bottom)
            _put(keys + view * height * width, x, y, width, wanted, name, edges, plane)
            wraps = column == columns - 1
            row, column = tl.where(wraps, row + 1, row), tl.where(wraps, 0, column + 1)
        item = last
        if item < stop:
            entry = _next_beyond(ends, entries, entry + 1, item)


@triton.jit
def _next_beyond(ends, entries, first, item):
    """`_first_beyond` at or after `first`, which is mostly near: few loads wait for each other."""
    found = first * 0 - 1
    while found < 0:
        place = first + tl.arange(0, AHEAD)
        inside = place < entries
        beyond = inside & (tl.load(ends + place, inside, 0) > item)
        nearest = tl.min(tl.where(beyond, place, FAR), 0)
        found = tl.where(nearest < FAR, nearest, found)
        first += AHEAD
    return found


@triton.jit
def _first_beyond(ends, entries, item):
    """Index (int64) of the first running sum that exceeds `item`; the last one if none does."""
    low = item * 0
    high = low + entries - 1
    while low < high:
        middle = (low + high) // 2
        beyond = tl.load(ends + middle) > item
        low = tl.where(beyond, low, middle + 1)
        high = tl.where(beyond, middle, high)
    return low
