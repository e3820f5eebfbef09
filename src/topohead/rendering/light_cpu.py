"""Compiled loops of the virtual stage's light: shadow maps, and what arrives at each vertex."""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.mesh_cpu import rasterize_projected


@njit(parallel=True, cache=True)
def project_points(points, projection):
    """(u, v, depth) [N 3] float32 of points [N 3] under a 3×4 projection."""
    out = np.empty((points.shape[0], 3), np.float32)
    for i in prange(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
        u = projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]
        v = projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]
        out[i, 0], out[i, 1], out[i, 2] = u / w, v / w, w
    return out


def shadow_map(points, triangles, projection, size):
    """Depth [size size] of a mesh seen from a light, both sides of its triangles drawn."""
    projected = project_points(points, projection)
    return rasterize_projected(projected, triangles, size, size, False, 1e-3)[0]


@njit(parallel=True, cache=True)
def receive(
    points, normals, projection, depth, bias, spread, light, area_axis, radiance, sums, lamp_seen
):
    """Add one point of a light to the sums of every vertex.

    `light` is (x, y, z, weight): its place, and its solid angle (`area_axis` zero: the direction
    is from there to the origin for all) or its area in m² (`area_axis` the direction it faces).
    A texel of `depth` counts as in front when it is nearer by `bias` metres plus `spread` metres
    times the tangent of the light's angle to the normal, since a texel spans that much depth.
    The four nearest texels vote, bilinearly weighted.
    Sums [N 11]: irradiance, blocked irradiance, its derivative, open and whole cosine (dome only).
    """
    height, width = depth.shape
    is_area = area_axis[0] != 0.0 or area_axis[1] != 0.0 or area_axis[2] != 0.0
    mean = (radiance[0] + radiance[1] + radiance[2]) / 3.0
    far = math.sqrt(light[0] ** 2 + light[1] ** 2 + light[2] ** 2)
    for i in prange(points.shape[0]):
        if is_area:
            lx, ly, lz = light[0] - points[i, 0], light[1] - points[i, 1], light[2] - points[i, 2]
            distance = math.sqrt(lx * lx + ly * ly + lz * lz)
            lx, ly, lz = lx / distance, ly / distance, lz / distance
            cosine = -(lx * area_axis[0] + ly * area_axis[1] + lz * area_axis[2])
            weight = light[3] * max(cosine, 0.0) / (distance * distance)
        else:
            lx, ly, lz = light[0] / far, light[1] / far, light[2] / far
            weight = light[3]
        facing = lx * normals[i, 0] + ly * normals[i, 1] + lz * normals[i, 2]
        if facing <= 0.0:
            continue
        seen = _visible(points, i, projection, depth, facing, bias, spread, height, width)
        front = facing * weight
        for c in range(3):
            sums[i, c] += front * seen * radiance[c]
            sums[i, 3 + c] += front * (1.0 - seen) * radiance[c]
        # the derivative of n·ω with respect to n is ω on the lit side
        lit = weight * seen * mean
        sums[i, 6] += lit * lx
        sums[i, 7] += lit * ly
        sums[i, 8] += lit * lz
        if is_area:
            lamp_seen[i] += seen
        else:
            sums[i, 9] += front * seen
            sums[i, 10] += front


@njit(cache=True, inline="always")
def _visible(points, i, projection, depth, facing, bias, spread, height, width):
    """Share of the four nearest texels of a shadow map that do not hide point i."""
    x, y, z = points[i, 0], points[i, 1], points[i, 2]
    w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
    u = projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]
    v = projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]
    u, v = u / w - 0.5, v / w - 0.5
    column, row = math.floor(u), math.floor(v)
    du, dv = u - column, v - row
    slope = math.sqrt(max(0.0, 1.0 - facing * facing)) / max(facing, 0.15)
    nearest = w - bias - spread * slope
    seen = 0.0
    for k in range(4):
        r, c = row + k // 2, column + k % 2
        weight = (dv if k // 2 else 1.0 - dv) * (du if k % 2 else 1.0 - du)
        if r < 0 or c < 0 or r >= height or c >= width or depth[r, c] > nearest:
            seen += weight
    return seen
