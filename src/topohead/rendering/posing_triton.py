"""A played avatar on a CUDA device in two kernels: its mesh and codes, then its Gaussians.

What `Avatar.vertices` and `ExpressionChange.codes` say, and `Avatar.dressed`,
`geometry.binding.posed_factors` and `rendering.harmonics.shaded`. As tensor operations these are
more than a hundred launches, which take the processor longer than the pictures take the device.
With TRITON_INTERPRET=1 the same kernels run on the CPU, slowly.

What changes from picture to picture is one array: 52 weights, the gaze (yaw and pitch of the left
eye, then of the right), three rows of the head's pose, three rows of each camera's.
"""

# Kernels take plain numbers where they declare constants.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.avatars import Avatar
from topohead.geometry.binding import turns

BLOCK = 128
"""Gaussians that one program carries."""

VERTICES = 32
"""Vertices that one program carries, with all 52 blendshapes at once."""


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
def _shape(
    instant, neutral, shapes, share, side, centers, expression, vertices, codes, count, programs,
    RANKS: tl.constexpr, WIDE: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Posed vertices [V 3]; the last program makes the codes [R] instead.

    `side` is 1 for vertices of the left eye, 2 for the right; `expression` holds the mean and the
    axes [52 R] of the codes, and their lowest and highest values.
    """
    action = tl.arange(0, 64)
    weight = tl.load(instant + action, mask=action < 52, other=0.0)
    if tl.program_id(0) == programs - 1:
        rank = tl.arange(0, WIDE)
        away = weight - tl.load(expression + action, mask=action < 52, other=0.0)
        known = (action < 52)[:, None] & (rank < RANKS)[None]
        axes = expression + 52 + action[:, None] * RANKS + rank[None]
        code = tl.sum(away[:, None] * tl.load(axes, mask=known, other=0.0), 0)
        ends = expression + 52 + 52 * RANKS + rank
        code = tl.maximum(code, tl.load(ends, mask=rank < RANKS, other=0.0))
        code = tl.minimum(code, tl.load(ends + RANKS, mask=rank < RANKS, other=0.0))
        tl.store(codes + rank, code, mask=rank < RANKS)
    else:
        vertex = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        mask = vertex < count
        at = 3 * vertex
        rx, ry, rz = _vector(neutral, at, mask)
        there = action[:, None].to(tl.int64) * (3 * count) + at[None]
        dx, dy, dz = _vector(shapes, there, (action < 52)[:, None] & mask[None])
        x = rx + tl.sum(weight[:, None] * dx, 0)
        y = ry + tl.sum(weight[:, None] * dy, 0)
        z = rz + tl.sum(weight[:, None] * dz, 0)
        eye = tl.load(side + vertex, mask=mask, other=0)
        other = tl.maximum(eye - 1, 0)
        cx, cy, cz = _vector(centers, 3 * other, mask)
        yaw = tl.load(instant + 52 + 2 * other, mask=mask, other=0.0)
        pitch = tl.load(instant + 53 + 2 * other, mask=mask, other=0.0)
        ax, ay, az = rx - cx, ry - cy, rz - cz
        lifted = tl.sin(pitch) * az + tl.cos(pitch) * ay
        forward = tl.cos(pitch) * az - tl.sin(pitch) * ay
        x = tl.where(eye > 0, cx + tl.cos(yaw) * ax + tl.sin(yaw) * forward, x)
        y = tl.where(eye > 0, cy + lifted, y)
        z = tl.where(eye > 0, cz - tl.sin(yaw) * ax + tl.cos(yaw) * forward, z)
        part = tl.load(share + vertex, mask=mask, other=0.0)
        mx, my, mz = _placed(instant + 56, x, y, z)
        tl.store(vertices + at, x + part * (mx - x), mask=mask)
        tl.store(vertices + at + 1, y + part * (my - y), mask=mask)
        tl.store(vertices + at + 2, z + part * (mz - z), mask=mask)


@triton.jit
def _placed(motion, x, y, z):
    """Points moved by three rows of a rigid motion."""
    a = tl.load(motion) * x + tl.load(motion + 1) * y + tl.load(motion + 2) * z
    b = tl.load(motion + 4) * x + tl.load(motion + 5) * y + tl.load(motion + 6) * z
    c = tl.load(motion + 8) * x + tl.load(motion + 9) * y + tl.load(motion + 10) * z
    return a + tl.load(motion + 3), b + tl.load(motion + 7), c + tl.load(motion + 11)


@triton.jit
def _turned_back(motion, x, y, z):
    """Directions turned by the inverse of a rigid motion."""
    a = tl.load(motion) * x + tl.load(motion + 4) * y + tl.load(motion + 8) * z
    b = tl.load(motion + 1) * x + tl.load(motion + 5) * y + tl.load(motion + 9) * z
    c = tl.load(motion + 2) * x + tl.load(motion + 6) * y + tl.load(motion + 10) * z
    return a, b, c


@triton.jit
def _pose(
    instant, vertices, corners, barycentrics, offsets, locals_, harmonics, codes, offset_change,
    color_change, means, covariances, colors, count, cameras,
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
        seen = instant + 68 + 12 * camera
        dx, dy, dz = _placed(seen, x, y, z)  # what the camera has before it, turned to the world
        dx, dy, dz = _turned_back(seen, dx, dy, dz)
        length = 1 / tl.maximum(tl.sqrt(dx * dx + dy * dy + dz * dz), 1e-12)
        hx, hy, hz = _turned_back(instant + 56, dx * length, dy * length, dz * length)
        first, second, third = _lit(
            harmonics, 3 * ROWS * wide, hx, hy, hz, red, green, blue, mask, ROWS
        )
        there = 3 * (camera * count + wide)
        tl.store(colors + there, tl.maximum(first, 0.0), mask=mask)
        tl.store(colors + there + 1, tl.maximum(second, 0.0), mask=mask)
        tl.store(colors + there + 2, tl.maximum(third, 0.0), mask=mask)


@dataclass(frozen=True)
class Prepared:
    """What no picture changes of an avatar, contiguous on one device; floats are float32.

    `corners` are int32 vertices of each Gaussian's triangle, `local` its R diag(s) in the
    triangle's frame, changes those of offsets and of the first harmonic with each code. `side`,
    `centers` and `expression` as `_shape` has them.
    """

    neutral: Float[Tensor, "V 3"]
    shapes: Float[Tensor, "52 V 3"]
    share: Float[Tensor, " V"]
    side: Int[Tensor, " V"]
    centers: Float[Tensor, "2 3"]
    expression: Float[Tensor, " E"]
    corners: Int[Tensor, "N 3"]
    barycentrics: Float[Tensor, "N 3"]
    offsets: Float[Tensor, "N 3"]
    local: Float[Tensor, "N 3 3"]
    harmonics: Float[Tensor, "N K 3"]
    offset_change: Float[Tensor, "N R 3"]
    color_change: Float[Tensor, "N R 3"]


def prepared(avatar: Avatar) -> Prepared:
    """The kernels' inputs where the avatar's tensors are."""
    rig, splats, change = avatar.rig, avatar.splats, avatar.change
    device, binding = splats.opacities.device, splats.binding
    side = torch.zeros(len(rig.neutral), dtype=torch.int32, device=device)
    centers = torch.zeros(2, 3, device=device)
    for index, eye in enumerate(avatar.eyes):
        if eye is not None:
            side[eye.vertices] = index + 1
            centers[index] = eye.center
    expression = [change.mean, change.axes.reshape(-1), change.low, change.high]
    corners = rig.topology.triangles.to(device)[binding.triangles].int()
    local = turns(binding.quats) * binding.scales[:, None]
    values = (
        rig.neutral, rig.blendshapes, rig.head_share.to(device), centers, torch.cat(expression),
        binding.barycentrics, binding.offsets, local, splats.harmonics, change.offsets,
        change.colors,
    )  # fmt: skip
    one, two, three, four, five, *rest = (t.detach().float().contiguous() for t in values)
    return Prepared(one, two, three, side, four, five, corners.contiguous(), *rest)


def instant_of(
    weights: Float[Tensor, " 52"],
    gaze: Float[Tensor, "2 2"],
    pose: Float[Tensor, "4 4"],
    world_to_camera: Float[Tensor, "C 4 4"],
    device: torch.device,
) -> Float[Tensor, " S"]:
    """The array of a picture: put together where its parts are, taken to the device as one."""
    parts = weights, gaze, pose[:3], world_to_camera[:, :3]
    there = weights.device if len({t.device for t in parts}) == 1 else device
    flat = [t.to(there, torch.float32).reshape(-1) for t in parts]
    return torch.cat(flat).to(device, non_blocking=True)


def shape(given: Prepared, instant: Tensor) -> tuple[Float[Tensor, "V 3"], Float[Tensor, " R"]]:
    """Posed vertices and the codes of the expression."""
    count, ranks = len(given.neutral), given.color_change.shape[1]
    vertices, codes = torch.empty_like(given.neutral), instant.new_empty(ranks)
    programs = triton.cdiv(count, VERTICES) + 1
    _shape[(programs,)](
        instant, given.neutral, given.shapes, given.share, given.side, given.centers,
        given.expression, vertices, codes, count, programs, ranks,
        triton.next_power_of_2(max(ranks, 1)), VERTICES,
    )  # fmt: skip
    return vertices, codes


def pose(
    given: Prepared, instant: Tensor, cameras: int
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 6"], Float[Tensor, "C N 3"]]:
    """Means, covariances (xx, xy, xz, yy, yz, zz) and srgb colours towards the cameras."""
    vertices, codes = shape(given, instant)
    count = len(given.corners)
    means, covariances = vertices.new_empty(count, 3), vertices.new_empty(count, 6)
    colors = vertices.new_empty(cameras, count, 3)
    _pose[(triton.cdiv(count, BLOCK),)](
        instant, vertices, given.corners, given.barycentrics, given.offsets, given.local,
        given.harmonics, codes, given.offset_change, given.color_change, means, covariances,
        colors, count, cameras, len(codes), given.harmonics.shape[1], BLOCK,
    )  # fmt: skip
    return means, covariances, colors
