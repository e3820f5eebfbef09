"""Render a texture into a view and return what differs; compiled by numba."""

import math

import numpy as np
from numba import njit, prange

from topohead.solvers.kernels.fusion import vignetting


@njit(cache=True, inline="always")
def _perspective_weights(projected, a, b, c, x, y):
    """Barycentrics on the surface at pixel position (x, y) of a triangle given as (u, v, depth)."""
    ax, ay = projected[a, 0] - x, projected[a, 1] - y
    bx, by = projected[b, 0] - x, projected[b, 1] - y
    cx, cy = projected[c, 0] - x, projected[c, 1] - y
    wa = (bx * cy - by * cx) / projected[a, 2]
    wb = (cx * ay - cy * ax) / projected[b, 2]
    wc = (ax * by - ay * bx) / projected[c, 2]
    total = wa + wb + wc
    if total == 0:
        third = np.float32(1.0 / 3.0)
        return third, third, third
    return wa / total, wb / total, wc / total


@njit(parallel=True, cache=True)
def texture_residual(
    image, top, correction, triangle_map, projected, triangles, corners, texture, samples, residual
):
    """Corrected image minus the texture seen through each pixel, written into `residual`.

    `triangle_map` has `samples`² entries a pixel; `projected` (u, v, depth) is in its pixels and
    starts at its first row, which is row `top` of the whole image. Pixels that are not covered
    by all their samples are left alone.
    """
    height, width = image.shape[:2]
    rows, columns = texture.shape[:2]
    for y in prange(height):
        seen = np.empty(3, np.float32)
        for x in range(width):
            seen[:] = np.float32(0.0)
            count = 0
            for s in range(samples * samples):
                row, column = y * samples + s // samples, x * samples + s % samples
                t = triangle_map[row, column]
                if t < 0:
                    break
                wa, wb, wc = _perspective_weights(
                    projected, triangles[t, 0], triangles[t, 1], triangles[t, 2],
                    np.float32(column + 0.5), np.float32(row + 0.5),
                )  # fmt: skip
                u = wa * corners[t, 0, 0] + wb * corners[t, 1, 0] + wc * corners[t, 2, 0]
                v = wa * corners[t, 0, 1] + wb * corners[t, 1, 1] + wc * corners[t, 2, 1]
                u = min(max(u - np.float32(0.5), np.float32(0.0)), np.float32(columns - 1.01))
                v = min(max(v - np.float32(0.5), np.float32(0.0)), np.float32(rows - 1.01))
                i, j = math.floor(v), math.floor(u)
                du, dv = u - np.float32(j), v - np.float32(i)
                one = np.float32(1.0)
                for k in range(3):
                    upper = texture[i, j, k] * (one - du) + texture[i, j + 1, k] * du
                    lower = texture[i + 1, j, k] * (one - du) + texture[i + 1, j + 1, k] * du
                    seen[k] += upper * (one - dv) + lower * dv
                count += 1
            if count < samples * samples:
                continue
            gain = vignetting(correction, np.float32(x + 0.5), np.float32(top + y + 0.5))
            for k in range(3):
                mixed = np.float32(0.0)
                for j in range(3):
                    mixed += correction[4 * k + j] * image[y, x, j]
                value = gain * mixed + correction[4 * k + 3]
                residual[y, x, k] = value - seen[k] / np.float32(count)


@njit(parallel=True, cache=True)
def accumulate_residual(found, weights, largest, total):
    """Add weight × residual and weight to `total` [h w 4] where no channel exceeds `largest`."""
    height, width = weights.shape
    for y in prange(height):
        for x in range(width):
            w = weights[y, x]
            if w <= 0:
                continue
            worst = max(abs(found[y, x, 0]), abs(found[y, x, 1]), abs(found[y, x, 2]))
            if worst > largest:
                continue
            for k in range(3):
                total[y, x, k] += w * found[y, x, k]
            total[y, x, 3] += w


@njit(parallel=True, cache=True)
def smooth_texels(color, weight, strength):
    """Move each known texel by `strength` towards the mean of its four neighbours, in place.

    Only where all five are known. Two colours of a checkerboard in turn, so that the result does
    not depend on the number of threads.
    """
    height, width = weight.shape
    quarter = np.float32(0.25)
    for parity in range(2):
        for y in prange(1, height - 1):
            for x in range(1 + (y + parity) % 2, width - 1, 2):
                if weight[y, x] <= 0 or weight[y - 1, x] <= 0 or weight[y + 1, x] <= 0:
                    continue
                if weight[y, x - 1] <= 0 or weight[y, x + 1] <= 0:
                    continue
                for k in range(3):
                    around = color[y - 1, x, k] + color[y + 1, x, k]
                    around += color[y, x - 1, k] + color[y, x + 1, k]
                    color[y, x, k] += strength * (quarter * around - color[y, x, k])
