"""Texel loops on CPU cores, compiled by numba."""

import numpy as np
from numba import njit, prange


@njit(cache=True, inline="always")
def corner_weights(corners, t, x, y):
    """Barycentrics of the point (x, y) in triangle t, whose corners are [T 3 2] in texels."""
    ax, ay = corners[t, 0, 0], corners[t, 0, 1]
    bx, by = corners[t, 1, 0], corners[t, 1, 1]
    cx, cy = corners[t, 2, 0], corners[t, 2, 1]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0.0:
        third = np.float32(1.0 / 3.0)
        return third, third, third
    wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
    wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
    return np.float32(1.0) - wb - wc, wb, wc


@njit(parallel=True, cache=True)
def interpolate_texels(triangle_map, top, left, corners, triangles, values):
    """Values [V K] of the corners carried to the texels [h w K] of one tile; zero outside.

    `triangle_map` int32 [h w] is the tile, whose first texel is (row `top`, column `left`) of the
    texture; `corners` float32 [T 3 2] are (column, row) of the triangles' corners in the texture.
    """
    height, width = triangle_map.shape
    channels = values.shape[1]
    baked = np.zeros((height, width, channels), np.float32)
    for y in prange(height):
        for x in range(width):
            t = triangle_map[y, x]
            if t < 0:
                continue
            wa, wb, wc = corner_weights(
                corners, t, np.float32(left + x + 0.5), np.float32(top + y + 0.5)
            )
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            for k in range(channels):
                baked[y, x, k] = wa * values[a, k] + wb * values[b, k] + wc * values[c, k]
    return baked


@njit(parallel=True, cache=True)
def carry_texels(triangle_map, corners, sources, picture, values):
    """Fetch, for every texel, the value at another UV place of its triangle; bilinear.

    `sources` float32 [T 3 2] are the corners' other places in texels (NaN: there is none);
    `picture` float32 [S S K] is written where a source exists, left alone elsewhere. `values` is
    what is fetched, float32 [S S K].
    """
    height, width = triangle_map.shape
    channels = values.shape[2]
    for y in prange(height):
        for x in range(width):
            t = triangle_map[y, x]
            if t < 0 or np.isnan(sources[t, 0, 0]):
                continue
            wa, wb, wc = corner_weights(corners, t, np.float32(x + 0.5), np.float32(y + 0.5))
            u = wa * sources[t, 0, 0] + wb * sources[t, 1, 0] + wc * sources[t, 2, 0] - 0.5
            v = wa * sources[t, 0, 1] + wb * sources[t, 1, 1] + wc * sources[t, 2, 1] - 0.5
            u = min(max(u, 0.0), width - 1.001)
            v = min(max(v, 0.0), height - 1.001)
            column, row = int(u), int(v)
            du, dv = np.float32(u - column), np.float32(v - row)
            one = np.float32(1.0)
            for k in range(channels):
                upper = values[row, column, k] * (one - du) + values[row, column + 1, k] * du
                lower = (
                    values[row + 1, column, k] * (one - du) + values[row + 1, column + 1, k] * du
                )
                picture[y, x, k] = upper * (one - dv) + lower * dv
