# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false
"""Triton kernels for hair ribbons and gathered light: `portraits_hair_cpu` on a CUDA device.

Ribbons go into the keys of `mesh_triton`, one lane a segment, with the numbers of the CPU. Maps
are read as pairs of 32-bit words: the upper one of a key holds the bits of 1/depth.
"""

import triton
import triton.language as tl

from topohead.rendering import portraits_draw_cpu, portraits_hair_cpu
from topohead.rendering.mesh_triton_draw import LAST_ID

NEAR = tl.constexpr(portraits_draw_cpu.NEAR)
HAIR_DEPTH = tl.constexpr(portraits_hair_cpu.HAIR_DEPTH)
HAIR_BIAS = tl.constexpr(portraits_hair_cpu.HAIR_BIAS)
BIAS = tl.constexpr(portraits_hair_cpu.BIAS)
PI = tl.constexpr(3.141592653589793)


@triton.jit
def place_of(m, x, y, z):
    """(u, v, depth) float32 of world points under the 3×4 projection float64 at m."""
    x, y, z = x.to(tl.float64), y.to(tl.float64), z.to(tl.float64)
    w = tl.load(m + 8) * x + tl.load(m + 9) * y + tl.load(m + 10) * z + tl.load(m + 11)
    u = tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) * z + tl.load(m + 3)
    v = tl.load(m + 4) * x + tl.load(m + 5) * y + tl.load(m + 6) * z + tl.load(m + 7)
    return (u / w).to(tl.float32), (v / w).to(tl.float32), w.to(tl.float32)


@triton.jit
def load_point(points, index, mask):
    """Three neighbouring numbers."""
    place = points + 3 * index.to(tl.int64)
    return tl.load(place, mask, 0.0), tl.load(place + 1, mask, 0.0), tl.load(place + 2, mask, 0.0)


@triton.jit(do_not_specialize=["count", "views"])
def project(points, projections, projected, count, views, BLOCK: tl.constexpr):
    """(u, v, depth) of a block of points of a head in one of its views."""
    task = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    x, y, z = load_point(points + 3 * (task // views) * count, index, inside)
    u, v, w = place_of(projections + 12 * task, x, y, z)
    place = projected + 3 * (task * count + index)
    tl.store(place, u, inside)
    tl.store(place + 1, v, inside)
    tl.store(place + 2, w, inside)


@triton.jit
def _thinned(strand, x, y, coverage):
    """Whether samples of strands that cover only a share of them are left out."""
    word = strand.to(tl.uint32) * 0x9E3779B1
    word = word ^ (x.to(tl.uint32) * 0x85EBCA77)
    word = word ^ (y.to(tl.uint32) * 0xC2B2AE3D)
    word = word ^ (word >> 16)
    word = word * 0x85EBCA6B
    word = word ^ (word >> 13)
    word = word * 0xC2B2AE35
    word = word ^ (word >> 16)
    return (word >> 8).to(tl.int32).to(tl.float32) * (1.0 / 16777216) >= coverage


@triton.jit(do_not_specialize=["strands", "count", "views", "height", "width", "first_name"])
def draw_ribbons(
    points, widths, projections, focals, keys, strands, count, views, height, width, first_name,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Draw a block of segments of a head in one of its views."""
    task = tl.program_id(1).to(tl.int64)
    b = task // views
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pieces = count - 1
    alive = index < strands * pieces
    strand, k = index // pieces, index % pieces
    at = b * strands * count + strand * count
    m = projections + 12 * task
    focal = tl.load(focals + task)
    x0, y0, z0 = load_point(points, at + k, alive)
    x1, y1, z1 = load_point(points, at + k + 1, alive)
    u0, v0, d0 = place_of(m, x0, y0, z0)
    u1, v1, d1 = place_of(m, x1, y1, z1)
    alive = alive & (d0 > NEAR) & (d1 > NEAR)
    inverse0 = tl.div_rn(1.0, tl.where(alive, d0, 1.0))
    inverse1 = tl.div_rn(1.0, tl.where(alive, d1, 1.0))
    h0 = 0.5 * tl.load(widths + at + k, alive, 0.0) * focal * inverse0
    h1 = 0.5 * tl.load(widths + at + k + 1, alive, 0.0) * focal * inverse1
    alive = alive & (h0 + h1 > 0.0)  # some strands of a batch may not be there
    reach = tl.maximum(tl.maximum(h0, h1), 0.5)
    du, dv = u1 - u0, v1 - v0
    scale = tl.div_rn(1.0, tl.maximum(du * du + dv * dv, 1e-12))
    steep = tl.abs(dv) > tl.abs(du)
    a0, a1 = tl.where(steep, v0, u0), tl.where(steep, v1, u1)
    b0 = tl.where(steep, u0, v0)
    run, climb = tl.where(steep, dv, du), tl.where(steep, du, dv)
    moving = run != 0.0
    rise = tl.where(moving, tl.div_rn(climb, tl.where(moving, run, 1.0)), 0.0)
    limit, across = tl.where(steep, height, width), tl.where(steep, width, height)
    start, end = tl.minimum(a0, a1), tl.maximum(a0, a1)
    low, high = start - reach, end + reach
    alive = alive & (low < limit.to(tl.float32)) & (high > 0.0)
    low, high = tl.where(alive, low, 0.0), tl.where(alive, high, 0.0)
    top = limit.to(tl.float32)  # before whole numbers, which far places would leave
    first = tl.ceil(tl.maximum(low - 0.5, 0.0)).to(tl.int32)
    last = tl.minimum(tl.floor(tl.minimum(high - 0.5, top)).to(tl.int32), limit - 1)
    span = reach * 1.41422
    rows = tl.floor(2.0 * span).to(tl.int32) + 1
    steps = tl.where(alive & (last >= first), (last - first + 1) * rows, 0)
    name = first_name + index
    picture = keys + task * height * width
    i, row = first, tl.zeros_like(first)
    for number in range(tl.max(steps, 0)):
        along = tl.minimum(tl.maximum(i.to(tl.float32) + 0.5, start), end)
        j = row + tl.ceil(b0 + (along - a0) * rise - span - 0.5).to(tl.int32)
        x, y = tl.where(steep, j, i), tl.where(steep, i, j)
        px, py = x.to(tl.float32) + 0.5 - u0, y.to(tl.float32) + 0.5 - v0
        t = tl.minimum(tl.maximum((px * du + py * dv) * scale, 0.0), 1.0)
        ex, ey = px - t * du, py - t * dv
        wide = h0 + t * (h1 - h0)
        drawn = tl.maximum(wide, 0.5)
        wanted = (number < steps) & (j >= 0) & (j < across) & (ex * ex + ey * ey <= drawn * drawn)
        thin = (wide < 0.5) & _thinned(strand, x, y, tl.div_rn(wide, drawn))
        wanted = wanted & ~thin
        inverse = inverse0 + t * (inverse1 - inverse0)
        bits = inverse.to(tl.int32, bitcast=True).to(tl.int64)
        key = (bits << 32) | (name ^ LAST_ID).to(tl.int64)
        tl.atomic_max(picture + y * width + x, key, mask=wanted, sem="relaxed")
        wraps = row == rows - 1
        i, row = tl.where(wraps, i + 1, i), tl.where(wraps, 0, row + 1)


@triton.jit
def inverse_at(words, row, column, height, width, mask):
    """1/depth of texels of a map; zero outside it."""
    inside = mask & (row >= 0) & (column >= 0) & (row < height) & (column < width)
    return tl.load(words + 2 * (row * width + column) + 1, inside, 0).to(tl.float32, bitcast=True)


@triton.jit
def _through(words, row, column, height, width, w, mask):
    inverse = inverse_at(words, row, column, height, width, mask)
    hit = inverse > 0.0
    behind = w - 1.0 / tl.where(hit, inverse, 1.0) - HAIR_BIAS
    return tl.where(hit, tl.exp(-tl.maximum(behind, 0.0) / HAIR_DEPTH), 1.0)


@triton.jit
def hair_light(m, words, height, width, x, y, z, mask):
    """Share of a light that comes through hair to points in it; see `portraits_hair_cpu`."""
    u, v, w = place_of(m, x, y, z)
    u, v = u - 0.5, v - 0.5
    left, top = tl.floor(u), tl.floor(v)
    du, dv = u - left, v - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    upper = _through(words, row, column, height, width, w, mask) * (1.0 - du)
    upper += _through(words, row, column + 1, height, width, w, mask) * du
    lower = _through(words, row + 1, column, height, width, w, mask) * (1.0 - du)
    lower += _through(words, row + 1, column + 1, height, width, w, mask) * du
    return upper * (1.0 - dv) + lower * dv


@triton.jit
def _hair_sky(m, words, size, x, y, z, mask):
    """`hair_light` of one texel."""
    u, v, w = place_of(m, x, y, z)
    row, column = tl.floor(v).to(tl.int32), tl.floor(u).to(tl.int32)
    return _through(words, row, column, size, size, w, mask)


@triton.jit
def _open(words, row, column, size, w, mask):
    """1 where a texel does not hide what is `w` away."""
    inverse = inverse_at(words, row, column, size, size, mask)
    return tl.where(inverse * (w - BIAS) > 1.0, 0.0, 1.0)


@triton.jit(do_not_specialize=["count", "dome", "size"])
def gather_mesh(
    vertices, normals, projections, words, directions, radiance, texels, bounce, out, count, dome,
    size, BLOCK: tl.constexpr,
):  # fmt: skip
    """Share of the sky's irradiance that reaches a block of vertices of a head."""
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    x, y, z = load_point(vertices + 3 * b * count, index, inside)
    nx, ny, nz = load_point(normals + 3 * b * count, index, inside)
    texel = tl.load(texels + b)
    seen_r, seen_g, seen_b = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    whole_r, whole_g, whole_b = seen_r + 1e-9, seen_r + 1e-9, seen_r + 1e-9
    for d in range(dome):
        way = directions + 3 * d
        facing = nx * tl.load(way) + ny * tl.load(way + 1) + nz * tl.load(way + 2)
        lit = inside & (facing > 0.0)
        away = 1.5 * texel * tl.sqrt(tl.maximum(0.0, 1.0 - facing * facing)) + BIAS
        m, picture = projections + 12 * (b * dome + d), words + 2 * (b * dome + d) * size * size
        u, v, w = place_of(m, x + away * nx, y + away * ny, z + away * nz)
        u, v = u - 0.5, v - 0.5
        left, top = tl.floor(u), tl.floor(v)
        du, dv = u - left, v - top
        column, row = left.to(tl.int32), top.to(tl.int32)
        upper = _open(picture, row, column, size, w, lit) * (1.0 - du)
        upper += _open(picture, row, column + 1, size, w, lit) * du
        lower = _open(picture, row + 1, column, size, w, lit) * (1.0 - du)
        lower += _open(picture, row + 1, column + 1, size, w, lit) * du
        share = upper * (1.0 - dv) + lower * dv
        light = tl.where(lit, facing, 0.0)
        color = radiance + 3 * (b * dome + d)
        red, green, blue = tl.load(color), tl.load(color + 1), tl.load(color + 2)
        whole_r += light * red
        whole_g += light * green
        whole_b += light * blue
        seen_r += light * red * share
        seen_g += light * green * share
        seen_b += light * blue * share
    sky = tl.sqrt((seen_r + seen_g + seen_b) / (whole_r + whole_g + whole_b))
    place = out + 3 * (b * count + index)
    share_r, share_g, share_b = seen_r / whole_r, seen_g / whole_g, seen_b / whole_b
    tl.store(place, share_r + sky * (1.0 - share_r) * tl.load(bounce), inside)
    tl.store(place + 1, share_g + sky * (1.0 - share_g) * tl.load(bounce + 1), inside)
    tl.store(place + 2, share_b + sky * (1.0 - share_b) * tl.load(bounce + 2), inside)


@triton.jit(do_not_specialize=["strands", "count", "dome", "size"])
def gather_hair(
    points, projections, words, directions, radiance, out, strands, count, dome, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """∫ L sin(T, ω) visible dω at a block of points of the strands of a head."""
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < strands * count
    k = index % count
    base = points + 3 * b * strands * count
    x, y, z = load_point(base, index, inside)
    x0, y0, z0 = load_point(base, index - tl.where(k > 0, 1, 0), inside)
    x1, y1, z1 = load_point(base, index + tl.where(k < count - 1, 1, 0), inside)
    tx, ty, tz = x1 - x0, y1 - y0, z1 - z0
    scale = 1.0 / tl.sqrt(tx * tx + ty * ty + tz * tz + 1e-20)
    angle = 4.0 / dome.to(tl.float32) * PI
    red, green, blue = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for d in range(dome):
        way = directions + 3 * d
        along = (tx * tl.load(way) + ty * tl.load(way + 1) + tz * tl.load(way + 2)) * scale
        sine = tl.sqrt(tl.maximum(0.0, 1.0 - along * along))
        m, picture = projections + 12 * (b * dome + d), words + 2 * (b * dome + d) * size * size
        light = angle * sine * _hair_sky(m, picture, size, x, y, z, inside)
        color = radiance + 3 * (b * dome + d)
        red += light * tl.load(color)
        green += light * tl.load(color + 1)
        blue += light * tl.load(color + 2)
    place = out + 3 * (b * strands * count + index)
    tl.store(place, red, inside)
    tl.store(place + 1, green, inside)
    tl.store(place + 2, blue, inside)
