"""Compiled loops of the hashed random fields: gradient noise, cells, spots (see `fields`)."""

import math

import numpy as np
from numba import njit, prange

MASK = 0xFFFFFFFF


@njit(cache=True, inline="always")
def _mixed(x):
    """A permutation of 32-bit numbers in which every bit depends on all (Wellons 2018)."""
    x ^= x >> 16
    x = (x * 0x7FEB352D) & MASK
    x ^= x >> 15
    x = (x * 0x846CA68B) & MASK
    return x ^ (x >> 16)


@njit(cache=True, inline="always")
def _hash(i, j, k, seed):
    """32 random bits of a cell."""
    return _mixed(((i * 0x8DA6B343) ^ (j * 0xD8163841) ^ (k * 0xCB1AB31F) ^ seed) & MASK)


@njit(cache=True, inline="always")
def _corner(i, j, k, seed, x, y, z):
    """The linear ramp of a lattice point: its random gradient times the way from there."""
    bits = _hash(i, j, k, seed)
    gx = (bits & 1023) * (2.0 / 1023) - 1.0
    gy = ((bits >> 10) & 1023) * (2.0 / 1023) - 1.0
    gz = ((bits >> 20) & 1023) * (2.0 / 1023) - 1.0
    return gx * x + gy * y + gz * z


@njit(cache=True, inline="always")
def _gradient_noise(x, y, z, seed):
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    x, y, z = x - i, y - j, z - k
    i, j, k = np.int64(i), np.int64(j), np.int64(k)
    u = x * x * x * (x * (x * 6.0 - 15.0) + 10.0)
    v = y * y * y * (y * (y * 6.0 - 15.0) + 10.0)
    w = z * z * z * (z * (z * 6.0 - 15.0) + 10.0)
    a = _corner(i, j, k, seed, x, y, z)
    a += u * (_corner(i + 1, j, k, seed, x - 1.0, y, z) - a)
    b = _corner(i, j + 1, k, seed, x, y - 1.0, z)
    b += u * (_corner(i + 1, j + 1, k, seed, x - 1.0, y - 1.0, z) - b)
    c = _corner(i, j, k + 1, seed, x, y, z - 1.0)
    c += u * (_corner(i + 1, j, k + 1, seed, x - 1.0, y, z - 1.0) - c)
    d = _corner(i, j + 1, k + 1, seed, x, y - 1.0, z - 1.0)
    d += u * (_corner(i + 1, j + 1, k + 1, seed, x - 1.0, y - 1.0, z - 1.0) - d)
    a += v * (b - a)
    c += v * (d - c)
    return a + w * (c - a)


@njit(parallel=True, cache=True)
def octaves(points, frequencies, weights, seeds):
    """Σ weight · noise(frequency · point) [N] of points [N 3]; one entry an octave."""
    out = np.empty(len(points), np.float32)
    for n in prange(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        total = 0.0
        for o in range(len(frequencies)):
            f = frequencies[o]
            total += weights[o] * _gradient_noise(x * f, y * f, z * f, seeds[o])
        out[n] = total
    return out


@njit(parallel=True, cache=True)
def cells(points, seed, axis):
    """Distances to the nearest and second nearest dot, and the nearest one's number [N 3].

    One dot in every unit cell; squared distances lose (offset · axis)², so dots are long along it.
    """
    out = np.empty((len(points), 3), np.float32)
    for n in prange(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        ax, ay, az = axis[n, 0], axis[n, 1], axis[n, 2]
        i0, j0, k0 = np.int64(math.floor(x)), np.int64(math.floor(y)), np.int64(math.floor(z))
        first, second, number = 1e9, 1e9, np.int64(0)
        for step in range(27):
            i, j, k = i0 + step % 3 - 1, j0 + step // 3 % 3 - 1, k0 + step // 9 - 1
            bits = _hash(i, j, k, seed)
            dx = i + ((bits & 1023) + 0.5) / 1024 - x
            dy = j + (((bits >> 10) & 1023) + 0.5) / 1024 - y
            dz = k + (((bits >> 20) & 1023) + 0.5) / 1024 - z
            along = dx * ax + dy * ay + dz * az
            square = dx * dx + dy * dy + dz * dz - along * along
            if square < first:
                second, first, number = first, square, bits
            elif square < second:
                second = square
        out[n, 0], out[n, 1] = math.sqrt(first), math.sqrt(second)
        out[n, 2] = (_mixed(number ^ 0x68E31DA4) >> 8) / 16777216.0
    return out


@njit(parallel=True, cache=True)
def spots(points, seed, presence, small, large, axis):
    """How deep a point lies in the deepest spot, 1 at a middle, 0 outside, and its number [N 2].

    A unit cell holds a spot with probability `presence` [N]; radii from `small` to `large`, at
    most 0.5, small ones more often. `axis` as in `cells`.
    """
    out = np.empty((len(points), 2), np.float32)
    for n in prange(len(points)):
        depth, found = 0.0, 0.0
        if presence[n] > 0.0:
            x, y, z = points[n, 0], points[n, 1], points[n, 2]
            ax, ay, az = axis[n, 0], axis[n, 1], axis[n, 2]
            # a spot no wider than a cell reaches from the eight nearest cells only
            i0 = np.int64(math.floor(x - 0.5))
            j0 = np.int64(math.floor(y - 0.5))
            k0 = np.int64(math.floor(z - 0.5))
            for step in range(8):
                i, j, k = i0 + step % 2, j0 + step // 2 % 2, k0 + step // 4
                bits = _hash(i, j, k, seed)
                more = _mixed(bits ^ 0x68E31DA4)
                if (more & 65535) * (1.0 / 65536) < presence[n]:
                    share = (more >> 16) * (1.0 / 65536)
                    radius = small + (large - small) * share * share
                    dx = i + ((bits & 1023) + 0.5) / 1024 - x
                    dy = j + (((bits >> 10) & 1023) + 0.5) / 1024 - y
                    dz = k + (((bits >> 20) & 1023) + 0.5) / 1024 - z
                    along = dx * ax + dy * ay + dz * az
                    square = max(dx * dx + dy * dy + dz * dz - along * along, 0.0)
                    inside = 1.0 - math.sqrt(square) / radius
                    if inside > depth:
                        depth, found = inside, (_mixed(more) >> 8) / 16777216.0
        out[n, 0], out[n, 1] = depth, found
    return out
