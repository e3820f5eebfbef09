"""Compiled loops of portraits: the light that comes to skin and hair from everywhere."""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.portraits_draw_cpu import place_of

HAIR_DEPTH = 0.009
"""Metres of hair behind its first surface that let 1/e of the light through."""

HAIR_BIAS = 0.0025
"""Metres behind the first surface that are in full light: a map sees single hairs, and gaps."""

BIAS = 0.0008
"""Metres by which an occluder must be in front."""


@njit(cache=True, inline="always")
def hair_light(projection, inverse_map, x, y, z):
    """Share of a light that comes through hair to a point in it: four texels, bilinear.

    Light fades with the way behind the first surface (deep opacity maps with one layer, Yuksel &
    Keyser 2008): as hair for hair, and to nothing behind a head.
    """
    height, width = inverse_map.shape
    u, v, w = place_of(projection, x, y, z)
    u, v = u - 0.5, v - 0.5
    column, row = math.floor(u), math.floor(v)
    du, dv = u - column, v - row
    light = 0.0
    for k in range(4):
        r, c = row + k // 2, column + k % 2
        weight = (dv if k // 2 else 1.0 - dv) * (du if k % 2 else 1.0 - du)
        if 0 <= r < height and 0 <= c < width and inverse_map[r, c] > 0.0:
            behind = w - 1.0 / inverse_map[r, c] - HAIR_BIAS
            light += weight * math.exp(-max(behind, 0.0) / HAIR_DEPTH)
        else:
            light += weight
    return light


@njit(parallel=True, cache=True, error_model="numpy")
def seen_parts(names, triangles, vertex_count, strand_count, point_count):
    """Which vertices [B V] and points of strands [B S P] what is drawn lies between."""
    heads = names.shape[0]
    vertices = np.zeros((heads, vertex_count), np.bool_)
    points = np.zeros((heads, strand_count * point_count), np.bool_)
    for b in prange(heads):
        last = -1
        for name in names[b].flat:
            if name < 0 or name == last:
                continue
            last = name
            if name < len(triangles):
                for corner in triangles[name]:
                    vertices[b, corner] = True
            else:
                segment = name - len(triangles)
                first = segment + segment // (point_count - 1)
                points[b, first] = points[b, first + 1] = True
    return vertices, points.reshape((heads, strand_count, point_count))


@njit(parallel=True, cache=True, error_model="numpy")
def gather_mesh(
    vertices, normals, projections, inverse_map, directions, radiance, texel, bounce, shown
):
    """Share of the sky's irradiance that reaches each vertex [B V 3], a channel each.

    Only of those `shown` [B V]; the others have zero.

    Σ L (n·ω)₊ visible / Σ L (n·ω)₊ over the directions [D 3], whose radiance is [B D 3]. Blocked
    directions send back `bounce` times what open ones do, as skin lit about as well would.
    """
    heads, count, dome = vertices.shape[0], vertices.shape[1], directions.shape[0]
    height, width = inverse_map.shape[2], inverse_map.shape[3]
    out = np.zeros((heads, count, 3), np.float32)
    for b in prange(heads):
        seen, whole = np.empty(3), np.empty(3)
        for i in range(count):
            if not shown[b, i]:
                continue
            seen[:], whole[:] = 0.0, 1e-9
            n = normals[b, i]
            for d in range(dome):
                facing = n[0] * directions[d, 0] + n[1] * directions[d, 1] + n[2] * directions[d, 2]
                if facing <= 0.0:
                    continue
                tilt = math.sqrt(max(0.0, 1.0 - facing * facing))
                away = 1.5 * texel[b] * tilt + BIAS  # out of the reach of the own surface's texels
                u, v, w = place_of(
                    projections[b, d],
                    np.float64(vertices[b, i, 0] + away * n[0]),
                    np.float64(vertices[b, i, 1] + away * n[1]),
                    np.float64(vertices[b, i, 2] + away * n[2]),
                )
                u, v = u - 0.5, v - 0.5
                column, row = math.floor(u), math.floor(v)
                du, dv = u - column, v - row
                open_share = 0.0
                for k in range(4):
                    r, c = row + k // 2, column + k % 2
                    weight = (dv if k // 2 else 1.0 - dv) * (du if k % 2 else 1.0 - du)
                    hidden = 0 <= r < height and 0 <= c < width
                    hidden = hidden and inverse_map[b, d, r, c] * (w - BIAS) > 1.0
                    open_share += 0.0 if hidden else weight
                for c in range(3):
                    light = facing * radiance[b, d, c]
                    whole[c] += light
                    seen[c] += light * open_share
            sky = (seen[0] + seen[1] + seen[2]) / (whole[0] + whole[1] + whole[2])
            for c in range(3):
                share = seen[c] / whole[c]
                out[b, i, c] = share + math.sqrt(sky) * (1.0 - share) * bounce[c]
    return out


@njit(cache=True, inline="always")
def _hair_sky(projection, inverse_map, x, y, z):
    """`hair_light` of one texel: enough where many directions are added up."""
    u, v, w = place_of(projection, x, y, z)
    column, row = math.floor(u), math.floor(v)
    inside = 0 <= row < inverse_map.shape[0] and 0 <= column < inverse_map.shape[1]
    inverse = inverse_map[row, column] if inside else np.float32(0.0)
    if inverse * (w - HAIR_BIAS) <= 1.0:
        return 1.0
    return math.exp(-(w - 1.0 / inverse - HAIR_BIAS) / HAIR_DEPTH)


@njit(parallel=True, cache=True, error_model="numpy")
def gather_hair(points, projections, inverse_map, directions, radiance, shown):
    """Light from all sides on points of strands [B S P 3]: ∫ L sin(T, ω) visible dω.

    Only on those `shown` [B S P]; the others have zero.
    """
    heads, strands, count = points.shape[0], points.shape[1], points.shape[2]
    dome = directions.shape[0]
    out = np.zeros((heads, strands, count, 3), np.float32)
    angle = 4.0 * math.pi / dome
    for task in prange(heads * strands):
        b, s = task // strands, task % strands
        for k in range(count):
            if not shown[b, s, k]:
                continue
            p = points[b, s, k]
            before, after = points[b, s, max(k - 1, 0)], points[b, s, min(k + 1, count - 1)]
            tx, ty, tz = after[0] - before[0], after[1] - before[1], after[2] - before[2]
            scale = 1.0 / math.sqrt(tx * tx + ty * ty + tz * tz + 1e-20)
            red, green, blue = 0.0, 0.0, 0.0
            for d in range(dome):
                along = tx * directions[d, 0] + ty * directions[d, 1] + tz * directions[d, 2]
                along *= scale
                sine = math.sqrt(max(0.0, 1.0 - along * along))
                x, y, z = np.float64(p[0]), np.float64(p[1]), np.float64(p[2])
                light = angle * sine * _hair_sky(projections[b, d], inverse_map[b, d], x, y, z)
                red += light * radiance[b, d, 0]
                green += light * radiance[b, d, 1]
                blue += light * radiance[b, d, 2]
            out[b, s, k, 0], out[b, s, k, 1], out[b, s, k, 2] = red, green, blue
    return out
