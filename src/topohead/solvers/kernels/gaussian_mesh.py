"""Gradients of the losses in `losses.geometric`, and Adam, as loops over vertices.

Autograd spends more time on these losses than the rasteriser on its picture; here each vertex
gathers from its ring, so one step costs about a millisecond. Float32 like the Gaussians.
"""

import math

import numpy as np
from numba import njit, prange

ZERO = np.float32(0)
ONE = np.float32(1)
TWO = np.float32(2)
ROOT_FLOOR = np.float32(1e-20)


@njit(fastmath=True, cache=True)
def _product(p, q):
    """Hamilton's product of quaternions wxyz."""
    return (
        p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3],
        p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2],
        p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1],
        p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0],
    )


@njit(fastmath=True, cache=True)
def _cross(a, b):
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


@njit(fastmath=True, cache=True)
def _rotate(q, x, y, z):
    """The vector (x, y, z) turned by the unit quaternion q."""
    a = _cross((q[1], q[2], q[3]), (x, y, z))
    b = _cross((q[1], q[2], q[3]), a)
    return (
        x + TWO * (q[0] * a[0] + b[0]),
        y + TWO * (q[0] * a[1] + b[1]),
        z + TWO * (q[0] * a[2] + b[2]),
    )


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def physics_gradient(
    means, quats, last_offsets, last_turns, rest_lengths, roots, starts, neighbours, strengths
):
    """∂/∂means [V 3] and ∂/∂quats [V 4] of rotation coherence, rigidity and isometry.

    Ring of vertex i: neighbours[starts[i]:starts[i + 1]]; `last_offsets` [K 3], `rest_lengths` [K]
    and `roots` [K], √w, go with it. `last_turns` [V 4] are unit quaternions of the last frame.
    `strengths` holds the three weights over the number of pairs.
    """
    count = means.shape[0]
    turns = np.empty((count, 4), np.float32)
    for i in prange(count):
        q, p = quats[i], last_turns[i]
        norm = ONE / math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        turn = _product(q, (p[0] * norm, -p[1] * norm, -p[2] * norm, -p[3] * norm))
        turns[i, 0], turns[i, 1], turns[i, 2], turns[i, 3] = turn
    d_means = np.zeros((count, 3), np.float32)
    d_quats = np.zeros((count, 4), np.float32)
    coherent, rigid, equal = strengths[0], strengths[1], strengths[2]
    for i in prange(count):
        own = turns[i]
        back = (own[0], -own[1], -own[2], -own[3])
        gx, gy, gz = ZERO, ZERO, ZERO
        g0, g1, g2, g3 = ZERO, ZERO, ZERO, ZERO
        for k in range(starts[i], starts[i + 1]):
            j = neighbours[k]
            root = roots[k]
            theirs = turns[j]
            # both directions of a pair cost the same, hence the factors of two
            d0, d1, d2, d3 = (
                own[0] - theirs[0],
                own[1] - theirs[1],
                own[2] - theirs[2],
                own[3] - theirs[3],
            )
            length = math.sqrt(root * root * (d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3) + ROOT_FLOOR)
            pull = TWO * coherent * root * root / length
            g0, g1, g2, g3 = g0 + pull * d0, g1 + pull * d1, g2 + pull * d2, g3 + pull * d3

            ox, oy = means[j, 0] - means[i, 0], means[j, 1] - means[i, 1]
            oz = means[j, 2] - means[i, 2]
            length = math.sqrt(ox * ox + oy * oy + oz * oz + ROOT_FLOOR)
            strain = length - rest_lengths[k]
            cost = math.sqrt(root * root * strain * strain + ROOT_FLOOR)
            pull = TWO * equal * root * root * strain / (cost * length)
            gx, gy, gz = gx - pull * ox, gy - pull * oy, gz - pull * oz

            # rigidity as seen from here: e = last - Δq_i⁻¹ o
            lx, ly, lz = last_offsets[k, 0], last_offsets[k, 1], last_offsets[k, 2]
            ex, ey, ez = _rotate(back, ox, oy, oz)
            ex, ey, ez = lx - ex, ly - ey, lz - ez
            cost = math.sqrt(root * root * (ex * ex + ey * ey + ez * ez) + ROOT_FLOOR)
            pull = rigid * root * root / cost
            ux, uy, uz = pull * ex, pull * ey, pull * ez
            tx, ty, tz = _rotate(own, ux, uy, uz)
            gx, gy, gz = gx + tx, gy + ty, gz + tz
            # ∂/∂Δq_i of -u·(Δq⁻¹ o), with (Δq⁻¹ o) = o - 2 w (v × o) + 2 v × (v × o)
            v = (own[1], own[2], own[3])
            o, u = (ox, oy, oz), (ux, uy, uz)
            vo, ou = _cross(v, o), _cross(o, u)
            along_v = v[0] * u[0] + v[1] * u[1] + v[2] * u[2]
            along_o = o[0] * u[0] + o[1] * u[1] + o[2] * u[2]
            shared = v[0] * o[0] + v[1] * o[1] + v[2] * o[2]
            g0 += TWO * (u[0] * vo[0] + u[1] * vo[1] + u[2] * vo[2])
            w = own[0]
            g1 += TWO * (w * ou[0] - along_v * o[0] - shared * u[0] + TWO * along_o * v[0])
            g2 += TWO * (w * ou[1] - along_v * o[1] - shared * u[1] + TWO * along_o * v[1])
            g3 += TWO * (w * ou[2] - along_v * o[2] - shared * u[2] + TWO * along_o * v[2])

            # and as seen from the neighbour
            away = (theirs[0], -theirs[1], -theirs[2], -theirs[3])
            ex, ey, ez = _rotate(away, ox, oy, oz)
            ex, ey, ez = ex - lx, ey - ly, ez - lz
            cost = math.sqrt(root * root * (ex * ex + ey * ey + ez * ez) + ROOT_FLOOR)
            pull = rigid * root * root / cost
            tx, ty, tz = _rotate(theirs, pull * ex, pull * ey, pull * ez)
            gx, gy, gz = gx - tx, gy - ty, gz - tz
        d_means[i, 0], d_means[i, 1], d_means[i, 2] = gx, gy, gz
        b0, b1, b2, b3 = _product((g0, g1, g2, g3), last_turns[i])
        q = quats[i]
        norm = ONE / math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
        along = (b0 * q[0] + b1 * q[1] + b2 * q[2] + b3 * q[3]) * norm * norm
        d_quats[i, 0], d_quats[i, 1] = norm * (b0 - along * q[0]), norm * (b1 - along * q[1])
        d_quats[i, 2], d_quats[i, 3] = norm * (b2 - along * q[2]), norm * (b3 - along * q[3])
    return d_means, d_quats


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def position_gradient(means, weights, starts, neighbours):
    """∂/∂means [V 3] of the weighted mean squared distance to the neighbours' mean."""
    count = means.shape[0]
    pulls = np.empty((count, 3), np.float32)
    for i in prange(count):
        degree = max(starts[i + 1] - starts[i], 1)
        for c in range(3):
            around = ZERO
            for k in range(starts[i], starts[i + 1]):
                around += means[neighbours[k], c]
            pulls[i, c] = weights[i] * (means[i, c] - around / np.float32(degree))
    gradient = np.empty((count, 3), np.float32)
    scale = TWO / np.float32(count)
    for i in prange(count):
        for c in range(3):
            total = pulls[i, c]
            for k in range(starts[i], starts[i + 1]):
                j = neighbours[k]
                total -= pulls[j, c] / np.float32(max(starts[j + 1] - starts[j], 1))
            gradient[i, c] = scale * total
    return gradient


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def hinge_gradient(
    means, triangles, across, rest_cosines, floor, corner_starts, corner_places, strength
):
    """∂/∂means [V 3] of Σ 1 - cos(θ - θ_0) over inner edges, times `strength`.

    `across` [T 3] is the triangle beyond side (k, k+1), -1 at an open edge; `rest_cosines` [T 3].
    Vertex i is corner p % 3 of triangle p // 3 for its p in `corner_places`.
    """
    count = triangles.shape[0]
    normals = np.empty((count, 3), np.float32)
    inverse = np.empty(count, np.float32)
    for t in prange(count):
        a, b, c = means[triangles[t, 0]], means[triangles[t, 1]], means[triangles[t, 2]]
        n = _cross((b[0] - a[0], b[1] - a[1], b[2] - a[2]), (c[0] - a[0], c[1] - a[1], c[2] - a[2]))
        inverse[t] = ONE / math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2] + ROOT_FLOOR)
        for k in range(3):
            normals[t, k] = n[k] * inverse[t]
    by_corner = np.empty((count, 3, 3), np.float32)
    for t in prange(count):
        dx, dy, dz = ZERO, ZERO, ZERO
        n = normals[t]
        for k in range(3):
            s = across[t, k]
            if s < 0:
                continue
            m = normals[s]
            cosine, rest = n[0] * m[0] + n[1] * m[1] + n[2] * m[2], rest_cosines[t, k]
            sine_square = ONE - cosine * cosine + floor
            slope = -rest
            if sine_square > floor:
                rest_sine = math.sqrt(max(ONE - rest * rest + floor, floor))
                slope += rest_sine * cosine / math.sqrt(sine_square)
            slope *= strength
            dx, dy, dz = dx + slope * m[0], dy + slope * m[1], dz + slope * m[2]
        along = dx * n[0] + dy * n[1] + dz * n[2]
        d = (
            (dx - along * n[0]) * inverse[t],
            (dy - along * n[1]) * inverse[t],
            (dz - along * n[2]) * inverse[t],
        )
        a, b, c = means[triangles[t, 0]], means[triangles[t, 1]], means[triangles[t, 2]]
        at_b = _cross((c[0] - a[0], c[1] - a[1], c[2] - a[2]), d)
        at_c = _cross(d, (b[0] - a[0], b[1] - a[1], b[2] - a[2]))
        for k in range(3):
            by_corner[t, 0, k] = -at_b[k] - at_c[k]
            by_corner[t, 1, k] = at_b[k]
            by_corner[t, 2, k] = at_c[k]
    gradient = np.zeros(means.shape, np.float32)
    for i in prange(means.shape[0]):
        for place in range(corner_starts[i], corner_starts[i + 1]):
            corner = corner_places[place]
            for k in range(3):
                gradient[i, k] += by_corner[corner // 3, corner % 3, k]
    return gradient


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def adam_step(parameter, gradient, first_moment, second_moment, rate, step):
    """One step of Adam (Kingma and Ba 2014, β 0.9 and 0.999, ε 1e-15) on [N K], in place.

    `step` counts from one, for the correction of the moments' start at zero.
    """
    keep_first, take_first = np.float32(0.9), np.float32(0.1)
    keep_second, take_second = np.float32(0.999), np.float32(0.001)
    epsilon = np.float32(1e-15)
    scale = np.float32(rate / (1.0 - 0.9**step))
    second_scale = np.float32(1.0 / math.sqrt(1.0 - 0.999**step))
    for i in prange(parameter.shape[0]):
        for k in range(parameter.shape[1]):
            g = gradient[i, k]
            m = keep_first * first_moment[i, k] + take_first * g
            v = keep_second * second_moment[i, k] + take_second * g * g
            first_moment[i, k], second_moment[i, k] = m, v
            parameter[i, k] -= scale * m / (math.sqrt(v) * second_scale + epsilon)
