"""Block-sparse systems on a mesh: 3×3 blocks on the vertex graph plus a scalar stiffness."""

import numpy as np
from numba import njit, prange


@njit(cache=True, fastmath=True)
def scatter(blocks, gradients, corners, weights, slots, block_count, vertex_count):
    """Add sample blocks [S 6] and gradients [S 3] into the mesh's block matrix and vector.

    `slots` int32 [S 9] is the block row of each corner pair. Returns [block_count 6], [V 3].
    """
    matrix = np.zeros((block_count, 6), np.float32)
    vector = np.zeros((vertex_count, 3), np.float32)
    for s in range(len(corners)):
        if blocks[s, 0] == 0 and blocks[s, 3] == 0 and blocks[s, 5] == 0:
            continue
        for a in range(3):
            wa = weights[s, a]
            for k in range(3):
                vector[corners[s, a], k] += wa * gradients[s, k]
            for b in range(3):
                w = wa * weights[s, b]
                slot = slots[s, 3 * a + b]
                for k in range(6):
                    matrix[slot, k] += w * blocks[s, k]
    return matrix, vector


@njit(parallel=True, fastmath=True, cache=True)
def _multiply(x, y, starts, columns, blocks, stiff_starts, stiff_columns, stiffness):
    for i in prange(len(x)):
        s0, s1, s2 = np.float32(0), np.float32(0), np.float32(0)
        for p in range(starts[i], starts[i + 1]):
            j = columns[p]
            a, b, c = x[j, 0], x[j, 1], x[j, 2]
            s0 += blocks[p, 0] * a + blocks[p, 1] * b + blocks[p, 2] * c
            s1 += blocks[p, 1] * a + blocks[p, 3] * b + blocks[p, 4] * c
            s2 += blocks[p, 2] * a + blocks[p, 4] * b + blocks[p, 5] * c
        for p in range(stiff_starts[i], stiff_starts[i + 1]):
            j, w = stiff_columns[p], stiffness[p]
            s0 += w * x[j, 0]
            s1 += w * x[j, 1]
            s2 += w * x[j, 2]
        y[i, 0], y[i, 1], y[i, 2] = s0, s1, s2


@njit(fastmath=True, cache=True)
def _invert_diagonal(starts, columns, blocks, stiff_starts, stiff_columns, stiffness, count):
    inverse = np.empty((count, 3, 3), np.float32)
    for i in range(count):
        m = np.zeros((3, 3))
        for p in range(starts[i], starts[i + 1]):
            if columns[p] == i:
                m[0, 0] += blocks[p, 0]
                m[0, 1] += blocks[p, 1]
                m[0, 2] += blocks[p, 2]
                m[1, 1] += blocks[p, 3]
                m[1, 2] += blocks[p, 4]
                m[2, 2] += blocks[p, 5]
        diagonal = 0.0
        for p in range(stiff_starts[i], stiff_starts[i + 1]):
            if stiff_columns[p] == i:
                diagonal += stiffness[p]
        m[1, 0], m[2, 0], m[2, 1] = m[0, 1], m[0, 2], m[1, 2]
        for k in range(3):
            m[k, k] += diagonal
        inverse[i] = np.linalg.inv(m).astype(np.float32)
    return inverse


@njit(fastmath=True, cache=True)
def conjugate_gradient(
    rhs, starts, columns, blocks, stiff_starts, stiff_columns, stiffness, iterations, tolerance
):
    """Solve (B + K ⊗ I₃) x = rhs by conjugate gradients with a block-Jacobi preconditioner.

    B: symmetric blocks [P 6] on the vertex graph (CSR starts, columns). K: scalar CSR.
    Stops when the preconditioned residual has fallen by `tolerance` (squared norm).
    """
    count = len(rhs)
    inverse = _invert_diagonal(
        starts, columns, blocks, stiff_starts, stiff_columns, stiffness, count
    )
    x, r = np.zeros_like(rhs), rhs.copy()
    z, q = np.empty_like(rhs), np.empty_like(rhs)
    for i in range(count):
        for k in range(3):
            z[i, k] = (
                inverse[i, k, 0] * r[i, 0] + inverse[i, k, 1] * r[i, 1] + inverse[i, k, 2] * r[i, 2]
            )
    p = z.copy()
    norm = 0.0
    for i in range(count):
        for k in range(3):
            norm += float(r[i, k]) * float(z[i, k])
    first = norm
    for _ in range(iterations):
        if not norm > tolerance * first:
            break
        _multiply(p, q, starts, columns, blocks, stiff_starts, stiff_columns, stiffness)
        curvature = 0.0
        for i in range(count):
            for k in range(3):
                curvature += float(p[i, k]) * float(q[i, k])
        if not curvature > 0:
            break
        step = np.float32(norm / curvature)
        fresh = 0.0
        for i in range(count):
            for k in range(3):
                x[i, k] += step * p[i, k]
                r[i, k] -= step * q[i, k]
            for k in range(3):
                z[i, k] = (
                    inverse[i, k, 0] * r[i, 0]
                    + inverse[i, k, 1] * r[i, 1]
                    + inverse[i, k, 2] * r[i, 2]
                )
                fresh += float(r[i, k]) * float(z[i, k])
        ratio = np.float32(fresh / norm)
        norm = fresh
        for i in range(count):
            for k in range(3):
                p[i, k] = z[i, k] + ratio * p[i, k]
    return x


@njit(parallel=True, cache=True)
def local_rotations(rest, vertices, starts, columns, edge_weights):
    """Best rotation of every vertex's one-ring from `rest` to `vertices`, float64 [V 3 3].

    Weighted orthogonal Procrustes (Sorkine & Alexa 2007, eq. 5–6).
    """
    count = len(vertices)
    rotations = np.empty((count, 3, 3))
    for i in prange(count):
        covariance = np.zeros((3, 3))
        for p in range(starts[i], starts[i + 1]):
            j = columns[p]
            w = edge_weights[p]
            for a in range(3):
                for b in range(3):
                    covariance[a, b] += (
                        w * (vertices[j, a] - vertices[i, a]) * (rest[j, b] - rest[i, b])
                    )
        u, _, vt = np.linalg.svd(covariance)
        if np.linalg.det(u) * np.linalg.det(vt) < 0:
            u[:, 2] = -u[:, 2]
        rotations[i] = u @ vt
    return rotations
