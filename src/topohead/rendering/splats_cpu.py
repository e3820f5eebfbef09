"""Gaussian splats on CPU cores, compiled by numba: forward, and backward by hand.

The picture is cut into bands of rows that run in parallel. A band draws its Gaussians front to
back, each along the short run of pixels that its ellipse covers in a row, into buffers that stay
in the cache. Backward walks the same way again: with S the part of Σ gradient·colour that lies
behind a Gaussian, ∂L/∂α = T (gradient·colour) - S / (1 - α), and S starts from the finished
picture. Each (Gaussian, band) pair owns a row of a table that is summed afterwards, so results do
not depend on the number of threads. Eight pixels of a row are treated at once (`lanes`); a band's
buffers are one-dimensional with eight unused places after every row, where a run may end.

Numbers as in the classic rasteriser (Kerbl et al. 2023; gsplat): 0.3 px² added to the projected
covariance, α at most 0.99, α under 1/255 ignored, a pixel is closed before T falls to 1e-4.
"""
# Numba's intrinsics take a first argument that callers do not give.
# pyright: reportCallIssue=false

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.lanes import WIDTH, both, load, maximum, minimum, ramp, spread, store, where
from topohead.rendering.lanes import total as lanes_total

LOW_PASS = np.float32(0.3)
ALPHA_MAX = np.float32(0.99)
ALPHA_MIN = np.float32(1 / 255)
TRANSMITTANCE_STOP = np.float32(1e-4)

BAND_ROWS = 8

ONE = np.float32(1)
HALF = np.float32(0.5)
TWO = np.float32(2)
ZERO = np.float32(0)


@njit(fastmath=True, cache=True, error_model="numpy")
def _exponential(x):
    """exp(x) of lanes in [-6, 0], within 4e-6 of its value: Horner's rule on x/16, then squared
    four times."""
    y = x * np.float32(1 / 16)
    p = np.float32(1 / 120) + y * np.float32(1 / 720)
    p = np.float32(1 / 6) + y * (np.float32(1 / 24) + y * p)
    p = ONE + y * (ONE + y * (HALF + y * p))
    p = p * p
    p = p * p
    p = p * p
    return p * p


@njit(fastmath=True, cache=True, error_model="numpy")
def _rotation(w, x, y, z):
    """Rows of the rotation matrix of a unit quaternion."""
    return (
        (ONE - TWO * (y * y + z * z), TWO * (x * y - w * z), TWO * (x * z + w * y)),
        (TWO * (x * y + w * z), ONE - TWO * (x * x + z * z), TWO * (y * z - w * x)),
        (TWO * (x * z - w * y), TWO * (y * z + w * x), ONE - TWO * (x * x + y * y)),
    )


@njit(fastmath=True, cache=True, error_model="numpy")
def _camera_point(camera, x, y, z):
    return (
        camera[0] * x + camera[1] * y + camera[2] * z + camera[9],
        camera[3] * x + camera[4] * y + camera[5] * z + camera[10],
        camera[6] * x + camera[7] * y + camera[8] * z + camera[11],
    )


@njit(fastmath=True, cache=True, error_model="numpy")
def _screen_rows(camera, tx, ty, inverse):
    """Rows of (∂pixel/∂camera point) · rotation: how a world offset moves the pixel."""
    fx, fy = camera[12] * inverse, camera[13] * inverse
    kx, ky = -fx * tx * inverse, -fy * ty * inverse
    return (
        (
            fx * camera[0] + kx * camera[6],
            fx * camera[1] + kx * camera[7],
            fx * camera[2] + kx * camera[8],
        ),
        (
            fy * camera[3] + ky * camera[6],
            fy * camera[4] + ky * camera[7],
            fy * camera[5] + ky * camera[8],
        ),
    )


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def project(means, quats, scales, opacities, camera, width, height, near):
    """Ellipses on the screen.

    `camera` float32 [16]: rotation row by row, translation, fx, fy, cx, cy. Returns `splats`
    [N 6] (u, v, the inverse covariance's xx, xy, yy, and the largest value of the squared distance
    at which α reaches 1/255), `depth` [N], and `rows` [N 2], the first and last pixel row
    (first > last: not drawn).
    """
    count = means.shape[0]
    splats = np.empty((count, 6), np.float32)
    depth = np.empty(count, np.float32)
    rows = np.empty((count, 2), np.int32)
    for i in prange(count):
        tx, ty, tz = _camera_point(camera, means[i, 0], means[i, 1], means[i, 2])
        depth[i] = tz
        rows[i, 0], rows[i, 1] = 1, 0
        reach = TWO * np.float32(math.log(opacities[i] / ALPHA_MIN)) if opacities[i] > 0 else ZERO
        if not (tz > near and reach > 0):
            continue
        inverse = ONE / tz
        w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        norm = ONE / math.sqrt(w * w + x * x + y * y + z * z)
        turn = _rotation(w * norm, x * norm, y * norm, z * norm)
        right, down = _screen_rows(camera, tx, ty, inverse)
        xx, xy, yy = LOW_PASS, ZERO, LOW_PASS
        for k in range(3):
            a = right[0] * turn[0][k] + right[1] * turn[1][k] + right[2] * turn[2][k]
            b = down[0] * turn[0][k] + down[1] * turn[1][k] + down[2] * turn[2][k]
            a *= scales[i, k]
            b *= scales[i, k]
            xx += a * a
            xy += a * b
            yy += b * b
        determinant = ONE / (xx * yy - xy * xy)
        u = camera[12] * tx * inverse + camera[14]
        v = camera[13] * ty * inverse + camera[15]
        splats[i, 0], splats[i, 1] = u, v
        splats[i, 2], splats[i, 3] = yy * determinant, -xy * determinant
        splats[i, 4], splats[i, 5] = xx * determinant, reach
        half_width, half_height = math.sqrt(xx * reach), math.sqrt(yy * reach)
        if u + half_width > 0 and u - half_width < width:
            rows[i, 0] = max(ZERO, math.ceil(v - half_height - HALF))
            rows[i, 1] = min(np.float32(height - 1), math.floor(v + half_height - HALF))
    return splats, depth, rows


@njit(cache=True)
def sort_by_depth(depth, rows):
    """Indices of the drawn Gaussians, nearest first; equal depths keep their order.

    A radix sort on the bits of the depths: positive floats order as their bits do.
    """
    keys = depth.view(np.uint32)
    order = np.empty(depth.shape[0], np.int32)
    count = 0
    for i in range(depth.shape[0]):
        if rows[i, 0] <= rows[i, 1]:
            order[count] = i
            count += 1
    order = order[:count]
    swapped = np.empty(count, np.int32)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, np.int64)
        for k in range(count):
            starts[((keys[order[k]] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for k in range(count):
            digit = (keys[order[k]] >> np.uint32(shift)) & np.uint32(2047)
            swapped[starts[digit]] = order[k]
            starts[digit] += 1
        order, swapped = swapped, order
    return order


@njit(cache=True)
def pair_with_bands(order, rows, height):
    """Which Gaussians each band draws, in order of depth.

    Band b draws members[starts[b]:starts[b + 1]]. Pairs of Gaussian i own rows
    pair_starts[i]:pair_starts[i + 1] of the gradient table; `pairs` tells each member's row.
    """
    band_count = (height + BAND_ROWS - 1) // BAND_ROWS
    pair_starts = np.zeros(rows.shape[0] + 1, np.int32)
    starts = np.zeros(band_count + 1, np.int32)
    for i in range(rows.shape[0]):
        pair_starts[i + 1] = pair_starts[i]
        if rows[i, 0] <= rows[i, 1]:
            for band in range(rows[i, 0] // BAND_ROWS, rows[i, 1] // BAND_ROWS + 1):
                starts[band + 1] += 1
                pair_starts[i + 1] += 1
    for band in range(band_count):
        starts[band + 1] += starts[band]
    cursor = starts.copy()
    members = np.empty(starts[band_count], np.int32)
    pairs = np.empty(starts[band_count], np.int32)
    for i in order:
        first = rows[i, 0] // BAND_ROWS
        for band in range(first, rows[i, 1] // BAND_ROWS + 1):
            members[cursor[band]] = i
            pairs[cursor[band]] = pair_starts[i] + band - first
            cursor[band] += 1
    return starts, members, pairs, pair_starts


@njit(fastmath=True, cache=True, error_model="numpy")
def _run(u, xx, xy, yy, reach, dy, width):
    """First and last pixel column of an ellipse in the row at height dy from its centre."""
    inverse = ONE / xx
    shift = xy * dy * inverse
    rest = shift * shift - (yy * dy * dy - reach) * inverse
    if rest <= 0:
        return 1, 0
    half = math.sqrt(rest)
    center = u - shift - HALF
    return (
        int(max(ZERO, math.ceil(center - half))),
        int(min(np.float32(width - 1), math.floor(center + half))),
    )


@njit(fastmath=True, cache=True, error_model="numpy")
def _opacity_at(dx, square, cross, bend, limit, opacity):
    """α of eight pixels before it is clamped; zero outside the ellipse."""
    power = square + dx * (cross + dx * bend)
    return where(power > limit, _exponential(maximum(power, limit)) * opacity, ZERO)


@njit(fastmath=True, cache=True, error_model="numpy")
def _draw_one(splats, rows, colors, opacities, i, top, bottom, width, through, red, green, blue):
    """Blend one Gaussian into a band's buffers. Negative transmittance marks a closed pixel."""
    stride = width + WIDTH
    u, v, xx = splats[i, 0], splats[i, 1], splats[i, 2]
    xy, yy, reach = splats[i, 3], splats[i, 4], splats[i, 5]
    r, g, b, opacity = colors[i, 0], colors[i, 1], colors[i, 2], opacities[i]
    bend, limit = -HALF * xx, -HALF * reach
    for y in range(max(top, rows[i, 0]), min(bottom - 1, rows[i, 1]) + 1):
        dy = np.float32(y) + HALF - v
        first, last = _run(u, xx, xy, yy, reach, dy, width)
        square, cross = -HALF * yy * dy * dy, -xy * dy
        row = (y - top) * stride
        for x in range(first, last + 1, WIDTH):
            dx = ramp() + (np.float32(x) + HALF - u)
            alpha = minimum(_opacity_at(dx, square, cross, bend, limit, opacity), ALPHA_MAX)
            before = load(through, row + x)
            after = before - before * alpha
            is_open = after > TRANSMITTANCE_STOP
            weight = where(is_open, before - after, ZERO)
            store(through, row + x, where(is_open, after, minimum(before, ZERO - before)))
            store(red, row + x, load(red, row + x) + weight * r)
            store(green, row + x, load(green, row + x) + weight * g)
            store(blue, row + x, load(blue, row + x) + weight * b)


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def draw(splats, rows, starts, members, opacities, colors, background, width, height):
    """Blend front to back: image [H W 3] over the background, and transmittance [H W] left."""
    image = np.empty((height, width, 3), np.float32)
    left_over = np.empty((height, width), np.float32)
    stride = width + WIDTH
    for band in prange(starts.shape[0] - 1):
        top = band * BAND_ROWS
        bottom = min(height, top + BAND_ROWS)
        places = (bottom - top) * stride
        through = np.ones(places, np.float32)
        red = np.zeros(places, np.float32)
        green = np.zeros(places, np.float32)
        blue = np.zeros(places, np.float32)
        for member in range(starts[band], starts[band + 1]):
            i = members[member]
            _draw_one(
                splats, rows, colors, opacities, i, top, bottom, width,
                through, red, green, blue,
            )  # fmt: skip
        for y in range(top, bottom):
            for x in range(width):
                place = (y - top) * stride + x
                rest = abs(through[place])
                left_over[y, x] = rest
                image[y, x, 0] = red[place] + rest * background[0]
                image[y, x, 1] = green[place] + rest * background[1]
                image[y, x, 2] = blue[place] + rest * background[2]
    return image, left_over


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
        first, last = _run(u, xx, xy, yy, reach, dy, width)
        square, cross = -HALF * yy * dy * dy, -xy * dy
        row = (y - top) * stride
        for x in range(first, last + 1, WIDTH):
            dx = ramp() + (np.float32(x) + HALF - u)
            full = _opacity_at(dx, square, cross, bend, limit, opacity)
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

        tx, ty, tz = _camera_point(camera, means[i, 0], means[i, 1], means[i, 2])
        inverse = ONE / tz
        right, down = _screen_rows(camera, tx, ty, inverse)
        w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        norm = ONE / math.sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z = w * norm, x * norm, y * norm, z * norm
        turn = _rotation(w, x, y, z)
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
