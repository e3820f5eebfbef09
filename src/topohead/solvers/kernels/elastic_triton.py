"""Local rotations and the elastic pull on CUDA tensors, float64 because small edges are differences
of large coordinates. One lane a vertex reads its ring, so sums come in one order."""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.solvers.kernels.rows_triton import block_size, load_row, store_row

_ROWS = 64
"""Vertices that one program works on."""
_NEWTON_STEPS = 30
"""Enough for rings that are all but a line, where roots meet; others need six."""


@triton.jit
def _det(a, b, c, d, e, f, g, h, i):
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


@triton.jit
def _rotation_kernel(
    rest, vertices, starts, columns, weights, rotations, count, STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    rx, ry, rz = load_row(rest, row, live)
    vx, vy, vz = load_row(vertices, row, live)
    begin = tl.load(starts + row, mask=live, other=0)
    length = tl.load(starts + row + 1, mask=live, other=0) - begin
    zero = tl.zeros([BLOCK], tl.float64)
    a00, a01, a02 = zero, zero, zero
    a10, a11, a12 = zero, zero, zero
    a20, a21, a22 = zero, zero, zero
    for k in range(tl.max(length, axis=0)):
        own = k < length
        j = tl.load(columns + begin + k, mask=own, other=0)
        w = tl.load(weights + begin + k, mask=own, other=0.0)
        sx, sy, sz = load_row(rest, j, own)
        ux, uy, uz = load_row(vertices, j, own)
        sx, sy, sz = sx - rx, sy - ry, sz - rz
        ux, uy, uz = w * (ux - vx), w * (uy - vy), w * (uz - vz)
        a00 += ux * sx
        a01 += ux * sy
        a02 += ux * sz
        a10 += uy * sx
        a11 += uy * sy
        a12 += uy * sz
        a20 += uz * sx
        a21 += uz * sy
        a22 += uz * sz
    size = a00 * a00 + a01 * a01 + a02 * a02 + a10 * a10 + a11 * a11 + a12 * a12
    size = tl.sqrt(size + a20 * a20 + a21 * a21 + a22 * a22)
    scale = tl.where(size > 0, 1 / tl.where(size > 0, size, 1.0), 0.0)
    a00, a01, a02 = a00 * scale, a01 * scale, a02 * scale
    a10, a11, a12 = a10 * scale, a11 * scale, a12 * scale
    a20, a21, a22 = a20 * scale, a21 * scale, a22 * scale
    # Horn's symmetric 4×4 matrix N: the best quaternion is its eigenvector of the largest value
    n00, n11 = a00 + a11 + a22, a00 - a11 - a22
    n22, n33 = a11 - a00 - a22, a22 - a00 - a11
    n01, n02, n03 = a21 - a12, a02 - a20, a10 - a01
    n12, n13, n23 = a10 + a01, a02 + a20, a21 + a12
    # λ⁴ − 2‖A‖² λ² − 8 det(A) λ + det(N) = 0, from above: convex there, so Newton cannot overshoot
    linear = -8 * _det(a00, a01, a02, a10, a11, a12, a20, a21, a22)
    constant = (
        n00 * _det(n11, n12, n13, n12, n22, n23, n13, n23, n33)
        - n01 * _det(n01, n12, n13, n02, n22, n23, n03, n23, n33)
        + n02 * _det(n01, n11, n13, n02, n12, n23, n03, n13, n33)
        - n03 * _det(n01, n11, n12, n02, n12, n22, n03, n13, n23)
    )
    most = tl.full([BLOCK], 1.7320508075688774, tl.float64)
    for _ in range(STEPS):
        value = ((most * most - 2) * most + linear) * most + constant
        slope = (4 * most * most - 4) * most + linear
        most -= tl.where(slope > 1e-12, value / tl.where(slope > 1e-12, slope, 1.0), 0.0)
    n00, n11, n22, n33 = n00 - most, n11 - most, n22 - most, n33 - most
    # every column of the adjugate of N − λI is that eigenvector: take the longest
    c00 = _det(n11, n12, n13, n12, n22, n23, n13, n23, n33)
    c01 = -_det(n01, n12, n13, n02, n22, n23, n03, n23, n33)
    c02 = _det(n01, n11, n13, n02, n12, n23, n03, n13, n33)
    c03 = -_det(n01, n11, n12, n02, n12, n22, n03, n13, n23)
    c11 = _det(n00, n02, n03, n02, n22, n23, n03, n23, n33)
    c12 = -_det(n00, n01, n03, n02, n12, n23, n03, n13, n33)
    c13 = _det(n00, n01, n02, n02, n12, n22, n03, n13, n23)
    c22 = _det(n00, n01, n03, n01, n11, n13, n03, n13, n33)
    c23 = -_det(n00, n01, n02, n01, n11, n12, n03, n13, n23)
    c33 = _det(n00, n01, n02, n01, n11, n12, n02, n12, n22)
    w, x, y, z, best = c00, c01, c02, c03, tl.abs(c00)
    more = tl.abs(c11) > best
    w, x = tl.where(more, c01, w), tl.where(more, c11, x)
    y, z = tl.where(more, c12, y), tl.where(more, c13, z)
    best = tl.maximum(best, tl.abs(c11))
    more = tl.abs(c22) > best
    w, x = tl.where(more, c02, w), tl.where(more, c12, x)
    y, z = tl.where(more, c22, y), tl.where(more, c23, z)
    best = tl.maximum(best, tl.abs(c22))
    more = tl.abs(c33) > best
    w, x = tl.where(more, c03, w), tl.where(more, c13, x)
    y, z = tl.where(more, c23, y), tl.where(more, c33, z)
    length = tl.sqrt(w * w + x * x + y * y + z * z)
    known = (size > 0) & (length > 0)
    scale = tl.where(known, 1 / tl.where(known, length, 1.0), 0.0)
    w, x, y, z = tl.where(known, w * scale, 1.0), x * scale, y * scale, z * scale
    out = rotations + 9 * row
    tl.store(out, 1 - 2 * (y * y + z * z), mask=live)
    tl.store(out + 1, 2 * (x * y - w * z), mask=live)
    tl.store(out + 2, 2 * (x * z + w * y), mask=live)
    tl.store(out + 3, 2 * (x * y + w * z), mask=live)
    tl.store(out + 4, 1 - 2 * (x * x + z * z), mask=live)
    tl.store(out + 5, 2 * (y * z - w * x), mask=live)
    tl.store(out + 6, 2 * (x * z - w * y), mask=live)
    tl.store(out + 7, 2 * (y * z + w * x), mask=live)
    tl.store(out + 8, 1 - 2 * (x * x + y * y), mask=live)


@triton.jit
def _turned(rotations, row, live, x, y, z):
    """Vectors in the axes of the rotations at rows."""
    a0, a1, a2 = load_row(rotations, 3 * row, live)
    b0, b1, b2 = load_row(rotations, 3 * row + 1, live)
    c0, c1, c2 = load_row(rotations, 3 * row + 2, live)
    return a0 * x + a1 * y + a2 * z, b0 * x + b1 * y + b2 * z, c0 * x + c1 * y + c2 * z


@triton.jit
def _strain_kernel(
    rest, vertices, rotations, starts, columns, weights, bend, stretch, curl, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The membrane's pull, and each umbrella's weighted deviation from the turned one at rest."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    rx, ry, rz = load_row(rest, row, live)
    vx, vy, vz = load_row(vertices, row, live)
    begin = tl.load(starts + row, mask=live, other=0)
    length = tl.load(starts + row + 1, mask=live, other=0) - begin
    zero = tl.zeros([BLOCK], tl.float64)
    px, py, pz = zero, zero, zero  # pull
    ex, ey, ez = zero, zero, zero  # edges, now and at rest
    fx, fy, fz = zero, zero, zero
    for k in range(tl.max(length, axis=0)):
        own = k < length
        j = tl.load(columns + begin + k, mask=own, other=0)
        w = tl.load(weights + begin + k, mask=own, other=0.0)
        sx, sy, sz = load_row(rest, j, own)
        ux, uy, uz = load_row(vertices, j, own)
        sx, sy, sz = (
            tl.where(own, rx - sx, 0.0),
            tl.where(own, ry - sy, 0.0),
            tl.where(own, rz - sz, 0.0),
        )
        ux, uy, uz = (
            tl.where(own, vx - ux, 0.0),
            tl.where(own, vy - uy, 0.0),
            tl.where(own, vz - uz, 0.0),
        )
        ax, ay, az = _turned(rotations, row, own, sx, sy, sz)
        bx, by, bz = _turned(rotations, j, own, sx, sy, sz)
        px += w * (ux - 0.5 * (ax + bx))
        py += w * (uy - 0.5 * (ay + by))
        pz += w * (uz - 0.5 * (az + bz))
        ex, ey, ez = ex + ux, ey + uy, ez + uz
        fx, fy, fz = fx + sx, fy + sy, fz + sz
    degree = tl.maximum(length, 1).to(tl.float64)
    # a vertex without edges keeps itself: its umbrella is its place
    lone = length == 0
    ex, ey, ez = tl.where(lone, vx, ex), tl.where(lone, vy, ey), tl.where(lone, vz, ez)
    fx, fy, fz = tl.where(lone, rx, fx), tl.where(lone, ry, fy), tl.where(lone, rz, fz)
    tx, ty, tz = _turned(rotations, row, live, fx, fy, fz)
    b = tl.load(bend + row, mask=live, other=0.0) / degree
    store_row(stretch, row, live, px, py, pz)
    store_row(curl, row, live, b * (ex - tx), b * (ey - ty), b * (ez - tz))


@triton.jit
def _pull_kernel(
    rest, vertices, starts, columns, anchor, stretch, curl, gradient, out, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Minus the whole gradient: photometric, membrane, bending and the anchor to the rest shape."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < count
    begin = tl.load(starts + row, mask=live, other=0)
    length = tl.load(starts + row + 1, mask=live, other=0) - begin
    x, y, z = load_row(curl, row, live)
    for k in range(tl.max(length, axis=0)):
        own = k < length
        j = tl.load(columns + begin + k, mask=own, other=0)
        theirs = tl.load(starts + j + 1, mask=own, other=1) - tl.load(starts + j, mask=own, other=0)
        share = tl.where(own, 1.0, 0.0) / tl.maximum(theirs, 1).to(tl.float64)
        cx, cy, cz = load_row(curl, j, own)
        x, y, z = x - share * cx, y - share * cy, z - share * cz
    px, py, pz = load_row(stretch, row, live)
    rx, ry, rz = load_row(rest, row, live)
    vx, vy, vz = load_row(vertices, row, live)
    gx, gy, gz = load_row(gradient, row, live)
    a = tl.load(anchor + row, mask=live, other=0.0)
    x, y, z = x + px + a * (vx - rx), y + py + a * (vy - ry), z + pz + a * (vz - rz)
    x, y, z = x + gx, y + gy, z + gz
    store_row(out, row, live, -x.to(tl.float32), -y.to(tl.float32), -z.to(tl.float32))


def local_rotations(
    rest: Float[Tensor, "V 3"],
    vertices: Float[Tensor, "V 3"],
    starts: Int[Tensor, " V+1"],
    columns: Int[Tensor, " E"],
    weights: Float[Tensor, " E"],
) -> Float[Tensor, "V 3 3"]:
    """`sparse.local_rotations`, by quaternions instead of singular values; all float64.

    The rotation that turns one-rings best (Horn 1987) is never a reflection. A vertex without
    edges gets the identity.
    """
    rotations = vertices.new_empty(len(vertices), 3, 3)
    block = block_size(_ROWS, len(vertices))
    _rotation_kernel[(triton.cdiv(len(vertices), block),)](
        rest, vertices, starts, columns, weights, rotations, len(vertices), STEPS=_NEWTON_STEPS,
        BLOCK=block,
    )  # fmt: skip
    return rotations


def descent(
    rest: Float[Tensor, "V 3"],
    vertices: Float[Tensor, "V 3"],
    rotations: Float[Tensor, "V 3 3"],
    rings: tuple[Tensor, Tensor, Tensor],
    bend: Float[Tensor, " V"],
    anchor: Float[Tensor, " V"],
    gradient: Float[Tensor, "V 3"],
) -> Float[Tensor, "V 3"]:
    """Minus half the gradient of all that moves vertices, float32.

    That is `Elasticity.gradient` plus `anchor` × (vertices − rest) plus `gradient` (float32, of
    the pictures). `rings` are Elasticity's (starts, columns, membrane weights), `bend` its weights.
    """
    starts, columns, weights = rings
    stretch, curl = torch.empty_like(vertices), torch.empty_like(vertices)
    out = torch.empty_like(gradient)
    count, block = len(vertices), block_size(_ROWS, len(vertices))
    grid = (triton.cdiv(count, block),)
    _strain_kernel[grid](
        rest, vertices, rotations, starts, columns, weights, bend, stretch, curl, count, BLOCK=block
    )
    _pull_kernel[grid](
        rest, vertices, starts, columns, anchor, stretch, curl, gradient, out, count, BLOCK=block
    )
    return out
