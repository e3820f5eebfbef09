"""Compiled loops of portraits: what each sample of a drawn head looks like, and the sensor.

Skin is a GGX gloss over a diffuse body whose terminator is softened by a width a channel, as light
scatters under it (pre-integrated skin, Penner 2011), and whose red light sees less of the fine
bumps than blue (blended normals, d'Eon & Luebke 2007). Hair follows Kajiya & Kay (1989), with the
two displaced highlights of Marschner et al. (2003).
"""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.portraits_draw_cpu import place_of
from topohead.rendering.portraits_hair_cpu import hair_light

SKIN, MOUTH, HAIR, LABEL_COUNT = 1, 3, 4, 6

SCATTER = (0.14, 0.055, 0.03)
"""Sine of the angle by which light reaches round skin beyond the terminator: red, green, blue."""

SMOOTH = (0.65, 0.3, 0.15)
"""Share of the smooth normal in the one that diffuse light sees."""

PLAIN_SPECULAR = 0.5
"""Specular level of parts without maps: f0 = 0.04."""

HAIR_GLOSS, HAIR_TINTED_GLOSS = 0.009, 0.35
"""Strength of the white highlight (a fifth of f0 = 0.046) and of the tinted one."""

LAMP_BIAS, WIDE_BIAS = 0.0004, 0.002
"""Metres by which a lamp's occluder must be in front, and by how much more a point is set off for
a lamp whose angular radius has sine 1: it asks texels farther away. Set by path-traced heads of
tuning seed 750; twice as large, light leaks below lids, noses and lips."""

CHANNELS = 7
"""Of a texel: albedo, roughness, specular level, slope along u and along v."""


@njit(cache=True, inline="always")
def unit(x, y, z):
    """A direction of length 1."""
    inverse = 1.0 / math.sqrt(x * x + y * y + z * z + 1e-20)
    return x * inverse, y * inverse, z * inverse


@njit(cache=True, inline="always")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, inline="always")
def sky_light(sky, c, n, w0, w1, w2, w3):
    """Σ weight(l) L_lm Y_lm(n): the sky's radiance, its bands weighted."""
    x, y, z = n
    one = 0.488603 * (y * sky[1, c] + z * sky[2, c] + x * sky[3, c])
    two = 1.092548 * (x * y * sky[4, c] + y * z * sky[5, c] + x * z * sky[7, c])
    two += 0.315392 * (3.0 * z * z - 1.0) * sky[6, c] + 0.546274 * (x * x - y * y) * sky[8, c]
    three = 0.590044 * (y * (3.0 * x * x - y * y) * sky[9, c])
    three += 0.590044 * (x * (x * x - 3.0 * y * y) * sky[15, c])
    three += 2.890611 * x * y * z * sky[10, c] + 1.445306 * z * (x * x - y * y) * sky[14, c]
    three += 0.457046 * (5.0 * z * z - 1.0) * (y * sky[11, c] + x * sky[13, c])
    three += 0.373176 * z * (5.0 * z * z - 3.0) * sky[12, c]
    return w0 * 0.282095 * sky[0, c] + w1 * one + w2 * two + w3 * three


@njit(cache=True, inline="always")
def wrapped(cosine, width):
    """The mean of a clamped cosine over a source (or a scatter) that reaches `width` further."""
    if cosine >= width:
        return cosine
    if cosine <= -width:
        return 0.0
    return (cosine + width) * (cosine + width) / (4.0 * width)


@njit(cache=True, inline="always")
def sky_gloss(f0, rough, nv):
    """Share of an even surrounding that a glossy surface reflects (split sum, Karis 2014)."""
    grazing = min((1.0 - rough) * (1.0 - rough), math.exp(-6.4324 * nv))
    a = grazing * (1.0 - rough) + (0.0425 - 0.0275 * rough)
    scale = -1.04 * a + 1.04 - 0.572 * rough
    return max(f0 * scale + 1.04 * a + 0.022 * rough - 0.04, 0.0)


@njit(cache=True, inline="always")
def lamp_gloss(n, view, to, distance, radius, alpha, f0):
    """Radiance that a ball of a lamp sends to the eye, for irradiance 1 across its rays.

    GGX with the point of the ball nearest to the mirrored ray (Karis 2013).
    """
    nv = max(_dot(n, view), 0.03)
    twice = 2.0 * _dot(n, view)
    mirror = (twice * n[0] - view[0], twice * n[1] - view[1], twice * n[2] - view[2])
    along = distance * _dot(to, mirror)
    gx, gy, gz = (
        along * mirror[0] - distance * to[0],
        along * mirror[1] - distance * to[1],
        along * mirror[2] - distance * to[2],
    )
    share = min(1.0, radius / math.sqrt(gx * gx + gy * gy + gz * gz + 1e-12))
    light = unit(
        distance * to[0] + share * gx, distance * to[1] + share * gy, distance * to[2] + share * gz
    )
    nl = _dot(n, light)
    if nl <= 0.0:
        return 0.0
    half = unit(light[0] + view[0], light[1] + view[1], light[2] + view[2])
    nh, vh = min(_dot(n, half), 1.0), min(max(_dot(view, half), 0.0), 1.0)
    a2 = alpha * alpha
    wide = min(1.0, alpha + 0.5 * radius / distance)
    d = nh * nh * (a2 - 1.0) + 1.0
    distribution = a2 / (math.pi * d * d) * (a2 / (wide * wide))
    geometry = nl * math.sqrt(nv * nv * (1.0 - a2) + a2) + nv * math.sqrt(nl * nl * (1.0 - a2) + a2)
    fresnel = f0 + (1.0 - f0) * (1.0 - vh) ** 5
    return distribution * fresnel * 0.5 / max(geometry, 1e-6) * nl


@njit(cache=True, error_model="numpy")
def lamp_seen(projection, inverse_map, texel, disk, sample, samples, place, n, cosine, sine):
    """Share of a lamp that a point sees: as soft as what hides it is far (PCSS, Fernando 2005).

    Every `samples`-th point of the unit `disk` is tried, from `sample` on, so that the samples of
    a pixel together try all of them. `sine` is that of the lamp's angular radius.
    """
    size = inverse_map.shape[0]
    away = 0.75 * texel * math.sqrt(max(0.0, 1.0 - cosine * cosine)) + LAMP_BIAS + WIDE_BIAS * sine
    u, v, w = place_of(
        projection, place[0] + away * n[0], place[1] + away * n[1], place[2] + away * n[2]
    )
    reach = min(max(sine * 0.06 / texel, 1.5), 40.0)
    blockers, total = 0.0, 0.0
    for k in range(sample, disk.shape[0], samples):
        column, row = math.floor(u + reach * disk[k, 0]), math.floor(v + reach * disk[k, 1])
        if 0 <= row < size and 0 <= column < size:
            inverse = inverse_map[row, column]
            if inverse * (w - LAMP_BIAS) > 1.0:
                blockers += 1.0
                total += 1.0 / inverse
    if blockers == 0.0:
        return 1.0
    reach = min(max(sine * (w - total / blockers) / texel, 1.2), 40.0)
    seen, tried = 0.0, 0.0
    for k in range(sample, disk.shape[0], samples):
        column, row = math.floor(u + reach * disk[k, 0]), math.floor(v + reach * disk[k, 1])
        tried += 1.0
        hidden = 0 <= row < size and 0 <= column < size
        if not (hidden and inverse_map[row, column] * (w - LAMP_BIAS) > 1.0):
            seen += 1.0
    return seen / tried


@njit(cache=True, inline="always")
def _fetch(texels, offset, size, u, v, weight, out):
    x, y = u * size - 0.5, (1.0 - v) * size - 0.5
    column, row = math.floor(x), math.floor(y)
    fx, fy = x - column, y - row
    for k in range(4):
        r = min(max(row + k // 2, 0), size - 1)
        c = min(max(column + k % 2, 0), size - 1)
        w = weight * (fy if k // 2 else 1.0 - fy) * (fx if k % 2 else 1.0 - fx)
        at = offset + r * size + c
        for j in range(CHANNELS):
            out[j] += w * texels[at, j]


@njit(cache=True, error_model="numpy")
def _triangle_sample(x, y, sample, samples, t, head, shared, lights, texture, disk, texel, out):
    """Linear colour of a sample of triangle t into out[:3]; `texel` is a place to work in."""
    vertices, normals, ambient, projected, tint, eye = head
    triangles, corner_uv, labels, textured, head_vertices = shared
    i, j, k = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    za, zb, zc = projected[i, 2], projected[j, 2], projected[k, 2]
    ax, ay = (projected[i, 0] - x) * za, (projected[i, 1] - y) * za
    bx, by = (projected[j, 0] - x) * zb, (projected[j, 1] - y) * zb
    cx, cy = (projected[k, 0] - x) * zc, (projected[k, 1] - y) * zc
    wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    front = wa + wb + wc < 0.0  # counter-clockwise from outside, y down
    sign = -1.0 if front else 1.0
    b0, b1, b2 = max(wa * sign, 0.0), max(wb * sign, 0.0), max(wc * sign, 0.0)
    scale = 1.0 / max(b0 + b1 + b2, 1e-20)
    b0, b1, b2 = b0 * scale, b1 * scale, b2 * scale
    p, q, r = vertices[i], vertices[j], vertices[k]
    place = (
        b0 * p[0] + b1 * q[0] + b2 * r[0],
        b0 * p[1] + b1 * q[1] + b2 * r[1],
        b0 * p[2] + b1 * q[2] + b2 * r[2],
    )
    na, nb, nc = normals[i], normals[j], normals[k]
    smooth = unit(
        b0 * na[0] + b1 * nb[0] + b2 * nc[0],
        b0 * na[1] + b1 * nb[1] + b2 * nc[1],
        b0 * na[2] + b1 * nb[2] + b2 * nc[2],
    )
    if not front:
        smooth = (-smooth[0], -smooth[1], -smooth[2])
    texel[:] = 0.0
    n = smooth
    if textured[t]:
        uv = corner_uv[t]
        e1 = (q[0] - p[0], q[1] - p[1], q[2] - p[2])
        e2 = (r[0] - p[0], r[1] - p[1], r[2] - p[2])
        u1, v1, u2, v2 = (
            uv[1, 0] - uv[0, 0],
            uv[1, 1] - uv[0, 1],
            uv[2, 0] - uv[0, 0],
            uv[2, 1] - uv[0, 1],
        )
        texels, offsets, sizes = texture
        area = abs(
            (projected[j, 0] - projected[i, 0]) * (projected[k, 1] - projected[i, 1])
            - (projected[j, 1] - projected[i, 1]) * (projected[k, 0] - projected[i, 0])
        )
        covered = abs(u1 * v2 - v1 * u2) * sizes[0] * sizes[0]
        level = 0.5 * math.log2(max(covered, 1e-9) / max(area, 1e-9))
        level = min(max(level, 0.0), float(len(sizes) - 1))
        low = int(level)
        part = level - low
        u = b0 * uv[0, 0] + b1 * uv[1, 0] + b2 * uv[2, 0]
        v = b0 * uv[0, 1] + b1 * uv[1, 1] + b2 * uv[2, 1]
        _fetch(texels, offsets[low], sizes[low], u, v, 1.0 - part, texel)
        if part > 0.0:
            _fetch(texels, offsets[low + 1], sizes[low + 1], u, v, part, texel)
        # directions of u and v on the surface: the dual basis of the corners' differences
        turn = 1.0 if u1 * v2 - v1 * u2 >= 0.0 else -1.0
        along = unit(
            turn * (v2 * e1[0] - v1 * e2[0]),
            turn * (v2 * e1[1] - v1 * e2[1]),
            turn * (v2 * e1[2] - v1 * e2[2]),
        )
        up = unit(
            turn * (u1 * e2[0] - u2 * e1[0]),
            turn * (u1 * e2[1] - u2 * e1[1]),
            turn * (u1 * e2[2] - u2 * e1[2]),
        )
        n = unit(
            smooth[0] - texel[5] * along[0] - texel[6] * up[0],
            smooth[1] - texel[5] * along[1] - texel[6] * up[1],
            smooth[2] - texel[5] * along[2] - texel[6] * up[2],
        )
    else:
        ta, tb, tc = tint[i - head_vertices], tint[j - head_vertices], tint[k - head_vertices]
        for c in range(4):
            texel[c] = b0 * ta[c] + b1 * tb[c] + b2 * tc[c]
        texel[4] = PLAIN_SPECULAR
    scattering = 1.0 if labels[t] == SKIN or labels[t] == MOUTH else 0.0
    sky, lamps, projections, inverse_maps, lamp_texels = lights
    view = unit(eye[0] - place[0], eye[1] - place[1], eye[2] - place[2])
    nv = max(_dot(n, view), 0.03)
    f0, alpha = 0.08 * texel[4], max(texel[3] * texel[3], 0.002)
    # diffuse light and gloss of the sky
    twice = 2.0 * _dot(n, view)
    mirror = unit(twice * n[0] - view[0], twice * n[1] - view[1], twice * n[2] - view[2])
    aa, ab, ac = ambient[i], ambient[j], ambient[k]
    blur = math.exp(-1.4 * alpha * alpha)
    blur3 = blur * blur * blur
    gloss = sky_gloss(f0, texel[3], nv)
    for c in range(3):
        seen = b0 * aa[c] + b1 * ab[c] + b2 * ac[c]
        even = SMOOTH[c] * scattering
        mixed = unit(
            n[0] + even * (smooth[0] - n[0]),
            n[1] + even * (smooth[1] - n[1]),
            n[2] + even * (smooth[2] - n[2]),
        )
        light = max(sky_light(sky, c, mixed, 1.0, 2.0 / 3.0, 0.25, 0.0), 0.0)
        shine = max(sky_light(sky, c, mirror, 1.0, blur, blur3, blur3 * blur3), 0.0)
        out[c] = texel[c] * light * seen + gloss * shine * seen * seen
    for lamp in range(lamps.shape[0]):
        row = lamps[lamp]
        if row[3] <= 0.0:  # none: heads of a batch have as many rows as the richest
            continue
        dx, dy, dz = row[0] - place[0], row[1] - place[1], row[2] - place[2]
        distance = math.sqrt(dx * dx + dy * dy + dz * dz)
        to = (dx / distance, dy / distance, dz / distance)
        sine = min(row[3] / distance, 1.0)
        cosine, bumpy = _dot(smooth, to), _dot(n, to)
        if cosine <= -sine - scattering * SCATTER[0]:
            continue
        seen = lamp_seen(
            projections[lamp], inverse_maps[lamp], lamp_texels[lamp], disk, sample, samples,
            place, smooth, cosine, sine,
        )  # fmt: skip
        if seen <= 0.0:
            continue
        strength = seen * math.pi * row[3] * row[3] / (distance * distance)
        shine = lamp_gloss(n, view, to, distance, row[3], alpha, f0) if cosine > 0.0 else 0.0
        for c in range(3):
            mixed = bumpy + SMOOTH[c] * scattering * (cosine - bumpy)
            body = wrapped(mixed, sine + scattering * SCATTER[c]) * texel[c] / math.pi
            out[c] += strength * row[4 + c] * (body + shine)


@njit(cache=True, error_model="numpy")
def _hair_sample(x, y, segment, points, colors, ambient, projection, eye, lights, out):
    """Linear colour of a sample of a ribbon into out[:3]."""
    count = points.shape[1]
    s, k = segment // (count - 1), segment % (count - 1)
    p, q = points[s, k], points[s, k + 1]
    u0, v0, _ = place_of(projection, np.float64(p[0]), np.float64(p[1]), np.float64(p[2]))
    u1, v1, _ = place_of(projection, np.float64(q[0]), np.float64(q[1]), np.float64(q[2]))
    du, dv = u1 - u0, v1 - v0
    t = ((x - u0) * du + (y - v0) * dv) / max(du * du + dv * dv, 1e-12)
    t = min(max(t, 0.0), 1.0)
    place = (p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1]), p[2] + t * (q[2] - p[2]))
    # the tangent turns evenly from point to point, so that gloss does
    o, r = points[s, max(k - 1, 0)], points[s, min(k + 2, count - 1)]
    a = unit(q[0] - o[0], q[1] - o[1], q[2] - o[2])
    b = unit(r[0] - p[0], r[1] - p[1], r[2] - p[2])
    along = unit(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2]))
    view = unit(eye[0] - place[0], eye[1] - place[1], eye[2] - place[2])
    tv = _dot(along, view)
    # ∫ sin dω = π²: under even light a fibre looks as light as its colour
    for c in range(3):
        color = colors[s, k, c] + t * (colors[s, k + 1, c] - colors[s, k, c])
        light = ambient[s, k, c] + t * (ambient[s, k + 1, c] - ambient[s, k, c])
        out[c] = color * light / (math.pi * math.pi)
    _, lamps, projections, inverse_maps, _ = lights
    for lamp in range(lamps.shape[0]):
        row = lamps[lamp]
        if row[3] <= 0.0:  # none: heads of a batch have as many rows as the richest
            continue
        dx, dy, dz = row[0] - place[0], row[1] - place[1], row[2] - place[2]
        distance = math.sqrt(dx * dx + dy * dy + dz * dz)
        to = (dx / distance, dy / distance, dz / distance)
        strength = math.pi * row[3] * row[3] / (distance * distance)
        strength *= hair_light(projections[lamp], inverse_maps[lamp], place[0], place[1], place[2])
        tl = _dot(along, to)
        sine = math.sqrt(max(1.0 - tl * tl, 0.0))
        turn = _dot(to, view) - tl * tv
        turn = turn / max(sine * math.sqrt(max(1.0 - tv * tv, 0.0)), 1e-4)
        phase = 0.25 * (1.0 + turn) * (1.0 + turn) * 0.7854
        half = unit(to[0] + view[0], to[1] + view[1], to[2] + view[2])
        th = _dot(along, half)
        white = HAIR_GLOSS * 3.3245 * math.exp(-((th + 0.05) ** 2) / (2.0 * 0.12**2))
        tinted = HAIR_TINTED_GLOSS * 1.9947 * math.exp(-((th - 0.08) ** 2) / (2.0 * 0.2**2))
        white, tinted = white * (0.5 + 0.5 * turn), tinted * phase / math.pi
        for c in range(3):
            color = colors[s, k, c] + t * (colors[s, k + 1, c] - colors[s, k, c])
            body = color * (phase / math.pi + tinted)
            out[c] += strength * sine * row[4 + c] * (body + white)


@njit(parallel=True, cache=True, error_model="numpy")
def shade(
    id_map, factor, triangle_count, triangles, corner_uv, labels, textured, head_vertices,
    vertices, normals, ambient, projected, tint, eyes, projections,
    texture_index, texels, offsets, sizes, points, colors, hair_ambient,
    sky, lamps, lamp_projections, lamp_maps, lamp_texels, disk,
):  # fmt: skip
    """Linear colour [B H W 3], premultiplied, coverage and label [B H W] of drawn heads.

    `id_map` [B h w] is `factor` times as large; ids from `triangle_count` on are ribbons.
    """
    heads, height, width = id_map.shape[0], id_map.shape[1] // factor, id_map.shape[2] // factor
    color = np.zeros((heads, height, width, 3), np.float32)
    coverage = np.zeros((heads, height, width), np.float32)
    label = np.zeros((heads, height, width), np.uint8)
    shared = (triangles, corner_uv, labels, textured, head_vertices)
    samples = factor * factor
    for task in prange(heads * height):
        b, py = task // height, task % height
        head = (vertices[b], normals[b], ambient[b], projected[b], tint[b], eyes[b])
        lights = (sky[b], lamps[b], lamp_projections[b], lamp_maps[b], lamp_texels[b])
        texture = (texels[texture_index[b]], offsets, sizes)
        out, texel = np.zeros(3), np.zeros(CHANNELS)
        counts = np.zeros(LABEL_COUNT, np.int64)
        for px in range(width):
            counts[:] = 0
            for sample in range(samples):
                y, x = py * factor + sample // factor, px * factor + sample % factor
                name = id_map[b, y, x]
                if name < 0:
                    counts[0] += 1
                    continue
                if name < triangle_count:
                    _triangle_sample(
                        x + 0.5, y + 0.5, sample, samples, name, head, shared, lights, texture,
                        disk, texel, out,
                    )  # fmt: skip
                    counts[labels[name]] += 1
                else:
                    _hair_sample(
                        x + 0.5, y + 0.5, name - triangle_count, points[b], colors[b],
                        hair_ambient[b], projections[b], eyes[b], lights, out,
                    )  # fmt: skip
                    counts[HAIR] += 1
                for c in range(3):
                    color[b, py, px, c] += out[c] / samples
                coverage[b, py, px] += 1.0 / samples
            best = 0
            for k in range(1, LABEL_COUNT):  # what is in front wins a tie with the background
                if counts[k] >= counts[best] and counts[k] > 0:
                    best = k
            label[b, py, px] = best
    return color, coverage, label
