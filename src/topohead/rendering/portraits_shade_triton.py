# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
"""The Triton kernel that shades portraits: `portraits_shade_cpu` in float32.

A program takes a tile of 16×8 pixels of a head, a lane each, and walks their samples.
"""

import math

import triton
import triton.language as tl

from topohead.rendering import portraits_shade_cpu as cpu
from topohead.rendering.portraits_hair_triton import (
    LAST_ID,
    PI,
    hair_light,
    load_point,
    place_of,
)
from topohead.rendering.portraits_optics_triton import (
    CHANNELS,
    barycentrics,
    channel,
    clip,
    dot,
    lamp_gloss,
    lamp_seen,
    sky_gloss,
    sky_light,
    unit,
    wrapped,
)

SKIN = tl.constexpr(cpu.SKIN)
MOUTH = tl.constexpr(cpu.MOUTH)
HAIR = tl.constexpr(cpu.HAIR)
LABEL_COUNT = tl.constexpr(cpu.LABEL_COUNT)
SCATTER_RED = tl.constexpr(cpu.SCATTER[0])
SCATTER_GREEN = tl.constexpr(cpu.SCATTER[1])
SCATTER_BLUE = tl.constexpr(cpu.SCATTER[2])
SMOOTH_RED = tl.constexpr(cpu.SMOOTH[0])
SMOOTH_GREEN = tl.constexpr(cpu.SMOOTH[1])
SMOOTH_BLUE = tl.constexpr(cpu.SMOOTH[2])
PLAIN_SPECULAR = tl.constexpr(cpu.PLAIN_SPECULAR)
HAIR_GLOSS = tl.constexpr(cpu.HAIR_GLOSS)
HAIR_TINTED_GLOSS = tl.constexpr(cpu.HAIR_TINTED_GLOSS)
LOG2_E = tl.constexpr(math.log2(math.e))
TILE_WIDTH = tl.constexpr(16)
TILE_HEIGHT = tl.constexpr(8)
TILE = tl.constexpr(128)


@triton.jit
def _mix(a, b, c, b0, b1, b2):
    """Corner triples carried to points."""
    return (
        b0 * a[0] + b1 * b[0] + b2 * c[0],
        b0 * a[1] + b1 * b[1] + b2 * c[1],
        b0 * a[2] + b1 * b[2] + b2 * c[2],
    )


@triton.jit
def _surface(t, i, j, k, b0, b1, b2, corners, screen, smooth, head, shared, texture, seen):
    """Albedo, roughness, specular level and bumped normal of samples."""
    p, q, r = corners
    pa, pb, pc = screen
    corner_uv, _, textured, head_vertices = shared
    plain = seen & (tl.load(textured + t, seen, 1) == 0)
    skin = seen & ~plain
    uv = corner_uv + 6 * t.to(tl.int64)
    ua, va = tl.load(uv, skin, 0.0), tl.load(uv + 1, skin, 0.0)
    ub, vb = tl.load(uv + 2, skin, 0.0), tl.load(uv + 3, skin, 0.0)
    uc, vc = tl.load(uv + 4, skin, 0.0), tl.load(uv + 5, skin, 0.0)
    u1, v1, u2, v2 = ub - ua, vb - va, uc - ua, vc - va
    _, _, sizes, levels = texture
    area = tl.abs((pb[0] - pa[0]) * (pc[1] - pa[1]) - (pb[1] - pa[1]) * (pc[0] - pa[0]))
    side = tl.load(sizes).to(tl.float32)
    turn = u1 * v2 - v1 * u2
    covered = tl.abs(turn) * side * side
    level = 0.5 * tl.log2(tl.maximum(covered, 1e-9) / tl.maximum(area, 1e-9))
    level = tl.minimum(tl.maximum(level, 0.0), (levels - 1).to(tl.float32))
    low = level.to(tl.int32)
    part = level - low.to(tl.float32)
    u = b0 * ua + b1 * ub + b2 * uc
    v = b0 * va + b1 * vb + b2 * vc
    red = channel(texture, low, part, u, v, 0, skin)
    green = channel(texture, low, part, u, v, 1, skin)
    blue = channel(texture, low, part, u, v, 2, skin)
    rough = channel(texture, low, part, u, v, 3, skin)
    specular = channel(texture, low, part, u, v, 4, skin)
    slope_u = channel(texture, low, part, u, v, 5, skin)
    slope_v = channel(texture, low, part, u, v, 6, skin)
    sign = tl.where(turn >= 0.0, 1.0, -1.0)
    e1 = (q[0] - p[0], q[1] - p[1], q[2] - p[2])
    e2 = (r[0] - p[0], r[1] - p[1], r[2] - p[2])
    right = unit(
        sign * (v2 * e1[0] - v1 * e2[0]),
        sign * (v2 * e1[1] - v1 * e2[1]),
        sign * (v2 * e1[2] - v1 * e2[2]),
    )
    up = unit(
        sign * (u1 * e2[0] - u2 * e1[0]),
        sign * (u1 * e2[1] - u2 * e1[1]),
        sign * (u1 * e2[2] - u2 * e1[2]),
    )
    n = unit(
        smooth[0] - slope_u * right[0] - slope_v * up[0],
        smooth[1] - slope_u * right[1] - slope_v * up[1],
        smooth[2] - slope_u * right[2] - slope_v * up[2],
    )
    if tl.max(plain.to(tl.int32), 0) > 0:
        tint = head[4]
        ta = tint + 4 * (i - head_vertices)
        tb = tint + 4 * (j - head_vertices)
        tc = tint + 4 * (k - head_vertices)
        red = tl.where(plain, _plain(ta, tb, tc, b0, b1, b2, 0, plain), red)
        green = tl.where(plain, _plain(ta, tb, tc, b0, b1, b2, 1, plain), green)
        blue = tl.where(plain, _plain(ta, tb, tc, b0, b1, b2, 2, plain), blue)
        rough = tl.where(plain, _plain(ta, tb, tc, b0, b1, b2, 3, plain), rough)
        specular = tl.where(plain, PLAIN_SPECULAR, specular)
    return red, green, blue, rough, specular, n


@triton.jit
def _plain(ta, tb, tc, b0, b1, b2, c: tl.constexpr, mask):
    return (
        b0 * tl.load(ta + c, mask, 0.0)
        + b1 * tl.load(tb + c, mask, 0.0)
        + b2 * tl.load(tc + c, mask, 0.0)
    )


@triton.jit
def _sky_part(albedo, c: tl.constexpr, even, sky, n, smooth, mirror, scattering, blur, gloss, seen):
    """Diffuse light and gloss of the sky in one channel."""
    even = scattering * even
    mixed = unit(
        n[0] + even * (smooth[0] - n[0]),
        n[1] + even * (smooth[1] - n[1]),
        n[2] + even * (smooth[2] - n[2]),
    )
    light = tl.maximum(sky_light(sky, c, mixed, 2.0 / 3.0, 0.25, 0.0), 0.0)
    cube = blur * blur * blur
    shine = tl.maximum(sky_light(sky, c, mirror, blur, cube, cube * cube), 0.0)
    return albedo * light * seen + gloss * shine * seen * seen


@triton.jit
def _body(albedo, even, scatter, cosine, bumpy, sine, scattering):
    """Diffuse light of a lamp in one channel, for irradiance 1 across its rays."""
    mixed = bumpy + scattering * even * (cosine - bumpy)
    return wrapped(mixed, sine + scattering * scatter) * albedo / PI


@triton.jit
def _triangle_sample(x, y, sample, samples, t, seen, head, shared, triangles, lights, texture):
    """Linear colour of samples of triangles."""
    vertices, normals, ambient, projected, _, eye = head
    labels = shared[1]
    i = tl.load(triangles + 3 * t, seen, 0)
    j = tl.load(triangles + 3 * t + 1, seen, 0)
    k = tl.load(triangles + 3 * t + 2, seen, 0)
    pa, pb = load_point(projected, i, seen), load_point(projected, j, seen)
    pc = load_point(projected, k, seen)
    b0, b1, b2, front = barycentrics(pa, pb, pc, x, y)
    p, q, r = (
        load_point(vertices, i, seen),
        load_point(vertices, j, seen),
        load_point(vertices, k, seen),
    )
    place = _mix(p, q, r, b0, b1, b2)
    na, nb = load_point(normals, i, seen), load_point(normals, j, seen)
    nc = load_point(normals, k, seen)
    smooth = _mix(na, nb, nc, b0, b1, b2)
    side = tl.where(front, 1.0, -1.0)
    smooth = unit(side * smooth[0], side * smooth[1], side * smooth[2])
    red, green, blue, rough, specular, n = _surface(
        t, i, j, k, b0, b1, b2, (p, q, r), (pa, pb, pc), smooth, head, shared, texture, seen
    )
    label = tl.load(labels + t, seen, 0)
    scattering = tl.where((label == SKIN) | (label == MOUTH), 1.0, 0.0)
    view = unit(eye[0] - place[0], eye[1] - place[1], eye[2] - place[2])
    toward = dot(n, view)
    nv = tl.maximum(toward, 0.03)
    f0, alpha = 0.08 * specular, tl.maximum(rough * rough, 0.002)
    mirror = unit(
        2.0 * toward * n[0] - view[0], 2.0 * toward * n[1] - view[1], 2.0 * toward * n[2] - view[2]
    )
    aa, ab = load_point(ambient, i, seen), load_point(ambient, j, seen)
    ac = load_point(ambient, k, seen)
    open_sky = _mix(aa, ab, ac, b0, b1, b2)
    blur = tl.exp2(alpha * alpha * (-1.4 * LOG2_E))
    gloss = sky_gloss(f0, rough, nv)
    sky, lamps, lamp_count, lamp_views, lamp_words, lamp_size, lamp_texels, disk, taps = lights
    out_r = _sky_part(
        red, 0, SMOOTH_RED, sky, n, smooth, mirror, scattering, blur, gloss, open_sky[0]
    )
    out_g = _sky_part(
        green, 1, SMOOTH_GREEN, sky, n, smooth, mirror, scattering, blur, gloss, open_sky[1]
    )
    out_b = _sky_part(
        blue, 2, SMOOTH_BLUE, sky, n, smooth, mirror, scattering, blur, gloss, open_sky[2]
    )
    for lamp in range(lamp_count):
        row = lamps + 7 * lamp
        radius = tl.load(row + 3)
        dx, dy, dz = (
            tl.load(row) - place[0],
            tl.load(row + 1) - place[1],
            tl.load(row + 2) - place[2],
        )
        distance = tl.sqrt(dx * dx + dy * dy + dz * dz)
        to = (dx / distance, dy / distance, dz / distance)
        sine = tl.minimum(radius / distance, 1.0)
        cosine, bumpy = dot(smooth, to), dot(n, to)
        lit = seen & (sine > 0.0) & (cosine > -sine - scattering * SCATTER_RED)
        if tl.max(lit.to(tl.int32), 0) > 0:
            share = lamp_seen(
                lamp_views + 12 * lamp, lamp_words + 2 * lamp * lamp_size * lamp_size, lamp_size,
                tl.load(lamp_texels + lamp), disk, taps, sample, samples, place, smooth, cosine,
                sine, lit,
            )  # fmt: skip
            strength = radius * radius * PI / (distance * distance)
            strength = tl.where(lit, share * strength, 0.0)
            shine = lamp_gloss(n, view, to, distance, radius, alpha, f0)
            shine = tl.where(cosine > 0.0, shine, 0.0)
            out_r += (
                strength
                * tl.load(row + 4)
                * (_body(red, SMOOTH_RED, SCATTER_RED, cosine, bumpy, sine, scattering) + shine)
            )
            out_g += (
                strength
                * tl.load(row + 5)
                * (
                    _body(green, SMOOTH_GREEN, SCATTER_GREEN, cosine, bumpy, sine, scattering)
                    + shine
                )
            )
            out_b += (
                strength
                * tl.load(row + 6)
                * (_body(blue, SMOOTH_BLUE, SCATTER_BLUE, cosine, bumpy, sine, scattering) + shine)
            )
    return out_r, out_g, out_b, label


@triton.jit
def _hair_sample(x, y, segment, seen, strands, view_matrix, eye, lights):
    """Linear colour of samples of ribbons."""
    points, colors, ambient, count = strands
    s, k = segment // (count - 1), segment % (count - 1)
    at = s * count + k
    p, q = load_point(points, at, seen), load_point(points, at + 1, seen)
    u0, v0, _ = place_of(view_matrix, p[0], p[1], p[2])
    u1, v1, _ = place_of(view_matrix, q[0], q[1], q[2])
    du, dv = u1 - u0, v1 - v0
    t = clip(((x - u0) * du + (y - v0) * dv) / tl.maximum(du * du + dv * dv, 1e-12))
    place = _mix(p, q, q, 1.0 - t, t, 0.0)
    o = load_point(points, at - tl.where(k > 0, 1, 0), seen)
    r = load_point(points, at + tl.where(k < count - 2, 2, 1), seen)
    a = unit(q[0] - o[0], q[1] - o[1], q[2] - o[2])
    b = unit(r[0] - p[0], r[1] - p[1], r[2] - p[2])
    along = _mix(a, b, b, 1.0 - t, t, 0.0)
    along = unit(along[0], along[1], along[2])
    view = unit(eye[0] - place[0], eye[1] - place[1], eye[2] - place[2])
    tv = dot(along, view)
    c0, c1 = load_point(colors, at, seen), load_point(colors, at + 1, seen)
    color = _mix(c0, c1, c1, 1.0 - t, t, 0.0)
    l0, l1 = load_point(ambient, at, seen), load_point(ambient, at + 1, seen)
    even = _mix(l0, l1, l1, 1.0 - t, t, 0.0)
    out_r = color[0] * even[0] / PI / PI
    out_g = color[1] * even[1] / PI / PI
    out_b = color[2] * even[2] / PI / PI
    _, lamps, lamp_count, lamp_views, lamp_words, lamp_size, _, _, _ = lights
    for lamp in range(lamp_count):
        row = lamps + 7 * lamp
        radius = tl.load(row + 3)
        dx, dy, dz = (
            tl.load(row) - place[0],
            tl.load(row + 1) - place[1],
            tl.load(row + 2) - place[2],
        )
        distance = tl.sqrt(dx * dx + dy * dy + dz * dz)
        to = (dx / distance, dy / distance, dz / distance)
        strength = radius * radius * PI / (distance * distance)
        strength *= hair_light(
            lamp_views + 12 * lamp, lamp_words + 2 * lamp * lamp_size * lamp_size, lamp_size,
            lamp_size, place[0], place[1], place[2], seen & (strength > 0.0),
        )  # fmt: skip
        lengthwise = dot(along, to)
        sine = tl.sqrt(tl.maximum(1.0 - lengthwise * lengthwise, 0.0))
        turn = dot(to, view) - lengthwise * tv
        turn = turn / tl.maximum(sine * tl.sqrt(tl.maximum(1.0 - tv * tv, 0.0)), 1e-4)
        phase = 0.25 * (1.0 + turn) * (1.0 + turn) * 0.7854
        half = unit(to[0] + view[0], to[1] + view[1], to[2] + view[2])
        th = dot(along, half)
        first, second = th + 0.05, th - 0.08
        white = tl.exp2(first * first * LOG2_E / (-2.0 * 0.12 * 0.12)) * (3.3245 * HAIR_GLOSS)
        tinted = tl.exp2(second * second * LOG2_E / (-2.0 * 0.2 * 0.2)) * (
            1.9947 * HAIR_TINTED_GLOSS
        )
        white, tinted = white * (0.5 + 0.5 * turn), tinted * phase / PI
        body = phase / PI + tinted
        out_r += strength * sine * tl.load(row + 4) * (color[0] * body + white)
        out_g += strength * sine * tl.load(row + 5) * (color[1] * body + white)
        out_b += strength * sine * tl.load(row + 6) * (color[2] * body + white)
    return out_r, out_g, out_b


_NUMBERS = [
    "factor", "triangle_count", "head_vertices", "vertex_count", "plain_count", "levels",
    "texels_each", "strand_count", "point_count", "lamp_count", "lamp_size", "taps",
    "height", "width",
]  # fmt: skip


@triton.jit(do_not_specialize=_NUMBERS)
def shade(
    keys, triangles, corner_uv, labels, textured, vertices, normals, ambient, projected, tint,
    eyes, projections, texture_index, texels, offsets, sizes, points, colors, hair_ambient,
    sky, lamps, lamp_views, lamp_words, lamp_texels, disk, color, coverage, label,
    factor, triangle_count, head_vertices, vertex_count, plain_count, levels, texels_each,
    strand_count, point_count, lamp_count, lamp_size, taps, height, width,
):  # fmt: skip
    """Colour, coverage and label of a tile of pixels of a head."""
    b = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(width, TILE_WIDTH)
    lane = tl.arange(0, TILE)
    px = (tl.program_id(0) % tiles) * TILE_WIDTH + lane % TILE_WIDTH
    py = (tl.program_id(0) // tiles) * TILE_HEIGHT + lane // TILE_WIDTH
    inside = (px < width) & (py < height)
    samples = factor * factor
    mesh = 3 * b * vertex_count
    eye = (tl.load(eyes + 3 * b), tl.load(eyes + 3 * b + 1), tl.load(eyes + 3 * b + 2))
    head = (
        vertices + mesh, normals + mesh, ambient + mesh, projected + mesh,
        tint + 4 * b * plain_count, eye,
    )  # fmt: skip
    own = texels + tl.load(texture_index + b).to(tl.int64) * texels_each * CHANNELS
    texture = (own, offsets, sizes, levels)
    shared = (corner_uv, labels, textured, head_vertices)
    first = b * lamp_count
    lights = (
        sky + 48 * b, lamps + 7 * first, lamp_count, lamp_views + 12 * first,
        lamp_words + 2 * first * lamp_size * lamp_size, lamp_size, lamp_texels + first, disk, taps,
    )  # fmt: skip
    line = 3 * b * strand_count * point_count
    strands = (points + line, colors + line, hair_ambient + line, point_count)
    red, green = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    blue, alpha = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    counts = tl.zeros((TILE,), tl.int32)  # five bits a label
    share = 1.0 / samples.to(tl.float32)
    for sample in range(samples):
        x, y = px * factor + sample % factor, py * factor + sample // factor
        at = (b * height * factor + y) * width * factor + x
        key = tl.load(keys + at, inside, 0)
        covered = key > 0
        name = ((key & LAST_ID) ^ LAST_ID).to(tl.int32)
        on_mesh, on_hair = covered & (name < triangle_count), covered & (name >= triangle_count)
        sx, sy = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
        kind = tl.where(on_hair, HAIR, 0)
        if tl.max(on_mesh.to(tl.int32), 0) > 0:
            t = tl.where(on_mesh, name, 0)
            r, g, bl, shown = _triangle_sample(
                sx, sy, sample, samples, t, on_mesh, head, shared, triangles, lights, texture
            )
            kind = tl.where(on_mesh, shown, kind)
            red += tl.where(on_mesh, r, 0.0)
            green += tl.where(on_mesh, g, 0.0)
            blue += tl.where(on_mesh, bl, 0.0)
        if tl.max(on_hair.to(tl.int32), 0) > 0:
            segment = tl.where(on_hair, name - triangle_count, 0)
            r, g, bl = _hair_sample(
                sx, sy, segment, on_hair, strands, projections + 12 * b, eye, lights
            )
            red += tl.where(on_hair, r, 0.0)
            green += tl.where(on_hair, g, 0.0)
            blue += tl.where(on_hair, bl, 0.0)
        alpha += tl.where(covered, 1.0, 0.0)
        counts += tl.full((TILE,), 1, tl.int32) << (5 * kind)
    best, most = tl.zeros((TILE,), tl.int32), counts & 31
    for k in tl.static_range(1, LABEL_COUNT):
        found = (counts >> (5 * k)) & 31
        wins = (found >= most) & (found > 0)
        best, most = tl.where(wins, k, best), tl.where(wins, found, most)
    pixel = (b * height + py) * width + px
    tl.store(color + 3 * pixel, share * red, inside)
    tl.store(color + 3 * pixel + 1, share * green, inside)
    tl.store(color + 3 * pixel + 2, share * blue, inside)
    tl.store(coverage + pixel, share * alpha, inside)
    tl.store(label + pixel, best.to(tl.uint8), inside)
