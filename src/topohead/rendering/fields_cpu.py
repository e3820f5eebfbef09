"""Compiled loops of the hashed random fields: gradient noise, cells, spots (see `fields`)."""

import math

import numpy as np
from numba import njit, prange

MASK = 0xFFFFFFFF
BLOCK = 1024
SLOPE, ONE = np.float32(2.0 / 1023), np.float32(1.0)


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
def _mixed32(x):
    """`_mixed` in 32-bit registers, of which a vector unit holds many."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit(cache=True, inline="always")
def _corner(cell, x, y, z):
    """The linear ramp of a lattice point: its random gradient times the way from there."""
    bits = _mixed32(cell)
    gx = np.float32(np.int32(bits & np.uint32(1023))) * SLOPE - ONE
    gy = np.float32(np.int32((bits >> np.uint32(10)) & np.uint32(1023))) * SLOPE - ONE
    gz = np.float32(np.int32((bits >> np.uint32(20)) & np.uint32(1023))) * SLOPE - ONE
    return gx * x + gy * y + gz * z


@njit(cache=True, inline="always")
def _fade(x):
    return x * x * x * (x * (x * np.float32(6.0) - np.float32(15.0)) + np.float32(10.0))


@njit(cache=True, inline="always")
def _gradient_noise(x, y, z, seed):
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    x, y, z = x - fx, y - fy, z - fz
    i = np.uint32(np.uint32(np.int32(fx)) * np.uint32(0x8DA6B343))
    j = np.uint32(np.uint32(np.int32(fy)) * np.uint32(0xD8163841))
    k = np.uint32(np.uint32(np.int32(fz)) * np.uint32(0xCB1AB31F))
    i1 = np.uint32(i + np.uint32(0x8DA6B343))
    j1 = np.uint32(j + np.uint32(0xD8163841))
    k0, k1 = np.uint32(k ^ seed), np.uint32(np.uint32(k + np.uint32(0xCB1AB31F)) ^ seed)
    u, v, w = _fade(x), _fade(y), _fade(z)
    x1, y1, z1 = x - ONE, y - ONE, z - ONE
    a = _corner(i ^ j ^ k0, x, y, z)
    a += u * (_corner(i1 ^ j ^ k0, x1, y, z) - a)
    b = _corner(i ^ j1 ^ k0, x, y1, z)
    b += u * (_corner(i1 ^ j1 ^ k0, x1, y1, z) - b)
    c = _corner(i ^ j ^ k1, x, y, z1)
    c += u * (_corner(i1 ^ j ^ k1, x1, y, z1) - c)
    d = _corner(i ^ j1 ^ k1, x, y1, z1)
    d += u * (_corner(i1 ^ j1 ^ k1, x1, y1, z1) - d)
    a += v * (b - a)
    c += v * (d - c)
    return a + w * (c - a)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def octaves(points, frequencies, weights, seeds):
    """Σ weight · noise(frequency · point) [N] of points [3 N]; one entry an octave, all 32 bits."""
    count = points.shape[1]
    out = np.zeros(count, np.float32)
    for block in prange((count + BLOCK - 1) // BLOCK):
        first, last = block * BLOCK, min((block + 1) * BLOCK, count)
        for o in range(len(frequencies)):
            f, weight, seed = frequencies[o], weights[o], seeds[o]
            for n in range(first, last):
                x, y, z = points[0, n] * f, points[1, n] * f, points[2, n] * f
                out[n] += weight * _gradient_noise(x, y, z, seed)
    return out


@njit(parallel=True, nogil=True, cache=True)
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


@njit(parallel=True, nogil=True, cache=True)
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
