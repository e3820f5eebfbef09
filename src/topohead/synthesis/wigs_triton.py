# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
"""`Wigs.worn` on a CUDA device in one launch: a lane a point, nothing between in memory."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.head_field import RING, Placed

BLOCK = 128


def worn(
    which: Int[Tensor, " B"],
    wigs: tuple[Tensor, ...],
    fitted: tuple[Tensor, Tensor],
    own: Float[Tensor, "B V 3"],
    posed: Placed,
    field: tuple[Tensor, ...],
) -> Float[Tensor, "B S P 3"]:
    """Points of the wigs `which` on heads; see `Wigs.worn`.

    `wigs` are points [N S P 3], nearest, weights, clear, rooted, root triangles and barycentrics;
    `fitted` the scale and shift of the template at rest, `own` what the heads' shape is beyond
    that. `field` are triangles, rings, and the body's capsules: start, axis, radius.
    """
    points = wigs[0]
    out = points.new_empty(len(which), *points.shape[1:])
    strands, count = points.shape[1:3]
    tensors = (which, *wigs, *fitted, own, posed.table, posed.scale, posed.shift, *field, out)
    arguments = [*tensors, strands, count, own.shape[1], len(field[-1])]
    with torch.cuda.device_of(out):
        grid = (triton.cdiv(strands * count, BLOCK), len(which))
        _worn[grid](*arguments, BLOCK=BLOCK, RING=RING)
    return out


@triton.jit
def _at(table, row, live):
    place = table + row
    return tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0), tl.load(place + 2, live, 0.0)


@triton.jit
def _carried(q, points, nearest, weights, scale, shift, own, live):
    """A point of a wig with the head's size and, by its share, the shape of the skin below it."""
    x, y, z = _at(points, 3 * q, live)
    x = tl.load(scale) * x + tl.load(shift)
    y = tl.load(scale + 1) * y + tl.load(shift + 1)
    z = tl.load(scale + 2) * z + tl.load(shift + 2)
    for k in tl.static_range(4):
        weight = tl.load(weights + 4 * q + k, live, 0.0)
        ox, oy, oz = _at(own, 3 * tl.load(nearest + 4 * q + k, live, 0), live)
        x, y, z = x + weight * ox, y + weight * oy, z + weight * oz
    return x, y, z


@triton.jit
def _unit(x, y, z, least):
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), least)
    return x / length, y / length, z / length


@triton.jit
def _lerp(a, b, t):
    return a + t * (b - a)


@triton.jit
def _planes(x, y, z, near, table, ring, live, RING: tl.constexpr):
    """Distance to the skin and its direction; see `HeadField.distance`."""
    closest, best = near, tl.full(x.shape, 3e38, tl.float32)
    for k in tl.static_range(RING):
        candidate = tl.load(ring + RING * near + k, live, 0)
        px, py, pz = _at(table, 6 * candidate, live)
        dx, dy, dz = px - x, py - y, pz - z
        apart = dx * dx + dy * dy + dz * dz
        closest = tl.where(apart < best, candidate, closest)
        best = tl.minimum(apart, best)
    first = tl.load(ring + RING * closest, live, 0)
    fx, fy, fz = _at(table, 6 * first, live)
    total, plane, spacing = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    nx, ny, nz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for k in tl.static_range(RING):
        row = 6 * tl.load(ring + RING * closest + k, live, 0)
        px, py, pz = _at(table, row, live)
        mx, my, mz = _at(table, row + 3, live)
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


@triton.jit(do_not_specialize=["strands", "count", "vertex_count", "capsules"])
def _worn(
    which, points, nearest, weights, clear, rooted, root_triangle, root_weights, scale, shift, own,
    table, posed_scale, posed_shift, triangles, ring, start, axis, radius, out, strands, count,
    vertex_count, capsules, BLOCK: tl.constexpr, RING: tl.constexpr,
):  # fmt: skip
    """A block of points of the wig on a head."""
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = index < strands * count
    strand, number = index // count, index % count
    wig = tl.load(which + b)
    q = wig * strands * count + index
    scale, shift, own = scale + 3 * b, shift + 3 * b, own + 3 * b * vertex_count
    table = table + 6 * b * vertex_count
    x, y, z = _carried(q, points, nearest, weights, scale, shift, own, live)
    # every point finds the root of its strand anew: cheaper than to wait for it
    x0, y0, z0 = _carried(q - number, points, nearest, weights, scale, shift, own, live)
    root = wig * strands + strand
    corner = triangles + 3 * tl.load(root_triangle + root, live, 0)
    rx, ry, rz = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for k in tl.static_range(3):
        weight = tl.load(root_weights + 3 * root + k, live, 0.0)
        px, py, pz = _at(table, 6 * tl.load(corner + k, live, 0), live)
        rx, ry, rz = rx + weight * px, ry + weight * py, rz + weight * pz
    share = tl.load(rooted + q, live, 0.0)
    x, y, z = x + share * (rx - x0), y + share * (ry - y0), z + share * (rz - z0)
    near = tl.load(nearest + 4 * q, live, 0)
    distance, nx, ny, nz = _planes(x, y, z, near, table, ring, live, RING)
    sx, tx = tl.load(posed_scale + 3 * b), tl.load(posed_shift + 3 * b)
    sy, ty = tl.load(posed_scale + 3 * b + 1), tl.load(posed_shift + 3 * b + 1)
    sz, tz = tl.load(posed_scale + 3 * b + 2), tl.load(posed_shift + 3 * b + 2)
    body, bx, by, bz = _body(
        (x - tx) / sx, (y - ty) / sy, (z - tz) / sz, start, axis, radius, capsules
    )
    closer = body < distance
    lack = tl.load(clear + q, live, 0.0) - tl.where(closer, body, distance)
    lack = tl.maximum(lack, 0.0)
    first = number == 0
    place = out + 3 * (b * strands * count + index)
    tl.store(place, tl.where(first, rx, x + lack * tl.where(closer, bx, nx)), live)
    tl.store(place + 1, tl.where(first, ry, y + lack * tl.where(closer, by, ny)), live)
    tl.store(place + 2, tl.where(first, rz, z + lack * tl.where(closer, bz, nz)), live)
