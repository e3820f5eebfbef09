"""L1 and structural similarity of pictures on a CUDA device: `ssim_cpu` in four Triton kernels.

Pictures are [B H 3W]: neighbours in x are three places apart. The window is separable, so each
blur is a pass over rows and one over columns; what lies between them stays in the L2 cache for
pictures up to about a megapixel. Every program adds up its own tile, so sums do not depend on
the order in which programs run. With TRITON_INTERPRET=1 the same kernels run on the CPU, slowly.
"""

# Kernels take plain numbers where they declare constants.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from functools import cache

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from topohead.rendering import ssim_cpu

RADIUS = tl.constexpr(ssim_cpu.RADIUS)
TAPS = tl.constexpr(2 * ssim_cpu.RADIUS + 1)
C1 = tl.constexpr(float(ssim_cpu.C1))
C2 = tl.constexpr(float(ssim_cpu.C2))
TILE = (8, 128)
"""Rows and places that one program works on."""


@triton.jit
def _places(height, length, ROWS: tl.constexpr, PLACES: tl.constexpr):
    """Rows, places in them, which of those exist, offset of each, and the tile's number."""
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(0) * PLACES + tl.arange(0, PLACES)[None, :]
    exists = (y < height) & (x < length)
    picture = tl.program_id(2).to(tl.int64) * height * length
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    return y, x, exists, picture + y * length + x, tile


@triton.jit
def _add_columns(source, x, exists, at, window, length):
    """Window over the pixels x-5 … x+5 of each row."""
    total = tl.zeros(at.shape, tl.float32)
    for k in tl.static_range(TAPS):
        step = 3 * (k - RADIUS)
        inside = exists & (x + step >= 0) & (x + step < length)
        total += tl.load(window + k) * tl.load(source + at + step, mask=inside, other=0.0)
    return total


@triton.jit
def _products_by_rows(
    first, second, by_rows, window, height, length, plane,
    ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Window over rows y-5 … y+5 of a, a² and a b."""
    y, _, exists, at, _ = _places(height, length, ROWS, PLACES)
    mean = tl.zeros((ROWS, PLACES), tl.float32)
    square = tl.zeros((ROWS, PLACES), tl.float32)
    product = tl.zeros((ROWS, PLACES), tl.float32)
    for k in tl.static_range(TAPS):
        step = k - RADIUS
        inside = exists & (y + step >= 0) & (y + step < height)
        weight = tl.load(window + k)
        a = tl.load(first + at + step * length, mask=inside, other=0.0)
        b = tl.load(second + at + step * length, mask=inside, other=0.0)
        mean += weight * a
        square += weight * a * a
        product += weight * a * b
    tl.store(by_rows + at, mean, mask=exists)
    tl.store(by_rows + plane + at, square, mask=exists)
    tl.store(by_rows + 2 * plane + at, product, mask=exists)


@triton.jit
def _statistics_by_columns(
    by_rows, statistics, window, height, length, plane,
    ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Windowed mean and variance from the two row passes."""
    _, x, exists, at, _ = _places(height, length, ROWS, PLACES)
    mean = _add_columns(by_rows, x, exists, at, window, length)
    square = _add_columns(by_rows + plane, x, exists, at, window, length)
    tl.store(statistics + at, mean, mask=exists)
    tl.store(statistics + plane + at, square - mean * mean, mask=exists)


@triton.jit
def _slopes_by_columns(
    by_rows, statistics, slopes, similarity, window, height, length, plane,
    ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """SSIM, and its derivatives by the picture's mean, mean square and mean product."""
    _, x, exists, at, tile = _places(height, length, ROWS, PLACES)
    u = _add_columns(by_rows, x, exists, at, window, length)
    square = _add_columns(by_rows + plane, x, exists, at, window, length)
    product = _add_columns(by_rows + 2 * plane, x, exists, at, window, length)
    v = tl.load(statistics + at, mask=exists, other=0.0)
    variance = tl.load(statistics + plane + at, mask=exists, other=0.0)
    luminance = 2 * u * v + C1
    contrast = 2 * (product - u * v) + C2
    below_luminance = u * u + v * v + C1
    below_contrast = square - u * u + variance + C2
    inverse = 1 / (below_luminance * below_contrast)
    found = luminance * contrast * inverse
    by_square = -found / below_contrast
    by_product = 2 * luminance * inverse
    by_mean = 2 * v * contrast * inverse - 2 * u * found / below_luminance
    by_mean -= v * by_product + 2 * u * by_square
    tl.store(slopes + at, by_mean, mask=exists)
    tl.store(slopes + plane + at, by_square, mask=exists)
    tl.store(slopes + 2 * plane + at, by_product, mask=exists)
    tiles = tl.num_programs(0) * tl.num_programs(1)
    # 1 - SSIM rather than SSIM: small numbers add up without loss
    lost = tl.sum(tl.where(exists, 1 - found, 0.0))
    tl.store(similarity + tl.program_id(2) * tiles + tile, lost)


@triton.jit
def _slopes_by_rows(
    slopes, by_rows, window, height, length, plane,
    ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Window over rows of three planes."""
    y, _, exists, at, _ = _places(height, length, ROWS, PLACES)
    for part in tl.static_range(3):
        total = tl.zeros((ROWS, PLACES), tl.float32)
        for k in tl.static_range(TAPS):
            step = k - RADIUS
            inside = exists & (y + step >= 0) & (y + step < height)
            near = slopes + part * plane + at + step * length
            total += tl.load(window + k) * tl.load(near, mask=inside, other=0.0)
        tl.store(by_rows + part * plane + at, total, mask=exists)


@triton.jit
def _gradient_by_columns(
    by_rows, first, second, gradient, absolute, window, height, length, plane,
    absolute_share, similar_share, ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """The loss' gradient by the picture, and the sum of |a - b|."""
    _, x, exists, at, tile = _places(height, length, ROWS, PLACES)
    slope = _add_columns(by_rows, x, exists, at, window, length)
    a = tl.load(first + at, mask=exists, other=0.0)
    b = tl.load(second + at, mask=exists, other=0.0)
    slope += 2 * a * _add_columns(by_rows + plane, x, exists, at, window, length)
    slope += b * _add_columns(by_rows + 2 * plane, x, exists, at, window, length)
    sign = tl.where(a > b, 1.0, tl.where(a < b, -1.0, 0.0))
    tl.store(gradient + at, absolute_share * sign - similar_share * slope, mask=exists)
    tiles = tl.num_programs(0) * tl.num_programs(1)
    tl.store(absolute + tl.program_id(2) * tiles + tile, tl.sum(tl.abs(a - b)))


@cache
def window(device: torch.device) -> Float[Tensor, "11"]:
    """Weights of the window from one end to the other; they sum to one."""
    half = torch.from_numpy(ssim_cpu.window())
    return torch.cat([half.flip(0), half[1:]]).to(device)


def statistics(
    target: Float[Tensor, "B H L"], weights: Float[Tensor, "11"]
) -> Float[Tensor, "2 B H L"]:
    """Windowed mean and variance of targets; once a target, not once a step."""
    by_rows, found = target.new_empty(3, *target.shape), target.new_empty(2, *target.shape)
    size, grid = _launch(target)
    _products_by_rows[grid](target, target, by_rows, weights, *size, *TILE)
    _statistics_by_columns[grid](by_rows, found, weights, *size, *TILE)
    return found


def l1_dssim(
    picture: Float[Tensor, "B H L"],
    target: Float[Tensor, "B H L"],
    target_statistics: Float[Tensor, "2 B H L"],
    weights: Float[Tensor, "11"],
    dssim_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B H L"]]:
    """(1 - λ) mean|a - b| + λ (1 - mean SSIM), and its gradient by the picture.

    Contiguous float32 [B H 3W] on one device; `target_statistics` from `statistics`. Nothing
    waits for the device.
    """
    share = 1 / picture.numel()
    by_rows, slopes = picture.new_empty(3, *picture.shape), picture.new_empty(3, *picture.shape)
    gradient = torch.empty_like(picture)
    size, grid = _launch(picture)
    # rows: Σ|a - b| and Σ(1 - SSIM) of every tile
    sums = picture.new_empty(2, grid[0] * grid[1] * grid[2])
    _products_by_rows[grid](picture, target, by_rows, weights, *size, *TILE)
    _slopes_by_columns[grid](by_rows, target_statistics, slopes, sums[1], weights, *size, *TILE)
    _slopes_by_rows[grid](slopes, by_rows, weights, *size, *TILE)
    _gradient_by_columns[grid](
        by_rows, picture, target, gradient, sums[0], weights, *size,
        (1 - dssim_weight) * share, dssim_weight * share, *TILE,
    )  # fmt: skip
    absolute, lost = sums.sum(1).unbind()
    return ((1 - dssim_weight) * absolute + dssim_weight * lost) * share, gradient


def _launch(picture: Tensor) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Height, length and numbers in a plane; tiles along a row, along a column, pictures."""
    count, height, length = picture.shape
    # offsets of the third of three planes are counted in 32 bits
    assert 2 * picture.numel() < 2**31, "more than 1.07e9 values in a batch"
    grid = triton.cdiv(length, TILE[1]), triton.cdiv(height, TILE[0]), count
    return (height, length, picture.numel()), grid
