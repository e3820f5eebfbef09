# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""Normals, deformation gradients and products with sparse matrices on a CUDA device."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128


def fan_normals(
    vertices: Float[Tensor, "B V 3"], triangles: Int[Tensor, "T 3"], fan: Int[Tensor, "V K"]
) -> Float[Tensor, "B V 3"]:
    """`meshes.fan_normals`."""
    vertices = vertices.contiguous()
    out, count = torch.empty_like(vertices), vertices.shape[1]
    with torch.cuda.device_of(vertices):
        _fan_normals[(triton.cdiv(count, BLOCK), len(vertices))](
            vertices, triangles.contiguous(), fan.contiguous(), out, count, len(triangles),
            fan.shape[1], BLOCK=BLOCK,
        )  # fmt: skip
    return out


def gradients(
    shapes: Float[Tensor, "V 3 B"],
    triangles: Int[Tensor, "T 3"],
    dual: Float[Tensor, "T 3 3"],
    gather: tuple[Int[Tensor, " R"], Int[Tensor, " N"], Float[Tensor, " N"]],
) -> Float[Tensor, "V 9 B"]:
    """Gradients of triangles, averaged at vertices by `gather` (row ends, columns, values).

    Heads lie side by side in memory, so that neighbouring lanes read neighbouring numbers.
    """
    count, heads = len(shapes), shapes.shape[2]
    out = shapes.new_empty(count, 9, heads)
    with torch.cuda.device_of(shapes):
        _gradients[(count, triton.cdiv(heads, BLOCK))](
            shapes, triangles, dual.contiguous(), *gather, out, heads, BLOCK=BLOCK
        )
    return out


def product(
    matrix: tuple[Int[Tensor, " R"], Int[Tensor, " N"], Float[Tensor, " N"]],
    columns: Float[Tensor, "V C"],
) -> Float[Tensor, "V C"]:
    """A square sparse matrix (row ends, columns, values) times a dense one, rows in their order."""
    out, width = torch.empty_like(columns), columns.shape[1]
    with torch.cuda.device_of(columns):
        _product[(triton.cdiv(width, 4 * BLOCK), len(columns))](
            *matrix, columns, out, width, BLOCK=4 * BLOCK
        )
    return out


@triton.jit
def _point(base, row, live):
    place = base + 3 * row.to(tl.int64)
    return tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0), tl.load(place + 2, live, 0.0)


@triton.jit(do_not_specialize=["count", "triangle_count", "width"])
def _fan_normals(
    vertices, triangles, fan, out, count, triangle_count, width, BLOCK: tl.constexpr
):  # fmt: skip
    """Unit sums of the area vectors around a block of vertices of a head."""
    head = vertices + 3 * tl.program_id(1).to(tl.int64) * count
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = v < count
    zero = tl.zeros((BLOCK,), tl.float32)
    x, y, z = zero, zero, zero
    for k in range(width):
        t = tl.load(fan + v.to(tl.int64) * width + k, live, triangle_count)
        real = t < triangle_count
        if tl.max(real.to(tl.int32), 0) > 0:
            corner = triangles + 3 * t
            ax, ay, az = _point(head, tl.load(corner, real, 0), real)
            bx, by, bz = _point(head, tl.load(corner + 1, real, 0), real)
            cx, cy, cz = _point(head, tl.load(corner + 2, real, 0), real)
            bx, by, bz = bx - ax, by - ay, bz - az
            cx, cy, cz = cx - ax, cy - ay, cz - az
            x += by * cz - bz * cy
            y += bz * cx - bx * cz
            z += bx * cy - by * cx
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-30)
    place = out + 3 * (tl.program_id(1).to(tl.int64) * count + v)
    tl.store(place, x / length, live)
    tl.store(place + 1, y / length, live)
    tl.store(place + 2, z / length, live)


@triton.jit
def _beside(shapes, vertex, heads, b, live):
    """A vertex of a block of heads."""
    place = shapes + 3 * vertex.to(tl.int64) * heads + b
    return (
        tl.load(place, live, 0.0),
        tl.load(place + heads, live, 0.0),
        tl.load(place + 2 * heads, live, 0.0),
    )


@triton.jit(do_not_specialize=["heads"])
def _gradients(
    shapes, triangles, dual, ends, columns, values, out, heads, BLOCK: tl.constexpr
):  # fmt: skip
    """One vertex of a block of heads; see `gradients.GradientOperator`."""
    v = tl.program_id(0)
    b = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = b < heads
    zero = tl.zeros((BLOCK,), tl.float32)
    xx, xy, xz, yx, yy, yz, zx, zy, zz = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for k in range(tl.load(ends + v), tl.load(ends + v + 1)):
        t = tl.load(columns + k)
        weight = tl.load(values + k)
        ax, ay, az = _beside(shapes, tl.load(triangles + 3 * t), heads, b, live)
        bx, by, bz = _beside(shapes, tl.load(triangles + 3 * t + 1), heads, b, live)
        cx, cy, cz = _beside(shapes, tl.load(triangles + 3 * t + 2), heads, b, live)
        bx, by, bz = bx - ax, by - ay, bz - az
        cx, cy, cz = cx - ax, cy - ay, cz - az
        nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        length = tl.sqrt(tl.maximum(nx * nx + ny * ny + nz * nz, 1e-30))
        root = tl.sqrt(length)
        nx, ny, nz = nx / root, ny / root, nz / root
        row = dual + 9 * t
        d0, d1, d2 = tl.load(row), tl.load(row + 1), tl.load(row + 2)
        e0, e1, e2 = tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
        f0, f1, f2 = tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
        xx += weight * (bx * d0 + cx * e0 + nx * f0)
        xy += weight * (bx * d1 + cx * e1 + nx * f1)
        xz += weight * (bx * d2 + cx * e2 + nx * f2)
        yx += weight * (by * d0 + cy * e0 + ny * f0)
        yy += weight * (by * d1 + cy * e1 + ny * f1)
        yz += weight * (by * d2 + cy * e2 + ny * f2)
        zx += weight * (bz * d0 + cz * e0 + nz * f0)
        zy += weight * (bz * d1 + cz * e1 + nz * f1)
        zz += weight * (bz * d2 + cz * e2 + nz * f2)
    place = out + 9 * v.to(tl.int64) * heads + b
    tl.store(place, xx, live)
    tl.store(place + heads, xy, live)
    tl.store(place + 2 * heads, xz, live)
    tl.store(place + 3 * heads, yx, live)
    tl.store(place + 4 * heads, yy, live)
    tl.store(place + 5 * heads, yz, live)
    tl.store(place + 6 * heads, zx, live)
    tl.store(place + 7 * heads, zy, live)
    tl.store(place + 8 * heads, zz, live)


@triton.jit(do_not_specialize=["width"])
def _product(ends, columns, values, dense, out, width, BLOCK: tl.constexpr):
    """Part of a row of the product."""
    v = tl.program_id(1)
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = c < width
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(tl.load(ends + v), tl.load(ends + v + 1)):
        row = tl.load(columns + k).to(tl.int64) * width
        total += tl.load(values + k) * tl.load(dense + row + c, live, 0.0)
    tl.store(out + v.to(tl.int64) * width + c, total, live)
