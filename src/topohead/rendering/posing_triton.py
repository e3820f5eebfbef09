"""Bound Gaussians to the space of one posed head on a CUDA device, in one kernel.

What `Avatar.dressed`, `geometry.binding.posed_factors` and `rendering.harmonics.shaded` say, which
as tensor operations pass over the Gaussians some sixty times. With TRITON_INTERPRET=1 the same
kernel runs on the CPU, slowly.
"""

# Kernels take plain numbers where they declare constants.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128
"""Gaussians that one program carries."""


@triton.jit
def _vector(source, at, mask):
    """Three values beside one another."""
    x = tl.load(source + at, mask=mask, other=0.0)
    y = tl.load(source + at + 1, mask=mask, other=0.0)
    z = tl.load(source + at + 2, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def _added(source, at, factor, x, y, z, mask):
    a, b, c = _vector(source, at, mask)
    return x + factor * a, y + factor * b, z + factor * c


@triton.jit
def _lit(harmonics, at, x, y, z, red, green, blue, mask, ROWS: tl.constexpr):
    """Colours with the harmonics above the first added, towards unit directions.

    The polynomials of `portrait_light.harmonics` with the signs of `rendering.harmonics`.
    """
    if ROWS > 1:
        red, green, blue = _added(harmonics, at + 3, -0.488603 * y, red, green, blue, mask)
        red, green, blue = _added(harmonics, at + 6, 0.488603 * z, red, green, blue, mask)
        red, green, blue = _added(harmonics, at + 9, -0.488603 * x, red, green, blue, mask)
    if ROWS > 4:
        xx, yy, zz = x * x, y * y, z * z
        red, green, blue = _added(harmonics, at + 12, 1.092548 * x * y, red, green, blue, mask)
        red, green, blue = _added(harmonics, at + 15, -1.092548 * y * z, red, green, blue, mask)
        red, green, blue = _added(
            harmonics, at + 18, 0.315392 * (3 * zz - 1), red, green, blue, mask
        )
        red, green, blue = _added(harmonics, at + 21, -1.092548 * x * z, red, green, blue, mask)
        red, green, blue = _added(harmonics, at + 24, 0.546274 * (xx - yy), red, green, blue, mask)
    if ROWS > 9:
        xx, yy, zz = x * x, y * y, z * z
        red, green, blue = _added(
            harmonics, at + 27, -0.590044 * y * (3 * xx - yy), red, green, blue, mask
        )
        red, green, blue = _added(harmonics, at + 30, 2.890611 * x * y * z, red, green, blue, mask)
        red, green, blue = _added(
            harmonics, at + 33, -0.457046 * y * (5 * zz - 1), red, green, blue, mask
        )
        red, green, blue = _added(
            harmonics, at + 36, 0.373176 * z * (5 * zz - 3), red, green, blue, mask
        )
        red, green, blue = _added(
            harmonics, at + 39, -0.457046 * x * (5 * zz - 1), red, green, blue, mask
        )
        red, green, blue = _added(
            harmonics, at + 42, 1.445306 * z * (xx - yy), red, green, blue, mask
        )
        red, green, blue = _added(
            harmonics, at + 45, -0.590044 * x * (xx - 3 * yy), red, green, blue, mask
        )
    return red, green, blue


@triton.jit
def _pose(
    vertices, corners, barycentrics, offsets, locals_, harmonics, codes, offset_change,
    color_change, turn, eyes, means, covariances, colors, count, cameras,
    RANKS: tl.constexpr, ROWS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Means [N 3], covariances [N 6] and colours [C N 3] of N Gaussians."""
    index = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = index < count
    at = 3 * index
    wide = index.to(tl.int64)
    i = tl.load(corners + at, mask=mask, other=0)
    j = tl.load(corners + at + 1, mask=mask, other=0)
    k = tl.load(corners + at + 2, mask=mask, other=0)
    ax, ay, az = _vector(vertices, 3 * i, mask)
    bx, by, bz = _vector(vertices, 3 * j, mask)
    cx, cy, cz = _vector(vertices, 3 * k, mask)
    u, v, w = _vector(barycentrics, at, mask)
    x, y, z = u * ax + v * bx + w * cx, u * ay + v * by + w * cy, u * az + v * bz + w * cz
    bx, by, bz = bx - ax, by - ay, bz - az
    cx, cy, cz = cx - ax, cy - ay, cz - az
    nx, ny, nz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    # not the reciprocal's own square root: what has no area has a normal of length 0
    size = tl.maximum(tl.sqrt(nx * nx + ny * ny + nz * nz), 1.2e-38)
    factor = 1 / tl.sqrt(size)
    nx, ny, nz = factor * nx, factor * ny, factor * nz
    p, q, r = _vector(offsets, at, mask)
    red, green, blue = _vector(harmonics, 3 * ROWS * wide, mask)
    for rank in tl.static_range(RANKS):
        code = tl.load(codes + rank)
        change = 3 * (wide * RANKS + rank)
        p, q, r = _added(offset_change, change, code, p, q, r, mask)
        red, green, blue = _added(color_change, change, code, red, green, blue, mask)
    x += p * bx + q * cx + r * nx
    y += p * by + q * cy + r * ny
    z += p * bz + q * cz + r * nz
    tl.store(means + at, x, mask=mask)
    tl.store(means + at + 1, y, mask=mask)
    tl.store(means + at + 2, z, mask=mask)
    xx = tl.zeros((BLOCK_SIZE,), tl.float32)
    xy, xz, yy, yz, zz = xx, xx, xx, xx, xx
    for column in tl.static_range(3):
        l0 = tl.load(locals_ + 9 * wide + column, mask=mask, other=0.0)
        l1 = tl.load(locals_ + 9 * wide + column + 3, mask=mask, other=0.0)
        l2 = tl.load(locals_ + 9 * wide + column + 6, mask=mask, other=0.0)
        mx, my = bx * l0 + cx * l1 + nx * l2, by * l0 + cy * l1 + ny * l2
        mz = bz * l0 + cz * l1 + nz * l2
        xx += mx * mx
        xy += mx * my
        xz += mx * mz
        yy += my * my
        yz += my * mz
        zz += mz * mz
    tl.store(covariances + 6 * index, xx, mask=mask)
    tl.store(covariances + 6 * index + 1, xy, mask=mask)
    tl.store(covariances + 6 * index + 2, xz, mask=mask)
    tl.store(covariances + 6 * index + 3, yy, mask=mask)
    tl.store(covariances + 6 * index + 4, yz, mask=mask)
    tl.store(covariances + 6 * index + 5, zz, mask=mask)
    red = 0.5 + 0.28209479177387814 * red
    green = 0.5 + 0.28209479177387814 * green
    blue = 0.5 + 0.28209479177387814 * blue
    for camera in range(cameras):
        dx, dy, dz = x - tl.load(eyes + 3 * camera), y - tl.load(eyes + 3 * camera + 1), z
        dz -= tl.load(eyes + 3 * camera + 2)
        length = 1 / tl.maximum(tl.sqrt(dx * dx + dy * dy + dz * dz), 1e-12)
        dx, dy, dz = dx * length, dy * length, dz * length
        hx = tl.load(turn) * dx + tl.load(turn + 1) * dy + tl.load(turn + 2) * dz
        hy = tl.load(turn + 3) * dx + tl.load(turn + 4) * dy + tl.load(turn + 5) * dz
        hz = tl.load(turn + 6) * dx + tl.load(turn + 7) * dy + tl.load(turn + 8) * dz
        first, second, third = _lit(
            harmonics, 3 * ROWS * wide, hx, hy, hz, red, green, blue, mask, ROWS
        )
        there = 3 * (camera * count + wide)
        tl.store(colors + there, tl.maximum(first, 0.0), mask=mask)
        tl.store(colors + there + 1, tl.maximum(second, 0.0), mask=mask)
        tl.store(colors + there + 2, tl.maximum(third, 0.0), mask=mask)


def pose(
    vertices: Float[Tensor, "V 3"],
    corners: Int[Tensor, "N 3"],
    barycentrics: Float[Tensor, "N 3"],
    offsets: Float[Tensor, "N 3"],
    local: Float[Tensor, "N 3 3"],
    harmonics: Float[Tensor, "N K 3"],
    codes: Float[Tensor, " R"],
    changes: tuple[Float[Tensor, "N R 3"], Float[Tensor, "N R 3"]],
    turn: Float[Tensor, "3 3"],
    eyes: Float[Tensor, "C 3"],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 6"], Float[Tensor, "C N 3"]]:
    """Means, covariances (xx, xy, xz, yy, yz, zz) and srgb colours towards cameras.

    Contiguous float32 of one device, `corners` int32 rows of the vertices. `local` is a Gaussian's
    R diag(s) in its triangle's frame, `changes` are those of offsets and of the first harmonic with
    each code; `turn` takes the world's directions to the head frame, `eyes` are where cameras are.
    """
    count = len(corners)
    means, covariances = vertices.new_empty(count, 3), vertices.new_empty(count, 6)
    colors = vertices.new_empty(len(eyes), count, 3)
    _pose[(triton.cdiv(count, BLOCK),)](
        vertices, corners, barycentrics, offsets, local, harmonics, codes, *changes, turn, eyes,
        means, covariances, colors, count, len(eyes), len(codes), harmonics.shape[1], BLOCK,
    )  # fmt: skip
    return means, covariances, colors
