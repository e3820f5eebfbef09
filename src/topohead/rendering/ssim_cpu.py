"""L1 and structural similarity of pictures, value and gradient in two sweeps, compiled by numba.

The 11-tap Gaussian window (σ = 1.5 pixels) is separable and pictures are padded with zeros. A row
of pixels is treated as one vector of 3 W numbers: neighbours in x are three places apart. Values
add up per row, so results do not depend on the number of threads.
"""

import math

import numpy as np
from numba import njit, prange

RADIUS = 5
SIGMA = 1.5
PAD = 3 * RADIUS
C1 = np.float32(0.01**2)
C2 = np.float32(0.03**2)
ONE = np.float32(1)
TWO = np.float32(2)
ZERO = np.float32(0)


def window() -> np.ndarray:
    """Weights of the window from its centre outwards, float32 [6]; both sides sum to one."""
    half = np.array([math.exp(-0.5 * (k / SIGMA) ** 2) for k in range(RADIUS + 1)])
    return (half / (half[0] + 2 * half[1:].sum())).astype(np.float32)


@njit(fastmath=True, cache=True)
def _add_rows(picture, y, weights, total):
    """Window over rows y-5 … y+5 of a picture [H 3W], into the middle of `total` [3W + 30]."""
    height, length = picture.shape
    middle = total[PAD : PAD + length]
    for x in range(length):
        middle[x] = weights[0] * picture[y, x]
    for k in range(1, RADIUS + 1):
        weight = weights[k]
        for row in (y - k, y + k):
            if 0 <= row < height:
                source = picture[row]
                for x in range(length):
                    middle[x] += weight * source[x]


@njit(fastmath=True, cache=True)
def _add_rows_of_products(first, second, y, weights, total):
    """The same over the products of two pictures."""
    height, length = first.shape
    middle = total[PAD : PAD + length]
    for x in range(length):
        middle[x] = weights[0] * first[y, x] * second[y, x]
    for k in range(1, RADIUS + 1):
        weight = weights[k]
        for row in (y - k, y + k):
            if 0 <= row < height:
                a, b = first[row], second[row]
                for x in range(length):
                    middle[x] += weight * a[x] * b[x]


@njit(fastmath=True, cache=True)
def _add_columns(total, w, blurred):
    """Window over the pixels of one padded row."""
    n = blurred.shape[0]
    for x in range(n):
        blurred[x] = (
            w[0] * total[x + 15]
            + w[1] * (total[x + 12] + total[x + 18])
            + w[2] * (total[x + 9] + total[x + 21])
            + w[3] * (total[x + 6] + total[x + 24])
            + w[4] * (total[x + 3] + total[x + 27])
            + w[5] * (total[x] + total[x + 30])
        )


@njit(parallel=True, fastmath=True, cache=True)
def statistics(target, weights):
    """Windowed mean and variance [2 H 3W] of a target [H 3W]; once a target, not once a step."""
    height, length = target.shape
    result = np.empty((2, height, length), np.float32)
    for y in prange(height):
        total = np.zeros(length + 2 * PAD, np.float32)
        mean, variance = result[0, y], result[1, y]
        _add_rows(target, y, weights, total)
        _add_columns(total, weights, mean)
        _add_rows_of_products(target, target, y, weights, total)
        _add_columns(total, weights, variance)
        for x in range(length):
            variance[x] -= mean[x] * mean[x]
    return result


@njit(fastmath=True, cache=True, error_model="numpy")
def _similarity(mean_a, square_a, product, mean_b, variance_b):
    """Sum of SSIM over a row; its derivatives by the mean, the mean square and the mean product
    of the picture take the place of those values."""
    total = ZERO
    for x in range(mean_a.shape[0]):
        u, v = mean_a[x], mean_b[x]
        luminance = TWO * u * v + C1
        contrast = TWO * (product[x] - u * v) + C2
        below_luminance = u * u + v * v + C1
        below_contrast = square_a[x] - u * u + variance_b[x] + C2
        inverse = ONE / (below_luminance * below_contrast)
        similarity = luminance * contrast * inverse
        total += similarity
        by_square = -similarity / below_contrast
        by_product = TWO * luminance * inverse
        mean_a[x] = (
            TWO * v * contrast * inverse
            - TWO * u * similarity / below_luminance
            - v * by_product
            - TWO * u * by_square
        )
        square_a[x], product[x] = by_square, by_product
    return total


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def l1_dssim(picture, target, target_statistics, weights, dssim_weight, count):
    """(1 - λ) mean|a - b| + λ (1 - mean SSIM), and its gradient by the picture.

    `picture`, `target` float32 [H 3W]; `target_statistics` from `statistics`. Means are over
    `count` values: more than 3 H W where the two are cut from larger, elsewhere equal pictures.
    """
    height, length = picture.shape
    slopes = np.empty((3, height, length), np.float32)
    similarity = np.empty(height, np.float64)
    for y in prange(height):
        total = np.zeros(length + 2 * PAD, np.float32)
        mean, square, product = slopes[0, y], slopes[1, y], slopes[2, y]
        _add_rows(picture, y, weights, total)
        _add_columns(total, weights, mean)
        _add_rows_of_products(picture, picture, y, weights, total)
        _add_columns(total, weights, square)
        _add_rows_of_products(picture, target, y, weights, total)
        _add_columns(total, weights, product)
        similarity[y] = _similarity(
            mean, square, product, target_statistics[0, y], target_statistics[1, y]
        )

    share = ONE / np.float32(count)
    absolute_share = (ONE - dssim_weight) * share
    similar_share = dssim_weight * share
    gradient = np.empty((height, length), np.float32)
    absolute = np.empty(height, np.float64)
    for y in prange(height):
        total = np.zeros(length + 2 * PAD, np.float32)
        blurred = np.empty((3, length), np.float32)
        for k in range(3):
            _add_rows(slopes[k], y, weights, total)
            _add_columns(total, weights, blurred[k])
        row = ZERO
        for x in range(length):
            a, b = picture[y, x], target[y, x]
            difference = a - b
            row += abs(difference)
            sign = ONE if difference > 0 else (-ONE if difference < 0 else ZERO)
            slope = blurred[0, x] + TWO * a * blurred[1, x] + b * blurred[2, x]
            gradient[y, x] = absolute_share * sign - similar_share * slope
        absolute[y] = row
    value = (1.0 - dssim_weight) * absolute.sum()
    value += dssim_weight * (np.float64(height * length) - similarity.sum())
    return value / count, gradient
