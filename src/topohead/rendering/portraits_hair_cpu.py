"""Compiled loops of portraits: hair ribbons, and the light that comes to a head from everywhere.

Meshes are drawn by `mesh_cpu`. A ribbon is drawn as what it is, a segment of some width: a sample
belongs to it when it lies within half a width of the middle line. Ribbons thinner than a sample
are drawn a sample wide and cover as large a share of the samples as they are wide, chosen by a
hash (stochastic transparency, Enderton et al. 2010): no order, no gaps, the right mean.
"""

import math

import numpy as np
from numba import njit, prange

NEAR = 0.01
"""Metres; what reaches nearer to a camera or lamp is left out."""

HAIR_DEPTH = 0.009
"""Metres of hair behind its first surface that let 1/e of the light through."""

HAIR_BIAS = 0.0025
"""Metres behind the first surface that are in full light: a map sees single hairs, and gaps."""

BIAS = 0.0008
"""Metres by which an occluder must be in front."""


@njit(cache=True, inline="always")
def place_of(projection, x, y, z):
    """(u, v, depth) float32 of a world point under a 3×4 projection float64."""
    w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
    u = projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]
    v = projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]
    return np.float32(u / w), np.float32(v / w), np.float32(w)


@njit(parallel=True, cache=True)
def project(points, projections):
    """(u, v, depth) float32 [B M N 3] of points [B N 3] in M views a head [B M 3 4]."""
    heads, views, count = points.shape[0], projections.shape[1], points.shape[1]
    out = np.empty((heads, views, count, 3), np.float32)
    for task in prange(heads * views):
        b, m = task // views, task % views
        for i in range(count):
            x, y, z = np.float64(points[b, i, 0]), np.float64(points[b, i, 1]), points[b, i, 2]
            place = place_of(projections[b, m], x, y, np.float64(z))
            out[b, m, i, 0], out[b, m, i, 1], out[b, m, i, 2] = place
    return out


@njit(cache=True, inline="always")
def thinned(strand, x, y, coverage):
    """Whether a sample of a strand that covers only a share of it is left out."""
    mask = np.uint64(0xFFFFFFFF)
    word = (np.uint64(strand) * np.uint64(0x9E3779B1)) & mask
    word ^= (np.uint64(x) * np.uint64(0x85EBCA77)) & mask
    word ^= (np.uint64(y) * np.uint64(0xC2B2AE3D)) & mask
    # the finalizer of MurmurHash3
    word ^= word >> np.uint64(16)
    word = (word * np.uint64(0x85EBCA6B)) & mask
    word ^= word >> np.uint64(13)
    word = (word * np.uint64(0xC2B2AE35)) & mask
    word ^= word >> np.uint64(16)
    return np.float32(word >> np.uint64(8)) * np.float32(2.0**-24) >= coverage


@njit(cache=True)
def _draw_segment(start, end, widths, focal, strand, name, inverse_map, id_map):
    """Draw one segment from (u, v, depth) to (u, v, depth), keeping the nearest."""
    half, zero, one = np.float32(0.5), np.float32(0.0), np.float32(1.0)
    height, width = id_map.shape
    u0, v0, z0 = start
    u1, v1, z1 = end
    if not (z0 > NEAR and z1 > NEAR and widths[0] + widths[1] > 0):
        return
    inverse0, inverse1 = one / z0, one / z1
    h0, h1 = half * widths[0] * focal * inverse0, half * widths[1] * focal * inverse1
    reach = max(h0, h1, half)
    du, dv = u1 - u0, v1 - v0
    scale = one / max(du * du + dv * dv, np.float32(1e-12))
    steep = abs(dv) > abs(du)
    a0, a1, b0 = (v0, v1, u0) if steep else (u0, u1, v0)
    rise = (du / dv if steep else dv / du) if abs(du) + abs(dv) > 0 else zero
    limit, across = (height, width) if steep else (width, height)
    low, high = min(a0, a1) - reach, max(a0, a1) + reach
    if not (low < limit and high > 0):
        return
    first, last = max(0, math.ceil(low - half)), min(limit - 1, math.floor(high - half))
    span = reach * np.float32(1.41422)
    count = math.floor(np.float32(2.0) * span) + 1
    for i in range(first, last + 1):
        along = min(max(np.float32(i) + half, min(a0, a1)), max(a0, a1))
        bottom = math.ceil(b0 + (along - a0) * rise - span - half)
        for j in range(max(bottom, 0), min(bottom + count, across)):
            x, y = (j, i) if steep else (i, j)
            px, py = np.float32(x) + half - u0, np.float32(y) + half - v0
            t = min(max((px * du + py * dv) * scale, zero), one)
            ex, ey = px - t * du, py - t * dv
            wide = h0 + t * (h1 - h0)
            drawn = max(wide, half)
            if ex * ex + ey * ey > drawn * drawn:
                continue
            inverse = inverse0 + t * (inverse1 - inverse0)
            if inverse > inverse_map[y, x]:
                if wide < half and thinned(strand, x, y, wide / drawn):
                    continue
                inverse_map[y, x] = inverse
                id_map[y, x] = name


@njit(parallel=True, cache=True)
def draw_ribbons(points, widths, projections, focals, first_name, inverse_map, id_map):
    """Draw strands [B S P 3] of widths [B S P] (metres) into maps [B M h w], nearest kept.

    `projections` [B M 3 4], `focals` [B M] in samples; segment k of strand s is called
    first_name + s (P − 1) + k. `inverse_map` holds 1/depth.
    """
    heads, strands, count = points.shape[0], points.shape[1], points.shape[2]
    views = projections.shape[1]
    for task in prange(heads * views):
        b, m = task // views, task % views
        projection, focal = projections[b, m], np.float32(focals[b, m])
        for s in range(strands):
            p = points[b, s, 0]
            start = place_of(projection, np.float64(p[0]), np.float64(p[1]), np.float64(p[2]))
            for k in range(count - 1):
                p = points[b, s, k + 1]
                end = place_of(projection, np.float64(p[0]), np.float64(p[1]), np.float64(p[2]))
                ends = (widths[b, s, k], widths[b, s, k + 1])
                name = first_name + s * (count - 1) + k
                _draw_segment(start, end, ends, focal, s, name, inverse_map[b, m], id_map[b, m])
                start = end


@njit(cache=True, inline="always")
def hair_light(projection, inverse_map, x, y, z):
    """Share of a light that comes through hair to a point in it: four texels, bilinear.

    Light fades with the way behind the first surface (deep opacity maps with one layer, Yuksel &
    Keyser 2008): as hair for hair, and to nothing behind a head.
    """
    height, width = inverse_map.shape
    u, v, w = place_of(projection, x, y, z)
    u, v = u - 0.5, v - 0.5
    column, row = math.floor(u), math.floor(v)
    du, dv = u - column, v - row
    light = 0.0
    for k in range(4):
        r, c = row + k // 2, column + k % 2
        weight = (dv if k // 2 else 1.0 - dv) * (du if k % 2 else 1.0 - du)
        if 0 <= r < height and 0 <= c < width and inverse_map[r, c] > 0.0:
            behind = w - 1.0 / inverse_map[r, c] - HAIR_BIAS
            light += weight * math.exp(-max(behind, 0.0) / HAIR_DEPTH)
        else:
            light += weight
    return light


@njit(parallel=True, cache=True)
def gather_mesh(vertices, normals, projections, inverse_map, directions, radiance, texel, bounce):
    """Share of the sky's irradiance that reaches each vertex [B V 3], a channel each.

    Σ L (n·ω)₊ visible / Σ L (n·ω)₊ over the directions [D 3], whose radiance is [B D 3]. Blocked
    directions send back `bounce` times what open ones do, as skin lit about as well would.
    """
    heads, count, dome = vertices.shape[0], vertices.shape[1], directions.shape[0]
    height, width = inverse_map.shape[2], inverse_map.shape[3]
    out = np.empty((heads, count, 3), np.float32)
    for b in prange(heads):
        seen, whole = np.empty(3), np.empty(3)
        for i in range(count):
            seen[:], whole[:] = 0.0, 1e-9
            n = normals[b, i]
            for d in range(dome):
                facing = n[0] * directions[d, 0] + n[1] * directions[d, 1] + n[2] * directions[d, 2]
                if facing <= 0.0:
                    continue
                tilt = math.sqrt(max(0.0, 1.0 - facing * facing))
                away = 1.5 * texel[b] * tilt + BIAS  # out of the reach of the own surface's texels
                u, v, w = place_of(
                    projections[b, d],
                    np.float64(vertices[b, i, 0] + away * n[0]),
                    np.float64(vertices[b, i, 1] + away * n[1]),
                    np.float64(vertices[b, i, 2] + away * n[2]),
                )
                u, v = u - 0.5, v - 0.5
                column, row = math.floor(u), math.floor(v)
                du, dv = u - column, v - row
                open_share = 0.0
                for k in range(4):
                    r, c = row + k // 2, column + k % 2
                    weight = (dv if k // 2 else 1.0 - dv) * (du if k % 2 else 1.0 - du)
                    hidden = 0 <= r < height and 0 <= c < width
                    hidden = hidden and inverse_map[b, d, r, c] * (w - BIAS) > 1.0
                    open_share += 0.0 if hidden else weight
                for c in range(3):
                    light = facing * radiance[b, d, c]
                    whole[c] += light
                    seen[c] += light * open_share
            sky = (seen[0] + seen[1] + seen[2]) / (whole[0] + whole[1] + whole[2])
            for c in range(3):
                share = seen[c] / whole[c]
                out[b, i, c] = share + math.sqrt(sky) * (1.0 - share) * bounce[c]
    return out


@njit(cache=True, inline="always")
def _hair_sky(projection, inverse_map, x, y, z):
    """`hair_light` of one texel: enough where many directions are added up."""
    u, v, w = place_of(projection, x, y, z)
    column, row = math.floor(u), math.floor(v)
    inside = 0 <= row < inverse_map.shape[0] and 0 <= column < inverse_map.shape[1]
    inverse = inverse_map[row, column] if inside else np.float32(0.0)
    if inverse * (w - HAIR_BIAS) <= 1.0:
        return 1.0
    return math.exp(-(w - 1.0 / inverse - HAIR_BIAS) / HAIR_DEPTH)


@njit(parallel=True, cache=True)
def gather_hair(points, projections, inverse_map, directions, radiance):
    """Light from all sides on the points of strands [B S P 3]: ∫ L sin(T, ω) visible dω."""
    heads, strands, count = points.shape[0], points.shape[1], points.shape[2]
    dome = directions.shape[0]
    out = np.empty((heads, strands, count, 3), np.float32)
    angle = 4.0 * math.pi / dome
    for task in prange(heads * strands):
        b, s = task // strands, task % strands
        for k in range(count):
            p = points[b, s, k]
            before, after = points[b, s, max(k - 1, 0)], points[b, s, min(k + 1, count - 1)]
            tx, ty, tz = after[0] - before[0], after[1] - before[1], after[2] - before[2]
            scale = 1.0 / math.sqrt(tx * tx + ty * ty + tz * tz + 1e-20)
            red, green, blue = 0.0, 0.0, 0.0
            for d in range(dome):
                along = tx * directions[d, 0] + ty * directions[d, 1] + tz * directions[d, 2]
                along *= scale
                sine = math.sqrt(max(0.0, 1.0 - along * along))
                x, y, z = np.float64(p[0]), np.float64(p[1]), np.float64(p[2])
                light = angle * sine * _hair_sky(projections[b, d], inverse_map[b, d], x, y, z)
                red += light * radiance[b, d, 0]
                green += light * radiance[b, d, 1]
                blue += light * radiance[b, d, 2]
            out[b, s, k, 0], out[b, s, k, 1], out[b, s, k, 2] = red, green, blue
    return out
