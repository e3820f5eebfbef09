"""`solvers.fusion` on a CUDA device: images on the device in, texels on the device out.

The texture is made window by window. A window holds every view's colours (half precision) and
weights; a list of views for each cell of 64×64 texels keeps all passes from looking at the others.
"""

# kernels take plain numbers where they declare constants
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from topohead.core import Photographs, Topology, Views
from topohead.rendering.uv_cuda import DeviceTexels, device_texels
from topohead.solvers.blending import APRON
from topohead.solvers.colors import CameraColors, solve_colors
from topohead.solvers.fusion import FusionConfig, Texture
from topohead.solvers.kernels import blending_triton, fusion_triton
from topohead.solvers.kernels.fusion_triton import SIDE
from topohead.solvers.kernels.rows_triton import cdiv
from topohead.solvers.sightlines import (
    SightConfig,
    Surface,
    make_surface,
    texel_size,
)
from topohead.solvers.sightlines_cuda import (
    DeviceSights,
    DeviceSurface,
    make_device_sights,
    seen_cells,
)
from topohead.solvers.unseen_cuda import fill_unseen

CELL = 64
_WINDOW_BYTES = 4 * 2**30
"""Memory for all views' colours, weights and pyramids in one window."""
_BYTES_A_TEXEL = 17
"""Of one view: 6 + 4, and a quarter and sixteenths of 20."""


@dataclass(frozen=True)
class _Canvas:
    """A texture in the making: colour, total weight and effective number of views."""

    color: Float[Tensor, "S S 3"]
    weight: Float[Tensor, "S S"]
    views: Float[Tensor, "S S"]

    @classmethod
    def empty(cls, size: int, device: torch.device) -> "_Canvas":
        return cls(
            torch.zeros(size, size, 3, device=device),
            torch.zeros(size, size, device=device),
            torch.zeros(size, size, device=device),
        )


@dataclass(frozen=True)
class _Cells:
    """Which views are to be looked at in each cell of a window, int32."""

    flags: UInt8[Tensor, "n n C"]
    listed: Int[Tensor, "n n C"]
    number: Int[Tensor, "n n"]

    @classmethod
    def of(cls, flags: Bool[Tensor, "n n C"]) -> "_Cells":
        codes = flags.to(torch.uint8).contiguous()
        listed = codes.argsort(dim=-1, descending=True, stable=True).int().contiguous()
        return cls(codes, listed, codes.sum(-1, dtype=torch.int32).contiguous())

    def widened(self) -> "_Cells":
        """With every view in the cells around its own too."""
        planes = self.flags.permute(2, 0, 1).float()
        return _Cells.of(functional.max_pool2d(planes, 3, 1, 1).permute(1, 2, 0) > 0)


@dataclass(frozen=True)
class _Window:
    """A square of the texture, apron included; may reach over the texture's border."""

    top: int
    left: int
    side: int

    def cells(self, flags: Bool[Tensor, "n n C"]) -> Bool[Tensor, "m m C"]:
        """The window's part of the whole texture's cells."""
        return self.cut(flags, self.top // CELL, self.left // CELL, self.side // CELL)

    def texels(self, picture: Shaped[Tensor, "S S *K"]) -> Shaped[Tensor, "s s *K"]:
        """The window's part of a picture, zero outside the texture."""
        return self.cut(picture, self.top, self.left, self.side)

    @staticmethod
    def cut(picture: Tensor, top: int, left: int, side: int) -> Tensor:
        cut = picture.new_zeros(side, side, *picture.shape[2:])
        rows = slice(max(top, 0), min(top + side, len(picture)))
        columns = slice(max(left, 0), min(left + side, len(picture)))
        cut[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
            picture[rows, columns]
        )
        return cut


@dataclass(frozen=True)
class _Stack:
    """What all views say of a window's texels; a weight of zero makes its colour void."""

    colors: Float[Tensor, "C 3 s s"]
    weights: Float[Tensor, "C s s"]

    @classmethod
    def empty(cls, views: int, side: int, device: torch.device) -> "_Stack":
        assert views < blending_triton.NONE.value, "kernels name views by one byte"
        return cls(
            torch.empty(views, 3, side, side, dtype=torch.float16, device=device),
            torch.zeros(views, side, side, device=device),
        )


def fuse_texture(
    views: Views | Photographs,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    size: int,
    config: FusionConfig,
    colors: CameraColors,
    exclude: Bool[Tensor, "S S"] | None = None,
    skin: Float[Tensor, "S S 3"] | None = None,
) -> Texture:
    """`solvers.fusion.fuse_texture` where the views' images are on a CUDA device."""
    texels = device_texels(topology, size, views.images[0].device)
    canvas = _gather(views, texels, vertices, colors, exclude, config)
    return _finished(canvas, texels, colors, skin, config)


def fuse_frames(
    frames: Iterable[tuple[Views | Photographs, Float[Tensor, "V 3"]]],
    topology: Topology,
    size: int,
    config: FusionConfig,
    colors: CameraColors | None = None,
    exclude: Bool[Tensor, "S S"] | None = None,
    skin: Float[Tensor, "S S 3"] | None = None,
) -> Texture:
    """`solvers.fusion.fuse_frames` where the views' images are on a CUDA device."""
    layers: list[tuple[Tensor, Tensor, Tensor]] = []
    texels = None
    for views, vertices in frames:
        if colors is None and config.match_colors and len(views.cameras) > 1:
            colors = solve_colors(views, topology, vertices, config=config.sight)
        colors = colors or CameraColors.identity(views.cameras.names)
        texels = texels or device_texels(topology, size, views.images[0].device)
        canvas = _gather(views, texels, vertices, colors, exclude, config)
        codes = canvas.color.clamp(0, 1).mul(255).round().to(torch.uint8)
        layers.append((codes, canvas.weight.half(), canvas.views.half()))
    assert colors is not None and texels is not None, "fusion looked at the first frame"
    return _finished(_merge(layers, config), texels, colors, skin, config)


def _finished(
    canvas: _Canvas,
    texels: DeviceTexels,
    colors: CameraColors,
    skin: Float[Tensor, "S S 3"] | None,
    config: FusionConfig,
) -> Texture:
    if config.fill:
        seen = (canvas.weight / config.confidence).clamp_(0, 1)
        seen = seen.square() * (3 - 2 * seen)
        fill_unseen(canvas.color, seen, texels, skin)
    canvas.color.clamp_(0, 1)
    texels.dilate(canvas.color)
    return Texture(canvas.color, canvas.views, colors)


def _gather(
    views: Views | Photographs,
    texels: DeviceTexels,
    vertices: Float[Tensor, "V 3"],
    colors: CameraColors,
    exclude: Bool[Tensor, "S S"] | None,
    config: FusionConfig,
) -> _Canvas:
    """What the views of one instant say of the texels."""
    triangle, device = texels.triangle, texels.triangle.device
    if exclude is not None:
        triangle = triangle.masked_fill(exclude.to(device), -1)
    surface, on_device = _surfaces(texels, vertices)
    side = texel_size(texels.topology, vertices.cpu(), texels.size)
    sights = make_device_sights(views, surface, on_device, side, config.sight)
    corrections = _corrections(colors, views.cameras.names, sights)
    flags = seen_cells(sights, on_device, triangle, config.sight)
    canvas = _Canvas.empty(texels.size, device)
    for window in _windows(flags, texels.size):
        cells = _Cells.of(window.cells(flags))
        stack = _looked(sights, on_device, corrections, triangle, window, cells, config)
        _blend(stack, cells, window, canvas, config)
    return canvas


def _surfaces(
    texels: DeviceTexels, vertices: Float[Tensor, "V 3"]
) -> tuple[Surface, DeviceSurface]:
    surface = make_surface(texels.topology, vertices.cpu())
    device = texels.triangle.device
    points, normals, parts = (
        torch.from_numpy(values).to(device)
        for values in (surface.vertices, surface.normals, surface.parts)
    )
    return surface, DeviceSurface(texels.corners, texels.triangles, points, normals, parts)


def _corrections(
    colors: CameraColors, names: tuple[str, ...], sights: DeviceSights
) -> Float[Tensor, "C 18"]:
    packed = [colors.packed(name, shape) for name, shape in zip(names, sights.shapes, strict=True)]
    return torch.from_numpy(np.stack(packed)).to(sights.cameras.device)


def _windows(flags: Bool[Tensor, "n n C"], size: int) -> Iterator[_Window]:
    """Windows over all that is seen, as large as memory for the views allows."""
    views = flags.shape[2]
    whole = int((_WINDOW_BYTES / (_BYTES_A_TEXEL * views)) ** 0.5)
    side = max(CELL, min(whole - 2 * APRON, 2048, size + CELL - 1) // CELL * CELL)
    used = flags.any(-1).cpu()
    step = side // CELL
    for row in range(0, len(used), step):
        for column in range(0, len(used), step):
            if used[row : row + step, column : column + step].any():
                yield _Window(row * CELL - APRON, column * CELL - APRON, side + 2 * APRON)


def _looked(
    sights: DeviceSights,
    surface: DeviceSurface,
    corrections: Float[Tensor, "C 18"],
    triangle: Int[Tensor, "S S"],
    window: _Window,
    cells: _Cells,
    config: FusionConfig,
) -> _Stack:
    """Colours and weights of a window's texels in all views."""
    views, side = len(sights.cameras), window.side
    stack = _Stack.empty(views, side, triangle.device)
    with torch.cuda.device_of(triangle):
        fusion_triton.gather_texels[(side // SIDE, side // SIDE)](
            triangle, len(triangle), *surface.arguments, *sights.arguments,
            config.sight.minimum_cosine, config.sight.depth_tolerance, corrections,
            config.sharpening, sights.pixels, sights.starts, cells.listed, cells.number, views,
            window.top, window.left, side, stack.colors, stack.weights,
            WIDE=sights.pixels.dtype == torch.int64, LENS=sights.has_lenses,
        )  # fmt: skip
    return stack


def _blend(
    stack: _Stack, cells: _Cells, window: _Window, canvas: _Canvas, config: FusionConfig
) -> None:
    """The window's inner part of the canvas, as `blending.blend` makes it; changes the weights."""
    views, side = len(stack.weights), window.side
    size = len(canvas.weight)
    place = (window.top, window.left, size, APRON)
    device = canvas.color.device
    mean = torch.empty(3, side, side, device=device)
    best = torch.empty(2, side, side, dtype=torch.uint8, device=device)
    texels = CELL * CELL if fusion_triton.INTERPRETED else 128
    with torch.cuda.device_of(canvas.color):
        blending_triton.settle[(CELL * CELL // texels, (side // CELL) ** 2)](
            stack.colors, stack.weights, cells.listed, cells.number, views, side,
            config.outlier_floor, config.outlier_spread, mean, best, *place,
            canvas.weight, canvas.views, BLOCK_TEXELS=texels,
        )  # fmt: skip
        coarser = below = mean  # unused where there is but one band
        if config.bands > 1:
            coarser, below = _coarse_bands(stack, mean, cells.widened(), config.bands)
        inner = (side - 2 * APRON) // SIDE
        blending_triton.write_colors[(inner, inner)](
            stack.colors, stack.weights, mean, best, coarser, below, side, *place,
            canvas.color, BANDED=config.bands > 1,
        )  # fmt: skip


def _coarse_bands(
    stack: _Stack, mean: Float[Tensor, "3 s s"], near: _Cells, bands: int
) -> tuple[Float[Tensor, "C 4 r r"], Float[Tensor, "3 r r"]]:
    """The first level's pyramid, and what all bands but the finest add at its size."""
    views, side = len(stack.weights), mean.shape[1]
    cells = side // CELL
    half = side // 2
    packed = [mean.new_zeros(views, 4, half, half)]
    weights = [mean.new_zeros(views, half, half)]
    blocks = cdiv(half, SIDE)
    blending_triton.shrink_differences[(blocks, blocks)](
        stack.colors, stack.weights, mean, near.listed, near.number, views, side,
        packed[0], weights[0],
    )  # fmt: skip
    for level in range(1, bands - 1):
        length = packed[-1].shape[2]
        blocks = cdiv(length // 2, SIDE)
        for stacks, planes in ((packed, 4), (weights, 1)):
            smaller = mean.new_zeros(*stacks[-1].shape[:-2], length // 2, length // 2)
            blending_triton.shrink_planes[(blocks, blocks, views)](
                stacks[-1], smaller, near.flags, views, cells, length, LEVEL=level, PLANES=planes
            )
            stacks.append(smaller)
    below = mean
    for level in range(bands - 1, 0, -1):
        length = packed[level - 1].shape[2]
        corrected = mean.new_empty(3, length, length)
        blocks = cdiv(length, SIDE)
        top = level == bands - 1
        blending_triton.collapse_band[(blocks, blocks)](
            packed[level - 1], weights[level - 1], packed[level - 1 if top else level], below,
            corrected, near.listed, near.number, views, cells, length, LEVEL=level, TOP=top,
        )  # fmt: skip
        below = corrected
    return packed[0], below


def _merge(layers: list[tuple[Tensor, Tensor, Tensor]], config: FusionConfig) -> _Canvas:
    """Frames' textures (codes, weights, views) blended like views, each by its own weights."""
    size, device = len(layers[0][0]), layers[0][0].device
    canvas = _Canvas.empty(size, device)
    flags = torch.stack(
        [
            functional.max_pool2d(weight.float()[None], CELL, ceil_mode=True)[0] > 0
            for _, weight, _ in layers
        ],
        -1,
    )
    for window in _windows(flags, size):
        stack = _Stack.empty(len(layers), window.side, device)
        for index, (codes, weight, _) in enumerate(layers):
            stack.colors[index] = window.texels(codes).permute(2, 0, 1).float() / 255
            stack.weights[index] = window.texels(weight)
        _blend(stack, _Cells.of(window.cells(flags)), window, canvas, config)
    canvas.weight.div_(len(layers))
    canvas.views.copy_(torch.stack([views.float() for _, _, views in layers]).sum(0))
    return canvas


def view_looks(
    views: Views | Photographs,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    size: int,
    shown: Bool[Tensor, " T"],
    config: SightConfig,
) -> tuple[
    Float32[np.ndarray, "C S S 3"],
    Float32[np.ndarray, "C S S"],
    Float32[np.ndarray, "C 40"],
    Sequence[tuple[int, int]],
]:
    """Uncorrected colours and weights of the texels of some triangles in all views, on the host.

    Also the views' `cameras` (see `kernels.fusion_triton`) and the (width, height) they are for.
    """
    texels = device_texels(topology, size, views.images[0].device)
    triangle = texels.triangle
    hidden = ~shown.to(triangle.device)[triangle.clamp(min=0).long()]
    triangle = triangle.masked_fill(hidden, -1)
    surface, on_device = _surfaces(texels, vertices)
    side = texel_size(topology, vertices.cpu(), size)
    sights = make_device_sights(views, surface, on_device, side, config)
    same = CameraColors.identity(views.cameras.names)
    corrections = _corrections(same, views.cameras.names, sights)
    flags = seen_cells(sights, on_device, triangle, config)
    window = _Window(0, 0, len(flags) * CELL)
    plain = FusionConfig(sight=config, sharpening=0.0)
    stack = _looked(
        sights, on_device, corrections, triangle, window, _Cells.of(window.cells(flags)), plain
    )
    weights = stack.weights[:, :size, :size]
    colors = torch.where(weights[:, None] > 0, stack.colors[:, :, :size, :size].float(), 0.0)
    return (
        colors.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
        weights.contiguous().cpu().numpy(),
        sights.cameras.cpu().numpy(),
        sights.shapes,
    )
