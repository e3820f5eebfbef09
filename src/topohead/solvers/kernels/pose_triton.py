"""Gauss–Newton steps of pose and expression on a CUDA device; all in float64."""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.solvers.kernels.rows_triton import block_size, load_row


@triton.jit
def _place_kernel(
    vertices, origin, pose, corners, weights, basis, blocks, gradients, jacobian, weighted, count,
    K: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each sample's Jacobian, and its block times that with the gradient behind."""
    s = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = s < count
    a, b, c = load_row(corners, s, live)
    u, v, w = load_row(weights, s, live)
    u, v, w = u.to(tl.float64), v.to(tl.float64), w.to(tl.float64)
    ox, oy, oz = tl.load(origin), tl.load(origin + 1), tl.load(origin + 2)
    ax, ay, az = load_row(vertices, a, live)
    bx, by, bz = load_row(vertices, b, live)
    cx, cy, cz = load_row(vertices, c, live)
    x = (u * (ax - ox) + v * (bx - ox) + w * (cx - ox))[:, None]
    y = (u * (ay - oy) + v * (by - oy) + w * (cy - oy))[:, None]
    z = (u * (az - oz) + v * (bz - oz) + w * (cz - oz))[:, None]

    # columns: turns about the axes, shifts along them, expressions
    column = tl.arange(0, PADDED)[None, :]
    moves = live[:, None] & (column >= 6) & (column < 6 + K)
    spot = basis + s[:, None] * (3 * K) + (column - 6)
    p = tl.load(spot, mask=moves, other=0.0)
    q = tl.load(spot + K, mask=moves, other=0.0)
    r = tl.load(spot + 2 * K, mask=moves, other=0.0)
    jx = tl.load(pose) * p + tl.load(pose + 1) * q + tl.load(pose + 2) * r
    jy = tl.load(pose + 4) * p + tl.load(pose + 5) * q + tl.load(pose + 6) * r
    jz = tl.load(pose + 8) * p + tl.load(pose + 9) * q + tl.load(pose + 10) * r
    jx += tl.where(column == 1, z, 0.0) - tl.where(column == 2, y, 0.0)
    jy += tl.where(column == 2, x, 0.0) - tl.where(column == 0, z, 0.0)
    jz += tl.where(column == 0, y, 0.0) - tl.where(column == 1, x, 0.0)
    jx += tl.where(column == 3, 1.0, 0.0)
    jy += tl.where(column == 4, 1.0, 0.0)
    jz += tl.where(column == 5, 1.0, 0.0)

    xx, xy, xz = load_row(blocks + 6 * s, 0, live)
    yy, yz, zz = load_row(blocks + 6 * s + 3, 0, live)
    gx, gy, gz = load_row(gradients, s, live)
    xx, xy, xz = xx.to(tl.float64)[:, None], xy.to(tl.float64)[:, None], xz.to(tl.float64)[:, None]
    yy, yz, zz = yy.to(tl.float64)[:, None], yz.to(tl.float64)[:, None], zz.to(tl.float64)[:, None]
    last = column == 6 + K
    wx = tl.where(last, gx.to(tl.float64)[:, None], xx * jx + xy * jy + xz * jz)
    wy = tl.where(last, gy.to(tl.float64)[:, None], xy * jx + yy * jy + yz * jz)
    wz = tl.where(last, gz.to(tl.float64)[:, None], xz * jx + yz * jy + zz * jz)

    kept = live[:, None] & (column < 6 + K)
    row = jacobian + s[:, None] * (3 * (6 + K)) + column
    tl.store(row, jx, mask=kept)
    tl.store(row + (6 + K), jy, mask=kept)
    tl.store(row + 2 * (6 + K), jz, mask=kept)
    kept = live[:, None] & (column <= 6 + K)
    row = weighted + s[:, None] * (3 * (7 + K)) + column
    tl.store(row, wx, mask=kept)
    tl.store(row + (7 + K), wy, mask=kept)
    tl.store(row + 2 * (7 + K), wz, mask=kept)


@triton.jit
def _entry(values, at, k):
    """One value of a row that is spread over the program."""
    return tl.sum(tl.where(at == k, values, 0.0), axis=0)


@triton.jit
def _step_kernel(
    system, pose, expression, tie, pace, evidence, spread, moved, shown,
    SIZE: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Sweeps (A b; bᵀ 0) over the rows of A, which leaves A⁻¹b in its last column, and steps."""
    row, column = tl.arange(0, PADDED)[:, None], tl.arange(0, PADDED)[None, :]
    # the upper triangle speaks for both
    low, high = tl.minimum(row, column), tl.maximum(row, column)
    inside = (low < SIZE) & (high <= SIZE)
    table = evidence * tl.load(system + low * (SIZE + 1) + high, mask=inside, other=0.0)
    at = tl.arange(0, PADDED)
    own = (at >= 6) & (at < SIZE)
    now = tl.load(expression + at - 6, mask=own, other=0.0)
    held = tl.load(tie + at - 6, mask=own, other=0.0)
    stiff = tl.load(pace)
    pull = spread * now + stiff * (now - held)
    table += tl.where((row == column) & (row < 6), 1e-6 * table, 0.0)
    table += tl.where((row == column) & (row >= 6) & (row < SIZE), spread + stiff, 0.0)
    table += tl.where(column == SIZE, pull[:, None], 0.0)
    table += tl.where(row == SIZE, pull[None, :], 0.0)
    for k in range(SIZE):
        pivotal = tl.sum(tl.where(column == k, table, 0.0), axis=1)
        pivot = _entry(pivotal, at, k)
        scaled = pivotal / pivot
        swept = table - pivotal[:, None] * scaled[None, :]
        swept = tl.where(column == k, scaled[:, None], swept)
        swept = tl.where(row == k, scaled[None, :], swept)
        table = tl.where((row == k) & (column == k), -1 / pivot, swept)
    delta = -tl.sum(tl.where(column == SIZE, table, 0.0), axis=1)
    tl.store(shown + at - 6, tl.minimum(tl.maximum(now + delta, -1.0), 1.5), mask=own)

    # Rodrigues: I + sin θ/θ K + (1 − cos θ)/θ² K²
    x, y, z = _entry(delta, at, 0), _entry(delta, at, 1), _entry(delta, at, 2)
    square = x * x + y * y + z * z
    small = square < 1e-8
    angle = tl.sqrt(tl.where(small, 1.0, square))
    a = tl.where(small, 1 - square / 6, tl.sin(angle) / angle)
    half = tl.sin(0.5 * angle) / angle
    b = tl.where(small, 0.5 - square / 24, 2 * half * half)
    r00, r01, r02 = 1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
    r10, r11, r12 = b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x
    r20, r21, r22 = b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)
    for k in tl.static_range(4):
        p, q, r = tl.load(pose + k), tl.load(pose + 4 + k), tl.load(pose + 8 + k)
        last = tl.load(pose + 12 + k)  # (0 0 0 1)
        tl.store(moved + k, r00 * p + r01 * q + r02 * r + last * _entry(delta, at, 3))
        tl.store(moved + 4 + k, r10 * p + r11 * q + r12 * r + last * _entry(delta, at, 4))
        tl.store(moved + 8 + k, r20 * p + r21 * q + r22 * r + last * _entry(delta, at, 5))
        tl.store(moved + 12 + k, last)


def normal_equations(
    vertices: Float[Tensor, "V 3"],
    origin: Float[Tensor, " 3"],
    pose: Float[Tensor, "4 4"],
    corners: Int[Tensor, "S 3"],
    weights: Float[Tensor, "S 3"],
    basis: Float[Tensor, "S 3 K"],
    blocks: Float[Tensor, "S 6"],
    gradients: Float[Tensor, "S 3"],
) -> Float[Tensor, "P P+1"]:
    """Matrix and gradient of P = 6 + K parameters: turns and shifts about `origin`, expressions.

    `basis` holds what each expression moves each sample by in the head's own axes; `blocks` and
    `gradients` (float32) are `photometric.accumulate`'s.
    """
    count, _, expressions = basis.shape
    size = 6 + expressions
    jacobian = vertices.new_empty(3 * count, size)
    weighted = vertices.new_empty(3 * count, size + 1)
    block = block_size(8, count)
    _place_kernel[(triton.cdiv(count, block),)](
        vertices, origin, pose, corners, weights, basis, blocks, gradients, jacobian, weighted,
        count, K=expressions, PADDED=triton.next_power_of_2(size + 1), BLOCK=block,
    )  # fmt: skip
    return jacobian.T @ weighted


def step(
    system: Float[Tensor, "P P+1"],
    pose: Float[Tensor, "4 4"],
    expression: Float[Tensor, " K"],
    tie: Float[Tensor, " K"],
    pace: Float[Tensor, ""],
    evidence: float,
    spread: float,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, " K"]]:
    """Pose and expression after a step; see `Engine.stepped`.

    Gauss–Jordan elimination in the form that keeps the table symmetric (the sweep operator,
    Goodnight 1979). One program holds the table, so P is at most some 120.
    """
    size = len(system)
    moved, shown = pose.new_empty(4, 4), expression.new_empty(len(expression))
    _step_kernel[(1,)](
        system, pose, expression, tie, pace, evidence, spread, moved, shown, SIZE=size,
        PADDED=triton.next_power_of_2(size + 1), num_warps=8,
    )  # fmt: skip
    return moved, shown
