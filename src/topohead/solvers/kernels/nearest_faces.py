"""The nearest triangle among a few candidates for each of very many points."""

import numpy as np
from numba import njit, prange


@njit(cache=True, inline="always")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _foot(p, a, b, c):
    """Barycentrics of the point of triangle abc nearest to p.

    By the region of the plane that p's foot falls into (Ericson 2005, section 5.1.5).
    """
    ab, ac = b - a, c - a
    ap, bp, cp = p - a, p - b, p - c
    d1, d2 = _dot(ab, ap), _dot(ac, ap)
    if d1 <= 0 and d2 <= 0:
        return 1.0, 0.0, 0.0
    d3, d4 = _dot(ab, bp), _dot(ac, bp)
    if d3 >= 0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0 and d1 >= 0 and d3 <= 0:
        v = d1 / (d1 - d3)
        return 1 - v, v, 0.0
    d5, d6 = _dot(ab, cp), _dot(ac, cp)
    if d6 >= 0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0 and d2 >= 0 and d6 <= 0:
        w = d2 / (d2 - d6)
        return 1 - w, 0.0, w
    va = d3 * d6 - d5 * d4
    if va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        return 0.0, 1 - w, w
    total = va + vb + vc
    if not total > 0:  # no area: any corner is as good
        return 1.0, 0.0, 0.0
    return va / total, vb / total, vc / total


@njit(parallel=True, cache=True, error_model="numpy")
def nearest_facing(points, facing, candidates, corners, normals, agreement):
    """For float64 points [N 3] with unit normals `facing`: triangle, barycentrics and distance.

    `candidates` int [N K] are rows of `corners` [T 3 3] and `normals` [T 3], or −1. A triangle
    counts when its normal's cosine with the point's is above `agreement`; −1 where none does.
    """
    count = len(points)
    triangle = np.full(count, -1, np.int64)
    weights = np.zeros((count, 3))
    distance = np.full(count, np.inf)
    for i in prange(count):
        for k in range(candidates.shape[1]):
            t = candidates[i, k]
            if t < 0 or _dot(facing[i], normals[t]) < agreement:
                continue
            a, b, c = corners[t, 0], corners[t, 1], corners[t, 2]
            u, v, w = _foot(points[i], a, b, c)
            square = 0.0
            for x in range(3):
                square += (points[i, x] - u * a[x] - v * b[x] - w * c[x]) ** 2
            if np.sqrt(square) < distance[i]:
                triangle[i], distance[i] = t, np.sqrt(square)
                weights[i, 0], weights[i, 1], weights[i, 2] = u, v, w
    return triangle, weights, distance
