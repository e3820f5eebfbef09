# Triton annotates launches with what kernels see; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false
"""Triangle rasterisation on a CUDA device, in Triton kernels: host side and resolving.

A picture is a buffer of 64-bit keys, (bits of 1/depth) << 32 | (triangle id, bits turned). Positive
floats sort like their bits, so an atomic maximum keeps the nearest triangle and, where depths are
equal, the first one, whatever the order in which threads arrive: results are deterministic. Zero
means that nothing is seen.

Four steps, all views of a rig in each launch: vertices are projected; one thread a triangle sets
it up and draws it if its bounding box is small (`mesh_triton_draw`); larger triangles leave a
count of tiles behind, whose running sum hands every program of the next kernel an equal share of
tiles, so no list has to be built and the host need not wait; the keys become depths, ids and
barycentrics.

Coverage, depth order and weights are computed with the numbers of `mesh_cpu`: corners on a grid of
1/4096 pixel, 64-bit edge functions, float64 planes of inverse depth, no fused multiply-add. Given
equal projected corners, the pictures are equal bit by bit; a projection that rounds differently
in its last bit may move a corner by 1/4096 pixel.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.rendering import mesh_cpu
from topohead.rendering.mesh_triton_draw import (
    LAST_ID,
    draw_large,
    draw_small,
    inverse_depth,
)

_BLOCK = 128
SMALL_BLOCK = 32
"""Triangles that a program sets up and walks: all wait for the largest, so there are few."""
_EXACT = {"enable_fp_fusion": False}
"""Launch option: a fused multiply-add would round differently from the CPU."""


def depth_stack(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    projections: Float[Tensor, "C 3 4"],
    sizes: Int[Tensor, "C 2"],
    size: tuple[int, int],
    cull: bool = True,
    near: float = 1e-3,
) -> Float[Tensor, "C H W"]:
    """Depth of the mesh in every view (inf: nothing seen), float32, of a common (width, height).

    `projections` float64 is intrinsics · world_to_camera[:3]; `sizes` int32 holds each view's own
    (width, height), at most `size`; pixels beyond it stay inf. Triangles that reach nearer than
    `near` are left out. All tensors are on one device, `triangles` int32. Neither waits for the
    device nor copies from the host, so that it may be part of a CUDA graph.
    """
    width, height = size
    with torch.cuda.device_of(vertices):
        projected = torch.empty(
            len(projections), len(vertices), 3, dtype=torch.float32, device=vertices.device
        )
        _project[(triton.cdiv(len(vertices), _BLOCK), len(projections))](
            vertices.detach().contiguous(),
            projections.contiguous(),
            projected,
            len(vertices),
            BLOCK=_BLOCK,
            **_EXACT,
        )
        ids = torch.arange(len(triangles), dtype=torch.int32, device=vertices.device)
        keys = draw(projected, triangles.contiguous(), ids, sizes, (width, height), cull, near)
        depth = torch.empty(keys.shape, dtype=torch.float32, device=vertices.device)
        _depths[(triton.cdiv(keys.numel(), 1024),)](keys, depth, keys.numel(), BLOCK=1024)
    return depth


def rasterize_homogeneous(
    homogeneous: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    size: tuple[int, int],
    cull: bool,
    near: float,
    guard: float,
) -> tuple[Int[Tensor, "H W"], Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Triangle (-1: none), barycentrics and depth (inf: none) of every pixel of one view.

    `homogeneous` float64 is (u z, v z, z), `triangles` int32. Triangles are clipped at depth
    `near` and `guard` pixels from the origin; those few are cut on the host, so that the call
    waits for the device once.
    """
    width, height = size
    device = homogeneous.device
    with torch.cuda.device_of(homogeneous):
        homogeneous, triangles = homogeneous.contiguous(), triangles.contiguous()
        projected, pieces, sources = _clipped(homogeneous, triangles, near, guard)
        sizes = torch.tensor([[width, height]], dtype=torch.int32, device=device)
        # half the near distance: clipped corners lie on the plane itself and must not be left out
        keys = draw(projected[None], pieces, sources, sizes, size, cull, 0.5 * near)[0]
        triangle_map = torch.empty(height, width, dtype=torch.int32, device=device)
        barycentrics = torch.empty(height, width, 3, dtype=torch.float32, device=device)
        depth = torch.empty(height, width, dtype=torch.float32, device=device)
        _resolve[(triton.cdiv(width, 256), height)](
            keys,
            homogeneous,
            triangles,
            triangle_map,
            barycentrics,
            depth,
            width,
            BLOCK=256,
            **_EXACT,
        )
    return triangle_map, barycentrics, depth


def interpolate_corners(
    values: Float[Tensor, "V K"],
    triangles: Int[Tensor, "T 3"],
    triangle_map: Int[Tensor, "H W"],
    barycentrics: Float[Tensor, "H W 3"],
) -> Float[Tensor, "H W K"]:
    """Values of the corners carried to pixels; zero where there is no triangle."""
    channels = values.shape[1]
    picture = torch.zeros(
        *triangle_map.shape, channels, dtype=values.dtype, device=triangle_map.device
    )
    if picture.numel() == 0 or len(triangles) == 0:
        return picture
    group = min(triton.next_power_of_2(channels), 16)
    grid = (triton.cdiv(triangle_map.numel(), _BLOCK), triton.cdiv(channels, group))
    with torch.cuda.device_of(values):
        _interpolate[grid](
            values.detach().contiguous(),
            triangles.contiguous(),
            triangle_map.contiguous(),
            barycentrics.contiguous(),
            picture,
            channels,
            triangle_map.numel(),
            BLOCK=_BLOCK,
            GROUP=group,
            **_EXACT,
        )
    return picture


def draw(
    projected: Float[Tensor, "C V 3"],
    triangles: Int[Tensor, "T 3"],
    ids: Int[Tensor, " T"],
    sizes: Int[Tensor, "C 2"],
    size: tuple[int, int],
    cull: bool,
    near: float,
) -> Int[Tensor, "C H W"]:
    """Keys int64 of pictures of triangles that are called `ids`; arguments as in `depth_stack`.

    `projected` float32 holds (u, v, depth). A triangle with a corner nearer than `near`, further
    than 65,536 pixels outside, or not a number is left out.
    """
    (views, vertex_count, _), count = projected.shape, len(triangles)
    width, height = size
    keys = torch.zeros(views, height, width, dtype=torch.int64, device=projected.device)
    if count == 0 or keys.numel() == 0:
        return keys
    tiles = torch.empty(views * count, dtype=torch.int32, device=projected.device)
    shared = (projected, triangles, ids, sizes, keys)
    numbers = (vertex_count, count, height, width, near)
    warps, warp = {"num_warps": max(SMALL_BLOCK // 32, 1)}, {"num_warps": 1}
    draw_small[(triton.cdiv(count, SMALL_BLOCK), views)](
        *shared, tiles, *numbers, CULL=cull, BLOCK=SMALL_BLOCK, **warps, **_EXACT
    )
    ends = tiles.cumsum(0)
    draw_large[(_resident_programs(projected.device),)](
        *shared, ends, *numbers, len(ends), CULL=cull, **warp, **_EXACT
    )
    return keys


def _resident_programs(device: torch.device) -> int:
    """About twice as many as run at once; two where an interpreter stands in for the device."""
    if device.type != "cuda":
        return 2
    return 64 * torch.cuda.get_device_properties(device).multi_processor_count


def _clipped(
    homogeneous: Tensor, triangles: Tensor, near: float, guard: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Projected corners float32 [V' 3], triangles [T' 3] and the triangle each one came from.

    A corner outside gets depth zero, which leaves all its triangles out; what of them is inside
    comes as additional triangles.
    """
    depth = homogeneous[:, 2]
    inside = (depth >= near) & (homogeneous[:, :2].abs() <= guard * depth[:, None]).all(1)
    projected = _divided(homogeneous)
    projected[:, 2].masked_fill_(~inside, 0.0)
    ids = torch.arange(len(triangles), dtype=torch.int32, device=triangles.device)
    cut = (~inside[triangles.long()].all(1)).nonzero()[:, 0]
    if len(cut) == 0:
        return projected, triangles, ids
    corners, pieces, sources = mesh_cpu.clip_triangles(
        homogeneous.cpu().numpy(), triangles[cut].cpu().numpy(), near, guard
    )
    fresh = torch.from_numpy(corners[len(homogeneous) :]).to(homogeneous.device)
    origins = cut[torch.from_numpy(sources.astype(np.int64)).to(cut.device)]
    return (
        torch.cat([projected, _divided(fresh)]),
        torch.cat([triangles, torch.from_numpy(pieces).to(triangles)]),
        torch.cat([ids, origins.to(ids)]),
    )


def _divided(homogeneous: Tensor) -> Tensor:
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    return torch.cat([pixels, homogeneous[:, 2:]], 1).float()


@triton.jit(do_not_specialize=["vertex_count"])
def _project(vertices, projections, projected, vertex_count, BLOCK: tl.constexpr):
    """(u, v, depth) float32 of a block of vertices in one view, computed in float64."""
    view = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < vertex_count
    x = tl.load(vertices + 3 * index, inside, 0.0).to(tl.float64)
    y = tl.load(vertices + 3 * index + 1, inside, 0.0).to(tl.float64)
    z = tl.load(vertices + 3 * index + 2, inside, 0.0).to(tl.float64)
    m = projections + 12 * view
    across = tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) * z + tl.load(m + 3)
    down = tl.load(m + 4) * x + tl.load(m + 5) * y + tl.load(m + 6) * z + tl.load(m + 7)
    depth = tl.load(m + 8) * x + tl.load(m + 9) * y + tl.load(m + 10) * z + tl.load(m + 11)
    place = projected + 3 * (view * vertex_count + index)
    tl.store(place, (across / depth).to(tl.float32), inside)
    tl.store(place + 1, (down / depth).to(tl.float32), inside)
    tl.store(place + 2, depth.to(tl.float32), inside)


@triton.jit(do_not_specialize=["count"])
def _depths(keys, depth, count, BLOCK: tl.constexpr):
    """Depth of a block of pixels from their keys."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inverse = inverse_depth(tl.load(keys + pixel, pixel < count, 0))
    seen = inverse > 0
    distance = tl.div_rn(1.0, tl.where(seen, inverse, 1.0))
    tl.store(depth + pixel, tl.where(seen, distance, float("inf")), pixel < count)


@triton.jit(do_not_specialize=["width"])
def _resolve(
    keys, homogeneous, triangles, triangle_map, barycentrics, depth, width, BLOCK: tl.constexpr
):
    """Triangle, barycentrics and depth of a part of a row; see `mesh_cpu.barycentrics_of`."""
    column, row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    inside = column < width
    pixel = row.to(tl.int64) * width + column
    key = tl.load(keys + pixel, inside, 0)
    seen = key > 0
    t = (key & LAST_ID) ^ LAST_ID
    x, y = column.to(tl.float64) + 0.5, row.to(tl.float64) + 0.5
    ax, ay, az = _about_pixel(homogeneous, tl.load(triangles + 3 * t, seen, 0), x, y, seen)
    bx, by, bz = _about_pixel(homogeneous, tl.load(triangles + 3 * t + 1, seen, 0), x, y, seen)
    cx, cy, cz = _about_pixel(homogeneous, tl.load(triangles + 3 * t + 2, seen, 0), x, y, seen)
    wa, wb, wc = bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx
    sign = tl.where(wa + wb + wc > 0, 1.0, -1.0)
    wa = tl.maximum(wa * sign, 0.0)
    wb = tl.maximum(wb * sign, 0.0)
    wc = tl.maximum(wc * sign, 0.0)
    total = wa + wb + wc
    sliver = total <= 0.0  # only its rounded corners cover the centre
    wa, wb, wc = tl.where(sliver, 1.0, wa), tl.where(sliver, 1.0, wb), tl.where(sliver, 1.0, wc)
    total = tl.where(sliver, 3.0, total)
    wa, wb, wc = wa / total, wb / total, wc / total
    distance = wa * az + wb * bz + wc * cz
    tl.store(triangle_map + pixel, tl.where(seen, t, -1).to(tl.int32), inside)
    place = barycentrics + 3 * pixel
    tl.store(place, tl.where(seen, wa, 0.0).to(tl.float32), inside)
    tl.store(place + 1, tl.where(seen, wb, 0.0).to(tl.float32), inside)
    tl.store(place + 2, tl.where(seen, wc, 0.0).to(tl.float32), inside)
    tl.store(depth + pixel, tl.where(seen, distance, float("inf")).to(tl.float32), inside)


@triton.jit
def _about_pixel(homogeneous, vertex, x, y, seen):
    """((u - x) z, (v - y) z, z) of corners."""
    place = homogeneous + 3 * vertex.to(tl.int64)
    z = tl.load(place + 2, seen, 1.0)
    return tl.load(place, seen, 0.0) - x * z, tl.load(place + 1, seen, 0.0) - y * z, z


@triton.jit(do_not_specialize=["channels", "count"])
def _interpolate(
    values,
    triangles,
    triangle_map,
    barycentrics,
    picture,
    channels,
    count,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A group of channels of a block of pixels."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[None, :]
    t = tl.load(triangle_map + pixel, pixel < count, -1).to(tl.int64)
    seen = t >= 0
    wanted = seen[:, None] & (channel < channels)
    sum_a = _share(values, triangles, barycentrics, t, pixel, 0, seen, channel, channels, wanted)
    sum_b = _share(values, triangles, barycentrics, t, pixel, 1, seen, channel, channels, wanted)
    sum_c = _share(values, triangles, barycentrics, t, pixel, 2, seen, channel, channels, wanted)
    tl.store(picture + pixel[:, None] * channels + channel, sum_a + sum_b + sum_c, wanted)


@triton.jit
def _share(
    values,
    triangles,
    barycentrics,
    t,
    pixel,
    corner: tl.constexpr,
    seen,
    channel,
    channels,
    wanted,
):
    """What one corner of each pixel's triangle adds."""
    vertex = tl.load(triangles + 3 * t + corner, seen, 0).to(tl.int64)
    weight = tl.load(barycentrics + 3 * pixel + corner, seen, 0.0)
    return weight[:, None] * tl.load(values + vertex[:, None] * channels + channel, wanted, 0.0)
