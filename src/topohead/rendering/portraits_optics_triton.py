# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
"""Light, gloss and look-up inside Triton kernels: `portraits_shade_cpu` in float32."""

import triton
import triton.language as tl

from topohead.rendering import portraits_shade_cpu
from topohead.rendering.portraits_hair_triton import PI, inverse_at, place_of

CHANNELS = tl.constexpr(portraits_shade_cpu.CHANNELS)
LAMP_BIAS = tl.constexpr(portraits_shade_cpu.LAMP_BIAS)
WIDE_BIAS = tl.constexpr(portraits_shade_cpu.WIDE_BIAS)


@triton.jit
def unit(x, y, z):
    """The vector at length one."""
    inverse = 1.0 / tl.sqrt(x * x + y * y + z * z + 1e-20)
    return x * inverse, y * inverse, z * inverse


@triton.jit
def dot(a, b):
    """Of two vectors as triples."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def clip(x):
    """Within 0 and 1."""
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def sky_light(sky, c: tl.constexpr, n, w1, w2, w3):
    """Σ weight(l) L_lm Y_lm(n), the mean with weight 1."""
    x, y, z = n
    s = sky + c
    one = 0.488603 * (y * tl.load(s + 3) + z * tl.load(s + 6) + x * tl.load(s + 9))
    two = 1.092548 * (x * y * tl.load(s + 12) + y * z * tl.load(s + 15) + x * z * tl.load(s + 21))
    two += 0.315392 * (3.0 * z * z - 1.0) * tl.load(s + 18)
    two += 0.546274 * (x * x - y * y) * tl.load(s + 24)
    three = 0.590044 * (y * (3.0 * x * x - y * y) * tl.load(s + 27))
    three += 0.590044 * (x * (x * x - 3.0 * y * y) * tl.load(s + 45))
    three += 2.890611 * x * y * z * tl.load(s + 30)
    three += 1.445306 * z * (x * x - y * y) * tl.load(s + 42)
    three += 0.457046 * (5.0 * z * z - 1.0) * (y * tl.load(s + 33) + x * tl.load(s + 39))
    three += 0.373176 * z * (5.0 * z * z - 3.0) * tl.load(s + 36)
    return 0.282095 * tl.load(s) + w1 * one + w2 * two + w3 * three


@triton.jit
def wrapped(cosine, width):
    """The mean of a clamped cosine over a source or scatter; see `portraits_shade_cpu`."""
    bend = (cosine + width) * (cosine + width) / (4.0 * tl.maximum(width, 1e-6))
    return tl.where(cosine >= width, cosine, tl.where(cosine <= -width, 0.0, bend))


@triton.jit
def sky_gloss(f0, rough, nv):
    """Share of the sky's light that gloss returns; see `portraits_shade_cpu.sky_gloss`."""
    grazing = tl.minimum((1.0 - rough) * (1.0 - rough), tl.exp2(-9.28 * nv))
    a = grazing * (1.0 - rough) + (0.0425 - 0.0275 * rough)
    scale = -1.04 * a + 1.04 - 0.572 * rough
    return tl.maximum(f0 * scale + 1.04 * a + 0.022 * rough - 0.04, 0.0)


@triton.jit
def lamp_gloss(n, view, to, distance, radius, alpha, f0):
    """Light of a lamp in the gloss; see `portraits_shade_cpu.lamp_gloss`."""
    nv = tl.maximum(dot(n, view), 0.03)
    twice = 2.0 * dot(n, view)
    mirror = (twice * n[0] - view[0], twice * n[1] - view[1], twice * n[2] - view[2])
    along = distance * dot(to, mirror)
    gx = along * mirror[0] - distance * to[0]
    gy = along * mirror[1] - distance * to[1]
    gz = along * mirror[2] - distance * to[2]
    share = tl.minimum(1.0, radius / tl.sqrt(gx * gx + gy * gy + gz * gz + 1e-12))
    light = unit(
        distance * to[0] + share * gx, distance * to[1] + share * gy, distance * to[2] + share * gz
    )
    nl = dot(n, light)
    half = unit(light[0] + view[0], light[1] + view[1], light[2] + view[2])
    nh = tl.minimum(dot(n, half), 1.0)
    vh = clip(dot(view, half))
    a2 = alpha * alpha
    wide = tl.minimum(1.0, alpha + 0.5 * radius / distance)
    d = nh * nh * (a2 - 1.0) + 1.0
    distribution = a2 / (d * d * PI) * (a2 / (wide * wide))
    lit = tl.maximum(nl, 0.0)
    geometry = lit * tl.sqrt(nv * nv * (1.0 - a2) + a2) + nv * tl.sqrt(lit * lit * (1.0 - a2) + a2)
    rest = 1.0 - vh
    fresnel = f0 + (1.0 - f0) * rest * rest * rest * rest * rest
    return distribution * fresnel * 0.5 / tl.maximum(geometry, 1e-6) * lit


@triton.jit
def lamp_seen(m, words, size, texel, disk, taps, sample, samples, place, n, cosine, sine, lit):
    """Share of a lamp that points see; see `portraits_shade_cpu.lamp_seen`."""
    tilt = tl.sqrt(tl.maximum(0.0, 1.0 - cosine * cosine))
    away = 0.75 * texel * tilt + LAMP_BIAS + WIDE_BIAS * sine
    u, v, w = place_of(m, place[0] + away * n[0], place[1] + away * n[1], place[2] + away * n[2])
    reach = tl.minimum(tl.maximum(sine * 0.06 / texel, 1.5), 40.0)
    blockers, total = tl.zeros_like(u), tl.zeros_like(u)
    for k in range(taps):
        spot = disk + 2 * (k * samples + sample)
        column = tl.floor(u + reach * tl.load(spot)).to(tl.int32)
        row = tl.floor(v + reach * tl.load(spot + 1)).to(tl.int32)
        inverse = inverse_at(words, row, column, size, size, lit)
        hidden = inverse * (w - LAMP_BIAS) > 1.0
        blockers += tl.where(hidden, 1.0, 0.0)
        total += tl.where(hidden, 1.0 / tl.where(hidden, inverse, 1.0), 0.0)
    blocked = blockers > 0.0
    seen = tl.where(blocked, 0.0, 1.0)
    if tl.max(blocked.to(tl.int32), 0) > 0:
        depth = total / tl.maximum(blockers, 1.0)
        reach = tl.minimum(tl.maximum(sine * (w - depth) / texel, 1.2), 40.0)
        for k in range(taps):
            spot = disk + 2 * (k * samples + sample)
            column = tl.floor(u + reach * tl.load(spot)).to(tl.int32)
            row = tl.floor(v + reach * tl.load(spot + 1)).to(tl.int32)
            inverse = inverse_at(words, row, column, size, size, lit & blocked)
            hidden = inverse * (w - LAMP_BIAS) > 1.0
            seen += tl.where(blocked & ~hidden, 1.0 / taps.to(tl.float32), 0.0)
    return seen


@triton.jit
def _texel(texels, offsets, sizes, level, u, v, c: tl.constexpr, mask):
    """A channel of one level of the pyramids, bilinear."""
    size = tl.load(sizes + level, mask, 8)
    side = size.to(tl.float32)
    x, y = u * side - 0.5, (1.0 - v) * side - 0.5
    left, top = tl.floor(x), tl.floor(y)
    fx, fy = x - left, y - top
    c0 = tl.minimum(tl.maximum(left.to(tl.int32), 0), size - 1)
    c1 = tl.minimum(tl.maximum(left.to(tl.int32) + 1, 0), size - 1)
    r0 = tl.minimum(tl.maximum(top.to(tl.int32), 0), size - 1) * size
    r1 = tl.minimum(tl.maximum(top.to(tl.int32) + 1, 0), size - 1) * size
    base = texels + tl.load(offsets + level, mask, 0) * CHANNELS + c
    upper = (1.0 - fx) * tl.load(base + (r0 + c0) * CHANNELS, mask, 0.0).to(tl.float32)
    upper += fx * tl.load(base + (r0 + c1) * CHANNELS, mask, 0.0).to(tl.float32)
    lower = (1.0 - fx) * tl.load(base + (r1 + c0) * CHANNELS, mask, 0.0).to(tl.float32)
    lower += fx * tl.load(base + (r1 + c1) * CHANNELS, mask, 0.0).to(tl.float32)
    return (1.0 - fy) * upper + fy * lower


@triton.jit
def channel(texture, low, part, u, v, c: tl.constexpr, mask):
    """A channel between two levels."""
    texels, offsets, sizes, levels = texture
    fine = _texel(texels, offsets, sizes, low, u, v, c, mask)
    coarse = _texel(
        texels, offsets, sizes, tl.minimum(low + 1, levels - 1), u, v, c, mask & (part > 0.0)
    )
    return (1.0 - part) * fine + part * coarse


@triton.jit
def barycentrics(pa, pb, pc, x, y):
    """Weights of samples, and whether triangles are seen from outside."""
    ax, ay = (pa[0] - x) * pa[2], (pa[1] - y) * pa[2]
    bx, by = (pb[0] - x) * pb[2], (pb[1] - y) * pb[2]
    cx, cy = (pc[0] - x) * pc[2], (pc[1] - y) * pc[2]
    wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    front = wa + wb + wc < 0.0
    sign = tl.where(front, -1.0, 1.0)
    b0, b1, b2 = tl.maximum(wa * sign, 0.0), tl.maximum(wb * sign, 0.0), tl.maximum(wc * sign, 0.0)
    scale = 1.0 / tl.maximum(b0 + b1 + b2, 1e-20)
    return b0 * scale, b1 * scale, b2 * scale, front
