"""Heights of one surface over points of another, for surfaces that face each other."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def overlap(points, chosen, vertices, triangles, facing):
    """How deep points lie beyond the nearest sheet of a surface, along y [P]; −inf without one.

    `points` and `vertices` are float64 [* 3]. A sheet counts at a point's (x, z) where its normal's
    y has the sign of `facing`; depth is positive where the sheet lies further along `facing` than
    the point does. Only points in the mask `chosen` are looked at.
    """
    depth = np.full(len(points), -np.inf)
    looked_at = np.flatnonzero(chosen)
    for t in range(len(triangles)):
        a, b, c = vertices[triangles[t, 0]], vertices[triangles[t, 1]], vertices[triangles[t, 2]]
        # (b − a) × (c − a), its y: twice the area seen along y, positive when it faces +y
        area = (b[2] - a[2]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[2] - a[2])
        if area * facing <= 1e-14:
            continue
        low_x, high_x = min(a[0], b[0], c[0]), max(a[0], b[0], c[0])
        low_z, high_z = min(a[2], b[2], c[2]), max(a[2], b[2], c[2])
        for p in looked_at:
            x, z = points[p, 0], points[p, 2]
            if x < low_x or x > high_x or z < low_z or z > high_z:
                continue
            u = ((b[2] - z) * (c[0] - x) - (b[0] - x) * (c[2] - z)) / area
            v = ((c[2] - z) * (a[0] - x) - (c[0] - x) * (a[2] - z)) / area
            if u < 0 or v < 0 or u + v > 1:
                continue
            height = u * a[1] + v * b[1] + (1 - u - v) * c[1]
            found = (height - points[p, 1]) * facing
            if abs(found) < abs(depth[p]):
                depth[p] = found
    return depth
