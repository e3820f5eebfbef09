# Triton's own annotations are loose; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false
"""Slits and patches on a CUDA device: no table of points against triangles, few launches."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.patches import RINGS

BLOCK, TILE = 64, 32
"""Points and triangles that meet at once."""

_EXACT = {"enable_fp_fusion": False}
"""Launch option: a fused multiply-add would round differently from the CPU."""


def beyond(
    vertices: Float[Tensor, "B V 3"],
    own: Int[Tensor, " P"],
    sheet: Int[Tensor, "T 3"],
    facing: float,
    limits: tuple[float, float],
    out: Float[Tensor, "B K"],
    rows: Int[Tensor, " P"],
    allowed: Float[Tensor, "B K"] | None = None,
) -> None:
    """Writes into `rows` of `out` what `slits` says of how deep vertices `own` lie beyond a sheet.

    With `allowed`, what is deeper than that, at least zero. `limits` are the least of twice the
    area, and the deepest that counts.
    """
    count = len(own)
    with torch.cuda.device_of(vertices):
        _beyond[(triton.cdiv(count, BLOCK), len(vertices))](
            vertices.contiguous(), own, sheet, rows, out if allowed is None else allowed, out,
            vertices.shape[1], count, len(sheet), out.shape[1], facing, *limits,
            LIMITED=allowed is not None, BLOCK=BLOCK, TILE=TILE, **_EXACT,
        )  # fmt: skip


def spread(
    push: Float[Tensor, "B K"], neighbours: Int[Tensor, "K D"], free: Float[Tensor, " K"]
) -> Float[Tensor, "B K"]:
    """`Patch.spread`."""
    smooth = rounds(push, neighbours, RINGS)
    return smooth * free


def lift(
    vertices: Float[Tensor, "B V 3"],
    patch: Int[Tensor, " K"],
    neighbours: Int[Tensor, "K D"],
    free: Float[Tensor, " K"],
    sides: Float[Tensor, "2 B K"],
) -> None:
    """Moves the patch up by half of the first side's spread pushes, down by half of the other's."""
    pushes = sides.flatten(0, 1)
    smooth = rounds(pushes, neighbours, RINGS - 1)
    batch, count = sides.shape[1:]
    with torch.cuda.device_of(vertices):
        _lift[(triton.cdiv(count, 128), batch)](
            vertices, patch, neighbours, free, smooth, pushes, batch, vertices.shape[1], count,
            neighbours.shape[1], BLOCK=128, **_EXACT,
        )  # fmt: skip


def rounds(
    push: Float[Tensor, "B K"], neighbours: Int[Tensor, "K D"], number: int
) -> Float[Tensor, "B K"]:
    """So many rounds of `Patch.spread`."""
    count = push.shape[1]
    smooth = push = push.contiguous()
    with torch.cuda.device_of(push):
        for _ in range(number):
            after = torch.empty_like(smooth)
            _spread[(triton.cdiv(count, 128), len(push))](
                smooth, push, neighbours, after, count, neighbours.shape[1], BLOCK=128, **_EXACT
            )
            smooth = after
    return smooth


@triton.jit
def _corner(vertices, sheet, index, corner: tl.constexpr, live):
    place = vertices + 3 * tl.load(sheet + 3 * index + corner, live, 0)
    return tl.load(place, live, 0.0), tl.load(place + 1, live, 0.0), tl.load(place + 2, live, 0.0)


@triton.jit(do_not_specialize=["vertex_count", "count", "triangles", "width", "facing"])
def _beyond(
    vertices, own, sheet, rows, allowed, out, vertex_count, count, triangles, width, facing, flat,
    deepest, LIMITED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A block of points against all triangles of the sheet; see `slits._beyond`."""
    b = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    head = vertices + 3 * b * vertex_count
    place = head + 3 * tl.load(own + index, inside, 0)
    px = tl.load(place, inside, 0.0)[:, None]
    py = tl.load(place + 1, inside, 0.0)[:, None]
    pz = tl.load(place + 2, inside, 0.0)[:, None]
    deep = tl.full((BLOCK, TILE), -1.0, tl.float32)
    for first in range(0, triangles, TILE):
        t = first + tl.arange(0, TILE)
        live = t < triangles
        ax, ay, az = _corner(head, sheet, t, 0, live)
        bx, by, bz = _corner(head, sheet, t, 1, live)
        cx, cy, cz = _corner(head, sheet, t, 2, live)
        across_a, along_a = cz - bz, bx - cx
        across_b, along_b = az - cz, cx - ax
        across_c, along_c = bz - az, ax - bx
        area = across_c * along_b - along_c * across_b
        faces = live & (area * facing > flat)
        scale = tl.where(faces, 1.0 / tl.where(faces, area, 1.0), 0.0)
        one_a = tl.where(faces, (bz * cx - bx * cz) * scale, -1.0)
        one_b = tl.where(faces, (cz * ax - cx * az) * scale, -1.0)
        one_c = tl.where(faces, (az * bx - ax * bz) * scale, -1.0)
        across_a, along_a = across_a * scale, along_a * scale
        across_b, along_b = across_b * scale, along_b * scale
        across_c, along_c = across_c * scale, along_c * scale
        rise_a, rise_b = ay - cy, by - cy
        gap_x = facing * (across_a * rise_a + across_b * rise_b)
        gap_z = facing * (along_a * rise_a + along_b * rise_b)
        gap = facing * (one_a * rise_a + one_b * rise_b) + facing * cy
        u = px * across_a[None, :] + pz * along_a[None, :] + one_a[None, :]
        v = px * across_b[None, :] + pz * along_b[None, :] + one_b[None, :]
        w = px * across_c[None, :] + pz * along_c[None, :] + one_c[None, :]
        lies = px * gap_x[None, :] + pz * gap_z[None, :] - facing * py + gap[None, :]
        over = (tl.minimum(tl.minimum(u, v), w) >= 0.0) & (lies < deepest)
        deep = tl.maximum(deep, tl.where(over, lies, -1.0))
    most = tl.max(deep, 1)
    at = b * width + tl.load(rows + index, inside, 0)
    if LIMITED:
        most = tl.maximum(most - tl.load(allowed + at, inside, 0.0), 0.0)
    tl.store(out + at, most, inside)


@triton.jit
def smoothed(smooth, push, neighbours, base, k, degree, live):
    """A push, or the mean of what is around it if that is more."""
    total = tl.load(smooth + base + tl.load(neighbours + k * degree, live, 0), live, 0.0)
    for j in range(1, degree):
        total += tl.load(smooth + base + tl.load(neighbours + k * degree + j, live, 0), live, 0.0)
    own = tl.load(push + base + k, live, 0.0)
    return tl.maximum(tl.div_rn(total, degree.to(tl.float32) + tl.zeros_like(total)), own)


@triton.jit(do_not_specialize=["count", "degree"])
def _spread(smooth, push, neighbours, out, count, degree, BLOCK: tl.constexpr):
    """One round of `Patch.spread` of a row."""
    base = tl.program_id(1).to(tl.int64) * count
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < count
    tl.store(out + base + k, smoothed(smooth, push, neighbours, base, k, degree, live), live)


@triton.jit(do_not_specialize=["batch", "vertex_count", "count", "degree"])
def _lift(
    vertices, patch, neighbours, free, smooth, push, batch, vertex_count, count, degree,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The last round of both sides, and the step that they make."""
    b = tl.program_id(1).to(tl.int64)
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = k < count
    above = smoothed(smooth, push, neighbours, b * count, k, degree, live)
    below = smoothed(smooth, push, neighbours, (batch + b) * count, k, degree, live)
    loose = tl.load(free + k, live, 0.0)
    place = vertices + 3 * (b * vertex_count + tl.load(patch + k, live, 0)) + 1
    step = 0.5 * (above * loose) - 0.5 * (below * loose)
    tl.store(place, tl.load(place, live, 0.0) + step, live)
