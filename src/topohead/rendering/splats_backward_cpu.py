"""Gradients of `splats_cpu`, by hand.

Backward walks the same way as forward: with S the part of Σ gradient·colour that lies behind a
Gaussian, ∂L/∂α = T (gradient·colour) - S / (1 - α), and S starts from the finished picture. Each
(Gaussian, band) pair owns a row of a table that is summed afterwards, so results do not depend on
the number of threads.
"""
# Numba's intrinsics take a first argument that callers do not give.
# pyright: reportCallIssue=false

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.lanes import WIDTH, both, load, minimum, ramp, spread, store, where
from topohead.rendering.lanes import total as lanes_total
from topohead.rendering.splats_cpu import (
    ALPHA_MAX,
    BAND_ROWS,
    HALF,
    ONE,
    TRANSMITTANCE_STOP,
    TWO,
    ZERO,
    camera_point,
    opacity_at,
    rotation,
    run,
    screen_rows,
)


@njit(fastmath=True, cache=True, error_model="numpy")
def _draw_one_backward(
    splats,
    rows,
    colors,
    opacities,
    i,
    top,
    bottom,
    width,
    through,
    behind,
    d_red,
    d_green,
    d_blue,
    table,
    pair,
):
    """Walk one Gaussian's pixels of a band again and add up its gradients in the table."""
    stride = width + WIDTH
    u, v, xx = splats[i, 0], splats[i, 1], splats[i, 2]
    xy, yy, reach = splats[i, 3], splats[i, 4], splats[i, 5]
    r, g, b, opacity = colors[i, 0], colors[i, 1], colors[i, 2], opacities[i]
    bend, limit = -HALF * xx, -HALF * reach
    s_x, s_y, s_xx, s_xy = spread(ZERO), spread(ZERO), spread(ZERO), spread(ZERO)
    s_yy, s_1 = spread(ZERO), spread(ZERO)
    s_r, s_g, s_b = spread(ZERO), spread(ZERO), spread(ZERO)
    for y in range(max(top, rows[i, 0]), min(bottom - 1, rows[i, 1]) + 1):
        dy = np.float32(y) + HALF - v
        first, last = run(u, xx, xy, yy, reach, dy, width)
        square, cross = -HALF * yy * dy * dy, -xy * dy
        row = (y - top) * stride
        for x in range(first, last + 1, WIDTH):
            dx = ramp() + (np.float32(x) + HALF - u)
            full = opacity_at(dx, square, cross, bend, limit, opacity)
            alpha = minimum(full, ALPHA_MAX)
            before = load(through, row + x)
            after = before - before * alpha
            is_open = after > TRANSMITTANCE_STOP
            weight = where(is_open, before - after, ZERO)
            store(through, row + x, where(is_open, after, minimum(before, ZERO - before)))
            dr, dg, db = load(d_red, row + x), load(d_green, row + x), load(d_blue, row + x)
            shade = dr * r + dg * g + db * b
            rest = load(behind, row + x) - weight * shade
            store(behind, row + x, rest)
            # ∂L/∂log α; a clamped α does not move
            slope = alpha * (before * shade - rest / (ONE - alpha))
            slope = where(both(is_open, full < ALPHA_MAX), slope, ZERO)
            slope_x = slope * dx
            s_1 = s_1 + slope
            s_x = s_x + slope_x
            s_xx = s_xx + slope_x * dx
            s_y = s_y + slope * dy
            s_xy = s_xy + slope_x * dy
            s_yy = s_yy + slope * (dy * dy)
            s_r = s_r + weight * dr
            s_g = s_g + weight * dg
            s_b = s_b + weight * db
    by_x, by_y = lanes_total(s_x), lanes_total(s_y)
    table[pair, 0] = xx * by_x + xy * by_y
    table[pair, 1] = xy * by_x + yy * by_y
    table[pair, 2], table[pair, 3] = -HALF * lanes_total(s_xx), -lanes_total(s_xy)
    table[pair, 4] = -HALF * lanes_total(s_yy)
    table[pair, 5], table[pair, 6], table[pair, 7] = (
        lanes_total(s_r),
        lanes_total(s_g),
        lanes_total(s_b),
    )
    table[pair, 8] = lanes_total(s_1) / opacity


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def draw_backward(
    splats, rows, starts, members, pairs, opacities, colors, image, left_over, d_image, d_alpha
):
    """Gradients per (Gaussian, band) pair, float32 [P 9].

    Columns: u, v; inverse covariance xx, xy, yy; colour; opacity. `d_image` [H W 3] and `d_alpha`
    [H W] are the loss's derivatives by the picture and by its coverage.
    """
    height, width = left_over.shape
    stride = width + WIDTH
    table = np.zeros((members.shape[0], 9), np.float32)
    for band in prange(starts.shape[0] - 1):
        top = band * BAND_ROWS
        bottom = min(height, top + BAND_ROWS)
        places = (bottom - top) * stride
        through = np.ones(places, np.float32)
        behind = np.zeros(places, np.float32)
        d_red = np.zeros(places, np.float32)
        d_green = np.zeros(places, np.float32)
        d_blue = np.zeros(places, np.float32)
        for y in range(top, bottom):
            for x in range(width):
                place = (y - top) * stride + x
                dr, dg, db = d_image[y, x, 0], d_image[y, x, 1], d_image[y, x, 2]
                d_red[place], d_green[place], d_blue[place] = dr, dg, db
                behind[place] = (
                    image[y, x, 0] * dr + image[y, x, 1] * dg + image[y, x, 2] * db
                ) - left_over[y, x] * d_alpha[y, x]
        for member in range(starts[band], starts[band + 1]):
            i = members[member]
            _draw_one_backward(
                splats, rows, colors, opacities, i, top, bottom, width,
                through, behind, d_red, d_green, d_blue, table, pairs[member],
            )  # fmt: skip
    return table


@njit(parallel=True, cache=True)
def summed(table, pair_starts):
    """The rows of the table that belong to each Gaussian, added up: float32 [N 9]."""
    total = np.zeros((pair_starts.shape[0] - 1, table.shape[1]), np.float32)
    for i in prange(total.shape[0]):
        for pair in range(pair_starts[i], pair_starts[i + 1]):
            for k in range(table.shape[1]):
                total[i, k] += table[pair, k]
    return total


@njit(fastmath=True, cache=True, error_model="numpy")
def _rotation_backward(w, x, y, z, d):
    """∂L/∂(unit quaternion) from ∂L/∂(rotation matrix) d [3 3]."""
    return (
        TWO * (x * (d[2, 1] - d[1, 2]) + y * (d[0, 2] - d[2, 0]) + z * (d[1, 0] - d[0, 1])),
        TWO
        * (
            y * (d[0, 1] + d[1, 0])
            + z * (d[0, 2] + d[2, 0])
            + w * (d[2, 1] - d[1, 2])
            - TWO * x * (d[1, 1] + d[2, 2])
        ),
        TWO
        * (
            x * (d[0, 1] + d[1, 0])
            + z * (d[1, 2] + d[2, 1])
            + w * (d[0, 2] - d[2, 0])
            - TWO * y * (d[0, 0] + d[2, 2])
        ),
        TWO
        * (
            x * (d[0, 2] + d[2, 0])
            + y * (d[1, 2] + d[2, 1])
            + w * (d[1, 0] - d[0, 1])
            - TWO * z * (d[0, 0] + d[1, 1])
        ),
    )


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def project_backward(means, quats, scales, camera, splats, pair_starts, table):
    """Gradients of all parameters from the table of pairs.

    Returns float32 [N 14]: mean 0:3, quaternion 3:7, scale 7:10, colour 10:13, opacity 13.
    """
    count = means.shape[0]
    gradient = np.zeros((count, 14), np.float32)
    for i in prange(count):
        if pair_starts[i] == pair_starts[i + 1]:
            continue
        total = np.zeros(9, np.float32)
        for pair in range(pair_starts[i], pair_starts[i + 1]):
            for k in range(9):
                total[k] += table[pair, k]
        for k in range(4):
            gradient[i, 10 + k] = total[5 + k]

        # through the inverse: d(covariance) = -conic · d(conic) · conic
        a, b, c = splats[i, 2], splats[i, 3], splats[i, 4]
        ga, gb, gc = total[2], HALF * total[3], total[4]
        dxx = -(a * a * ga + TWO * a * b * gb + b * b * gc)
        dxy = -(a * b * ga + (a * c + b * b) * gb + b * c * gc)
        dyy = -(b * b * ga + TWO * b * c * gb + c * c * gc)

        tx, ty, tz = camera_point(camera, means[i, 0], means[i, 1], means[i, 2])
        inverse = ONE / tz
        right, down = screen_rows(camera, tx, ty, inverse)
        w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        norm = ONE / math.sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z = w * norm, x * norm, y * norm, z * norm
        turn = rotation(w, x, y, z)
        d_turn = np.empty((3, 3), np.float32)
        d_right, d_down = np.zeros(3, np.float32), np.zeros(3, np.float32)
        for k in range(3):
            size = scales[i, k]
            p = right[0] * turn[0][k] + right[1] * turn[1][k] + right[2] * turn[2][k]
            q = down[0] * turn[0][k] + down[1] * turn[1][k] + down[2] * turn[2][k]
            dp = TWO * size * (dxx * p + dxy * q)  # by p · size
            dq = TWO * size * (dxy * p + dyy * q)
            gradient[i, 7 + k] = p * dp + q * dq
            for m in range(3):
                d_turn[m, k] = size * (right[m] * dp + down[m] * dq)
                d_right[m] += size * turn[m][k] * dp
                d_down[m] += size * turn[m][k] * dq

        dw, dx, dy, dz = _rotation_backward(w, x, y, z, d_turn)
        along = w * dw + x * dx + y * dy + z * dz  # a quaternion's length does not matter
        gradient[i, 3], gradient[i, 4] = norm * (dw - along * w), norm * (dx - along * x)
        gradient[i, 5], gradient[i, 6] = norm * (dy - along * y), norm * (dz - along * z)

        # through the entries fx/z, -fx x/z², fy/z, -fy y/z² of the perspective, and the centre
        fx, fy = camera[12] * inverse, camera[13] * inverse
        d00 = d_right[0] * camera[0] + d_right[1] * camera[1] + d_right[2] * camera[2]
        d02 = d_right[0] * camera[6] + d_right[1] * camera[7] + d_right[2] * camera[8]
        d11 = d_down[0] * camera[3] + d_down[1] * camera[4] + d_down[2] * camera[5]
        d12 = d_down[0] * camera[6] + d_down[1] * camera[7] + d_down[2] * camera[8]
        sx, sy = tx * inverse, ty * inverse
        dtx = fx * (total[0] - d02 * inverse)
        dty = fy * (total[1] - d12 * inverse)
        dtz = -fx * (total[0] * sx + (d00 - TWO * d02 * sx) * inverse)
        dtz -= fy * (total[1] * sy + (d11 - TWO * d12 * sy) * inverse)
        for k in range(3):
            gradient[i, k] = camera[k] * dtx + camera[3 + k] * dty + camera[6 + k] * dtz
    return gradient
