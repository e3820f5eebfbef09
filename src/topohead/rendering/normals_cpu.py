"""Compiled loops: normals of the vertices of many heads of one topology."""

import math

import numpy as np
from numba import njit, prange


@njit(cache=True)
def _areas(vertices, triangles, out):
    """Twice the area of triangles along their normals, float32 [T 3]."""
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1]
        vx, vy = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1]
        uz, vz = vertices[b, 2] - vertices[a, 2], vertices[c, 2] - vertices[a, 2]
        out[t, 0], out[t, 1], out[t, 2] = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@njit(parallel=True, cache=True, error_model="numpy")
def fan_normals(vertices, triangles, fan):
    """`geometry.meshes.fan_normals` [B V 3], a head at a time."""
    heads, count = vertices.shape[0], vertices.shape[1]
    out = np.empty((heads, count, 3), np.float32)
    for b in prange(heads):
        area = np.empty((len(triangles), 3), np.float32)
        _areas(vertices[b], triangles, area)
        for v in range(count):
            x, y, z = np.float32(0.0), np.float32(0.0), np.float32(0.0)
            for k in range(fan.shape[1]):
                t = fan[v, k]
                if t == len(triangles):  # what follows is padding
                    break
                x, y, z = x + area[t, 0], y + area[t, 1], z + area[t, 2]
            length = max(math.sqrt(x * x + y * y + z * z), np.float32(1e-30))
            out[b, v, 0], out[b, v, 1], out[b, v, 2] = x / length, y / length, z / length
    return out
