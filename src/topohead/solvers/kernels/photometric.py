"""Photometric normal equations of surface samples over all views at once.

Arrays: `positions`, `normals` float32 [V 3]; `corners` int32 [S 3], `weights` float32 [S 3] place s
on its triangle; `areas` float32 [S] is the surface that a sample stands for, in m².
`cameras` float32 [C 16] holds a row-major rotation, a translation and fx fy cx cy at the size of
`features`. `depth` float32 [C H W] is the visible depth, negative where a pixel may not be
used. `features` float32 [C H W 9]: three channels, their x derivatives, their y derivatives.
"""

import math

import numpy as np
from numba import njit, prange

_MAX_VIEWS = 64


@njit(inline="always")
def _locate(position, cameras, view, depth, tolerance):
    """Pixel of a world point in a view; x < 0 when it is outside, hidden or masked."""
    m = cameras[view]
    x = m[0] * position[0] + m[1] * position[1] + m[2] * position[2] + m[9]
    y = m[3] * position[0] + m[4] * position[1] + m[5] * position[2] + m[10]
    z = m[6] * position[0] + m[7] * position[1] + m[8] * position[2] + m[11]
    if z <= np.float32(1e-4):
        return np.float32(-1), np.float32(-1), x, y, z
    u = m[12] * x / z + m[14] - np.float32(0.5)
    v = m[13] * y / z + m[15] - np.float32(0.5)
    height, width = depth.shape[1], depth.shape[2]
    if not (u >= 1 and v >= 1 and u < width - 2 and v < height - 2):
        return np.float32(-1), np.float32(-1), x, y, z
    front = depth[view, int(v + np.float32(0.5)), int(u + np.float32(0.5))]
    if front < 0 or abs(z - front) > tolerance:
        return np.float32(-1), np.float32(-1), x, y, z
    return u, v, x, y, z


@njit(inline="always")
def _point(values, corners, weights, s, out):
    for k in range(3):
        out[k] = (
            weights[s, 0] * values[corners[s, 0], k]
            + weights[s, 1] * values[corners[s, 1], k]
            + weights[s, 2] * values[corners[s, 2], k]
        )


@njit(inline="always")
def _facing(normal, position, cameras, view):
    """Cosine between the sample's normal and the direction to the camera's centre."""
    m = cameras[view]
    x = m[0] * position[0] + m[1] * position[1] + m[2] * position[2] + m[9]
    y = m[3] * position[0] + m[4] * position[1] + m[5] * position[2] + m[10]
    z = m[6] * position[0] + m[7] * position[1] + m[8] * position[2] + m[11]
    nx = m[0] * normal[0] + m[1] * normal[1] + m[2] * normal[2]
    ny = m[3] * normal[0] + m[4] * normal[1] + m[5] * normal[2]
    nz = m[6] * normal[0] + m[7] * normal[1] + m[8] * normal[2]
    length = math.sqrt((x * x + y * y + z * z) * (nx * nx + ny * ny + nz * nz))
    return -(nx * x + ny * y + nz * z) / (length + np.float32(1e-20))


@njit(inline="always")
def _bilinear(features, view, u, v, channel):
    iu, iv = int(u), int(v)
    fu, fv = u - np.float32(iu), v - np.float32(iv)
    upper = features[view, iv, iu, channel] * (1 - fu) + features[view, iv, iu + 1, channel] * fu
    lower = (
        features[view, iv + 1, iu, channel] * (1 - fu)
        + features[view, iv + 1, iu + 1, channel] * fu
    )
    return upper * (1 - fv) + lower * fv


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def sample_features(
    positions, normals, corners, weights, cameras, depth, features, min_cosine, tolerance
):
    """What every view sees at every sample: values [S C 3] and weights [S C].

    The weight is the cosine squared, zero where the view does not see the sample.
    """
    count, views = len(corners), len(cameras)
    values = np.zeros((count, views, 3), np.float32)
    seen = np.zeros((count, views), np.float32)
    for s in prange(count):
        position, normal = np.empty(3, np.float32), np.empty(3, np.float32)
        _point(positions, corners, weights, s, position)
        _point(normals, corners, weights, s, normal)
        for view in range(views):
            cosine = _facing(normal, position, cameras, view)
            if cosine < min_cosine:
                continue
            u, v, _, _, _ = _locate(position, cameras, view, depth, tolerance)
            if u < 0:
                continue
            for k in range(3):
                values[s, view, k] = _bilinear(features, view, u, v, k)
            seen[s, view] = cosine * cosine
    return values, seen


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def accumulate(
    positions,
    normals,
    corners,
    weights,
    areas,
    cameras,
    depth,
    features,
    reference,
    trust,
    noise,
    cut,
    min_cosine,
    tolerance,
):
    """Gauss–Newton blocks of the photometric energy, one 3×3 block a sample.

    Sample s has an unknown colour c now, with the reference T as prior: the energy
    Σ_v w_v |I_v − c|² + λ |c − T|² is minimised over c in closed form (Schur complement), so that a
    colour that changed alike in all views still locates the surface while `trust` λ ties it to the
    first frame. w_v counts the pixels that the sample covers, over `noise`², times a Geman–McClure
    weight that fades at `cut` times the noise. λ is `trust`[s] pixels' worth per view.

    Returns blocks [S 6] (xx xy xz yy yz zz), gradients [S 3] (of half the energy), and per sample
    (weight, weighted squared residual to T in noise², views, robust weight) [S 4].
    """
    count, views = len(corners), len(cameras)
    blocks = np.zeros((count, 6), np.float32)
    gradients = np.zeros((count, 3), np.float32)
    stats = np.zeros((count, 4), np.float32)
    inverse_noise = np.float32(1) / noise
    inverse_cut = np.float32(1) / cut
    for s in prange(count):
        if trust[s] <= 0:
            continue
        position, normal = np.empty(3, np.float32), np.empty(3, np.float32)
        _point(positions, corners, weights, s, position)
        _point(normals, corners, weights, s, normal)
        colors = np.empty((_MAX_VIEWS, 3), np.float32)
        jacobians = np.empty((_MAX_VIEWS, 3, 3), np.float32)
        pixels = np.empty(_MAX_VIEWS, np.float32)
        seen = 0
        for view in range(views):
            cosine = _facing(normal, position, cameras, view)
            if cosine < min_cosine:
                continue
            u, v, x, y, z = _locate(position, cameras, view, depth, tolerance)
            if u < 0:
                continue
            m = cameras[view]
            fx, fy, iz = m[12], m[13], np.float32(1) / z
            for k in range(3):
                colors[seen, k] = _bilinear(features, view, u, v, k)
                gx = _bilinear(features, view, u, v, 3 + k)
                gy = _bilinear(features, view, u, v, 6 + k)
                for a in range(3):
                    du = fx * iz * (m[a] - x * iz * m[6 + a])
                    dv = fy * iz * (m[3 + a] - y * iz * m[6 + a])
                    jacobians[seen, k, a] = gx * du + gy * dv
            # no more evidence than pixels: a sample smaller than a pixel counts for its share
            pixels[seen] = min(areas[s] * cosine * fx * fy * iz * iz, np.float32(4))
            seen += 1
        if seen == 0:
            continue
        # the prior's pull is counted in views: λ = trust × the mean view's weight
        total = np.float32(0)
        for i in range(seen):
            total += pixels[i]
        prior = trust[s] * total / seen
        # present colour, robustly: two rounds of reweighted means that start at the reference
        color = np.empty(3, np.float32)
        robust = np.empty(_MAX_VIEWS, np.float32)
        for k in range(3):
            color[k] = reference[s, k]
        for _ in range(2):
            weight = prior
            mean0 = prior * reference[s, 0]
            mean1 = prior * reference[s, 1]
            mean2 = prior * reference[s, 2]
            for i in range(seen):
                d0 = (colors[i, 0] - color[0]) * inverse_noise
                d1 = (colors[i, 1] - color[1]) * inverse_noise
                d2 = (colors[i, 2] - color[2]) * inverse_noise
                q = (d0 * d0 + d1 * d1 + d2 * d2) * inverse_cut * inverse_cut
                robust[i] = 1 / ((1 + q) * (1 + q))
                w = pixels[i] * robust[i]
                weight += w
                mean0 += w * colors[i, 0]
                mean1 += w * colors[i, 1]
                mean2 += w * colors[i, 2]
            color[0] = mean0 / weight
            color[1] = mean1 / weight
            color[2] = mean2 / weight
        scale = inverse_noise * inverse_noise
        energy, inlying = np.float32(0), np.float32(0)
        seen_weight = np.float32(0)
        for k in range(3):
            m0, m1, m2, mr = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for i in range(seen):
                w = pixels[i] * robust[i] * scale
                r = colors[i, k] - reference[s, k]
                j0, j1, j2 = jacobians[i, k, 0], jacobians[i, k, 1], jacobians[i, k, 2]
                blocks[s, 0] += w * j0 * j0
                blocks[s, 1] += w * j0 * j1
                blocks[s, 2] += w * j0 * j2
                blocks[s, 3] += w * j1 * j1
                blocks[s, 4] += w * j1 * j2
                blocks[s, 5] += w * j2 * j2
                gradients[s, 0] += w * j0 * r
                gradients[s, 1] += w * j1 * r
                gradients[s, 2] += w * j2 * r
                m0 += w * j0
                m1 += w * j1
                m2 += w * j2
                mr += w * r
                energy += w * r * r
            whole = np.float32(0)
            for i in range(seen):
                whole += pixels[i] * robust[i]
            d = 1 / ((whole + prior) * scale)
            blocks[s, 0] -= d * m0 * m0
            blocks[s, 1] -= d * m0 * m1
            blocks[s, 2] -= d * m0 * m2
            blocks[s, 3] -= d * m1 * m1
            blocks[s, 4] -= d * m1 * m2
            blocks[s, 5] -= d * m2 * m2
            gradients[s, 0] -= d * m0 * mr
            gradients[s, 1] -= d * m1 * mr
            gradients[s, 2] -= d * m2 * mr
        for i in range(seen):
            seen_weight += pixels[i]
            inlying += robust[i]
        stats[s, 0] = seen_weight
        stats[s, 1] = energy
        stats[s, 2] = seen
        stats[s, 3] = inlying / seen
    return blocks, gradients, stats


@njit(parallel=True, fastmath=True, cache=True)
def usable_depth(depth, reach, tolerance):
    """Depth [H W] with −1 where a neighbour within `reach` pixels is empty or jumps.

    Near an occluding edge a pixel mixes two surfaces, and a filtered one more of them.
    """
    height, width = depth.shape
    out = np.full((height, width), np.float32(-1))
    for y in prange(reach, height - reach):
        for x in range(reach, width - reach):
            z = depth[y, x]
            if not z < np.float32(1e20):
                continue
            usable = True
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    step = max(abs(dx), abs(dy))
                    if not abs(depth[y + dy, x + dx] - z) <= tolerance * step:
                        usable = False
            if usable:
                out[y, x] = z
    return out
