"""Compiled loops that draw portraits: meshes and hair ribbons, every view of every head.

Triangles follow the rules of `mesh_cpu`. A ribbon is drawn as what it is, a segment of some width:
a sample belongs to it when it lies within half a width of the middle line. Ribbons thinner than a
sample are drawn a sample wide and cover as large a share of the samples as they are wide, chosen
by a hash (stochastic transparency, Enderton et al. 2010): no order, no gaps, the right mean.
"""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.mesh_cpu import draw_triangle, snapped

NEAR = 0.01
"""Metres; what reaches nearer to a camera or lamp is left out."""

BUNDLE = 48
"""Triangles that are left out together where all of them are hidden."""

SLACK = np.float32(1.000001)
"""More than rounding adds to 1/depth between the ends of a segment."""


@njit(cache=True, inline="always")
def place_of(projection, x, y, z):
    """(u, v, depth) float32 of a world point under a 3×4 projection float64."""
    w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
    u = projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]
    v = projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]
    return np.float32(u / w), np.float32(v / w), np.float32(w)


@njit(cache=True, inline="always")
def _seen_at(projection, point):
    """`place_of` a point float32 [3]."""
    x, y, z = np.float64(point[0]), np.float64(point[1]), np.float64(point[2])
    return place_of(projection, x, y, z)


@njit(parallel=True, cache=True, error_model="numpy")
def project(points, projections):
    """(u, v, depth) float32 [B M N 3] of points [B N 3] in M views a head [B M 3 4]."""
    heads, views, count = points.shape[0], projections.shape[1], points.shape[1]
    out = np.empty((heads, views, count, 3), np.float32)
    for task in prange(heads * views):
        b, m = task // views, task % views
        for i in range(count):
            place = _seen_at(projections[b, m], points[b, i])
            out[b, m, i, 0], out[b, m, i, 1], out[b, m, i, 2] = place
    return out


@njit(cache=True, error_model="numpy")
def _solid(vertices, triangles, kept):
    """Number the triangles whose corners are in three places into `kept`; how many there are."""
    count = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ab, bc, ca = True, True, True
        for k in range(3):
            x, y, z = vertices[a, k], vertices[b, k], vertices[c, k]
            ab, bc, ca = ab and x == y, bc and y == z, ca and z == x
        if not (ab or bc or ca):
            kept[count] = t
            count += 1
    return count


@njit(cache=True, error_model="numpy")
def _balls(vertices, triangles, kept, count, balls):
    """Centre and radius of a ball about each bundle of `kept` triangles."""
    low, high = np.empty(3), np.empty(3)
    for first in range(0, count, BUNDLE):
        low[:], high[:] = np.inf, -np.inf
        for i in range(first, min(first + BUNDLE, count)):
            for corner in range(3):
                v = triangles[kept[i], corner]
                for k in range(3):
                    low[k] = min(low[k], vertices[v, k])
                    high[k] = max(high[k], vertices[v, k])
        ball = balls[first // BUNDLE]
        square = 0.0
        for k in range(3):
            ball[k] = 0.5 * (low[k] + high[k])
            square += (high[k] - ball[k]) ** 2
        ball[3] = math.sqrt(square)


@njit(cache=True, error_model="numpy")
def _hidden(ball, projection, inverse_map):
    """Whether all samples that a ball may cover are nearer than any point of it.

    With rows p, q, w of the projection, u of a point at most r from the ball's middle differs from
    that of the middle by at most r |p − u w| / (depth − r |w|).
    """
    height, width = inverse_map.shape
    radius = ball[3]
    u, v, depth = place_of(projection, ball[0], ball[1], ball[2])
    across, down, along = 0.0, 0.0, 0.0
    for k in range(3):
        along += projection[2, k] ** 2
        across += (projection[0, k] - u * projection[2, k]) ** 2
        down += (projection[1, k] - v * projection[2, k]) ** 2
    least = depth - radius * math.sqrt(along)
    if not least > NEAR:
        return False
    reach, span = radius * math.sqrt(across) / least + 1.0, radius * math.sqrt(down) / least + 1.0
    left, right = max(0, math.floor(u - reach)), min(width - 1, math.ceil(u + reach))
    top, bottom = max(0, math.floor(v - span)), min(height - 1, math.ceil(v + span))
    nearest = SLACK / np.float32(least)
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            if not inverse_map[row, column] > nearest:
                return False
    return True


@njit(cache=True, error_model="numpy")
def _draw_mesh(triangles, vertices, kept, count, balls, projection, inverse_map, names):
    """Draw the `kept` triangles of a head in a view, bundle by bundle; corners when needed."""
    corners, inverse = np.empty((len(vertices), 2), np.int64), np.full(len(vertices), -1.0)
    last_row = inverse_map.shape[0] - 1
    for first in range(0, count, BUNDLE):
        if _hidden(balls[first // BUNDLE], projection, inverse_map):
            continue
        for i in range(first, min(first + BUNDLE, count)):
            t = kept[i]
            for k in range(3):
                v = triangles[t, k]
                if inverse[v] < 0.0:
                    place = _seen_at(projection, vertices[v])
                    corners[v, 0], corners[v, 1], inverse[v] = snapped(place, NEAR)
            draw_triangle(t, corners, inverse, triangles, 0, last_row, False, inverse_map, names)


@njit(parallel=True, cache=True, error_model="numpy")
def draw_meshes(triangles, vertices, projections, focals, height, width):
    """1/depth (0: nothing) and nearest triangle (−1: nothing) [B M h w] of vertices [B V 3].

    Parts that a head lacks have all their vertices in one place: they are left out once for all
    views. So are, view by view, bundles of triangles behind what is drawn: teeth behind lips. A
    view of focal length 0 sees nothing.
    """
    heads, views, count = vertices.shape[0], projections.shape[1], len(triangles)
    inverse_map = np.zeros((heads, views, height, width), np.float32)
    names = np.full((heads, views, height, width), np.int32(-1))
    kept = np.empty((heads, count), np.int32)
    counts = np.empty(heads, np.int64)
    balls = np.empty((heads, count // BUNDLE + 1, 4))
    for b in prange(heads):
        counts[b] = _solid(vertices[b], triangles, kept[b])
        _balls(vertices[b], triangles, kept[b], counts[b], balls[b])
    for task in prange(heads * views):
        b, m = task // views, task % views
        if focals[b, m] > 0.0:
            _draw_mesh(
                triangles, vertices[b], kept[b], counts[b], balls[b], projections[b, m],
                inverse_map[b, m], names[b, m],
            )  # fmt: skip
    return inverse_map, names


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


@njit(cache=True, error_model="numpy")
def _draw_segment(start, end, widths, focal, strand, name, inverse_map, id_map):
    """Draw one segment from (u, v, depth) to (u, v, depth), keeping the nearest."""
    half, zero, one = np.float32(0.5), np.float32(0.0), np.float32(1.0)
    height, width = id_map.shape
    u0, v0, z0 = start
    u1, v1, z1 = end
    if not (z0 > NEAR and z1 > NEAR and widths[0] + widths[1] > 0):
        return
    inverse0, inverse1 = one / z0, one / z1
    nearest = max(inverse0, inverse1) * SLACK
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
            if nearest <= inverse_map[y, x]:  # hidden, whichever part of the segment is here
                continue
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


@njit(parallel=True, cache=True, error_model="numpy")
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
        for s in range(strands if focal > 0.0 else 0):
            last = count - 1  # the last point of a segment that is there
            while last > 0 and not widths[b, s, last - 1] + widths[b, s, last] > 0:
                last -= 1
            if last == 0:
                continue
            start = _seen_at(projection, points[b, s, 0])
            for k in range(last):
                end = _seen_at(projection, points[b, s, k + 1])
                ends = (widths[b, s, k], widths[b, s, k + 1])
                name = first_name + s * (count - 1) + k
                _draw_segment(start, end, ends, focal, s, name, inverse_map[b, m], id_map[b, m])
                start = end
