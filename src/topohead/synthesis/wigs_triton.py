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
from topohead.geometry.head_field_triton import outward, row_at

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
def _carried(q, points, nearest, weights, scale, shift, own, live):
    """A point of a wig with the head's size and, by its share, the shape of the skin below it."""
    x, y, z = row_at(points, 3 * q, live)
    x = tl.load(scale) * x + tl.load(shift)
    y = tl.load(scale + 1) * y + tl.load(shift + 1)
    z = tl.load(scale + 2) * z + tl.load(shift + 2)
    for k in tl.static_range(4):
        weight = tl.load(weights + 4 * q + k, live, 0.0)
        ox, oy, oz = row_at(own, 3 * tl.load(nearest + 4 * q + k, live, 0), live)
        x, y, z = x + weight * ox, y + weight * oy, z + weight * oz
    return x, y, z


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
        px, py, pz = row_at(table, 6 * tl.load(corner + k, live, 0), live)
        rx, ry, rz = rx + weight * px, ry + weight * py, rz + weight * pz
    share = tl.load(rooted + q, live, 0.0)
    x, y, z = x + share * (rx - x0), y + share * (ry - y0), z + share * (rz - z0)
    near = tl.load(nearest + 4 * q, live, 0)
    distance, nx, ny, nz = outward(
        x, y, z, near, table, ring, posed_scale + 3 * b, posed_shift + 3 * b,
        start, axis, radius, capsules, live, RING,
    )  # fmt: skip
    lack = tl.load(clear + q, live, 0.0) - distance
    lack = tl.maximum(lack, 0.0)
    first = number == 0
    place = out + 3 * (b * strands * count + index)
    tl.store(place, tl.where(first, rx, x + lack * nx), live)
    tl.store(place + 1, tl.where(first, ry, y + lack * ny), live)
    tl.store(place + 2, tl.where(first, rz, z + lack * nz), live)
