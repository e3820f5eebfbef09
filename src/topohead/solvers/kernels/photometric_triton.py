"""`photometric` on CUDA tensors: the same arrays, the same mathematics, one lane a sample.

Nothing is stored per view: every pass over the views projects and reads again, which costs less
than memory for sixty views. Sums run over the views in order, so results repeat to the bit.
"""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.solvers.kernels.rows_triton import block_size, load_row, store_row

_SAMPLES = 32
"""Samples that one program works on; each has four lanes, for three channels."""


@triton.jit
def _place(s, live, positions, normals, corners, weights):
    """Points and normals of samples."""
    a, b, c = load_row(corners, s, live)
    u, v, w = load_row(weights, s, live)
    ax, ay, az = load_row(positions, a, live)
    bx, by, bz = load_row(positions, b, live)
    cx, cy, cz = load_row(positions, c, live)
    px, py, pz = u * ax + v * bx + w * cx, u * ay + v * by + w * cy, u * az + v * bz + w * cz
    ax, ay, az = load_row(normals, a, live)
    bx, by, bz = load_row(normals, b, live)
    cx, cy, cz = load_row(normals, c, live)
    nx, ny, nz = u * ax + v * bx + w * cx, u * ay + v * by + w * cy, u * az + v * bz + w * cz
    return px, py, pz, nx, ny, nz


@triton.jit
def _see(camera, front, height, width, live, px, py, pz, nx, ny, nz, min_cosine, tolerance):
    """Whether a view sees points, from which cosine, at which pixel and camera coordinates."""
    r0, r1, r2 = tl.load(camera), tl.load(camera + 1), tl.load(camera + 2)
    r3, r4, r5 = tl.load(camera + 3), tl.load(camera + 4), tl.load(camera + 5)
    r6, r7, r8 = tl.load(camera + 6), tl.load(camera + 7), tl.load(camera + 8)
    x = r0 * px + r1 * py + r2 * pz + tl.load(camera + 9)
    y = r3 * px + r4 * py + r5 * pz + tl.load(camera + 10)
    z = r6 * px + r7 * py + r8 * pz + tl.load(camera + 11)
    mx = r0 * nx + r1 * ny + r2 * nz
    my = r3 * nx + r4 * ny + r5 * nz
    mz = r6 * nx + r7 * ny + r8 * nz
    length = tl.sqrt((x * x + y * y + z * z) * (mx * mx + my * my + mz * mz))
    cosine = -(mx * x + my * y + mz * z) / (length + 1e-20)
    seen = live & (cosine >= min_cosine) & (z > 1e-4)
    depth = tl.where(seen, z, 1.0)
    u = tl.load(camera + 12) * x / depth + tl.load(camera + 14) - 0.5
    v = tl.load(camera + 13) * y / depth + tl.load(camera + 15) - 0.5
    seen = seen & (u >= 1) & (v >= 1) & (u < width - 2) & (v < height - 2)
    u, v = tl.where(seen, u, 1.0), tl.where(seen, v, 1.0)
    nearest = (v + 0.5).to(tl.int32) * width + (u + 0.5).to(tl.int32)
    there = tl.load(front + nearest, mask=seen, other=-1.0)
    seen = seen & (there >= 0) & (tl.abs(depth - there) <= tolerance)
    return seen, cosine, u, v, x, y, depth


@triton.jit
def _pixels(camera, area, cosine, z):
    """Pixels that samples cover, at most four: one smaller than a pixel counts for its share."""
    scale = tl.load(camera + 12) * tl.load(camera + 13)
    return tl.minimum(area * cosine * scale / (z * z), 4.0)


@triton.jit
def _read(picture, width, u, v, seen, lane):
    """Three features [BLOCK 4] between pixels; the fourth lane is zero."""
    left, upper = u.to(tl.int32), v.to(tl.int32)
    fu, fv = (u - left.to(tl.float32))[:, None], (v - upper.to(tl.float32))[:, None]
    spot = picture + ((upper * width + left)[:, None] * 9 + lane[None, :])
    read = seen[:, None] & (lane < 3)[None, :]
    a = tl.load(spot, mask=read, other=0.0)
    b = tl.load(spot + 9, mask=read, other=0.0)
    c = tl.load(spot + 9 * width, mask=read, other=0.0)
    d = tl.load(spot + 9 * width + 9, mask=read, other=0.0)
    return (a * (1 - fu) + b * fu) * (1 - fv) + (c * (1 - fu) + d * fu) * fv


@triton.jit
def _robust(color, now, inverse_noise, inverse_cut):
    """Geman–McClure weights [BLOCK] of colours [BLOCK 4] about the present ones."""
    far = (color - now) * inverse_noise
    q = tl.sum(far * far, axis=1) * inverse_cut * inverse_cut
    return 1 / ((1 + q) * (1 + q))


@triton.jit(do_not_specialize=["count", "views", "height", "width"])
def _sample_kernel(
    positions,
    normals,
    corners,
    weights,
    cameras,
    depth,
    features,
    min_cosine,
    tolerance,
    values,
    seen_by,
    count,
    views,
    height,
    width,
    BLOCK: tl.constexpr,
):
    s = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 4)
    live = s < count
    px, py, pz, nx, ny, nz = _place(s, live, positions, normals, corners, weights)
    camera, front, picture = cameras, depth, features
    for view in range(views):
        seen, cosine, u, v, _x, _y, _z = _see(
            camera, front, height, width, live, px, py, pz, nx, ny, nz, min_cosine, tolerance
        )
        color = _read(picture, width, u, v, seen, lane)
        place = s * views + view
        kept = live[:, None] & (lane < 3)[None, :]
        tl.store(values + place[:, None] * 3 + lane[None, :], color, mask=kept)
        tl.store(seen_by + place, tl.where(seen, cosine * cosine, 0.0), mask=live)
        camera, front, picture = camera + 16, front + height * width, picture + height * width * 9


@triton.jit(do_not_specialize=["count", "views", "height", "width"])
def _accumulate_kernel(
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
    blocks,
    gradients,
    stats,
    count,
    views,
    height,
    width,
    BLOCK: tl.constexpr,
):
    s = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 4)
    inside = s < count
    held = tl.load(trust + s, mask=inside, other=0.0)
    live = inside & (held > 0)
    area = tl.load(areas + s, mask=live, other=0.0)
    px, py, pz, nx, ny, nz = _place(s, live, positions, normals, corners, weights)
    three = live[:, None] & (lane < 3)[None, :]
    target = tl.load(reference + s[:, None] * 3 + lane[None, :], mask=three, other=0.0)
    inverse_noise = 1 / tl.load(noise)
    inverse_cut = 1 / cut

    # how many pixels all views have: the prior's pull is counted in views
    total, number = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    camera, front = cameras, depth
    for _view in range(views):
        seen, cosine, u, v, x, y, z = _see(
            camera, front, height, width, live, px, py, pz, nx, ny, nz, min_cosine, tolerance
        )
        total += tl.where(seen, _pixels(camera, area, cosine, z), 0.0)
        number += tl.where(seen, 1.0, 0.0)
        camera, front = camera + 16, front + height * width
    prior = held * total / tl.maximum(number, 1.0)

    # the present colour: a reweighted mean that starts at the reference
    whole, mean = prior, prior[:, None] * target
    camera, front, picture = cameras, depth, features
    for _view in range(views):
        seen, cosine, u, v, x, y, z = _see(
            camera, front, height, width, live, px, py, pz, nx, ny, nz, min_cosine, tolerance
        )
        color = _read(picture, width, u, v, seen, lane)
        weight = _pixels(camera, area, cosine, z) * _robust(
            color, target, inverse_noise, inverse_cut
        )
        weight = tl.where(seen, weight, 0.0)
        whole += weight
        mean += weight[:, None] * color
        camera, front, picture = camera + 16, front + height * width, picture + height * width * 9
    now = mean / tl.maximum(whole, 1e-30)[:, None]

    # normal equations under the weights about that colour
    scale = inverse_noise * inverse_noise
    whole, inlying = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    zero = tl.zeros([BLOCK, 4], tl.float32)
    xx, xy, xz, yy, yz, zz = zero, zero, zero, zero, zero, zero
    gx, gy, gz, energy = zero, zero, zero, zero
    mx, my, mz, mr = zero, zero, zero, zero
    camera, front, picture = cameras, depth, features
    for _view in range(views):
        seen, cosine, u, v, x, y, z = _see(
            camera, front, height, width, live, px, py, pz, nx, ny, nz, min_cosine, tolerance
        )
        color = _read(picture, width, u, v, seen, lane)
        along_u = _read(picture + 3, width, u, v, seen, lane)
        along_v = _read(picture + 6, width, u, v, seen, lane)
        robust = tl.where(seen, _robust(color, now, inverse_noise, inverse_cut), 0.0)
        weight = _pixels(camera, area, cosine, z) * robust
        whole += weight
        inlying += robust
        w = (weight * scale)[:, None]
        r = color - target
        fx, fy = tl.load(camera + 12) / z, tl.load(camera + 13) / z
        x, y = x / z, y / z
        r6, r7, r8 = tl.load(camera + 6), tl.load(camera + 7), tl.load(camera + 8)
        ux, vx = fx * (tl.load(camera) - x * r6), fy * (tl.load(camera + 3) - y * r6)
        uy, vy = fx * (tl.load(camera + 1) - x * r7), fy * (tl.load(camera + 4) - y * r7)
        uz, vz = fx * (tl.load(camera + 2) - x * r8), fy * (tl.load(camera + 5) - y * r8)
        jx = along_u * ux[:, None] + along_v * vx[:, None]
        jy = along_u * uy[:, None] + along_v * vy[:, None]
        jz = along_u * uz[:, None] + along_v * vz[:, None]
        xx += w * jx * jx
        xy += w * jx * jy
        xz += w * jx * jz
        yy += w * jy * jy
        yz += w * jy * jz
        zz += w * jz * jz
        gx += w * jx * r
        gy += w * jy * r
        gz += w * jz * r
        mx += w * jx
        my += w * jy
        mz += w * jz
        mr += w * r
        energy += w * r * r
        camera, front, picture = camera + 16, front + height * width, picture + height * width * 9

    # eliminate the present colour
    seen = inside & (number > 0)
    d = (1 / tl.maximum((whole + prior) * scale, 1e-30))[:, None]
    row = blocks + 6 * s
    tl.store(row, tl.sum(xx - d * mx * mx, axis=1), mask=inside)
    tl.store(row + 1, tl.sum(xy - d * mx * my, axis=1), mask=inside)
    tl.store(row + 2, tl.sum(xz - d * mx * mz, axis=1), mask=inside)
    tl.store(row + 3, tl.sum(yy - d * my * my, axis=1), mask=inside)
    tl.store(row + 4, tl.sum(yz - d * my * mz, axis=1), mask=inside)
    tl.store(row + 5, tl.sum(zz - d * mz * mz, axis=1), mask=inside)
    row = gradients + 3 * s
    tl.store(row, tl.sum(gx - d * mx * mr, axis=1), mask=inside)
    tl.store(row + 1, tl.sum(gy - d * my * mr, axis=1), mask=inside)
    tl.store(row + 2, tl.sum(gz - d * mz * mr, axis=1), mask=inside)
    row = stats + 4 * s
    tl.store(row, tl.where(seen, total, 0.0), mask=inside)
    tl.store(row + 1, tl.sum(energy, axis=1), mask=inside)
    tl.store(row + 2, number, mask=inside)
    tl.store(row + 3, inlying / tl.maximum(number, 1.0), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _normals_kernel(
    vertices, triangles, starts, around, origin, positions, normals, count, BLOCK: tl.constexpr
):
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = v < count
    begin = tl.load(starts + v, mask=live, other=0)
    faces = tl.load(starts + v + 1, mask=live, other=0) - begin
    nx = tl.zeros([BLOCK], tl.float64)
    ny, nz = nx, nx
    for k in range(tl.max(faces, axis=0)):
        own = k < faces
        face = tl.load(around + begin + k, mask=own, other=0)
        a, b, c = load_row(triangles, face, own)
        ax, ay, az = load_row(vertices, a, own)
        px, py, pz = load_row(vertices, b, own)
        qx, qy, qz = load_row(vertices, c, own)
        px, py, pz = px - ax, py - ay, pz - az
        qx, qy, qz = qx - ax, qy - ay, qz - az
        nx += py * qz - pz * qy
        ny += pz * qx - px * qz
        nz += px * qy - py * qx
    length = tl.maximum(tl.sqrt(nx * nx + ny * ny + nz * nz), 1e-30)
    nx, ny, nz = (nx / length).to(tl.float32), (ny / length).to(tl.float32), (nz / length)
    store_row(normals, v, live, nx, ny, nz.to(tl.float32))
    px, py, pz = load_row(vertices, v, live)
    px, py, pz = px - tl.load(origin), py - tl.load(origin + 1), pz - tl.load(origin + 2)
    px, py = px.to(tl.float32), py.to(tl.float32)
    store_row(positions, v, live, px, py, pz.to(tl.float32))


def sample_features(
    positions: Float[Tensor, "V 3"],
    normals: Float[Tensor, "V 3"],
    corners: Int[Tensor, "S 3"],
    weights: Float[Tensor, "S 3"],
    cameras: Float[Tensor, "C 16"],
    depth: Float[Tensor, "C H W"],
    features: Float[Tensor, "C H W 9"],
    min_cosine: float,
    tolerance: float,
) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
    """`photometric.sample_features`: what every view sees at every sample, and its weight."""
    count, (views, height, width) = len(corners), depth.shape
    values = features.new_empty(count, views, 3)
    seen = features.new_empty(count, views)
    block = block_size(_SAMPLES, count)
    _sample_kernel[(triton.cdiv(count, block),)](
        positions, normals, corners, weights, cameras, depth, features, min_cosine, tolerance,
        values, seen, count, views, height, width, BLOCK=block,
    )  # fmt: skip
    return values, seen


def accumulate(
    positions: Float[Tensor, "V 3"],
    normals: Float[Tensor, "V 3"],
    corners: Int[Tensor, "S 3"],
    weights: Float[Tensor, "S 3"],
    areas: Float[Tensor, " S"],
    cameras: Float[Tensor, "C 16"],
    depth: Float[Tensor, "C H W"],
    features: Float[Tensor, "C H W 9"],
    reference: Float[Tensor, "S 3"],
    trust: Float[Tensor, " S"],
    noise: Float[Tensor, ""],
    cut: float,
    min_cosine: float,
    tolerance: float,
) -> tuple[Float[Tensor, "S 6"], Float[Tensor, "S 3"], Float[Tensor, "S 4"]]:
    """`photometric.accumulate`: blocks, gradients and statistics of every sample.

    `noise` (float32) stays on the device, so that learning it waits for nothing.
    """
    count, (views, height, width) = len(corners), depth.shape
    blocks = features.new_empty(count, 6)
    gradients = features.new_empty(count, 3)
    stats = features.new_empty(count, 4)
    block = block_size(_SAMPLES, count)
    _accumulate_kernel[(triton.cdiv(count, block),)](
        positions, normals, corners, weights, areas, cameras, depth, features, reference, trust,
        noise, cut, min_cosine, tolerance, blocks, gradients, stats, count, views, height, width,
        BLOCK=block, num_warps=2,
    )  # fmt: skip
    return blocks, gradients, stats


def placed_surface(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    starts: Int[Tensor, " V+1"],
    around: Int[Tensor, " N"],
    origin: Float[Tensor, " 3"],
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"]]:
    """Vertices (float64) about the origin and their unit normals, float32 for the kernels.

    `starts` and `around` list the triangles at every vertex, so that normals add up in one order.
    """
    positions = torch.empty_like(vertices, dtype=torch.float32)
    normals = torch.empty_like(positions)
    block = block_size(128, len(vertices))
    _normals_kernel[(triton.cdiv(len(vertices), block),)](
        vertices, triangles, starts, around, origin, positions, normals, len(vertices), BLOCK=block
    )
    return positions, normals
