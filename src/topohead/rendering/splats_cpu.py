"""Gaussian splats on CPU cores, compiled by numba: forward, and backward by hand.

The picture is cut into bands of rows that run in parallel. A band draws its Gaussians front to
back, each along the short run of pixels that its ellipse covers in a row, into buffers that stay
in the cache. Backward walks the same way again: with S the part of Σ gradient·colour that lies
behind a Gaussian, ∂L/∂α = T (gradient·colour) - S / (1 - α), and S starts from the finished
picture. Each (Gaussian, band) pair owns a row of a table that is summed afterwards, so results do
not depend on the number of threads.

Numbers as in the classic rasteriser (Kerbl et al. 2023; gsplat): 0.3 px² added to the projected
covariance, α at most 0.99, α under 1/255 ignored, a pixel is closed before T falls to 1e-4.
"""

import math

import numpy as np
from numba import njit, prange

LOW_PASS = np.float32(0.3)
ALPHA_MAX = np.float32(0.99)
ALPHA_MIN = np.float32(1 / 255)
TRANSMITTANCE_STOP = np.float32(1e-4)

BAND_ROWS = 8
BLOCK = 16
"""Columns that are closed together: Gaussians that only cover closed blocks are passed over."""
REFRESH = 96
"""Gaussians drawn in a band between two looks at which blocks are closed."""

ONE = np.float32(1)
HALF = np.float32(0.5)
TWO = np.float32(2)
ZERO = np.float32(0)


@njit(fastmath=True, cache=True, error_model="numpy")
def _exponential(x):
    """exp(x) for x in [-6, 0], within 4e-6 of its value: Horner's rule on x/16, then squared four
    times. Unlike a call to the library it leaves the loop around it free to use vectors."""
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
def _run(splat, dy, width):
    """First and last pixel column of an ellipse in the row at height dy from its centre."""
    shift = splat[3] * dy / splat[2]
    rest = shift * shift - (splat[4] * dy * dy - splat[5]) / splat[2]
    if rest <= 0:
        return 1, 0
    half = math.sqrt(rest)
    center = splat[0] - shift - HALF
    return (
        int(max(ZERO, math.ceil(center - half))),
        int(min(np.float32(width - 1), math.floor(center + half))),
    )


@njit(fastmath=True, cache=True)
def _find_closed(transmittance, closed):
    """Mark the blocks of columns in which no pixel of the band takes more colour."""
    for block in range(closed.shape[0]):
        largest = ZERO
        stop = min(transmittance.shape[1], (block + 1) * BLOCK)
        for y in range(transmittance.shape[0]):
            for x in range(block * BLOCK, stop):
                largest = max(largest, transmittance[y, x])
        closed[block] = largest <= 0


@njit(fastmath=True, cache=True, error_model="numpy")
def _is_hidden(splat, closed, width):
    """Whether an ellipse lies within closed blocks (by its widest row, so never wrongly)."""
    spread = splat[2] * splat[4] - splat[3] * splat[3]
    half = math.sqrt(splat[4] * splat[5] / spread)
    first = max(0, int(splat[0] - half)) // BLOCK
    last = min(width - 1, int(splat[0] + half)) // BLOCK
    hidden = True
    for block in range(first, last + 1):
        hidden = hidden and closed[block]
    return hidden


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def draw(splats, rows, starts, members, opacities, colors, background, width, height):
    """Blend front to back: image [H W 3] over the background, and transmittance [H W] left."""
    image = np.empty((height, width, 3), np.float32)
    left_over = np.empty((height, width), np.float32)
    for band in prange(starts.shape[0] - 1):
        top = band * BAND_ROWS
        bottom = min(height, top + BAND_ROWS)
        # a negative transmittance marks a closed pixel
        through = np.ones((bottom - top, width), np.float32)
        red = np.zeros((bottom - top, width), np.float32)
        green = np.zeros((bottom - top, width), np.float32)
        blue = np.zeros((bottom - top, width), np.float32)
        closed = np.zeros((width + BLOCK - 1) // BLOCK, np.bool_)
        for place in range(starts[band], starts[band + 1]):
            if (place - starts[band]) % REFRESH == REFRESH - 1:
                _find_closed(through, closed)
            i = members[place]
            splat = splats[i]
            if _is_hidden(splat, closed, width):
                continue
            r, g, b, opacity = colors[i, 0], colors[i, 1], colors[i, 2], opacities[i]
            for y in range(max(top, rows[i, 0]), min(bottom - 1, rows[i, 1]) + 1):
                dy = np.float32(y) + HALF - splat[1]
                first, last = _run(splat, dy, width)
                if first > last:
                    continue
                t_row = through[y - top, first : last + 1]
                r_row = red[y - top, first : last + 1]
                g_row = green[y - top, first : last + 1]
                b_row = blue[y - top, first : last + 1]
                dx0 = np.float32(first) + HALF - splat[0]
                square, cross = -HALF * splat[4] * dy * dy, -splat[3] * dy
                bend = -HALF * splat[2]
                for k in range(last - first + 1):
                    dx = dx0 + np.float32(k)
                    alpha = opacity * _exponential(square + dx * (cross + bend * dx))
                    alpha = min(alpha, ALPHA_MAX)
                    before = t_row[k]
                    after = before - before * alpha
                    is_open = after > TRANSMITTANCE_STOP
                    weight = before - after if is_open else ZERO
                    t_row[k] = after if is_open else -abs(before)
                    r_row[k] += weight * r
                    g_row[k] += weight * g
                    b_row[k] += weight * b
        for y in range(top, bottom):
            for x in range(width):
                rest = abs(through[y - top, x])
                left_over[y, x] = rest
                image[y, x, 0] = red[y - top, x] + rest * background[0]
                image[y, x, 1] = green[y - top, x] + rest * background[1]
                image[y, x, 2] = blue[y - top, x] + rest * background[2]
    return image, left_over


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def draw_backward(
    splats, rows, starts, members, pairs, opacities, colors, image, left_over, d_image, d_alpha
):
    """Gradients per (Gaussian, band) pair, float32 [P 9].

    Columns: u, v; inverse covariance xx, xy, yy; colour; opacity. `d_image` [H W 3] and `d_alpha`
    [H W] are the loss's derivatives by the picture and by its coverage.
    """
    height, width = left_over.shape
    table = np.zeros((members.shape[0], 9), np.float32)
    for band in prange(starts.shape[0] - 1):
        top = band * BAND_ROWS
        bottom = min(height, top + BAND_ROWS)
        through = np.ones((bottom - top, width), np.float32)
        behind = np.empty((bottom - top, width), np.float32)
        d_red = np.empty((bottom - top, width), np.float32)
        d_green = np.empty((bottom - top, width), np.float32)
        d_blue = np.empty((bottom - top, width), np.float32)
        closed = np.zeros((width + BLOCK - 1) // BLOCK, np.bool_)
        for y in range(top, bottom):
            for x in range(width):
                dr, dg, db = d_image[y, x, 0], d_image[y, x, 1], d_image[y, x, 2]
                d_red[y - top, x], d_green[y - top, x], d_blue[y - top, x] = dr, dg, db
                behind[y - top, x] = (
                    image[y, x, 0] * dr + image[y, x, 1] * dg + image[y, x, 2] * db
                ) - left_over[y, x] * d_alpha[y, x]
        for place in range(starts[band], starts[band + 1]):
            if (place - starts[band]) % REFRESH == REFRESH - 1:
                _find_closed(through, closed)
            i = members[place]
            splat = splats[i]
            if _is_hidden(splat, closed, width):
                continue
            r, g, b, opacity = colors[i, 0], colors[i, 1], colors[i, 2], opacities[i]
            s_x, s_y, s_xx, s_xy, s_yy = ZERO, ZERO, ZERO, ZERO, ZERO
            s_r, s_g, s_b, s_1 = ZERO, ZERO, ZERO, ZERO
            for y in range(max(top, rows[i, 0]), min(bottom - 1, rows[i, 1]) + 1):
                dy = np.float32(y) + HALF - splat[1]
                first, last = _run(splat, dy, width)
                if first > last:
                    continue
                t_row = through[y - top, first : last + 1]
                s_row = behind[y - top, first : last + 1]
                r_row = d_red[y - top, first : last + 1]
                g_row = d_green[y - top, first : last + 1]
                b_row = d_blue[y - top, first : last + 1]
                dx0 = np.float32(first) + HALF - splat[0]
                square, cross = -HALF * splat[4] * dy * dy, -splat[3] * dy
                bend = -HALF * splat[2]
                h_1, h_x, h_xx = ZERO, ZERO, ZERO
                for k in range(last - first + 1):
                    dx = dx0 + np.float32(k)
                    full = opacity * _exponential(square + dx * (cross + bend * dx))
                    alpha = min(full, ALPHA_MAX)
                    before = t_row[k]
                    after = before - before * alpha
                    is_open = after > TRANSMITTANCE_STOP
                    weight = before - after if is_open else ZERO
                    t_row[k] = after if is_open else -abs(before)
                    dr, dg, db = r_row[k], g_row[k], b_row[k]
                    shade = r * dr + g * dg + b * db
                    rest = s_row[k] - weight * shade
                    s_row[k] = rest
                    # ∂L/∂log α; a clamped α does not move
                    h = alpha * (before * shade - rest / (ONE - alpha))
                    h = h if (is_open and full < ALPHA_MAX) else ZERO
                    h_1 += h
                    h_x += h * dx
                    h_xx += h * dx * dx
                    s_r += weight * dr
                    s_g += weight * dg
                    s_b += weight * db
                s_1 += h_1
                s_x += h_x
                s_xx += h_xx
                s_y += h_1 * dy
                s_xy += h_x * dy
                s_yy += h_1 * dy * dy
            row = table[pairs[place]]
            row[0] = splat[2] * s_x + splat[3] * s_y
            row[1] = splat[3] * s_x + splat[4] * s_y
            row[2], row[3], row[4] = -HALF * s_xx, -s_xy, -HALF * s_yy
            row[5], row[6], row[7], row[8] = s_r, s_g, s_b, s_1 / opacity
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
