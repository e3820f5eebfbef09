"""How eyeballs look in patches of pictures: values of samples, likeness of gazes, their equations.

Arrays, float32: `arms` [S 3] are samples about the globe's centre in the axes in which `turn`
[3 3] acts, `areas` [S] what each stands for in m². `centers` [C 3] is the globe's centre in each
camera, `axes` [C 3 3] the cameras' rotations, `lens` [C 4] fx fy cx cy within the patch. `patches`
[C P P 3] are srgb; `front` [C P P] is the depth at which something hides a globe, 0 where a pixel
must not be used. `colors` [S 3] are what is known of the globe and `trust` [S] how surely.
"""

import math

import numpy as np
from numba import njit, prange

_STEEPEST = np.float32(0.25)
"""Cosine below which a sample is not read."""


@njit(cache=True, error_model="numpy")
def _place(arm, turn, center, axes, lens, out):
    """Fills `out` with u, v, z and the cosine to the viewer; the arm in camera axes follows."""
    x = turn[0, 0] * arm[0] + turn[0, 1] * arm[1] + turn[0, 2] * arm[2]
    y = turn[1, 0] * arm[0] + turn[1, 1] * arm[1] + turn[1, 2] * arm[2]
    z = turn[2, 0] * arm[0] + turn[2, 1] * arm[1] + turn[2, 2] * arm[2]
    a = axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z
    b = axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z
    c = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z
    px, py, pz = a + center[0], b + center[1], c + center[2]
    length = math.sqrt((px * px + py * py + pz * pz) * (a * a + b * b + c * c))
    out[0] = lens[0] * px / pz + lens[2] - np.float32(0.5)
    out[1] = lens[1] * py / pz + lens[3] - np.float32(0.5)
    out[2] = pz
    out[3] = -(a * px + b * py + c * pz) / (length + np.float32(1e-20))


@njit(inline="always")
def _seen(front, spot):
    """Whether the patch shows the sample at `spot` (u, v, z, cosine)."""
    size = front.shape[0]
    u, v = spot[0], spot[1]
    if not (u >= 1 and v >= 1 and u < size - 2 and v < size - 2):
        return False
    return spot[2] < front[int(v + np.float32(0.5)), int(u + np.float32(0.5))]


@njit(inline="always")
def _bilinear(patch, u, v, k):
    x, y = int(u), int(v)
    fx, fy = u - np.float32(x), v - np.float32(y)
    upper = patch[y, x, k] * (1 - fx) + patch[y, x + 1, k] * fx
    lower = patch[y + 1, x, k] * (1 - fx) + patch[y + 1, x + 1, k] * fx
    return upper * (1 - fy) + lower * fy


@njit(nogil=True, cache=True, error_model="numpy")
def read_globe(arms, turn, centers, axes, lens, patches, front):
    """What every view sees of every sample: values [S C 3], weights [S C] (cosine²; 0: unseen)."""
    values = np.zeros((len(arms), len(lens), 3), np.float32)
    weights = np.zeros((len(arms), len(lens)), np.float32)
    spot = np.empty(4, np.float32)
    for s in range(len(arms)):
        for view in range(len(lens)):
            _place(arms[s], turn, centers[view], axes[view], lens[view], spot)
            if spot[3] < _STEEPEST or not _seen(front[view], spot):
                continue
            for k in range(3):
                values[s, view, k] = _bilinear(patches[view], spot[0], spot[1], k)
            weights[s, view] = spot[3] * spot[3]
    return values, weights


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def likeness(arms, areas, colors, trust, turns, centers, axes, lens, patches, front, noise, cut):
    """How many pixels each of many turns [G 3 3] explains [G].

    A sample counts the pixels that it covers times its Geman–McClure weight about its known colour,
    scaled by a gain for each view. Trust does not weigh here: lids show as much of a globe however
    it is turned, so that the sums compare.
    """
    found = np.zeros(len(turns), np.float32)
    for g in prange(len(turns)):
        spot = np.empty(4, np.float32)
        read = np.empty((len(arms), 3), np.float32)
        pixels = np.empty(len(arms), np.float32)
        order = np.empty(len(arms), np.int32)
        total = np.float32(0)
        for view in range(len(lens)):
            count = _read_view(
                arms, areas, turns[g], centers[view], axes[view], lens[view], patches[view],
                front[view], read, pixels, order, spot,
            )  # fmt: skip
            gain = _gain(read, pixels, order, count, colors, trust, noise, cut)
            for i in range(count):
                total += pixels[i] * _robust(read, i, colors, order[i], gain, noise, cut)
        found[g] = total
    return found


@njit(cache=True, error_model="numpy")
def _read_view(arms, areas, turn, center, axes, lens, patch, front, read, pixels, order, spot):
    """Reads the samples that a view sees; returns how many.

    Row i of `read` is sample `order`[i] and covers `pixels`[i].
    """
    count = 0
    for s in range(len(arms)):
        _place(arms[s], turn, center, axes, lens, spot)
        if spot[3] < _STEEPEST or not _seen(front, spot):
            continue
        for k in range(3):
            read[count, k] = _bilinear(patch, spot[0], spot[1], k)
        pixels[count] = areas[s] * spot[3] * lens[0] * lens[1] / (spot[2] * spot[2])
        order[count] = s
        count += 1
    return count


@njit(cache=True, error_model="numpy")
def _gain(read, pixels, order, count, colors, trust, noise, cut):
    """The factor on known colours that a view asks for, robustly; within a third."""
    gain = np.float32(1)
    for _ in range(3):
        above, below = np.float32(1e-3), np.float32(1e-3)
        for i in range(count):
            s = order[i]
            w = trust[s] * pixels[i] * _robust(read, i, colors, s, gain, noise, cut)
            for k in range(3):
                above += w * read[i, k] * colors[s, k]
                below += w * colors[s, k] * colors[s, k]
        gain = min(max(above / below, np.float32(0.67)), np.float32(1.5))
    return gain


@njit(cache=True, error_model="numpy")
def _robust(read, i, colors, s, gain, noise, cut):
    q = np.float32(0)
    for k in range(3):
        d = (read[i, k] - gain * colors[s, k]) / noise
        q += d * d
    q /= cut * cut
    return 1 / ((1 + q) * (1 + q))


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def equations(
    arms, areas, colors, trust, turn, slopes, centers, axes, lens, patches, front, noise, cut
):
    """Gauss–Newton equations of two angles about `turn`, whose derivatives are `slopes` [2 3 3].

    Per view (matrix xx xy yy, gradient of half the robust energy, pixels that agree with what is
    known) [C 6]; views are summed by the caller, in their order.
    """
    terms = np.zeros((len(lens), 6))
    for view in prange(len(lens)):
        spot = np.empty(4, np.float32)
        read = np.empty((len(arms), 3), np.float32)
        pixels = np.empty(len(arms), np.float32)
        order = np.empty(len(arms), np.int32)
        patch = patches[view]
        count = _read_view(
            arms, areas, turn, centers[view], axes[view], lens[view], patch, front[view],
            read, pixels, order, spot,
        )  # fmt: skip
        gain = _gain(read, pixels, order, count, colors, trust, noise, cut)
        jacobian = np.empty((2, 2), np.float32)
        for i in range(count):
            s = order[i]
            w = pixels[i] * _robust(read, i, colors, s, gain, noise, cut)
            terms[view, 5] += w
            w *= trust[s] / (noise * noise)
            _place(arms[s], turn, centers[view], axes[view], lens[view], spot)
            _pixel_slopes(arms[s], slopes, axes[view], lens[view], spot, jacobian)
            for k in range(3):
                half, u, v = np.float32(0.5), spot[0], spot[1]
                gx = _bilinear(patch, u + half, v, k)
                gx -= _bilinear(patch, u - half, v, k)
                gy = _bilinear(patch, u, v + half, k)
                gy -= _bilinear(patch, u, v - half, k)
                first = gx * jacobian[0, 0] + gy * jacobian[0, 1]
                second = gx * jacobian[1, 0] + gy * jacobian[1, 1]
                residual = read[i, k] - gain * colors[s, k]
                terms[view, 0] += w * first * first
                terms[view, 1] += w * first * second
                terms[view, 2] += w * second * second
                terms[view, 3] += w * first * residual
                terms[view, 4] += w * second * residual
    return terms


@njit(cache=True, error_model="numpy")
def _pixel_slopes(arm, slopes, axes, lens, spot, out):
    """d (u, v) / d angle of a sample at `spot`, one row an angle."""
    # the sample in camera axes over its depth, from its pixel
    x = (spot[0] + np.float32(0.5) - lens[2]) / lens[0]
    y = (spot[1] + np.float32(0.5) - lens[3]) / lens[1]
    for p in range(2):
        d = slopes[p]
        wx = d[0, 0] * arm[0] + d[0, 1] * arm[1] + d[0, 2] * arm[2]
        wy = d[1, 0] * arm[0] + d[1, 1] * arm[1] + d[1, 2] * arm[2]
        wz = d[2, 0] * arm[0] + d[2, 1] * arm[1] + d[2, 2] * arm[2]
        cx = axes[0, 0] * wx + axes[0, 1] * wy + axes[0, 2] * wz
        cy = axes[1, 0] * wx + axes[1, 1] * wy + axes[1, 2] * wz
        cz = axes[2, 0] * wx + axes[2, 1] * wy + axes[2, 2] * wz
        out[p, 0] = lens[0] * (cx - x * cz) / spot[2]
        out[p, 1] = lens[1] * (cy - y * cz) / spot[2]
