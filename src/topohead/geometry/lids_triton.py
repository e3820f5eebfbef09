# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false
"""Lids on their globes on a CUDA device, in five launches."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry import slits_triton
from topohead.geometry.patches import RINGS, Patch
from topohead.geometry.slits_triton import smoothed

BLOCK = 128


def clearance(
    vertices: Float[Tensor, "B V 3"],
    patch: Int[Tensor, " K"],
    globe: tuple[Float[Tensor, "B 3"], Float[Tensor, " B"], Float[Tensor, "B 3 3"]],
    radius: Float[Tensor, "N N"],
    needed: Float[Tensor, "B K"] | None = None,
) -> Float[Tensor, "B K"]:
    """`GlobeContact.clearance`, or what is lacking of `needed`; `globe`: centre, size and turn."""
    out = vertices.new_empty(len(vertices), len(patch))
    center, size, turn = (part.contiguous() for part in globe)
    asked = out if needed is None else needed.contiguous()
    with torch.cuda.device_of(vertices):
        _clearance[(triton.cdiv(len(patch), BLOCK), len(vertices))](
            vertices.contiguous(), patch, center, size, turn, radius, asked, out,
            vertices.shape[1], len(patch), len(radius), LACK=needed is not None, BLOCK=BLOCK,
        )  # fmt: skip
    return out


def pushed(
    vertices: Float[Tensor, "B V 3"],
    patch: Patch,
    center: Float[Tensor, "B 3"],
    push: Float[Tensor, "B K"],
) -> Float[Tensor, "B V 3"]:
    """Vertices with the patch's spread pushes along the globe's radii."""
    out, smooth = vertices.clone(), slits_triton.rounds(push, patch.neighbours, RINGS - 1)
    count, degree = patch.neighbours.shape
    with torch.cuda.device_of(out):
        _pushed[(triton.cdiv(count, BLOCK), len(out))](
            out, patch.vertices, patch.neighbours, patch.free, smooth, push, center.contiguous(),
            out.shape[1], count, degree, BLOCK=BLOCK,
        )  # fmt: skip
    return out


@triton.jit
def _arms(vertices, patch, center, b, k, vertex_count, live):
    """Where in memory vertices are, and what they are about the globe's centre."""
    place = vertices + 3 * (b * vertex_count + tl.load(patch + k, live, 0))
    x = tl.load(place, live, 0.0) - tl.load(center + 3 * b)
    y = tl.load(place + 1, live, 0.0) - tl.load(center + 3 * b + 1)
    z = tl.load(place + 2, live, 0.0) - tl.load(center + 3 * b + 2)
    return place, x, y, z


@triton.jit
def _signed(x):
    return tl.where(x < 0.0, -1.0, 1.0)


@triton.jit(do_not_specialize=["vertex_count", "count", "side"])
def _clearance(
    vertices, patch, center, size, turn, radius, needed, out, vertex_count, count, side,
    LACK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """How far a block of a patch is outside the globe of a head; see `globes.RadialMap`."""
    b = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < count
    _, ax, ay, az = _arms(vertices, patch, center, b, k, vertex_count, live)
    scale = tl.load(size + b)
    ax, ay, az = ax / scale, ay / scale, az / scale
    m = turn + 9 * b
    x = ax * tl.load(m) + ay * tl.load(m + 3) + az * tl.load(m + 6)
    y = ax * tl.load(m + 1) + ay * tl.load(m + 4) + az * tl.load(m + 7)
    z = ax * tl.load(m + 2) + ay * tl.load(m + 5) + az * tl.load(m + 8)
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-12)
    x, y, z = x / length, y / length, z / length
    total = tl.maximum(tl.abs(x) + tl.abs(y) + tl.abs(z), 1e-20)
    u, v = x / total, y / total
    back = z < 0.0
    folded = (1.0 - tl.abs(v)) * _signed(u)
    v = tl.where(back, (1.0 - tl.abs(u)) * _signed(v), v)
    u = tl.where(back, folded, u)
    last = (side - 1).to(tl.float32)
    u = (tl.minimum(tl.maximum(u, -1.0), 1.0) + 1.0) / 2.0 * last
    v = (tl.minimum(tl.maximum(v, -1.0), 1.0) + 1.0) / 2.0 * last
    column = tl.minimum(tl.floor(u).to(tl.int32), side - 2)
    row = tl.minimum(tl.floor(v).to(tl.int32), side - 2)
    fx, fy = u - column.to(tl.float32), v - row.to(tl.float32)
    at = radius + row * side + column
    a = tl.load(at, live, 0.0).to(tl.float32)
    e = tl.load(at + 1, live, 0.0).to(tl.float32)
    c = tl.load(at + side, live, 0.0).to(tl.float32)
    d = tl.load(at + side + 1, live, 0.0).to(tl.float32)
    upper, lower = a + fx * (e - a), c + fx * (d - c)
    clear = (length - (upper + fy * (lower - upper))) * scale
    place = b * count + k
    if LACK:
        clear = tl.maximum(tl.load(needed + place, live, 0.0) - clear, 0.0)
    tl.store(out + place, clear, live)


@triton.jit(do_not_specialize=["vertex_count", "count", "degree"])
def _pushed(
    vertices, patch, neighbours, free, smooth, push, center, vertex_count, count, degree,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The last round of spreading, and the step outward."""
    b = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < count
    step = smoothed(smooth, push, neighbours, b * count, k, degree, live)
    step = step * tl.load(free + k, live, 0.0)
    place, x, y, z = _arms(vertices, patch, center, b, k, vertex_count, live)
    length = tl.sqrt(x * x + y * y + z * z)
    ox, oy = tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0)
    oz = tl.load(place + 2, live, 0.0)
    tl.store(place, ox + step * (x / length), live)
    tl.store(place + 1, oy + step * (y / length), live)
    tl.store(place + 2, oz + step * (z / length), live)
