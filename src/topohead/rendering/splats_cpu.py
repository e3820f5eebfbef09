"""Gaussian splats on CPU cores, compiled by numba; `splats_backward_cpu` has the gradients.

The picture is cut into bands of rows that run in parallel. A band draws its Gaussians front to
back, each along the short run of pixels that its ellipse covers in a row, into buffers that stay
in the cache. Eight pixels of a row are treated at once (`lanes`); a band's buffers are
one-dimensional with eight unused places after every row, where a run may end.

Numbers as in the classic rasteriser (Kerbl et al. 2023; gsplat): 0.3 px² added to the projected
covariance, α at most 0.99, α under 1/255 ignored, a pixel is closed before T falls to 1e-4.
"""
# Numba's intrinsics take a first argument that callers do not give.
# pyright: reportCallIssue=false

import math

import numpy as np
from numba import njit, prange

from topohead.rendering.lanes import WIDTH, load, maximum, minimum, ramp, store, where

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
def exponential(x):
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
def rotation(w, x, y, z):
    """Rows of the rotation matrix of a unit quaternion."""
    return (
        (ONE - TWO * (y * y + z * z), TWO * (x * y - w * z), TWO * (x * z + w * y)),
        (TWO * (x * y + w * z), ONE - TWO * (x * x + z * z), TWO * (y * z - w * x)),
        (TWO * (x * z - w * y), TWO * (y * z + w * x), ONE - TWO * (x * x + y * y)),
    )


@njit(fastmath=True, cache=True, error_model="numpy")
def camera_point(camera, x, y, z):
    return (
        camera[0] * x + camera[1] * y + camera[2] * z + camera[9],
        camera[3] * x + camera[4] * y + camera[5] * z + camera[10],
        camera[6] * x + camera[7] * y + camera[8] * z + camera[11],
    )


@njit(fastmath=True, cache=True, error_model="numpy")
def screen_rows(camera, tx, ty, inverse):
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
        tx, ty, tz = camera_point(camera, means[i, 0], means[i, 1], means[i, 2])
        depth[i] = tz
        rows[i, 0], rows[i, 1] = 1, 0
        reach = TWO * np.float32(math.log(opacities[i] / ALPHA_MIN)) if opacities[i] > 0 else ZERO
        if not (tz > near and reach > 0):
            continue
        inverse = ONE / tz
        w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        norm = ONE / math.sqrt(w * w + x * x + y * y + z * z)
        turn = rotation(w * norm, x * norm, y * norm, z * norm)
        right, down = screen_rows(camera, tx, ty, inverse)
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
def run(u, xx, xy, yy, reach, dy, width):
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
def opacity_at(dx, square, cross, bend, limit, opacity):
    """α of eight pixels before it is clamped; zero outside the ellipse."""
    power = square + dx * (cross + dx * bend)
    return where(power > limit, exponential(maximum(power, limit)) * opacity, ZERO)


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
        first, last = run(u, xx, xy, yy, reach, dy, width)
        square, cross = -HALF * yy * dy * dy, -xy * dy
        row = (y - top) * stride
        for x in range(first, last + 1, WIDTH):
            dx = ramp() + (np.float32(x) + HALF - u)
            alpha = minimum(opacity_at(dx, square, cross, bend, limit, opacity), ALPHA_MAX)
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
