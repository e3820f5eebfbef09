"""`sparse` on CUDA tensors: gathering sample blocks, and conjugate gradients in one CUDA graph.

Float atomics would add in another order every time. Here each row has the list of what feeds it and
one program adds it up, so a resumed run gives the same bytes.
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from topohead.solvers.kernels.rows_triton import block_size, load_row, store_row

_ROWS = 32
"""Vertices that one program works on."""
_NEAR, _FAR = 8, 32
"""Neighbours that are read at once: in the vertex graph, and in the wider stiffness matrix."""


@triton.jit
def _gather_kernel(
    starts, sources, shares, values, out, count, factor, COLUMNS: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, PADDED)
    live = row < count
    begin = tl.load(starts + row, mask=live, other=0)
    length = tl.load(starts + row + 1, mask=live, other=0) - begin
    total = tl.zeros([BLOCK, PADDED], tl.float32)
    for k in range(tl.max(length, axis=0)):
        own = k < length
        source = tl.load(sources + begin + k, mask=own, other=0)
        share = tl.load(shares + begin + k, mask=own, other=0.0)
        read = own[:, None] & (column < COLUMNS)[None, :]
        value = tl.load(values + source[:, None] * COLUMNS + column[None, :], mask=read, other=0.0)
        total += share[:, None] * value
    kept = live[:, None] & (column < COLUMNS)[None, :]
    tl.store(out + row[:, None] * COLUMNS + column[None, :], factor * total, mask=kept)


class Feeds:
    """What adds up to each of `count` rows: S samples with a share each.

    `rows` [S M] names the rows that a sample feeds, `shares` [S M] how much of it they get.
    """

    def __init__(
        self, rows: np.ndarray, shares: np.ndarray, count: int, device: torch.device
    ) -> None:
        order = np.argsort(rows.ravel(), kind="stable")
        starts = np.r_[0, np.cumsum(np.bincount(rows.ravel(), minlength=count))]
        self.count = count
        self.starts = torch.from_numpy(starts.astype(np.int32)).to(device)
        self.sources = torch.from_numpy((order // rows.shape[1]).astype(np.int32)).to(device)
        self.shares = torch.from_numpy(shares.ravel()[order].astype(np.float32)).to(device)

    @staticmethod
    def of(matrix: sparse.csr_matrix, device: torch.device) -> "Feeds":
        """What a matrix [R S] gives each row, in the order in which it has it."""
        made = Feeds(np.zeros((0, 1), np.int64), np.zeros((0, 1)), len(matrix.indptr) - 1, device)
        made.starts = torch.from_numpy(matrix.indptr.astype(np.int32)).to(device)
        made.sources = torch.from_numpy(matrix.indices.astype(np.int32)).to(device)
        made.shares = torch.from_numpy(matrix.data.astype(np.float32)).to(device)
        return made

    def gather(self, values: Float[Tensor, "S K"], factor: float = 1.0) -> Float[Tensor, "R K"]:
        """`factor` times the sum of what feeds each row, float32, in the samples' order."""
        columns = values.shape[1]
        out = values.new_empty(self.count, columns)
        block = block_size(_ROWS, self.count)
        _gather_kernel[(triton.cdiv(self.count, block),)](
            self.starts, self.sources, self.shares, values, out, self.count, factor,
            COLUMNS=columns, PADDED=triton.next_power_of_2(columns), BLOCK=block,
        )  # fmt: skip
        return out


@triton.jit
def _precondition(inverse, row, live, r0, r1, r2):
    """Residuals times the inverse diagonal blocks."""
    m = inverse + 6 * row
    xx, xy, xz = load_row(m, 0, live)
    yy, yz, zz = load_row(m + 3, 0, live)
    return xx * r0 + xy * r1 + xz * r2, xy * r0 + yy * r1 + yz * r2, xz * r0 + yz * r1 + zz * r2


@triton.jit
def _dot(a0, a1, a2, b0, b1, b2):
    """Inner product of vectors [BLOCK 3], added up in float64."""
    x = a0.to(tl.float64) * b0 + a1.to(tl.float64) * b1 + a2.to(tl.float64) * b2
    return tl.sum(x, axis=0)


@triton.jit
def _total(partial, parts, PARTS: tl.constexpr):
    """Sum of the programs' shares, the same in every program that asks."""
    at = tl.arange(0, PARTS)
    return tl.sum(tl.load(partial + at, mask=at < parts, other=0.0), axis=0)


@triton.jit
def _begin_kernel(
    rhs, blocks, diagonal, stiff_diagonal, inverse, x, r, z, p, norms, alive, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Inverse diagonal blocks, and the state before the first step."""
    pid = tl.program_id(0)
    row = pid * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    m = blocks + 6 * tl.load(diagonal + row, mask=live, other=0)
    stiff = tl.load(stiff_diagonal + row, mask=live, other=1.0).to(tl.float64)
    a, b, c = tl.load(m) + stiff, tl.load(m + 1).to(tl.float64), tl.load(m + 2).to(tl.float64)
    d, e, f = tl.load(m + 3) + stiff, tl.load(m + 4).to(tl.float64), tl.load(m + 5) + stiff
    xx, xy, xz = d * f - e * e, c * e - b * f, b * e - c * d
    scale = 1 / (a * xx + b * xy + c * xz)
    xx, xy, xz = (
        (xx * scale).to(tl.float32),
        (xy * scale).to(tl.float32),
        (xz * scale).to(tl.float32),
    )
    yy = ((a * f - c * c) * scale).to(tl.float32)
    yz = ((b * c - a * e) * scale).to(tl.float32)
    zz = ((a * d - b * b) * scale).to(tl.float32)
    out = inverse + 6 * row
    store_row(out, 0, live, xx, xy, xz)
    store_row(out + 3, 0, live, yy, yz, zz)
    r0, r1, r2 = load_row(rhs, row, live)
    z0 = xx * r0 + xy * r1 + xz * r2
    z1 = xy * r0 + yy * r1 + yz * r2
    z2 = xz * r0 + yz * r1 + zz * r2
    store_row(r, row, live, r0, r1, r2)
    store_row(z, row, live, z0, z1, z2)
    none = tl.zeros([BLOCK], tl.float32)
    store_row(x, row, live, none, none, none)
    store_row(p, row, live, none, none, none)
    tl.store(norms + pid, _dot(r0, r1, r2, z0, z1, z2))
    tl.store(alive, 1)


@triton.jit
def _onward(z, p, ratio, row, live):
    """The search direction at rows, made of the residual's and the last one."""
    z0, z1, z2 = load_row(z, row, live)
    p0, p1, p2 = load_row(p, row, live)
    return z0 + ratio * p0, z1 + ratio * p1, z2 + ratio * p2


@triton.jit
def _direction_kernel(
    z, last, fresh, q, starts, columns, blocks, stiff_starts, stiff_columns, stiffness, norms,
    curves, alive, parts, count, FIRST: tl.constexpr, PARTS: tl.constexpr, NEAR: tl.constexpr,
    FAR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The next search direction p = z + ratio p', the matrix times it, and the shares of p·q."""
    if tl.load(alive) > 0:
        pid = tl.program_id(0)
        row = pid * BLOCK + tl.arange(0, BLOCK)
        live = row < count
        if FIRST:
            ratio = 0.0
        else:
            before = _total(norms - PARTS, parts, PARTS)
            now = _total(norms, parts, PARTS)
            ratio = tl.where(before > 0, now / tl.where(before > 0, before, 1.0), 0.0).to(
                tl.float32
            )
        p0, p1, p2 = _onward(z, last, ratio, row, live)
        store_row(fresh, row, live, p0, p1, p2)
        s0 = tl.zeros([BLOCK], tl.float32)
        s1, s2 = s0, s0
        begin = tl.load(starts + row, mask=live, other=0)
        end = tl.load(starts + row + 1, mask=live, other=0)
        near = tl.arange(0, NEAR)
        for offset in range(0, tl.max(end - begin, axis=0), NEAR):
            at = (begin + offset)[:, None] + near[None, :]
            own = at < end[:, None]
            j = tl.load(columns + at, mask=own, other=0)
            a, b, c = _onward(z, last, ratio, j, own)
            m = blocks + 6 * at
            xx, xy, xz = load_row(m, 0, own)
            yy, yz, zz = load_row(m + 3, 0, own)
            s0 += tl.sum(xx * a + xy * b + xz * c, axis=1)
            s1 += tl.sum(xy * a + yy * b + yz * c, axis=1)
            s2 += tl.sum(xz * a + yz * b + zz * c, axis=1)
        begin = tl.load(stiff_starts + row, mask=live, other=0)
        end = tl.load(stiff_starts + row + 1, mask=live, other=0)
        far = tl.arange(0, FAR)
        for offset in range(0, tl.max(end - begin, axis=0), FAR):
            at = (begin + offset)[:, None] + far[None, :]
            own = at < end[:, None]
            j = tl.load(stiff_columns + at, mask=own, other=0)
            w = tl.load(stiffness + at, mask=own, other=0.0)
            a, b, c = _onward(z, last, ratio, j, own)
            s0 += tl.sum(w * a, axis=1)
            s1 += tl.sum(w * b, axis=1)
            s2 += tl.sum(w * c, axis=1)
        store_row(q, row, live, s0, s1, s2)
        tl.store(curves + pid, _dot(p0, p1, p2, s0, s1, s2))


@triton.jit
def _advance_kernel(
    x, r, z, p, q, inverse, first, norms, curves, alive, tolerance, parts, count,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step along p, nothing once converged; the new residuals and the shares of r·z."""
    pid = tl.program_id(0)
    going = tl.load(alive) > 0
    if going:
        row = pid * BLOCK + tl.arange(0, BLOCK)
        live = row < count
        norm = _total(norms, parts, PARTS)
        curvature = _total(curves, parts, PARTS)
        going = (norm > tolerance * _total(first, parts, PARTS)) & (curvature > 0)
        step = tl.where(going, norm / tl.where(going, curvature, 1.0), 0.0).to(tl.float32)
        p0, p1, p2 = load_row(p, row, live)
        q0, q1, q2 = load_row(q, row, live)
        x0, x1, x2 = load_row(x, row, live)
        r0, r1, r2 = load_row(r, row, live)
        r0, r1, r2 = r0 - step * q0, r1 - step * q1, r2 - step * q2
        z0, z1, z2 = _precondition(inverse, row, live, r0, r1, r2)
        store_row(x, row, live, x0 + step * p0, x1 + step * p1, x2 + step * p2)
        store_row(r, row, live, r0, r1, r2)
        store_row(z, row, live, z0, z1, z2)
        tl.store(norms + PARTS + pid, _dot(r0, r1, r2, z0, z1, z2))
    tl.store(alive + 4, tl.where(going, 1, 0))


class ConjugateGradient:
    """`sparse.conjugate_gradient` for one mesh and one stiffness, with the buffers that it needs.

    The number of steps is fixed and nothing is asked of the host: once converged, steps do
    nothing. So solving may be part of a CUDA graph.
    """

    def __init__(
        self,
        graph: tuple[np.ndarray, np.ndarray],
        stiffness: tuple[np.ndarray, np.ndarray, np.ndarray],
        iterations: int,
        tolerance: float,
        device: torch.device,
    ) -> None:
        starts, columns = graph
        count = len(starts) - 1
        self.count, self.iterations, self.tolerance = count, iterations, tolerance

        def put(array: np.ndarray, kind: type) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, kind)).to(device)

        self._graph = put(starts, np.int32), put(columns, np.int32)
        self._stiff = tuple(
            put(array, kind)
            for array, kind in zip(stiffness, (np.int32, np.int32, np.float32), strict=True)
        )
        self._diagonal = put(_diagonal_slots(starts, columns), np.int32)
        own = _diagonal_slots(*stiffness[:2])
        self._stiff_own = put(own, np.int64)
        self._stiff_diagonal = put(stiffness[2][own], np.float32)
        self._block = block_size(_ROWS, count)
        self._parts = triton.cdiv(count, self._block)

        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._x, self._r, self._z, self._q = (room(count, 3) for _ in range(4))
        self._directions = room(count, 3), room(count, 3)
        self._inverse = room(count, 6)
        # rows of whole 16 bytes: Triton compiles once for each alignment that it meets
        self._padded = max(triton.next_power_of_2(self._parts), 2)
        self._norms = room(iterations + 1, self._padded, dtype=torch.float64)
        self._curves = room(iterations, self._padded, dtype=torch.float64)
        self._alive = room(iterations + 1, 4, dtype=torch.int32)

    def stiffen(self, stiffness: Float[Tensor, " K"]) -> None:
        """Take other values of the stiffness, of the same pattern, from now on."""
        self._stiff[2].copy_(stiffness)
        self._stiff_diagonal.copy_(stiffness[self._stiff_own])

    def solve(
        self, rhs: Float[Tensor, "V 3"], blocks: Float[Tensor, "P 6"]
    ) -> Float[Tensor, "V 3"]:
        """x of (B + K ⊗ I₃) x = rhs, float32; the next call overwrites it."""
        grid, block, parts = (self._parts,), self._block, self._parts
        last, fresh = self._directions
        _begin_kernel[grid](
            rhs, blocks, self._diagonal, self._stiff_diagonal, self._inverse, self._x, self._r,
            self._z, last, self._norms, self._alive, self.count, BLOCK=block,
        )  # fmt: skip
        for k in range(self.iterations):
            norms, curves, alive = self._norms[k], self._curves[k], self._alive[k]
            _direction_kernel[grid](
                self._z, last, fresh, self._q, *self._graph, blocks, *self._stiff, norms, curves,
                alive, parts, self.count, FIRST=k == 0, PARTS=self._padded, NEAR=_NEAR, FAR=_FAR,
                BLOCK=block,
            )  # fmt: skip
            _advance_kernel[grid](
                self._x, self._r, self._z, fresh, self._q, self._inverse, self._norms[0], norms,
                curves, alive, self.tolerance, parts, self.count, PARTS=self._padded, BLOCK=block,
            )  # fmt: skip
            last, fresh = fresh, last
            if not rhs.is_cuda and not int(self._alive[k + 1, 0]):
                break  # interpreted, steps that do nothing take as long
        return self._x


def _diagonal_slots(starts: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Where in a CSR matrix's columns each row's own entry stands."""
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    slots = np.flatnonzero(rows == columns)
    assert len(slots) == len(starts) - 1, "every vertex is its own neighbour"
    return slots
