"""Compiled loops that put hair grown on the template on heads: `synthesis.wigs` and `whiskers`.

A head's own sums alone go into its hair: what it wears does not depend on the batch around it.
"""

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.normals_cpu import fan_normals


@njit(cache=True, error_model="numpy")
def _fitted(template, vertices, solid):
    """Scale and shift per axis that bring the template onto a head, by its solid vertices."""
    middle, center, top, bottom = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for v in solid:
        for k in range(3):
            middle[k] += template[v, k] / len(solid)
            center[k] += vertices[v, k] / len(solid)
    for v in solid:
        for k in range(3):
            offset = template[v, k] - middle[k]
            top[k] += (vertices[v, k] - center[k]) * offset
            bottom[k] += offset * offset
    scale = top / bottom
    return scale, center - scale * middle


@njit(cache=True, inline="always")
def _unit(x, y, z, least):
    length = max(math.sqrt(x * x + y * y + z * z), least)
    return x / length, y / length, z / length


@njit(cache=True, error_model="numpy")
def _skin(x, y, z, near, vertices, normals, ring):
    """Distance to the skin and its direction; see `HeadField.distance`."""
    closest, best = near, np.inf
    for k in range(ring.shape[1]):
        p = vertices[ring[near, k]]
        dx, dy, dz = p[0] - x, p[1] - y, p[2] - z
        apart = dx * dx + dy * dy + dz * dz
        if apart < best:
            closest, best = ring[near, k], apart
    first = vertices[ring[closest, 0]]
    total, plane, spacing = 0.0, 0.0, 0.0
    nx, ny, nz = 0.0, 0.0, 0.0
    for k in range(ring.shape[1]):
        p, m = vertices[ring[closest, k]], normals[ring[closest, k]]
        ox, oy, oz = x - p[0], y - p[1], z - p[2]
        square = ox * ox + oy * oy + oz * oz + 1e-7
        weight = 1.0 / (square * square)
        total += weight
        plane += weight * (ox * m[0] + oy * m[1] + oz * m[2])
        nx, ny, nz = nx + weight * m[0], ny + weight * m[1], nz + weight * m[2]
        sx, sy, sz = p[0] - first[0], p[1] - first[1], p[2] - first[2]
        spacing += math.sqrt(np.float64(sx * sx + sy * sy + sz * sz))
    plane /= total
    nx, ny, nz = _unit(nx / total, ny / total, nz / total, 1e-12)
    ax, ay, az = x - first[0], y - first[1], z - first[2]
    reach = math.sqrt(ax * ax + ay * ay + az * az)
    far = (reach / max(spacing / (ring.shape[1] - 1), 1e-6) - 1.0) / 2.0
    far = min(max(far, 0.0), 1.0) if plane > 0.0 else 0.0
    plane += far * (reach - plane)
    length = max(reach, 1e-9)
    nx, ny, nz = _unit(
        nx + far * (ax / length - nx), ny + far * (ay / length - ny),
        nz + far * (az / length - nz), 1e-12,
    )  # fmt: skip
    return plane, nx, ny, nz


@njit(cache=True, error_model="numpy")
def _body(x, y, z, start, axis, radius):
    """Distance to the nearest capsule and its direction."""
    distance, nx, ny, nz = np.inf, 0.0, 0.0, 0.0
    for k in range(len(radius)):
        ux, uy, uz = axis[k, 0], axis[k, 1], axis[k, 2]
        ox, oy, oz = x - start[k, 0], y - start[k, 1], z - start[k, 2]
        along = (ox * ux + oy * uy + oz * uz) / (ux * ux + uy * uy + uz * uz)
        along = min(max(along, 0.0), 1.0)
        ax, ay, az = ox - along * ux, oy - along * uy, oz - along * uz
        away = math.sqrt(ax * ax + ay * ay + az * az) - radius[k]
        if away < distance:
            distance = away
            nx, ny, nz = _unit(ax, ay, az, 1e-12)
    return distance, nx, ny, nz


@njit(cache=True, error_model="numpy")
def _kept_out(x, y, z, clear, near, vertices, normals, fit, field):
    """A point moved away from the skin or the body until it is `clear` of it."""
    ring, start, axis, radius = field
    scale, shift = fit
    distance, nx, ny, nz = _skin(x, y, z, near, vertices, normals, ring)
    cx, cy, cz = (x - shift[0]) / scale[0], (y - shift[1]) / scale[1], (z - shift[2]) / scale[2]
    body, bx, by, bz = _body(cx, cy, cz, start, axis, radius)
    if body < distance:
        distance, nx, ny, nz = body, bx, by, bz
    lack = max(clear - distance, 0.0)
    return x + lack * nx, y + lack * ny, z + lack * nz


@njit(cache=True)
def _carried(point, nearest, weights, template, rest, scale, shift, out):
    """A point of a wig with a head's size and, by its share, the shape of the skin below it."""
    for k in range(3):
        out[k] = scale[k] * point[k] + shift[k]
        for i in range(len(nearest)):
            v = nearest[i]
            out[k] += weights[i] * (rest[v, k] - (scale[k] * template[v, k] + shift[k]))


@njit(parallel=True, cache=True, error_model="numpy")
def wigs(
    which, points, nearest, weights, clear, rooted, root_triangle, root_weights, rest, posed,
    template, solid, triangles, fan, ring, start, axis, radius,
):  # fmt: skip
    """Points [B S P 3] of the wigs `which` on heads at rest, then posed; see `Wigs.worn`."""
    heads, strands, count = len(which), points.shape[1], points.shape[2]
    out = np.empty((heads, strands, count, 3), np.float32)
    normals, field = fan_normals(posed, triangles, fan), (ring, start, axis, radius)
    for b in prange(heads):
        wig, vertices = which[b], posed[b]
        scale, shift = _fitted(template, rest[b], solid)
        fit = _fitted(template, vertices, solid)
        place, off = np.empty(3), np.empty(3)
        for s in range(strands):
            corner = triangles[root_triangle[wig, s]]
            share = root_weights[wig, s]
            for k in range(count):
                near = nearest[wig, s, k]
                _carried(
                    points[wig, s, k], near, weights[wig, s, k], template, rest[b], scale, shift,
                    place,
                )  # fmt: skip
                if k == 0:
                    for c in range(3):
                        a, d = vertices[corner[0], c], vertices[corner[1], c]
                        root = share[0] * a + share[1] * d + share[2] * vertices[corner[2], c]
                        out[b, s, 0, c] = root
                        off[c] = root - place[c]
                    continue
                for c in range(3):
                    place[c] += rooted[wig, s, k] * off[c]
                out[b, s, k] = _kept_out(
                    place[0], place[1], place[2], clear[wig, s, k], near[0], vertices, normals[b],
                    fit, field,
                )  # fmt: skip
    return out


@njit(parallel=True, cache=True, error_model="numpy")
def whiskers(
    which, local, nearest, clear, root_triangle, root_weights, posed,
    template, solid, triangles, fan, ring, start, axis, radius,
):  # fmt: skip
    """Points [B S P 3] of facial hair in the frames of its triangles; see `Whiskers.worn`."""
    heads, strands, count = len(which), local.shape[1], local.shape[2]
    out = np.empty((heads, strands, count, 3), np.float32)
    normals, field = fan_normals(posed, triangles, fan), (ring, start, axis, radius)
    for b in prange(heads):
        own, vertices = which[b], posed[b]
        fit = _fitted(template, vertices, solid)
        for s in range(strands):
            corner, share = triangles[root_triangle[own, s]], root_weights[own, s]
            p, q, r = vertices[corner[0]], vertices[corner[1]], vertices[corner[2]]
            # the frame of `geometry.root_frames`
            ux, uy, uz = _unit(q[0] - p[0], q[1] - p[1], q[2] - p[2], 1e-12)
            wx, wy, wz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
            nx, ny, nz = _unit(uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx, 1e-12)
            sx, sy, sz = uy * nz - uz * ny, uz * nx - ux * nz, ux * ny - uy * nx
            ox = share[0] * p[0] + share[1] * q[0] + share[2] * r[0]
            oy = share[0] * p[1] + share[1] * q[1] + share[2] * r[1]
            oz = share[0] * p[2] + share[1] * q[2] + share[2] * r[2]
            out[b, s, 0, 0], out[b, s, 0, 1], out[b, s, 0, 2] = ox, oy, oz
            for k in range(1, count):
                i, j, h = local[own, s, k, 0], local[own, s, k, 1], local[own, s, k, 2]
                x = ox + i * ux + j * nx + h * sx
                y = oy + i * uy + j * ny + h * sy
                z = oz + i * uz + j * nz + h * sz
                out[b, s, k] = _kept_out(
                    np.float64(x), np.float64(y), np.float64(z), clear[own, s, k],
                    nearest[own, s, k], vertices, normals[b], fit, field,
                )  # fmt: skip
    return out
