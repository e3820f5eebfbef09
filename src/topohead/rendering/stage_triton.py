# Triton annotates launches with what kernels see; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
"""What a supersampled picture of the virtual stage shows, on a CUDA device: `stage_cpu.shade`.

One lane a pixel of the picture walks its samples in the order of the CPU, in float32 where the CPU
has float64; pictures agree to 1e-5 of full scale where the same triangle is seen.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.rendering import stage_cpu

_BLOCK = 128
F0 = tl.constexpr(stage_cpu.F0)
PI = tl.constexpr(math.pi)
PLACE = tl.constexpr(stage_cpu.PLACE)
NORMAL = tl.constexpr(stage_cpu.NORMAL)
IRRADIANCE = tl.constexpr(stage_cpu.IRRADIANCE)
STEER = tl.constexpr(stage_cpu.STEER)
OPEN_SKY = tl.constexpr(stage_cpu.OPEN_SKY)
TINT = tl.constexpr(stage_cpu.TINT)
ROUGHNESS = tl.constexpr(stage_cpu.ROUGHNESS)
LAMP_SEEN = tl.constexpr(stage_cpu.LAMP_SEEN)
UV = tl.constexpr(stage_cpu.UV)
GRADIENT_U = tl.constexpr(stage_cpu.GRADIENT_U)
GRADIENT_V = tl.constexpr(stage_cpu.GRADIENT_V)
CHANNELS = tl.constexpr(6)
"""Of the atlas."""


def shade(
    triangle_map: Int[Tensor, "h w"],
    barycentric_map: Float[Tensor, "h w 3"],
    factor: int,
    corners: Int[Tensor, "T 3"],
    per_triangle: Float[Tensor, "T 12"],
    level: Float[Tensor, " T"],
    per_vertex: Float[Tensor, "S K"],
    atlas: Float[Tensor, "N 6"],
    offsets: Int[Tensor, " P"],
    sizes: Int[Tensor, " P"],
    lamps: Float[Tensor, "L 7"],
    view: Float[Tensor, "10"],
) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Linear colour, premultiplied, and coverage; arguments as of `stage_cpu.shade`, float32."""
    height, width = triangle_map.shape[0] // factor, triangle_map.shape[1] // factor
    color = torch.empty(height, width, 3, dtype=torch.float32, device=triangle_map.device)
    coverage = torch.empty(height, width, dtype=torch.float32, device=triangle_map.device)
    with torch.cuda.device_of(triangle_map):
        _shade[(triton.cdiv(width, _BLOCK), height)](
            triangle_map,
            barycentric_map,
            corners,
            per_triangle,
            level,
            per_vertex,
            atlas,
            offsets,
            sizes,
            lamps,
            view,
            color,
            coverage,
            width,
            triangle_map.shape[1],
            factor,
            per_vertex.shape[1],
            len(sizes),
            len(lamps),
            BLOCK=_BLOCK,
        )
    return color, coverage


_NUMBERS = ["width", "fine_width", "factor", "columns", "levels", "lamp_count"]


@triton.jit(do_not_specialize=_NUMBERS)
def _shade(
    triangle_map,
    barycentric_map,
    corners,
    per_triangle,
    level,
    per_vertex,
    atlas,
    offsets,
    sizes,
    lamps,
    view,
    color,
    coverage,
    width,
    fine_width,
    factor,
    columns,
    levels,
    lamp_count,
    BLOCK: tl.constexpr,
):
    """A part of a row of the picture."""
    px = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    py = tl.program_id(1)
    inside = px < width
    red = tl.zeros((BLOCK,), tl.float32)
    green = tl.zeros((BLOCK,), tl.float32)
    blue = tl.zeros((BLOCK,), tl.float32)
    seen = tl.zeros((BLOCK,), tl.float32)
    for sample in range(factor * factor):
        row = (py * factor + sample // factor).to(tl.int64)
        at = row * fine_width + px * factor + sample % factor
        nearest = tl.load(triangle_map + at, inside, -1)
        if tl.max(nearest, 0) >= 0:  # most of a picture's rows begin and end beside the head
            covered = nearest >= 0
            t = tl.maximum(nearest, 0).to(tl.int64)
            b0 = tl.load(barycentric_map + 3 * at, covered, 0.0)
            b1 = tl.load(barycentric_map + 3 * at + 1, covered, 0.0)
            b2 = tl.load(barycentric_map + 3 * at + 2, covered, 0.0)
            a = per_vertex + columns * tl.load(corners + 3 * t, covered, 0).to(tl.int64)
            b = per_vertex + columns * tl.load(corners + 3 * t + 1, covered, 0).to(tl.int64)
            c = per_vertex + columns * tl.load(corners + 3 * t + 2, covered, 0).to(tl.int64)
            place = (a, b, c, b0, b1, b2, covered)
            r, g, bl = _sample(
                place, per_triangle + 12 * t, tl.load(level + t, covered, -1.0), atlas, offsets,
                sizes, levels, lamps, lamp_count, view,
            )  # fmt: skip
            red += tl.where(covered, r, 0.0)
            green += tl.where(covered, g, 0.0)
            blue += tl.where(covered, bl, 0.0)
            seen += tl.where(covered, 1.0, 0.0)
    share = 1.0 / (factor * factor).to(tl.float32)
    pixel = py.to(tl.int64) * width + px
    tl.store(color + 3 * pixel, share * red, inside)
    tl.store(color + 3 * pixel + 1, share * green, inside)
    tl.store(color + 3 * pixel + 2, share * blue, inside)
    tl.store(coverage + pixel, share * seen, inside)


@triton.jit
def _sample(place, row, level, atlas, offsets, sizes, levels, lamps, lamp_count, view):
    """Linear light that one sample of each pixel sends to the eye."""
    nx, ny, nz = _unit(_mix(place, NORMAL), _mix(place, NORMAL + 1), _mix(place, NORMAL + 2))
    textured = place[6] & (level >= 0.0)
    t0, t1, t2, t3, t4, t5 = _texture(place, row, level, atlas, offsets, sizes, levels, textured)
    # bump: tilt the normal by the surface gradient of the height; both are 0 without texture
    mx, my, mz = _unit(
        nx - t4 * _of(row, GRADIENT_U, textured) - t5 * _of(row, GRADIENT_V, textured),
        ny - t4 * _of(row, GRADIENT_U + 1, textured) - t5 * _of(row, GRADIENT_V + 1, textured),
        nz - t4 * _of(row, GRADIENT_U + 2, textured) - t5 * _of(row, GRADIENT_V + 2, textured),
    )
    turn = 1.0 + (mx - nx) * _mix(place, STEER) + (my - ny) * _mix(place, STEER + 1)
    turn += (mz - nz) * _mix(place, STEER + 2)
    turn = tl.where(textured, tl.minimum(tl.maximum(turn, 0.0), 3.0), 1.0)
    nx, ny, nz = tl.where(textured, mx, nx), tl.where(textured, my, ny), tl.where(textured, mz, nz)
    plain = place[6] & (level < 0.0)
    t0 = tl.where(textured, t0, _mix_where(place, TINT, plain))
    t1 = tl.where(textured, t1, _mix_where(place, TINT + 1, plain))
    t2 = tl.where(textured, t2, _mix_where(place, TINT + 2, plain))
    rough = tl.where(textured, t3, _mix_where(place, ROUGHNESS, plain))
    turn = turn / PI
    red = t0 * _mix(place, IRRADIANCE) * turn
    green = t1 * _mix(place, IRRADIANCE + 1) * turn
    blue = t2 * _mix(place, IRRADIANCE + 2) * turn
    gloss = tl.load(view + 9)
    if gloss > 0.0:
        r, g, b = _gloss(place, nx, ny, nz, rough, lamps, lamp_count, view)
        red += gloss * r
        green += gloss * g
        blue += gloss * b
    return red, green, blue


@triton.jit
def _gloss(place, nx, ny, nz, rough, lamps, lamp_count, view):
    """Light of sky and lamps that the surface mirrors to the eye, full strength."""
    wx, wy, wz = _mix(place, PLACE), _mix(place, PLACE + 1), _mix(place, PLACE + 2)
    ex, ey, ez = _unit(tl.load(view) - wx, tl.load(view + 1) - wy, tl.load(view + 2) - wz)
    nv = tl.maximum(nx * ex + ny * ey + nz * ez, 0.03)
    up = 0.5 + 0.5 * (2.0 * nv * ny - ey)
    sky = _mix(place, OPEN_SKY)
    strength = sky * sky * _sky_gloss(rough, nv)
    red = strength * (tl.load(view + 3) + up * (tl.load(view + 6) - tl.load(view + 3)))
    green = strength * (tl.load(view + 4) + up * (tl.load(view + 7) - tl.load(view + 4)))
    blue = strength * (tl.load(view + 5) + up * (tl.load(view + 8) - tl.load(view + 5)))
    alpha = tl.maximum(rough * rough, 0.004)
    for lamp in range(lamp_count):
        at = lamps + 7 * lamp
        lx, ly, lz = _unit(tl.load(at) - wx, tl.load(at + 1) - wy, tl.load(at + 2) - wz)
        hx, hy, hz = _unit(lx + ex, ly + ey, lz + ez)
        nl = nx * lx + ny * ly + nz * lz
        nh = tl.minimum(tl.maximum(nx * hx + ny * hy + nz * hz, 0.0), 1.0)
        vh = tl.minimum(tl.maximum(ex * hx + ey * hy + ez * hz, 0.0), 1.0)
        angle = tl.load(at + 6)
        wide = tl.minimum(1.0, alpha + 0.5 * angle)
        lobe = PI * angle * angle * _ggx(nh, nv, tl.maximum(nl, 0.0), vh, wide)
        lobe = tl.where(nl > 0.0, lobe * _mix(place, LAMP_SEEN + lamp), 0.0)
        red += lobe * tl.load(at + 3)
        green += lobe * tl.load(at + 4)
        blue += lobe * tl.load(at + 5)
    return red, green, blue


@triton.jit
def _ggx(nh, nv, nl, vh, alpha):
    """Reflectance × cosine of a GGX surface; see `stage_cpu`."""
    a2 = alpha * alpha
    d = nh * nh * (a2 - 1.0) + 1.0
    shadowing = nl * tl.sqrt(nv * nv * (1.0 - a2) + a2) + nv * tl.sqrt(nl * nl * (1.0 - a2) + a2)
    away = 1.0 - vh
    fresnel = F0 + (1.0 - F0) * (away * away) * (away * away) * away
    return a2 / (PI * d * d) * fresnel * 0.5 / tl.maximum(shadowing, 1e-6) * nl


@triton.jit
def _sky_gloss(rough, nv):
    """Share of an even white surrounding that a glossy skin reflects; see `stage_cpu`."""
    grazing = tl.minimum((1.0 - rough) * (1.0 - rough), tl.exp2(-9.28 * nv))
    a = grazing * (1.0 - rough) + (0.0425 - 0.0275 * rough)
    scale = -1.04 * a + 1.04 - 0.572 * rough
    return tl.maximum(F0 * scale + 1.04 * a + 0.022 * rough - 0.04, 0.0)


@triton.jit
def _texture(place, row, level, atlas, offsets, sizes, levels, textured):
    """The atlas's six channels, trilinear, zero where `textured` is not."""
    b0, b1, b2 = place[3], place[4], place[5]
    u = b0 * _of(row, UV, textured) + b1 * _of(row, UV + 2, textured)
    u += b2 * _of(row, UV + 4, textured)
    v = b0 * _of(row, UV + 1, textured) + b1 * _of(row, UV + 3, textured)
    v += b2 * _of(row, UV + 5, textured)
    level = tl.minimum(tl.maximum(level, 0.0), (levels - 1).to(tl.float32))
    low = level.to(tl.int32)
    part = level - low.to(tl.float32)
    t0, t1, t2, t3, t4, t5 = _fetch(atlas, offsets, sizes, low, u, v, 1.0 - part, textured)
    finer = textured & (part > 0.0)
    high = tl.minimum(low + 1, levels - 1)
    s0, s1, s2, s3, s4, s5 = _fetch(atlas, offsets, sizes, high, u, v, part, finer)
    return t0 + s0, t1 + s1, t2 + s2, t3 + s3, t4 + s4, t5 + s5


@triton.jit
def _fetch(atlas, offsets, sizes, level, u, v, weight, wanted):
    """A bilinear sample of a level of the atlas times `weight`; row 0 is v = 1."""
    offset = tl.load(offsets + level, wanted, 0)
    size = tl.load(sizes + level, wanted, 1).to(tl.int32)
    x = u * size.to(tl.float32) - 0.5
    y = (1.0 - v) * size.to(tl.float32) - 0.5
    left, top = tl.floor(x), tl.floor(y)
    fx, fy = x - left, y - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    t0 = tl.zeros_like(u)
    t1 = tl.zeros_like(u)
    t2 = tl.zeros_like(u)
    t3 = tl.zeros_like(u)
    t4 = tl.zeros_like(u)
    t5 = tl.zeros_like(u)
    for k in tl.static_range(4):
        r = tl.minimum(tl.maximum(row + k // 2, 0), size - 1)
        c = tl.minimum(tl.maximum(column + k % 2, 0), size - 1)
        w = weight * (fy if k // 2 == 1 else 1.0 - fy) * (fx if k % 2 == 1 else 1.0 - fx)
        at = atlas + CHANNELS * (offset + r.to(tl.int64) * size + c)
        t0 += w * tl.load(at, wanted, 0.0)
        t1 += w * tl.load(at + 1, wanted, 0.0)
        t2 += w * tl.load(at + 2, wanted, 0.0)
        t3 += w * tl.load(at + 3, wanted, 0.0)
        t4 += w * tl.load(at + 4, wanted, 0.0)
        t5 += w * tl.load(at + 5, wanted, 0.0)
    return t0, t1, t2, t3, t4, t5


@triton.jit
def _of(row, column, wanted):
    """An entry of the triangles' table."""
    return tl.load(row + column, wanted, 0.0)


@triton.jit
def _mix(place, column):
    """A column of the vertices' table, carried to a point of the triangle."""
    return _mix_where(place, column, place[6])


@triton.jit
def _mix_where(place, column, wanted):
    a, b, c, b0, b1, b2, _ = place
    total = b0 * tl.load(a + column, wanted, 0.0) + b1 * tl.load(b + column, wanted, 0.0)
    return total + b2 * tl.load(c + column, wanted, 0.0)


@triton.jit
def _unit(x, y, z):
    inverse = 1.0 / tl.sqrt(x * x + y * y + z * z + 1e-20)
    return x * inverse, y * inverse, z * inverse
