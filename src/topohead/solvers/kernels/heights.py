"""One number a vertex: (D + K) x = b with a changing diagonal D and a fixed sparse K."""

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

CHUNK = 4096
"""Rows summed on their own, so that sums come out the same whatever the number of threads."""


def conjugate_gradient(
    rhs: Float[Tensor, " N"],
    diagonal: Float[Tensor, " N"],
    stiffness: Tensor,
    own: Float[Tensor, " N"],
    iterations: int,
    tolerance: float = 1e-6,
) -> Float[Tensor, " N"]:
    """x of (D + K) x = rhs, float32, by conjugate gradients with a Jacobi preconditioner.

    `diagonal` is D, `stiffness` K as a sparse CSR tensor with int32 indices, `own` K's diagonal. On
    the CPU it stops when the preconditioned residual has fallen by `tolerance` (squared norm); on a
    device it takes all steps, which asks the host nothing, and stands still once solved.
    """
    if rhs.is_cuda:
        return _on_device(rhs, diagonal, stiffness, 1 / (diagonal + own), iterations, tolerance)
    parts = (stiffness.crow_indices(), stiffness.col_indices(), stiffness.values())
    inverse = 1 / (diagonal + own)
    starts, columns, values = (part.numpy() for part in parts)
    weights = diagonal.numpy(), starts, columns, values, inverse.numpy()
    return torch.from_numpy(_solve(rhs.numpy(), *weights, iterations, tolerance))


def _on_device(
    rhs: Tensor,
    diagonal: Tensor,
    stiffness: Tensor,
    inverse: Tensor,
    iterations: int,
    tolerance: float,
) -> Tensor:
    x, r = torch.zeros_like(rhs), rhs.clone()
    z = inverse * r
    p = z.clone()
    norm = first = (r.double() * z.double()).sum()
    for _ in range(iterations):
        q = stiffness @ p + diagonal * p
        curvature = (p.double() * q.double()).sum()
        going = (norm > tolerance * first) & (curvature > 0)
        step = torch.where(going, norm / curvature, 0.0).float()
        x += step * p
        r -= step * q
        z = inverse * r
        fresh = (r.double() * z.double()).sum()
        p = z + torch.where(going, fresh / norm, 0.0).float() * p
        norm = fresh
    return x


@njit(parallel=True, fastmath=True, cache=True)
def _multiply(p, q, diagonal, starts, columns, values, sums):
    """q = (D + K) p; `sums` receives p·q of each chunk of rows."""
    for c in prange(len(sums)):
        part = 0.0
        for i in range(c * CHUNK, min((c + 1) * CHUNK, len(p))):
            total = diagonal[i] * p[i]
            for k in range(starts[i], starts[i + 1]):
                total += values[k] * p[columns[k]]
            q[i] = total
            part += float(total) * float(p[i])
        sums[c] = part


@njit(parallel=True, fastmath=True, cache=True)
def _advance(x, r, z, p, q, inverse, step, sums):
    """x and r after a step along p, z the preconditioned r; `sums` receives r·z of each chunk."""
    for c in prange(len(sums)):
        part = 0.0
        for i in range(c * CHUNK, min((c + 1) * CHUNK, len(p))):
            x[i] += step * p[i]
            r[i] -= step * q[i]
            z[i] = inverse[i] * r[i]
            part += float(r[i]) * float(z[i])
        sums[c] = part


@njit(parallel=True, fastmath=True, cache=True)
def _turn(p, z, ratio):
    for i in prange(len(p)):
        p[i] = z[i] + ratio * p[i]


@njit(cache=True)
def _solve(rhs, diagonal, starts, columns, values, inverse, iterations, tolerance):
    count = len(rhs)
    x, r = np.zeros_like(rhs), rhs.copy()
    z, q, p = np.empty_like(rhs), np.zeros_like(rhs), np.zeros_like(rhs)
    sums = np.empty((count + CHUNK - 1) // CHUNK)
    _advance(x, r, z, p, q, inverse, np.float32(0), sums)
    norm = first = sums.sum()
    _turn(p, z, np.float32(0))
    for _ in range(iterations):
        if not norm > tolerance * first:
            break
        _multiply(p, q, diagonal, starts, columns, values, sums)
        curvature = sums.sum()
        if not curvature > 0:
            break
        _advance(x, r, z, p, q, inverse, np.float32(norm / curvature), sums)
        fresh = sums.sum()
        _turn(p, z, np.float32(fresh / norm))
        norm = fresh
    return x
