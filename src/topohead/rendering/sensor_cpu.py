"""Compiled loops of a virtual sensor: blur, vignetting, colour response, noise, encoding.

Noise comes from a counter-based generator: what a pixel gets depends on the picture's key and the
pixel's number only, so that threads and devices all draw the same.
"""

import math

import numpy as np
from numba import njit, prange

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


@njit(cache=True, inline="always")
def philox(counter, key):
    """Four random 32-bit words of a counter below 2³² (Philox-4×32-10, Salmon et al. 2011)."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.uint64(counter), np.uint64(0), np.uint64(0), np.uint64(0)
    k0, k1 = np.uint64(key) & mask, np.uint64(key) >> half
    for _ in range(ROUNDS):
        low, high = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (high >> half) ^ c1 ^ k0,
            high & mask,
            (low >> half) ^ c3 ^ k1,
            low & mask,
        )
        k0, k1 = (k0 + np.uint64(WEYL[0])) & mask, (k1 + np.uint64(WEYL[1])) & mask
    return c0, c1, c2, c3


@njit(cache=True, inline="always")
def normal_pair(first, second):
    """Two standard normals of two words (Box & Muller 1958), at most 5.8 from zero."""
    # 23 bits, so that float32 on other devices holds the same numbers
    u = (float(first >> np.uint64(9)) + 0.5) * 2.0**-23
    angle = 2.0 * math.pi * ((float(second >> np.uint64(9)) + 0.5) * 2.0**-23)
    radius = math.sqrt(-2.0 * math.log(u))
    return radius * math.cos(angle), radius * math.sin(angle)


@njit(cache=True, inline="always")
def mirrored(index, count):
    """The place inside a row of `count` that a place beyond its ends repeats."""
    index = index % (2 * count)
    return min(index, 2 * count - 1 - index)


@njit(parallel=True, cache=True)
def expose(light, weights, center, falloff, gain, offset, read, shot, key):
    """The stored picture [H W 3] float32, srgb in [0, 1], of linear light [H W 3].

    `weights` are the blur's taps along one side; `falloff` is the loss of light a square pixel
    from `center`; `read` and `shot` are noise, constant and by the root of the light.
    """
    height, width = light.shape[0], light.shape[1]
    reach = len(weights) // 2
    out = np.empty((height, width, 3), np.float32)
    for y in prange(height):
        row = np.zeros((width, 3))
        for k in range(len(weights)):
            source = light[mirrored(y + k - reach, height)]
            for x in range(width):
                for c in range(3):
                    row[x, c] += weights[k] * source[x, c]
        for x in range(width):
            dx, dy = x + 0.5 - center[0], y + 0.5 - center[1]
            lens = 1.0 - falloff * (dx * dx + dy * dy)
            a, b, c, d = philox(y * width + x, key)
            first, second = normal_pair(a, b)
            third, _ = normal_pair(c, d)
            for channel in range(3):
                value = 0.0
                for k in range(len(weights)):
                    value += weights[k] * row[mirrored(x + k - reach, width), channel]
                value = value * lens * gain[channel] + offset[channel]
                noise = first if channel == 0 else (second if channel == 1 else third)
                value += math.sqrt(read * read + shot * shot * max(value, 0.0)) * noise
                out[y, x, channel] = srgb(value)
    return out


@njit(cache=True, inline="always")
def srgb(linear):
    """The sRGB curve (IEC 61966-2-1), clipped to [0, 1]."""
    if linear <= 0.0031308:
        return 12.92 * max(linear, 0.0)
    return 1.055 * min(linear, 1.0) ** (1.0 / 2.4) - 0.055
