"""Compiled loops of the virtual stage: lenses, and what a supersampled picture shows.

This is the renderer that makes test pictures. It shares the triangle rasteriser with the rest of
the package but samples textures, filters and shades in its own way, so that a solver which
renders too is never tested against its own appearance model.
"""

import math

import numpy as np
from numba import njit, prange


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


@njit(parallel=True, cache=True)
def shade(
    triangle_map,
    barycentric_map,
    factor,
    corners,
    corner_uv,
    level,
    gradient_u,
    gradient_v,
    vertices,
    normals,
    irradiance,
    steer,
    open_sky,
    lamp_seen,
    tint,
    roughness,
    atlas,
    offsets,
    sizes,
    eye,
    lamp_position,
    lamp_radiance,
    lamp_angle,
    sky,
    gloss,
):
    """Linear colour [H W 3], premultiplied, and coverage [H W] of a supersampled picture.

    The maps are `factor` times the picture. Per triangle: corner indices and UVs, texture level
    (below 0: untextured, vertex `tint` and `roughness` count), surface gradients of u and v.
    Per vertex: irradiance, its relative change with the normal (`steer`), the share of open sky,
    the visible share of each lamp. Atlas channels: albedo, roughness, ∂height/∂u, ∂height/∂v.
    """
    height, width = triangle_map.shape[0] // factor, triangle_map.shape[1] // factor
    color = np.zeros((height, width, 3), np.float32)
    coverage = np.zeros((height, width), np.float32)
    share = 1.0 / (factor * factor)
    lamps = lamp_position.shape[0]
    for py in prange(height):
        texel = np.zeros(atlas.shape[1], np.float64)
        for px in range(width):
            for sample in range(factor * factor):
                y, x = py * factor + sample // factor, px * factor + sample % factor
                t = triangle_map[y, x]
                if t < 0:
                    continue
                coverage[py, px] += share
                b0, b1 = barycentric_map[y, x, 0], barycentric_map[y, x, 1]
                b2 = barycentric_map[y, x, 2]
                i, j, k = corners[t, 0], corners[t, 1], corners[t, 2]
                nx = b0 * normals[i, 0] + b1 * normals[j, 0] + b2 * normals[k, 0]
                ny = b0 * normals[i, 1] + b1 * normals[j, 1] + b2 * normals[k, 1]
                nz = b0 * normals[i, 2] + b1 * normals[j, 2] + b2 * normals[k, 2]
                inverse = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-20)
                nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
                ax, ay, az, rough = 0.0, 0.0, 0.0, 0.0
                turn = 1.0
                if level[t] >= 0.0:
                    u = b0 * corner_uv[t, 0, 0] + b1 * corner_uv[t, 1, 0] + b2 * corner_uv[t, 2, 0]
                    v = b0 * corner_uv[t, 0, 1] + b1 * corner_uv[t, 1, 1] + b2 * corner_uv[t, 2, 1]
                    _trilinear(atlas, offsets, sizes, u, v, level[t], texel)
                    ax, ay, az, rough = texel[0], texel[1], texel[2], texel[3]
                    # bump: tilt the normal by the surface gradient of the height (Mikkelsen 2010)
                    gx = texel[4] * gradient_u[t, 0] + texel[5] * gradient_v[t, 0]
                    gy = texel[4] * gradient_u[t, 1] + texel[5] * gradient_v[t, 1]
                    gz = texel[4] * gradient_u[t, 2] + texel[5] * gradient_v[t, 2]
                    mx, my, mz = nx - gx, ny - gy, nz - gz
                    inverse = 1.0 / math.sqrt(mx * mx + my * my + mz * mz)
                    mx, my, mz = mx * inverse, my * inverse, mz * inverse
                    turn += (mx - nx) * (b0 * steer[i, 0] + b1 * steer[j, 0] + b2 * steer[k, 0])
                    turn += (my - ny) * (b0 * steer[i, 1] + b1 * steer[j, 1] + b2 * steer[k, 1])
                    turn += (mz - nz) * (b0 * steer[i, 2] + b1 * steer[j, 2] + b2 * steer[k, 2])
                    turn = min(max(turn, 0.0), 3.0)
                    nx, ny, nz = mx, my, mz
                else:
                    ax = b0 * tint[i, 0] + b1 * tint[j, 0] + b2 * tint[k, 0]
                    ay = b0 * tint[i, 1] + b1 * tint[j, 1] + b2 * tint[k, 1]
                    az = b0 * tint[i, 2] + b1 * tint[j, 2] + b2 * tint[k, 2]
                    rough = b0 * roughness[i] + b1 * roughness[j] + b2 * roughness[k]
                lit = turn / math.pi
                red = (
                    ax
                    * lit
                    * (b0 * irradiance[i, 0] + b1 * irradiance[j, 0] + b2 * irradiance[k, 0])
                )
                green = (
                    ay
                    * lit
                    * (b0 * irradiance[i, 1] + b1 * irradiance[j, 1] + b2 * irradiance[k, 1])
                )
                blue = (
                    az
                    * lit
                    * (b0 * irradiance[i, 2] + b1 * irradiance[j, 2] + b2 * irradiance[k, 2])
                )
                if gloss > 0.0:
                    wx = b0 * vertices[i, 0] + b1 * vertices[j, 0] + b2 * vertices[k, 0]
                    wy = b0 * vertices[i, 1] + b1 * vertices[j, 1] + b2 * vertices[k, 1]
                    wz = b0 * vertices[i, 2] + b1 * vertices[j, 2] + b2 * vertices[k, 2]
                    vx, vy, vz = eye[0] - wx, eye[1] - wy, eye[2] - wz
                    inverse = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
                    vx, vy, vz = vx * inverse, vy * inverse, vz * inverse
                    nv = max(nx * vx + ny * vy + nz * vz, 0.03)
                    alpha = max(rough * rough, 0.004)
                    seen = b0 * open_sky[i] + b1 * open_sky[j] + b2 * open_sky[k]
                    up = 2.0 * nv * ny - vy
                    # split-sum weight of a white surrounding, f0 = 0.028 (fit of Karis 2014)
                    a004 = min((1.0 - rough) * (1.0 - rough), 2.0 ** (-9.28 * nv))
                    a004 = a004 * (1.0 - rough) + (0.0425 - 0.0275 * rough)
                    env = 0.028 * (-1.04 * a004 + 1.04 - 0.572 * rough) + (
                        1.04 * a004 + 0.022 * rough - 0.04
                    )
                    env = gloss * seen * seen * max(env, 0.0)
                    blend = 0.5 + 0.5 * up
                    red += env * (sky[0, 0] + blend * (sky[1, 0] - sky[0, 0]))
                    green += env * (sky[0, 1] + blend * (sky[1, 1] - sky[0, 1]))
                    blue += env * (sky[0, 2] + blend * (sky[1, 2] - sky[0, 2]))
                    for lamp in range(lamps):
                        visible = (
                            b0 * lamp_seen[i, lamp]
                            + b1 * lamp_seen[j, lamp]
                            + b2 * lamp_seen[k, lamp]
                        )
                        if visible <= 0.0:
                            continue
                        lx = lamp_position[lamp, 0] - wx
                        ly = lamp_position[lamp, 1] - wy
                        lz = lamp_position[lamp, 2] - wz
                        inverse = 1.0 / math.sqrt(lx * lx + ly * ly + lz * lz)
                        lx, ly, lz = lx * inverse, ly * inverse, lz * inverse
                        nl = nx * lx + ny * ly + nz * lz
                        if nl <= 0.0:
                            continue
                        hx, hy, hz = lx + vx, ly + vy, lz + vz
                        inverse = 1.0 / math.sqrt(hx * hx + hy * hy + hz * hz)
                        hx, hy, hz = hx * inverse, hy * inverse, hz * inverse
                        nh = min(max(nx * hx + ny * hy + nz * hz, 0.0), 1.0)
                        vh = min(max(vx * hx + vy * hy + vz * hz, 0.0), 1.0)
                        # a lamp of angular radius a widens the lobe (Karis 2013)
                        wide = min(1.0, alpha + 0.5 * lamp_angle[lamp])
                        solid = math.pi * lamp_angle[lamp] * lamp_angle[lamp]
                        strength = gloss * visible * solid * _ggx(nh, nv, nl, vh, wide, 0.028)
                        red += strength * lamp_radiance[lamp, 0]
                        green += strength * lamp_radiance[lamp, 1]
                        blue += strength * lamp_radiance[lamp, 2]
                color[py, px, 0] += share * red
                color[py, px, 1] += share * green
                color[py, px, 2] += share * blue
    return color, coverage
