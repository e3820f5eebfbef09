"""Loops over the texels that wait for a colour, compiled by numba.

`wanted` int64 [N] are places of texels in the flattened texture, all of them on islands.
"""

import numpy as np
from numba import njit, prange

from topohead.rendering.uv_cpu import corner_weights


@njit(cache=True, inline="always")
def _cell(position, count):
    """The lower of two neighbouring cells around a position in texels, and the way to the next."""
    place = min(max(position - np.float32(0.5), np.float32(0.0)), np.float32(count) - 1.001)
    lower = int(place)
    return lower, np.float32(place - lower)


@njit(parallel=True, cache=True)
def lend_mirrored(wanted, triangle_map, corners, sources, color, seen):
    """What the other side of the head shows: colour and how far it is known there, [N 4].

    `sources` float32 [T 3 2] are the corners' places on the other side, in texels (NaN: none).
    """
    size = triangle_map.shape[0]
    lent = np.zeros((wanted.shape[0], 4), np.float32)
    for n in prange(wanted.shape[0]):
        y, x = wanted[n] // size, wanted[n] % size
        t = triangle_map[y, x]
        if np.isnan(sources[t, 0, 0]):
            continue
        wa, wb, wc = corner_weights(corners, t, np.float32(x + 0.5), np.float32(y + 0.5))
        column, dx = _cell(
            wa * sources[t, 0, 0] + wb * sources[t, 1, 0] + wc * sources[t, 2, 0], size
        )
        row, dy = _cell(wa * sources[t, 0, 1] + wb * sources[t, 1, 1] + wc * sources[t, 2, 1], size)
        for i in range(2):
            down = dy if i else np.float32(1.0) - dy
            for j in range(2):
                w = down * (dx if j else np.float32(1.0) - dx) * seen[row + i, column + j]
                for k in range(3):
                    lent[n, k] += w * color[row + i, column + j, k]
                lent[n, 3] += w
        if lent[n, 3] > 0:
            inverse = np.float32(1.0) / lent[n, 3]
            for k in range(3):
                lent[n, k] *= inverse
    return lent


@njit(parallel=True, cache=True)
def lend_interpolated(wanted, triangle_map, corners, triangles, values):
    """Vertex colours [V 3] carried to the wanted texels, wholly known: [N 4]."""
    size = triangle_map.shape[0]
    lent = np.ones((wanted.shape[0], 4), np.float32)
    for n in prange(wanted.shape[0]):
        y, x = wanted[n] // size, wanted[n] % size
        t = triangle_map[y, x]
        wa, wb, wc = corner_weights(corners, t, np.float32(x + 0.5), np.float32(y + 0.5))
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        for k in range(3):
            lent[n, k] = wa * values[a, k] + wb * values[b, k] + wc * values[c, k]
    return lent


@njit(parallel=True, cache=True)
def place_beneath(wanted, lent, part, offset, color, seen):
    """Blend what is lent (moved by the membrane of its part) beneath what is known, in place.

    `part` uint8 [N] chooses among the membranes `offset` float32 [P s s 3], s a fraction of the
    texture's size.
    """
    size, small = seen.shape[0], offset.shape[1]
    shrink = np.float32(small / size)
    one = np.float32(1.0)
    for n in prange(wanted.shape[0]):
        weight = lent[n, 3]
        if weight <= 0:
            continue
        y, x = wanted[n] // size, wanted[n] % size
        column, dx = _cell(np.float32(x + 0.5) * shrink, small)
        row, dy = _cell(np.float32(y + 0.5) * shrink, small)
        known = seen[y, x]
        share = known / max(known + (one - known) * weight, np.float32(1e-6))
        p = part[n]
        for k in range(3):
            upper = offset[p, row, column, k] * (one - dx) + offset[p, row, column + 1, k] * dx
            lower = (
                offset[p, row + 1, column, k] * (one - dx) + offset[p, row + 1, column + 1, k] * dx
            )
            source = lent[n, k] + upper * (one - dy) + lower * dy
            color[y, x, k] = share * color[y, x, k] + (one - share) * source
        seen[y, x] = known + (one - known) * weight


@njit(parallel=True, cache=True)
def shrink_known(color, seen, inside, factor):
    """Cell means of (colour × known, known, on an island), float32 [S/f S/f 5]."""
    small = seen.shape[0] // factor
    packed = np.zeros((small, small, 5), np.float32)
    scale = np.float32(1.0 / (factor * factor))
    for y in prange(small):
        for x in range(small):
            for i in range(y * factor, (y + 1) * factor):
                for j in range(x * factor, (x + 1) * factor):
                    if inside[i, j] < 0:
                        continue
                    w = seen[i, j] * scale
                    for k in range(3):
                        packed[y, x, k] += w * color[i, j, k]
                    packed[y, x, 3] += w
                    packed[y, x, 4] += scale
    return packed
