# Triton annotates launches with what kernels see; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""What many points of light bring to every vertex, on a CUDA device: `light_cpu.receive`.

All shadow maps are drawn together (`mesh_triton.depth_stack`), then one lane a vertex adds up the
lights in their order, in float64 as the CPU does; sums agree to 1e-9 but for texels whose depth
lies within rounding of the bias.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from topohead.rendering import mesh_triton

_BLOCK = 128


def receive_all(
    points: Float[Tensor, "V 3"],
    normals: Float[Tensor, "V 3"],
    blockers: tuple[Float[Tensor, "B 3"], Int[Tensor, "T 3"]],
    projections: Float[Tensor, "L 3 4"],
    lights: Float[Tensor, "L 11"],
    lamp_count: int,
    size: int,
    bias: float,
    spread: float,
) -> tuple[Float[Tensor, "V 11"], Float[Tensor, "N V"]]:
    """Sums over all lights, and how many points of each lamp a vertex sees; all float64.

    A light is its place and solid angle or area (4), the direction it faces (3, zero for the
    dome), its radiance (3) and the number of its lamp (−1: the dome). `blockers`, triangles int32,
    throw the shadows; `size` is the side of the shadow maps; `bias` and `spread` are those of
    `light_cpu.receive`.
    """
    count, device = len(lights), points.device
    sizes = torch.full((count, 2), size, dtype=torch.int32, device=device)
    depth = mesh_triton.depth_stack(
        blockers[0], blockers[1], projections, sizes, (size, size), cull=False
    )
    sums = torch.empty(len(points), 11, dtype=torch.float64, device=device)
    seen = torch.zeros(lamp_count, len(points), dtype=torch.float64, device=device)
    settings = torch.tensor([bias, spread], dtype=torch.float64, device=device)
    with torch.cuda.device_of(points):
        _receive[(triton.cdiv(len(points), _BLOCK),)](
            points.contiguous(),
            normals.contiguous(),
            projections.contiguous(),
            lights.contiguous(),
            depth,
            settings,
            sums,
            seen,
            len(points),
            count,
            size,
            BLOCK=_BLOCK,
        )
    return sums, seen


@triton.jit(do_not_specialize=["vertex_count", "light_count", "size"])
def _receive(
    points,
    normals,
    projections,
    lights,
    depth,
    settings,
    sums,
    lamp_seen,
    vertex_count,
    light_count,
    size,
    BLOCK: tl.constexpr,
):
    """A block of vertices under all lights."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < vertex_count
    x = tl.load(points + 3 * index, inside, 0.0)
    y = tl.load(points + 3 * index + 1, inside, 0.0)
    z = tl.load(points + 3 * index + 2, inside, 0.0)
    nx = tl.load(normals + 3 * index, inside, 0.0)
    ny = tl.load(normals + 3 * index + 1, inside, 0.0)
    nz = tl.load(normals + 3 * index + 2, inside, 0.0)
    bias, spread = tl.load(settings), tl.load(settings + 1)
    zero = tl.zeros((BLOCK,), tl.float64)
    red, green, blue = zero, zero, zero
    no_red, no_green, no_blue = zero, zero, zero
    steer_x, steer_y, steer_z = zero, zero, zero
    open_sky, whole_sky = zero, zero
    for k in range(light_count):
        at = lights + 11 * k
        px, py, pz, weight = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        ax, ay, az = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6)
        r, g, b = tl.load(at + 7), tl.load(at + 8), tl.load(at + 9)
        lamp = tl.load(at + 10).to(tl.int32)
        # the dome's direction is from there to the origin for all
        near = tl.where(lamp >= 0, 1.0, 0.0).to(tl.float64)
        lx, ly, lz = px - near * x, py - near * y, pz - near * z
        distance = tl.sqrt(lx * lx + ly * ly + lz * lz)
        lx, ly, lz = lx / distance, ly / distance, lz / distance
        cosine = tl.maximum(-(lx * ax + ly * ay + lz * az), 0.0)
        weight = tl.where(lamp >= 0, weight * cosine / (distance * distance), weight)
        facing = lx * nx + ly * ny + lz * nz
        lit = inside & (facing > 0.0)
        seen = _visible(projections + 12 * k, depth, x, y, z, facing, bias, spread, size, lit)
        depth += size * size  # the next light's map
        front = tl.where(lit, facing * weight, 0.0)
        red += front * seen * r
        green += front * seen * g
        blue += front * seen * b
        no_red += front * (1.0 - seen) * r
        no_green += front * (1.0 - seen) * g
        no_blue += front * (1.0 - seen) * b
        # the derivative of n·ω with respect to n is ω on the lit side
        share = tl.where(lit, weight * seen * ((r + g + b) / 3.0), 0.0)
        steer_x += share * lx
        steer_y += share * ly
        steer_z += share * lz
        if lamp >= 0:
            place = lamp_seen + lamp.to(tl.int64) * vertex_count + index
            # a lamp's row is this vertex's own
            tl.store(place, tl.load(place, inside, 0.0) + tl.where(lit, seen, 0.0), inside)
        else:
            open_sky += front * seen
            whole_sky += front
    out = sums + 11 * index
    tl.store(out, red, inside)
    tl.store(out + 1, green, inside)
    tl.store(out + 2, blue, inside)
    tl.store(out + 3, no_red, inside)
    tl.store(out + 4, no_green, inside)
    tl.store(out + 5, no_blue, inside)
    tl.store(out + 6, steer_x, inside)
    tl.store(out + 7, steer_y, inside)
    tl.store(out + 8, steer_z, inside)
    tl.store(out + 9, open_sky, inside)
    tl.store(out + 10, whole_sky, inside)


@triton.jit
def _visible(projection, depth, x, y, z, facing, bias, spread, size, wanted):
    """Share of the four nearest texels of a shadow map that do not hide a vertex."""
    m = projection
    u = tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) * z + tl.load(m + 3)
    v = tl.load(m + 4) * x + tl.load(m + 5) * y + tl.load(m + 6) * z + tl.load(m + 7)
    w = tl.load(m + 8) * x + tl.load(m + 9) * y + tl.load(m + 10) * z + tl.load(m + 11)
    u, v = u / w - 0.5, v / w - 0.5
    left, top = tl.floor(u), tl.floor(v)
    du, dv = u - left, v - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    slope = tl.sqrt(tl.maximum(1.0 - facing * facing, 0.0)) / tl.maximum(facing, 0.15)
    nearest = w - bias - spread * slope
    seen = tl.zeros_like(u)
    for k in tl.static_range(4):
        r, c = row + k // 2, column + k % 2
        weight = (dv if k // 2 == 1 else 1.0 - dv) * (du if k % 2 == 1 else 1.0 - du)
        drawn = wanted & (r >= 0) & (c >= 0) & (r < size) & (c < size)
        in_front = tl.load(depth + r * size + c, drawn, float("inf")).to(tl.float64)
        seen += tl.where(in_front > nearest, weight, 0.0)
    return seen
