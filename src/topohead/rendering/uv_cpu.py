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
