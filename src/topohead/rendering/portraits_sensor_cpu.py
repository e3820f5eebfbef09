"""Compiled loops of portraits: background, blur, colour response, noise and encoding of a batch."""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.sensor_cpu import mirrored, normal_pair, philox, srgb


@njit(cache=True, inline="always")
def _backdrop(picture, x, y, c):
    """A bilinear sample at (x, y) in texels, repeated beyond the border."""
    height, width = picture.shape[0], picture.shape[1]
    column, row = math.floor(x), math.floor(y)
    fx, fy = x - column, y - row
    value = 0.0
    for k in range(4):
        i = min(max(row + k // 2, 0), height - 1)
        j = min(max(column + k % 2, 0), width - 1)
        value += (fy if k // 2 else 1.0 - fy) * (fx if k % 2 else 1.0 - fx) * picture[i, j, c]
    return value


@njit(parallel=True, cache=True, error_model="numpy")
def composite(color, coverage, pictures, index, window):
    """Premultiplied light [B H W 3] laid over backdrops: pictures [N h w 3], one a head.

    `window` [B 4] is what is seen of it: left, top, width, height in parts of the picture.
    """
    heads, height, width = coverage.shape
    out = np.empty_like(color)
    for task in prange(heads * height):
        b, y = task // height, task % height
        picture, place = pictures[index[b]], window[b]
        row = (place[1] + place[3] * (y + 0.5) / height) * picture.shape[0] - 0.5
        for x in range(width):
            column = (place[0] + place[2] * (x + 0.5) / width) * picture.shape[1] - 0.5
            rest = 1.0 - coverage[b, y, x]
            for c in range(3):
                behind = _backdrop(picture, column, row, c) if rest > 0.0 else 0.0
                out[b, y, x, c] = color[b, y, x, c] + rest * behind
    return out


@njit(parallel=True, cache=True, error_model="numpy")
def expose(light, taps, numbers, keys):
    """Stored pictures [B H W 3] float32, srgb in [0, 1], of linear light [B H W 3].

    `taps` [B K] blur along a side; `numbers` [B 6] are the gains of red, green and blue, the share
    of light lost in a corner, noise that is constant and noise by the root of the light; `keys`
    decide the noise.
    """
    heads, height, width = light.shape[:3]
    count = taps.shape[1]
    reach = count // 2
    out = np.empty((heads, height, width, 3), np.float32)
    for task in prange(heads * height):
        b, y = task // height, task % height
        row = np.zeros((width + 2 * reach, 3))  # mirrored beyond the ends
        for k in range(count):
            if taps[b, k] == 0.0:
                continue
            source = light[b, mirrored(y + k - reach, height)]
            for x in range(width):
                for c in range(3):
                    row[x + reach, c] += taps[b, k] * source[x, c]
        for x in range(reach):
            row[x] = row[reach + mirrored(x - reach, width)]
            row[width + reach + x] = row[reach + mirrored(width + x, width)]
        falloff = numbers[b, 3] / (0.25 * (width * width + height * height))
        read, shot = numbers[b, 4], numbers[b, 5]
        for x in range(width):
            dx, dy = x + 0.5 - 0.5 * width, y + 0.5 - 0.5 * height
            lens = 1.0 - falloff * (dx * dx + dy * dy)
            first_word, second_word, third_word, fourth_word = philox(y * width + x, keys[b])
            first, second = normal_pair(first_word, second_word)
            third, _ = normal_pair(third_word, fourth_word)
            for c in range(3):
                value = 0.0
                for k in range(count):
                    if taps[b, k] > 0.0:
                        value += taps[b, k] * row[x + k, c]
                value *= lens * numbers[b, c]
                noise = first if c == 0 else (second if c == 1 else third)
                value += math.sqrt(read * read + shot * shot * max(value, 0.0)) * noise
                out[b, y, x, c] = srgb(value)
    return out
