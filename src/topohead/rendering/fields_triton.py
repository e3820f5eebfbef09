# Triton annotates launches with what kernels see; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""Hashed random fields on a CUDA device, one lane a point: the loops of `fields_cpu`.

Hashes are the same integers; coordinates are float32, so values agree to about 1e-4.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 256


def octaves(
    points: Float[Tensor, "N 3"],
    frequencies: Float[Tensor, " O"],
    weights: Float[Tensor, " O"],
    seeds: Int[Tensor, " O"],
) -> Float[Tensor, " N"]:
    """`fields_cpu.octaves`."""
    out = torch.empty(len(points), device=points.device)
    with torch.cuda.device_of(points):
        _octaves[(triton.cdiv(len(points), _BLOCK),)](
            points, frequencies, weights, seeds, out, len(points), len(frequencies), BLOCK=_BLOCK
        )
    return out


def cells(
    points: Float[Tensor, "N 3"], seed: int, axis: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """`fields_cpu.cells`."""
    out = torch.empty(len(points), 3, device=points.device)
    with torch.cuda.device_of(points):
        _cells[(triton.cdiv(len(points), _BLOCK),)](
            points, axis, out, len(points), seed, BLOCK=_BLOCK
        )
    return out


def spots(
    points: Float[Tensor, "N 3"],
    seed: int,
    presence: Float[Tensor, " N"],
    small: float,
    large: float,
    axis: Float[Tensor, "N 3"],
) -> Float[Tensor, "N 2"]:
    """`fields_cpu.spots`."""
    out = torch.empty(len(points), 2, device=points.device)
    with torch.cuda.device_of(points):
        _spots[(triton.cdiv(len(points), _BLOCK),)](
            points, presence, axis, out, len(points), seed, small, large, BLOCK=_BLOCK
        )
    return out


@triton.jit
def _mixed(x):
    x ^= x >> 16
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x ^= x >> 15
    x = (x * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


@triton.jit
def _hash(i, j, k, seed):
    return _mixed(((i * 0x8DA6B343) ^ (j * 0xD8163841) ^ (k * 0xCB1AB31F) ^ seed) & 0xFFFFFFFF)


@triton.jit
def _corner(i, j, k, seed, x, y, z):
    bits = _hash(i, j, k, seed)
    gx = (bits & 1023).to(tl.float32) * (2.0 / 1023) - 1.0
    gy = ((bits >> 10) & 1023).to(tl.float32) * (2.0 / 1023) - 1.0
    gz = ((bits >> 20) & 1023).to(tl.float32) * (2.0 / 1023) - 1.0
    return gx * x + gy * y + gz * z


@triton.jit
def _dot_offset(bits, i, j, k, x, y, z):
    dx = (i.to(tl.float32) - x) + ((bits & 1023).to(tl.float32) + 0.5) / 1024
    dy = (j.to(tl.float32) - y) + (((bits >> 10) & 1023).to(tl.float32) + 0.5) / 1024
    dz = (k.to(tl.float32) - z) + (((bits >> 20) & 1023).to(tl.float32) + 0.5) / 1024
    return dx, dy, dz


@triton.jit
def _place(points, lane, inside):
    x = tl.load(points + lane * 3, mask=inside, other=0.0)
    y = tl.load(points + lane * 3 + 1, mask=inside, other=0.0)
    z = tl.load(points + lane * 3 + 2, mask=inside, other=0.0)
    return x, y, z


@triton.jit
def _octaves(points, frequencies, weights, seeds, out, count, levels, BLOCK: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < count
    px, py, pz = _place(points, lane, inside)
    total = tl.zeros([BLOCK], tl.float32)
    for level in range(levels):
        f = tl.load(frequencies + level)
        seed = tl.load(seeds + level)
        x, y, z = px * f, py * f, pz * f
        fi, fj, fk = tl.floor(x), tl.floor(y), tl.floor(z)
        x, y, z = x - fi, y - fj, z - fk
        i, j, k = fi.to(tl.int64), fj.to(tl.int64), fk.to(tl.int64)
        u = x * x * x * (x * (x * 6.0 - 15.0) + 10.0)
        v = y * y * y * (y * (y * 6.0 - 15.0) + 10.0)
        w = z * z * z * (z * (z * 6.0 - 15.0) + 10.0)
        a = _corner(i, j, k, seed, x, y, z)
        a += u * (_corner(i + 1, j, k, seed, x - 1.0, y, z) - a)
        b = _corner(i, j + 1, k, seed, x, y - 1.0, z)
        b += u * (_corner(i + 1, j + 1, k, seed, x - 1.0, y - 1.0, z) - b)
        c = _corner(i, j, k + 1, seed, x, y, z - 1.0)
        c += u * (_corner(i + 1, j, k + 1, seed, x - 1.0, y, z - 1.0) - c)
        d = _corner(i, j + 1, k + 1, seed, x, y - 1.0, z - 1.0)
        d += u * (_corner(i + 1, j + 1, k + 1, seed, x - 1.0, y - 1.0, z - 1.0) - d)
        a += v * (b - a)
        c += v * (d - c)
        total += tl.load(weights + level) * (a + w * (c - a))
    tl.store(out + lane, total, mask=inside)


@triton.jit
def _cells(points, axis, out, count, seed, BLOCK: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < count
    x, y, z = _place(points, lane, inside)
    ax, ay, az = _place(axis, lane, inside)
    i0, j0, k0 = tl.floor(x).to(tl.int64), tl.floor(y).to(tl.int64), tl.floor(z).to(tl.int64)
    first = tl.full([BLOCK], 1e9, tl.float32)
    second = tl.full([BLOCK], 1e9, tl.float32)
    number = tl.zeros([BLOCK], tl.int64)
    for step in range(27):
        i, j, k = i0 + (step % 3 - 1), j0 + (step // 3 % 3 - 1), k0 + (step // 9 - 1)
        bits = _hash(i, j, k, seed)
        dx, dy, dz = _dot_offset(bits, i, j, k, x, y, z)
        along = dx * ax + dy * ay + dz * az
        square = dx * dx + dy * dy + dz * dz - along * along
        nearer = square < first
        second = tl.where(nearer, first, tl.minimum(second, square))
        number = tl.where(nearer, bits, number)
        first = tl.where(nearer, square, first)
    own = (_mixed(number ^ 0x68E31DA4) >> 8).to(tl.float32) / 16777216.0
    tl.store(out + lane * 3, tl.sqrt(tl.maximum(first, 0.0)), mask=inside)
    tl.store(out + lane * 3 + 1, tl.sqrt(tl.maximum(second, 0.0)), mask=inside)
    tl.store(out + lane * 3 + 2, own, mask=inside)


@triton.jit
def _spots(points, presence, axis, out, count, seed, small, large, BLOCK: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = lane < count
    x, y, z = _place(points, lane, inside)
    ax, ay, az = _place(axis, lane, inside)
    odds = tl.load(presence + lane, mask=inside, other=0.0)
    i0, j0 = tl.floor(x - 0.5).to(tl.int64), tl.floor(y - 0.5).to(tl.int64)
    k0 = tl.floor(z - 0.5).to(tl.int64)
    depth = tl.zeros([BLOCK], tl.float32)
    found = tl.zeros([BLOCK], tl.float32)
    for step in range(8):
        i, j, k = i0 + step % 2, j0 + step // 2 % 2, k0 + step // 4
        bits = _hash(i, j, k, seed)
        more = _mixed(bits ^ 0x68E31DA4)
        share = (more >> 16).to(tl.float32) * (1.0 / 65536)
        radius = small + (large - small) * share * share
        dx, dy, dz = _dot_offset(bits, i, j, k, x, y, z)
        along = dx * ax + dy * ay + dz * az
        square = tl.maximum(dx * dx + dy * dy + dz * dz - along * along, 0.0)
        here = (more & 65535).to(tl.float32) * (1.0 / 65536) < odds
        deep = tl.where(here, 1.0 - tl.sqrt(square) / radius, 0.0)
        found = tl.where(deep > depth, (_mixed(more) >> 8).to(tl.float32) / 16777216.0, found)
        depth = tl.maximum(depth, deep)
    tl.store(out + lane * 2, depth, mask=inside)
    tl.store(out + lane * 2 + 1, found, mask=inside)
