"""Texel loops of texture fusion, compiled by numba.

A view is described to these loops by `camera`, float32 [22]: rotation rows (0–8), translation
(9–11), fx, fy, cx, cy in pixels of the colour image (12–15), pixels of the depth map per pixel of
the image in x and y (16, 17), optical centre (18–20), weight of a pixel at unit distance (21).
"""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.uv_cpu import corner_weights

COSINE_POWER = 4


@njit(parallel=True, cache=True)
def surface_texels(triangle_map, top, left, corners, triangles, vertices, normals):
    """Points and unit normals [h w 3] of the texels of one tile; zero outside islands."""
    height, width = triangle_map.shape
    points = np.zeros((height, width, 3), np.float32)
    directions = np.zeros((height, width, 3), np.float32)
    for y in prange(height):
        for x in range(width):
            t = triangle_map[y, x]
            if t < 0:
                continue
            wa, wb, wc = corner_weights(
                corners, t, np.float32(left + x + 0.5), np.float32(top + y + 0.5)
            )
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            length = np.float32(1e-20)
            for k in range(3):
                points[y, x, k] = wa * vertices[a, k] + wb * vertices[b, k] + wc * vertices[c, k]
                component = wa * normals[a, k] + wb * normals[b, k] + wc * normals[c, k]
                directions[y, x, k] = component
                length += component * component
            scale = np.float32(1.0) / math.sqrt(length)
            for k in range(3):
                directions[y, x, k] *= scale
    return points, directions


@njit(cache=True, inline="always")
def _sharp_weights(t, share):
    """Weights of six neighbours in a line for a position t ∈ [0, 1) after the third.

    Cubic convolution (Keys 1981) of pixels of which `share` of their second difference was taken
    away: it returns what the pixels' own area and the lens blur.
    """
    half, one, two = np.float32(0.5), np.float32(1.0), np.float32(2.0)
    a = half * t * (t * (two - t) - one)
    b = half * (t * t * (np.float32(3.0) * t - np.float32(5.0)) + two)
    c = half * t * (t * (np.float32(4.0) - np.float32(3.0) * t) + one)
    d = half * t * t * (t - one)
    own = one + two * share
    return (
        -share * a,
        own * a - share * b,
        own * b - share * (a + c),
        own * c - share * (b + d),
        own * d - share * c,
        -share * d,
    )


@njit(cache=True, inline="always")
def _sharp_sample(image, row, column, dx, dy, share):
    """Sample of [H W 3] at (dx, dy) ∈ [0, 1)² after the centre of (row, column)."""
    across = _sharp_weights(dx, share)
    down = _sharp_weights(dy, share)
    red, green, blue = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(6):
        for j in range(6):
            weight = down[i] * across[j]
            red += weight * image[row - 2 + i, column - 2 + j, 0]
            green += weight * image[row - 2 + i, column - 2 + j, 1]
            blue += weight * image[row - 2 + i, column - 2 + j, 2]
    return red, green, blue


@njit(cache=True, inline="always")
def vignetting(correction, u, v):
    """What a pixel's colour is multiplied with to undo the lens's falloff."""
    dx, dy = u - correction[14], v - correction[15]
    square = (dx * dx + dy * dy) * correction[16]
    return np.float32(1.0) + square * (correction[12] + correction[13] * square)


@njit(cache=True, inline="always")
def _bilinear(picture, u, v):
    """Value of [H W] at the continuous pixel position (u, v); −1 outside."""
    height, width = picture.shape
    x, y = u - np.float32(0.5), v - np.float32(0.5)
    column, row = math.floor(x), math.floor(y)
    if column < 0 or row < 0 or column >= width - 1 or row >= height - 1:
        return np.float32(-1.0)
    dx, dy = x - np.float32(column), y - np.float32(row)
    one = np.float32(1.0)
    upper = picture[row, column] * (one - dx) + picture[row, column + 1] * dx
    lower = picture[row + 1, column] * (one - dx) + picture[row + 1, column + 1] * dx
    return upper * (one - dy) + lower * dy


@njit(cache=True, inline="always")
def _visible_weight(point, normal, part, camera, depth, part_map, trust, minimum_cosine, tolerance):
    """How well a view sees a surface point; 0 where it does not.

    What is seen at its pixel must be of its own part: a globe lies closer beneath its lid than
    any useful tolerance of depth.
    """
    zero = np.float32(0.0)
    vx, vy, vz = camera[18] - point[0], camera[19] - point[1], camera[20] - point[2]
    distance = math.sqrt(vx * vx + vy * vy + vz * vz) + np.float32(1e-20)
    cosine = (vx * normal[0] + vy * normal[1] + vz * normal[2]) / distance
    if cosine < minimum_cosine:
        return zero
    z = camera[6] * point[0] + camera[7] * point[1] + camera[8] * point[2] + camera[11]
    if z <= zero:
        return zero
    x = camera[0] * point[0] + camera[1] * point[1] + camera[2] * point[2] + camera[9]
    y = camera[3] * point[0] + camera[4] * point[1] + camera[5] * point[2] + camera[10]
    u = camera[12] * x / z + camera[14]
    v = camera[13] * y / z + camera[15]
    small_u, small_v = u * camera[16], v * camera[17]
    trusted = _bilinear(trust, small_u, small_v)
    if trusted <= zero:
        return zero
    # across one pixel of the depth map a slanted surface changes its depth by tan × pixel size
    slope = math.sqrt(max(np.float32(1.0) - cosine * cosine, zero)) / cosine
    pixel = z / (camera[12] * camera[16])
    if part_map[int(small_v), int(small_u)] != part:
        return zero
    nearest = depth[int(small_v), int(small_u)]
    if z > nearest + tolerance + pixel * slope:
        return zero
    power = np.float32(1.0)
    for _ in range(COSINE_POWER):
        power *= cosine
    return power * trusted * camera[21] / (z * z)


@njit(parallel=True, cache=True)
def gather_weights(
    points,
    normals,
    triangle_map,
    parts,
    camera,
    depth,
    part_map,
    trust,
    minimum_cosine,
    tolerance,
):
    """How well a view sees each texel, float32 [h w]; zero where it does not.

    `parts` uint8 [T] names the part of each triangle, `part_map` the part that the view shows.
    """
    height, width = points.shape[:2]
    weights = np.zeros((height, width), np.float32)
    for y in prange(height):
        for x in range(width):
            t = triangle_map[y, x]
            if t >= 0:
                weights[y, x] = _visible_weight(
                    points[y, x],
                    normals[y, x],
                    parts[t],
                    camera,
                    depth,
                    part_map,
                    trust,
                    minimum_cosine,
                    tolerance,
                )
    return weights


@njit(parallel=True, cache=True)
def gather_colors(image, points, camera, correction, share, weights, colors):
    """Sample a view's colours for the texels that it sees, corrected; zero elsewhere.

    `correction` float32 [18] is the 3×4 matrix row by row, r² and r⁴ factors, the centre (x, y)
    and 1/radius² in pixels, and one unused. A texel too near the image border loses its weight.
    """
    height, width = weights.shape
    rows, columns = image.shape[:2]
    for y in prange(height):
        for x in range(width):
            if weights[y, x] <= 0:
                colors[y, x, 0] = colors[y, x, 1] = colors[y, x, 2] = np.float32(0.0)
                continue
            p = points[y, x]
            z = camera[6] * p[0] + camera[7] * p[1] + camera[8] * p[2] + camera[11]
            px = camera[0] * p[0] + camera[1] * p[1] + camera[2] * p[2] + camera[9]
            py = camera[3] * p[0] + camera[4] * p[1] + camera[5] * p[2] + camera[10]
            u = camera[12] * px / z + camera[14] - np.float32(0.5)
            v = camera[13] * py / z + camera[15] - np.float32(0.5)
            column, row = math.floor(u), math.floor(v)
            if column < 2 or row < 2 or column >= columns - 3 or row >= rows - 3:
                weights[y, x] = np.float32(0.0)
                colors[y, x, 0] = colors[y, x, 1] = colors[y, x, 2] = np.float32(0.0)
                continue
            red, green, blue = _sharp_sample(
                image, row, column, u - np.float32(column), v - np.float32(row), share
            )
            gain = vignetting(correction, u + np.float32(0.5), v + np.float32(0.5))
            for k in range(3):
                mixed = correction[4 * k] * red
                mixed += correction[4 * k + 1] * green + correction[4 * k + 2] * blue
                colors[y, x, k] = gain * mixed + correction[4 * k + 3]


@njit(cache=True, inline="always")
def _weighted_median(values, weights, order, count):
    """Index of the weighted median of values[:count]; `order` is scratch of at least that size."""
    total = np.float32(0.0)
    for i in range(count):
        order[i] = i
        total += weights[i]
    for i in range(1, count):  # insertion sort: a dozen entries at most, as a rule
        moving = order[i]
        j = i - 1
        while j >= 0 and values[order[j]] > values[moving]:
            order[j + 1] = order[j]
            j -= 1
        order[j + 1] = moving
    half = np.float32(0.5) * total
    running = np.float32(0.0)
    for i in range(count):
        running += weights[order[i]]
        if running >= half:
            return order[i]
    return order[count - 1]


@njit(parallel=True, cache=True)
def reject_outliers(colors, weights, floor, spread):
    """Weaken views that disagree with the weighted median colour of a texel, in place.

    The reference is the colour of median luminance; a distance d from it weakens a weight by
    Tukey's (1 − (d/s)²)², s = max(`floor`, `spread` × the weighted median distance). Of two
    views that differ by more than s the better one wins.
    """
    views, height, width = weights.shape
    for y in prange(height):
        index = np.empty(views, np.int32)
        order = np.empty(views, np.int32)
        weight = np.empty(views, np.float32)
        value = np.empty(views, np.float32)
        for x in range(width):
            count = 0
            for c in range(views):
                if weights[c, y, x] > 0:
                    # a vote's weight grows slowly: three fair views outvote one that looks straight
                    index[count], weight[count] = c, math.sqrt(math.sqrt(weights[c, y, x]))
                    value[count] = (
                        np.float32(0.299) * colors[c, y, x, 0]
                        + np.float32(0.587) * colors[c, y, x, 1]
                        + np.float32(0.114) * colors[c, y, x, 2]
                    )
                    count += 1
            if count < 2:
                continue
            middle = index[_weighted_median(value, weight, order, count)]
            for i in range(count):
                square = np.float32(0.0)
                for k in range(3):
                    difference = colors[index[i], y, x, k] - colors[middle, y, x, k]
                    square += difference * difference
                value[i] = math.sqrt(square)
            typical = value[_weighted_median(value, weight, order, count)]
            scale = max(floor, spread * typical)
            for i in range(count):
                ratio = value[i] / scale
                kept = max(np.float32(1.0) - ratio * ratio, np.float32(0.0))
                weights[index[i], y, x] *= kept * kept


@njit(parallel=True, cache=True)
def weighted_mean(colors, weights, mean, total, effective):
    """Σ w c / Σ w [h w 3], Σ w and the effective number of views (Σ w)² / Σ w² of each texel."""
    views, height, width = weights.shape
    for y in prange(height):
        for x in range(width):
            running = np.float32(0.0)
            squares = np.float32(0.0)
            r, g, b = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for c in range(views):
                w = weights[c, y, x]
                if w > 0:
                    running += w
                    squares += w * w
                    r += w * colors[c, y, x, 0]
                    g += w * colors[c, y, x, 1]
                    b += w * colors[c, y, x, 2]
            total[y, x] = running
            inverse = np.float32(1.0) / running if running > 0 else np.float32(0.0)
            mean[y, x, 0], mean[y, x, 1], mean[y, x, 2] = r * inverse, g * inverse, b * inverse
            effective[y, x] = running * running / squares if squares > 0 else np.float32(0.0)


@njit(parallel=True, cache=True)
def best_two(weights):
    """Thresholds [h w]: the weight of each texel's second-best view (of the best, if alone)."""
    views, height, width = weights.shape
    threshold = np.zeros((height, width), np.float32)
    for y in prange(height):
        for x in range(width):
            first, second = np.float32(0.0), np.float32(0.0)
            for c in range(views):
                w = weights[c, y, x]
                if w > first:
                    first, second = w, first
                elif w > second:
                    second = w
            threshold[y, x] = second if second > 0 else first
    return threshold


@njit(parallel=True, cache=True)
def pack_difference(color, mean, weight):
    """(colour − mean, 1) [h w 4] where a view has weight, else zero."""
    height, width = weight.shape
    packed = np.zeros((height, width, 4), np.float32)
    for y in prange(height):
        for x in range(width):
            if weight[y, x] > 0:
                for k in range(3):
                    packed[y, x, k] = color[y, x, k] - mean[y, x, k]
                packed[y, x, 3] = np.float32(1.0)
    return packed


@njit(parallel=True, cache=True)
def known_mean(packed):
    """Σ w v / Σ w [h w 3] of packed (Σ w v, Σ w) [h w 4]; zero where nothing is known."""
    height, width = packed.shape[:2]
    mean = np.zeros((height, width, 3), np.float32)
    for y in prange(height):
        for x in range(width):
            if packed[y, x, 3] > np.float32(1e-12):
                inverse = np.float32(1.0) / packed[y, x, 3]
                for k in range(3):
                    mean[y, x, k] = packed[y, x, k] * inverse
    return mean


@njit(parallel=True, cache=True)
def add_band(packed, blurred, share, total):
    """Add share × (what is known − blurred) and share to `total` [h w 4]."""
    height, width = share.shape
    for y in prange(height):
        for x in range(width):
            w = share[y, x]
            if w <= 0 or packed[y, x, 3] <= np.float32(1e-12):
                continue
            inverse = np.float32(1.0) / packed[y, x, 3]
            for k in range(3):
                total[y, x, k] += w * (packed[y, x, k] * inverse - blurred[y, x, k])
            total[y, x, 3] += w
