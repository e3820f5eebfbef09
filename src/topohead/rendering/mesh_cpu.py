"""Triangle rasterisation on CPU cores, compiled by numba.

Coverage is decided in whole numbers: corners are rounded to 1/4096 pixel, so edge functions are
exact, the two triangles of an edge agree on every pixel centre, and centres that lie on an edge go
to one of them by the top-left rule. Bands of rows run in parallel; each band draws its triangles
in their order, so results never depend on the number of threads. A tie in depth keeps the
triangle that comes first.
"""

import numpy as np
from numba import njit, prange

SUBPIXEL_BITS = 12
"""Corners live on a grid of 2⁻¹² pixel, about what float32 resolves at 2,000 pixels."""

GUARD_PIXELS = 65536.0
"""Beyond this distance from the picture, edge functions could leave 64-bit integers."""

BAND_ROWS = 16


@njit(cache=True, inline="always")
def snapped(place, near):
    """A corner (u, v, depth) on the grid, and 1/depth: 0 where it cannot be drawn."""
    unit = np.float64(1 << SUBPIXEL_BITS)
    x, y, z = place[0], place[1], place[2]
    if z > near and abs(x) < GUARD_PIXELS and abs(y) < GUARD_PIXELS:
        return round(x * unit), round(y * unit), 1.0 / np.float64(z)
    return 0, 0, 0.0


@njit(cache=True)
def _row_ranges(corners, inverse, triangles, height):
    """First and last pixel row whose centres each triangle may cover (empty: first > last)."""
    half = 1 << (SUBPIXEL_BITS - 1)
    count = triangles.shape[0]
    first = np.empty(count, np.int32)
    last = np.empty(count, np.int32)
    for t in range(count):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        first[t], last[t] = 1, 0
        if inverse[a] > 0.0 and inverse[b] > 0.0 and inverse[c] > 0.0:
            top = min(corners[a, 1], corners[b, 1], corners[c, 1])
            bottom = max(corners[a, 1], corners[b, 1], corners[c, 1])
            first[t] = max(0, (top + half - 1) >> SUBPIXEL_BITS)
            last[t] = min(height - 1, (bottom - half) >> SUBPIXEL_BITS)
    return first, last


@njit(cache=True)
def _bands(first, last, band_count):
    """Triangles of each band of rows, in order: band b owns members[starts[b]:starts[b + 1]]."""
    starts = np.zeros(band_count + 1, np.int64)
    for t in range(first.shape[0]):
        if first[t] <= last[t]:
            for band in range(first[t] // BAND_ROWS, last[t] // BAND_ROWS + 1):
                starts[band + 1] += 1
    for band in range(band_count):
        starts[band + 1] += starts[band]
    cursor = starts.copy()
    members = np.empty(starts[band_count], np.int32)
    for t in range(first.shape[0]):
        if first[t] <= last[t]:
            for band in range(first[t] // BAND_ROWS, last[t] // BAND_ROWS + 1):
                members[cursor[band]] = t
                cursor[band] += 1
    return starts, members


@njit(cache=True, inline="always")
def _edge(x0, y0, x1, y1):
    """(∂/∂x, ∂/∂y, constant) of the edge function; positive inside when the area is positive.

    The constant holds the top-left rule: centres on a right or lower edge count as outside.
    """
    step_x, step_y = y0 - y1, x1 - x0
    constant = -step_x * x0 - step_y * y0
    owns_border = step_x > 0 or (step_x == 0 and step_y > 0)
    return step_x, step_y, constant if owns_border else constant - 1


@njit(cache=True, error_model="numpy")
def draw_triangle(
    t, corners, inverse, triangles, first_row, last_row, cull, depth_inverse, triangle_map
):
    """Draw one triangle of `snapped` corners into the rows given, keeping the nearest."""
    half = 1 << (SUBPIXEL_BITS - 1)
    a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    if not (inverse[a] > 0.0 and inverse[b] > 0.0 and inverse[c] > 0.0):
        return
    ax, ay, bx, by = corners[a, 0], corners[a, 1], corners[b, 0], corners[b, 1]
    cx, cy = corners[c, 0], corners[c, 1]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    # counter-clockwise from outside means negative area where y points down
    if area == 0 or (cull and area > 0):
        return
    left = max(0, (min(ax, bx, cx) + half - 1) >> SUBPIXEL_BITS)
    right = min(triangle_map.shape[1] - 1, (max(ax, bx, cx) - half) >> SUBPIXEL_BITS)
    top = max(first_row, (min(ay, by, cy) + half - 1) >> SUBPIXEL_BITS)
    bottom = min(last_row, (max(ay, by, cy) - half) >> SUBPIXEL_BITS)
    if left > right or top > bottom:  # most of small ones: between the centres of pixels
        return
    if area < 0:
        b, c, bx, by, cx, cy, area = c, b, cx, cy, bx, by, -area
    ux, uy, u0 = _edge(bx, by, cx, cy)
    vx, vy, v0 = _edge(cx, cy, ax, ay)
    wx, wy, w0 = _edge(ax, ay, bx, by)
    scale = 1.0 / np.float64(area)
    near_a = inverse[a]
    slope_b, slope_c = (inverse[b] - near_a) * scale, (inverse[c] - near_a) * scale
    for y in range(top, bottom + 1):
        py = (y << SUBPIXEL_BITS) + half
        px = (left << SUBPIXEL_BITS) + half
        u = ux * px + uy * py + u0
        v = vx * px + vy * py + v0
        w = wx * px + wy * py + w0
        for x in range(left, right + 1):
            if (u | v | w) >= 0:
                nearer = np.float32(near_a + slope_b * v + slope_c * w)
                if nearer > depth_inverse[y, x]:
                    depth_inverse[y, x] = nearer
                    triangle_map[y, x] = t
            u += ux << SUBPIXEL_BITS
            v += vx << SUBPIXEL_BITS
            w += wx << SUBPIXEL_BITS


@njit(parallel=True, nogil=True, cache=True)
def rasterize_projected(projected, triangles, width, height, cull, near):
    """Nearest triangle of each pixel, from corners that are projected already.

    `projected` float32 [V 3] holds (u, v, depth), pixels and metres; `triangles` int32 [T 3].
    Returns depth float32 [H W] (inf: none) and triangle int32 [H W] (-1: none). A triangle with a
    corner nearer than `near`, further than 65,536 pixels outside, or not a number is left out;
    `mesh.rasterize` clips instead. May be called from other compiled code.
    """
    depth = np.zeros((height, width), np.float32)  # holds 1/depth until the end
    triangle_map = np.full((height, width), np.int32(-1))
    corners = np.empty((projected.shape[0], 2), np.int64)
    inverse_depth = np.empty(projected.shape[0])
    for v in range(projected.shape[0]):
        corners[v, 0], corners[v, 1], inverse_depth[v] = snapped(projected[v], near)
    first, last = _row_ranges(corners, inverse_depth, triangles, height)
    band_count = (height + BAND_ROWS - 1) // BAND_ROWS
    starts, members = _bands(first, last, band_count)
    for band in prange(band_count):
        top = band * BAND_ROWS
        bottom = min(height, top + BAND_ROWS) - 1
        for k in range(starts[band], starts[band + 1]):
            t = members[k]
            draw_triangle(
                t, corners, inverse_depth, triangles, top, bottom, cull, depth, triangle_map
            )
        for y in range(top, bottom + 1):
            for x in range(width):
                inverse = depth[y, x]
                depth[y, x] = np.float32(1.0) / inverse if inverse > 0 else np.float32(np.inf)
    return depth, triangle_map


@njit(cache=True, inline="always")
def _plane_distance(plane, x, y, z, near, guard):
    """Signed distance-like value of homogeneous (x, y, z) to a clip plane; inside is ≥ 0."""
    if plane == 0:
        return z - near
    if plane == 1:
        return x + guard * z
    if plane == 2:
        return guard * z - x
    if plane == 3:
        return y + guard * z
    return guard * z - y


@njit(cache=True)
def _clip_polygon(polygon, count, plane, near, guard, clipped):
    """Sutherland–Hodgman: the part of a polygon inside one plane; returns its corner count."""
    kept = 0
    for k in range(count):
        p, q = polygon[k], polygon[(k + 1) % count]
        at_p = _plane_distance(plane, p[0], p[1], p[2], near, guard)
        at_q = _plane_distance(plane, q[0], q[1], q[2], near, guard)
        if at_p >= 0:
            clipped[kept] = p
            kept += 1
        if (at_p >= 0) != (at_q >= 0):
            # always from inside to outside, so that both triangles of an edge get the same point
            inner, outer = (p, q) if at_p >= 0 else (q, p)
            share = max(at_p, at_q) / (max(at_p, at_q) - min(at_p, at_q))
            clipped[kept] = inner + share * (outer - inner)
            kept += 1
    return kept


@njit(cache=True)
def clip_triangles(homogeneous, triangles, near, guard):
    """Replace triangles that reach nearer than `near` or outside the guard band by clipped ones.

    `homogeneous` float64 [V 3] is (u z, v z, z). Returns extended corners and triangles, and for
    each triangle the index of the one it came from. Order is kept.
    """
    vertex_count, triangle_count = homogeneous.shape[0], triangles.shape[0]
    outside = np.zeros(vertex_count, np.bool_)
    for vertex in range(vertex_count):
        x, y, z = homogeneous[vertex, 0], homogeneous[vertex, 1], homogeneous[vertex, 2]
        for plane in range(5):
            if not _plane_distance(plane, x, y, z, near, guard) >= 0:
                outside[vertex] = True
    touched = 0
    for t in range(triangle_count):
        if outside[triangles[t, 0]] or outside[triangles[t, 1]] or outside[triangles[t, 2]]:
            touched += 1
    # a triangle cut by five planes has at most eight corners: six triangles
    corners = np.empty((vertex_count + 8 * touched, 3), np.float64)
    corners[:vertex_count] = homogeneous
    pieces = np.empty((triangle_count + 5 * touched, 3), np.int32)
    sources = np.empty(triangle_count + 5 * touched, np.int32)
    polygon, clipped = np.empty((9, 3), np.float64), np.empty((9, 3), np.float64)
    corner_count, piece_count = vertex_count, 0
    for t in range(triangle_count):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if not (outside[a] or outside[b] or outside[c]):
            pieces[piece_count] = triangles[t]
            sources[piece_count] = t
            piece_count += 1
            continue
        polygon[0], polygon[1], polygon[2] = homogeneous[a], homogeneous[b], homogeneous[c]
        count = 3
        for plane in range(5):
            count = _clip_polygon(polygon, count, plane, near, guard, clipped)
            polygon, clipped = clipped, polygon
        for k in range(count):
            corners[corner_count + k] = polygon[k]
        for k in range(1, count - 1):
            pieces[piece_count, 0] = corner_count
            pieces[piece_count, 1] = corner_count + k
            pieces[piece_count, 2] = corner_count + k + 1
            sources[piece_count] = t
            piece_count += 1
        corner_count += count
    return corners[:corner_count], pieces[:piece_count], sources[:piece_count]


@njit(parallel=True, nogil=True, cache=True)
def barycentrics_of(homogeneous, triangles, triangle_map):
    """Perspective-correct barycentrics and depth at the centres of covered pixels.

    `homogeneous` float64 [V 3] is (u z, v z, z). With a_i = (u_i - x, v_i - y) z_i the weights
    satisfy Σ b_i a_i = 0, so b_0 ∝ a_1 × a_2 and so on; corners behind the camera do no harm.
    Weights are clamped at zero: coverage was decided on corners rounded to 1/4096 pixel.
    """
    height, width = triangle_map.shape
    barycentrics = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.float32(np.inf))
    for y in prange(height):
        for x in range(width):
            t = triangle_map[y, x]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            za, zb, zc = homogeneous[a, 2], homogeneous[b, 2], homogeneous[c, 2]
            ax, ay = homogeneous[a, 0] - (x + 0.5) * za, homogeneous[a, 1] - (y + 0.5) * za
            bx, by = homogeneous[b, 0] - (x + 0.5) * zb, homogeneous[b, 1] - (y + 0.5) * zb
            cx, cy = homogeneous[c, 0] - (x + 0.5) * zc, homogeneous[c, 1] - (y + 0.5) * zc
            wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
            sign = 1.0 if wa + wb + wc > 0 else -1.0
            wa, wb, wc = max(wa * sign, 0.0), max(wb * sign, 0.0), max(wc * sign, 0.0)
            total = wa + wb + wc
            if total <= 0.0:  # a sliver that only its rounded corners cover
                wa, wb, wc, total = 1.0, 1.0, 1.0, 3.0
            wa, wb, wc = wa / total, wb / total, wc / total
            barycentrics[y, x, 0], barycentrics[y, x, 1], barycentrics[y, x, 2] = wa, wb, wc
            depth[y, x] = wa * za + wb * zb + wc * zc
    return barycentrics, depth


@njit(parallel=True, nogil=True, cache=True)
def interpolate_corners(values, triangles, triangle_map, barycentrics):
    """Values [V K] of the corners carried to pixels [H W K]; zero where there is no triangle."""
    height, width = triangle_map.shape
    channels = values.shape[1]
    picture = np.zeros((height, width, channels), values.dtype)
    for y in prange(height):
        for x in range(width):
            t = triangle_map[y, x]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            wa, wb, wc = barycentrics[y, x, 0], barycentrics[y, x, 1], barycentrics[y, x, 2]
            for k in range(channels):
                picture[y, x, k] = wa * values[a, k] + wb * values[b, k] + wc * values[c, k]
    return picture
