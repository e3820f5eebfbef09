# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
"""`HeadField.distance` on a CUDA device in one launch: a lane a point."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128


def distance(
    points: Float[Tensor, "B N 3"],
    near: Int[Tensor, "B N"],
    heads: tuple[Float[Tensor, "M 6"], Float[Tensor, "B 3"], Float[Tensor, "B 3"]],
    ring: Int[Tensor, "V R"],
    capsules: tuple[Tensor, Tensor, Tensor],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N 3"]]:
    """Distance in metres, negative inside, and its direction (unit).

    `heads` are `Placed`'s table, scale and shift; `near` and the rest as in `HeadField.distance`.
    """
    points, near = points.contiguous(), near.contiguous()
    away, direction = torch.empty_like(points[..., 0]), torch.empty_like(points)
    count, vertices = points.shape[1], len(ring)
    table, scale, shift = (part.contiguous() for part in heads)
    with torch.cuda.device_of(points):
        _distance[(triton.cdiv(count, BLOCK), len(points))](
            points, near, table, scale, shift, ring, *capsules, away, direction, count, vertices,
            len(capsules[-1]), BLOCK=BLOCK, RING=ring.shape[1],
        )  # fmt: skip
    return away, direction


@triton.jit
def row_at(table, row, live):
    """Three neighbours of a table from places `row` on; zeros for lanes that are not live."""
    place = table + row
    return tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0), tl.load(place + 2, live, 0.0)


@triton.jit
def _unit(x, y, z, least):
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), least)
    return x / length, y / length, z / length


@triton.jit
def _lerp(a, b, t):
    return a + t * (b - a)


@triton.jit
def _skin(x, y, z, near, table, ring, live, RING: tl.constexpr):
    """Distance to the skin and its direction; see `HeadField.distance`."""
    closest, best = near, tl.full(x.shape, 3e38, tl.float32)
    for k in tl.static_range(RING):
        candidate = tl.load(ring + RING * near + k, live, 0)
        px, py, pz = row_at(table, 6 * candidate, live)
        dx, dy, dz = px - x, py - y, pz - z
        apart = dx * dx + dy * dy + dz * dz
        closest = tl.where(apart < best, candidate, closest)
        best = tl.minimum(apart, best)
    first = tl.load(ring + RING * closest, live, 0)
    fx, fy, fz = row_at(table, 6 * first, live)
    total, plane, spacing = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    nx, ny, nz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for k in tl.static_range(RING):
        row = 6 * tl.load(ring + RING * closest + k, live, 0)
        px, py, pz = row_at(table, row, live)
        mx, my, mz = row_at(table, row + 3, live)
        ox, oy, oz = x - px, y - py, z - pz
        square = ox * ox + oy * oy + oz * oz + 1e-7
        weight = 1.0 / (square * square)
        total += weight
        plane += weight * (ox * mx + oy * my + oz * mz)
        nx, ny, nz = nx + weight * mx, ny + weight * my, nz + weight * mz
        sx, sy, sz = px - fx, py - fy, pz - fz
        spacing += tl.sqrt(sx * sx + sy * sy + sz * sz)
    plane = plane / total
    nx, ny, nz = _unit(nx / total, ny / total, nz / total, 1e-12)
    ax, ay, az = x - fx, y - fy, z - fz
    reach = tl.sqrt(ax * ax + ay * ay + az * az)
    far = (reach / tl.maximum(spacing / (RING - 1), 1e-6) - 1.0) / 2.0
    far = tl.where(plane > 0.0, tl.minimum(tl.maximum(far, 0.0), 1.0), 0.0)
    plane = _lerp(plane, reach, far)
    length = tl.maximum(reach, 1e-9)
    nx, ny, nz = _unit(
        _lerp(nx, ax / length, far), _lerp(ny, ay / length, far), _lerp(nz, az / length, far), 1e-12
    )
    return plane, nx, ny, nz


@triton.jit
def _body(x, y, z, start, axis, radius, capsules):
    """Distance to the nearest capsule and its direction."""
    distance = tl.full(x.shape, 3e38, tl.float32)
    nx, ny, nz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for k in range(capsules):
        ux, uy, uz = tl.load(axis + 3 * k), tl.load(axis + 3 * k + 1), tl.load(axis + 3 * k + 2)
        ox = x - tl.load(start + 3 * k)
        oy = y - tl.load(start + 3 * k + 1)
        oz = z - tl.load(start + 3 * k + 2)
        along = (ox * ux + oy * uy + oz * uz) / (ux * ux + uy * uy + uz * uz)
        along = tl.minimum(tl.maximum(along, 0.0), 1.0)
        ax, ay, az = ox - along * ux, oy - along * uy, oz - along * uz
        reach = tl.sqrt(ax * ax + ay * ay + az * az)
        away = reach - tl.load(radius + k)
        closer = away < distance
        length = tl.maximum(reach, 1e-12)
        nx = tl.where(closer, ax / length, nx)
        ny = tl.where(closer, ay / length, ny)
        nz = tl.where(closer, az / length, nz)
        distance = tl.minimum(distance, away)
    return distance, nx, ny, nz


@triton.jit
def outward(
    x, y, z, near, table, ring, scale, shift, start, axis, radius, capsules, live,
    RING: tl.constexpr,
):  # fmt: skip
    """Distance to the skin or the body, whichever is nearer, and its direction."""
    distance, nx, ny, nz = _skin(x, y, z, near, table, ring, live, RING)
    cx = (x - tl.load(shift)) / tl.load(scale)
    cy = (y - tl.load(shift + 1)) / tl.load(scale + 1)
    cz = (z - tl.load(shift + 2)) / tl.load(scale + 2)
    body, bx, by, bz = _body(cx, cy, cz, start, axis, radius, capsules)
    closer = body < distance
    nx, ny, nz = tl.where(closer, bx, nx), tl.where(closer, by, ny), tl.where(closer, bz, nz)
    return tl.where(closer, body, distance), nx, ny, nz


@triton.jit(do_not_specialize=["count", "vertex_count", "capsules"])
def _distance(
    points, near, table, scale, shift, ring, start, axis, radius, away, direction, count,
    vertex_count, capsules, BLOCK: tl.constexpr, RING: tl.constexpr,
):  # fmt: skip
    """A block of points about a head."""
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = index < count
    q = b * count + index
    x, y, z = row_at(points, 3 * q, live)
    first = tl.load(near + q, live, 0)
    far, nx, ny, nz = outward(
        x, y, z, first, table + 6 * b * vertex_count, ring, scale + 3 * b, shift + 3 * b,
        start, axis, radius, capsules, live, RING,
    )  # fmt: skip
    tl.store(away + q, far, live)
    tl.store(direction + 3 * q, nx, live)
    tl.store(direction + 3 * q + 1, ny, live)
    tl.store(direction + 3 * q + 2, nz, live)
