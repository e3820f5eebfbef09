"""Compiled loops of the virtual stage: lenses, and what a supersampled picture shows.

This is the renderer that makes test pictures. It shares the triangle rasteriser with the rest of
the package but samples textures, filters and shades in its own way, so that a solver which
renders too is never tested against its own appearance model.
"""

import math

import numpy as np
from numba import njit, prange

F0 = 0.028
"""Reflectance of skin and tears at normal incidence."""

PLACE, NORMAL, IRRADIANCE, STEER, OPEN_SKY, TINT, ROUGHNESS, LAMP_SEEN = 0, 3, 6, 9, 12, 13, 16, 17
"""Columns of the table of vertices: in world metres, unit, linear light, its relative change with
the normal, the share of open sky, plain colour and roughness, the visible share of each lamp."""

UV, GRADIENT_U, GRADIENT_V = 0, 6, 9
"""Columns of the table of triangles: u v of three corners, surface gradients of u and v."""


@njit(parallel=True, cache=True)
def bend_brown(local, coefficients):
    """Camera-frame points [N 3] moved, at their depth, to where a pinhole sees what the lens sees.

    `coefficients` are k1 k2 k3 k4 p1 p2 of Brown's model with p1, p2 as OpenCV orders them.
    """
    k1, k2, k3, k4 = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    p1, p2 = coefficients[4], coefficients[5]
    out = np.empty_like(local)
    for i in prange(local.shape[0]):
        z = local[i, 2]
        x, y = local[i, 0] / z, local[i, 1] / z
        r = x * x + y * y
        radial = 1.0 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
        out[i, 0] = z * (x * radial + 2.0 * p1 * x * y + p2 * (r + 2.0 * x * x))
        out[i, 1] = z * (y * radial + p1 * (r + 2.0 * y * y) + 2.0 * p2 * x * y)
        out[i, 2] = z
    return out


@njit(cache=True, inline="always")
def _fetch(atlas, offset, size, u, v, out, weight):
    """Add a bilinear sample of one level of the atlas; row 0 is v = 1."""
    channels = atlas.shape[1]
    x = u * size - 0.5
    y = (1.0 - v) * size - 0.5
    column, row = math.floor(x), math.floor(y)
    fx, fy = x - column, y - row
    for k in range(4):
        r = min(max(row + k // 2, 0), size - 1)
        c = min(max(column + k % 2, 0), size - 1)
        w = weight * (fy if k // 2 else 1.0 - fy) * (fx if k % 2 else 1.0 - fx)
        at = offset + r * size + c
        for j in range(channels):
            out[j] += w * atlas[at, j]


@njit(cache=True, inline="always")
def _trilinear(atlas, offsets, sizes, u, v, level, out):
    for j in range(atlas.shape[1]):
        out[j] = 0.0
    top = len(sizes) - 1
    level = min(max(level, 0.0), float(top))
    low = int(level)
    part = level - low
    _fetch(atlas, offsets[low], sizes[low], u, v, out, 1.0 - part)
    if part > 0.0 and low < top:
        _fetch(atlas, offsets[low + 1], sizes[low + 1], u, v, out, part)


@njit(cache=True, inline="always")
def _ggx(nh, nv, nl, vh, alpha, f0):
    """Reflectance × cosine of a GGX surface (Walter et al. 2007; Smith height-correlated)."""
    a2 = alpha * alpha
    d = nh * nh * (a2 - 1.0) + 1.0
    distribution = a2 / (math.pi * d * d)
    shadowing = nl * math.sqrt(nv * nv * (1.0 - a2) + a2) + nv * math.sqrt(
        nl * nl * (1.0 - a2) + a2
    )
    fresnel = f0 + (1.0 - f0) * (1.0 - vh) ** 5
    return distribution * fresnel * 0.5 / max(shadowing, 1e-6) * nl


@njit(cache=True, inline="always")
def _mix(values, i, j, k, c, b0, b1, b2):
    """A corner value carried to a point of the triangle."""
    return b0 * values[i, c] + b1 * values[j, c] + b2 * values[k, c]


@njit(cache=True, inline="always")
def _unit(x, y, z):
    inverse = 1.0 / math.sqrt(x * x + y * y + z * z + 1e-20)
    return x * inverse, y * inverse, z * inverse


@njit(cache=True, inline="always")
def _sky_gloss(rough, nv):
    """Share of an even white surrounding that a glossy skin reflects, f0 = 0.028.

    The fit of the split-sum integral by Karis (2014, "Physically based shading on mobile").
    """
    grazing = min((1.0 - rough) * (1.0 - rough), 2.0 ** (-9.28 * nv))
    a = grazing * (1.0 - rough) + (0.0425 - 0.0275 * rough)
    scale = -1.04 * a + 1.04 - 0.572 * rough
    return max(F0 * scale + 1.04 * a + 0.022 * rough - 0.04, 0.0)


@njit(cache=True, inline="always")
def _lamp_gloss(normal, view, towards, alpha, angle):
    """Share of a lamp's radiance that reaches the eye by reflection.

    A lamp of angular radius `angle` widens the lobe (Karis 2013).
    """
    nl = normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2]
    if nl <= 0.0:
        return 0.0
    half = _unit(towards[0] + view[0], towards[1] + view[1], towards[2] + view[2])
    nh = min(max(normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2], 0.0), 1.0)
    vh = min(max(view[0] * half[0] + view[1] * half[1] + view[2] * half[2], 0.0), 1.0)
    nv = max(normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2], 0.03)
    wide = min(1.0, alpha + 0.5 * angle)
    return math.pi * angle * angle * _ggx(nh, nv, nl, vh, wide, F0)


@njit(parallel=True, cache=True)
def shade(
    triangle_map, barycentric_map, factor, corners, per_triangle, level, per_vertex,
    atlas, offsets, sizes, lamps, view,
):  # fmt: skip
    """Linear colour [H W 3], premultiplied, and coverage [H W] of a supersampled picture.

    The maps are `factor` times the picture. `per_triangle` [T 12] and `per_vertex` [S 17+L] have
    the columns above; `level` is a triangle's texture level (below 0: untextured, tint and
    roughness of the vertices count). Atlas: albedo, roughness, ∂height/∂u, ∂height/∂v. A lamp is
    its place, radiance and angular radius [L 7]; `view` [10] holds the eye, the sky's radiance
    straight below and straight above, and the strength of gloss.
    """
    height, width = triangle_map.shape[0] // factor, triangle_map.shape[1] // factor
    color = np.zeros((height, width, 3), np.float32)
    coverage = np.zeros((height, width), np.float32)
    share = 1.0 / (factor * factor)
    gloss = view[9]
    for py in prange(height):
        texel = np.zeros(atlas.shape[1], np.float64)
        out = np.zeros(3, np.float64)
        for px in range(width):
            for sample in range(factor * factor):
                y, x = py * factor + sample // factor, px * factor + sample % factor
                t = triangle_map[y, x]
                if t < 0:
                    continue
                b0, b1 = barycentric_map[y, x, 0], barycentric_map[y, x, 1]
                b2 = barycentric_map[y, x, 2]
                i, j, k = corners[t, 0], corners[t, 1], corners[t, 2]
                nx = _mix(per_vertex, i, j, k, NORMAL, b0, b1, b2)
                ny = _mix(per_vertex, i, j, k, NORMAL + 1, b0, b1, b2)
                nz = _mix(per_vertex, i, j, k, NORMAL + 2, b0, b1, b2)
                nx, ny, nz = _unit(nx, ny, nz)
                turn = 1.0
                if level[t] >= 0.0:
                    row = per_triangle[t]
                    u = b0 * row[UV] + b1 * row[UV + 2] + b2 * row[UV + 4]
                    v = b0 * row[UV + 1] + b1 * row[UV + 3] + b2 * row[UV + 5]
                    _trilinear(atlas, offsets, sizes, u, v, level[t], texel)
                    # bump: tilt the normal by the surface gradient of the height (Mikkelsen 2010)
                    mx = nx - texel[4] * row[GRADIENT_U] - texel[5] * row[GRADIENT_V]
                    my = ny - texel[4] * row[GRADIENT_U + 1] - texel[5] * row[GRADIENT_V + 1]
                    mz = nz - texel[4] * row[GRADIENT_U + 2] - texel[5] * row[GRADIENT_V + 2]
                    mx, my, mz = _unit(mx, my, mz)
                    turn += (mx - nx) * _mix(per_vertex, i, j, k, STEER, b0, b1, b2)
                    turn += (my - ny) * _mix(per_vertex, i, j, k, STEER + 1, b0, b1, b2)
                    turn += (mz - nz) * _mix(per_vertex, i, j, k, STEER + 2, b0, b1, b2)
                    turn = min(max(turn, 0.0), 3.0)
                    nx, ny, nz = mx, my, mz
                else:
                    for c in range(4):  # tint, then roughness
                        texel[c] = _mix(per_vertex, i, j, k, TINT + c, b0, b1, b2)
                for c in range(3):
                    light = _mix(per_vertex, i, j, k, IRRADIANCE + c, b0, b1, b2)
                    out[c] = texel[c] * light * turn / math.pi
                if gloss > 0.0:
                    wx = _mix(per_vertex, i, j, k, PLACE, b0, b1, b2)
                    wy = _mix(per_vertex, i, j, k, PLACE + 1, b0, b1, b2)
                    wz = _mix(per_vertex, i, j, k, PLACE + 2, b0, b1, b2)
                    towards_eye = _unit(view[0] - wx, view[1] - wy, view[2] - wz)
                    normal = (nx, ny, nz)
                    nv = nx * towards_eye[0] + ny * towards_eye[1] + nz * towards_eye[2]
                    nv = max(nv, 0.03)
                    up = 0.5 + 0.5 * (2.0 * nv * ny - towards_eye[1])
                    seen = _mix(per_vertex, i, j, k, OPEN_SKY, b0, b1, b2)
                    strength = gloss * seen * seen * _sky_gloss(texel[3], nv)
                    for c in range(3):
                        out[c] += strength * (view[3 + c] + up * (view[6 + c] - view[3 + c]))
                    alpha = max(texel[3] * texel[3], 0.004)
                    for lamp in range(lamps.shape[0]):
                        visible = _mix(per_vertex, i, j, k, LAMP_SEEN + lamp, b0, b1, b2)
                        place = lamps[lamp]
                        towards = _unit(place[0] - wx, place[1] - wy, place[2] - wz)
                        strength = _lamp_gloss(normal, towards_eye, towards, alpha, place[6])
                        for c in range(3):
                            out[c] += gloss * visible * strength * place[3 + c]
                for c in range(3):
                    color[py, px, c] += share * out[c]
                coverage[py, px] += share
    return color, coverage
