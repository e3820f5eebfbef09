"""Texture from views of known geometry: every texel looks up its own colour.

Given geometry, colour is a linear unknown, so nothing is optimised: each texel is projected into
every view, what it finds there is weighed, and the answers are blended, low frequencies widely and
high ones from the two best views (Burt & Adelson 1983). Tiles keep 4096² textures of many views
within a few hundred megabytes beside the texture itself.

Colours are blended in sRGB code values: the noise of photographs is about even there, so plain
weights are right, and a highlight that slips through outweighs the skin around it less than it
would in linear light. Between agreeing views the two differ by less than a code value.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32, UInt8
from torch import Tensor

from topohead.core import InputError, Photographs, Topology, Views
from topohead.rendering.uv import TexelMap, texel_map
from topohead.solvers.blending import APRON, blend
from topohead.solvers.colors import CameraColors, solve_colors
from topohead.solvers.kernels.fusion import gather_colors
from topohead.solvers.sightlines import (
    Patch,
    Sight,
    SightConfig,
    Surface,
    make_sights,
    make_surface,
    texel_size,
)
from topohead.solvers.unseen import fill_unseen

__all__ = ["CameraColors", "FusionConfig", "Texture", "fuse_frames", "fuse_texture", "solve_colors"]


@dataclass(frozen=True)
class FusionConfig:
    """How views are weighed and blended."""

    sight: SightConfig = field(default_factory=SightConfig)
    """When a view's pixel counts as a look at the surface."""
    outlier_floor: float = 0.12
    """Colour distance (srgb, three channels) up to which views are never outliers."""
    outlier_spread: float = 3.0
    """The same in multiples of the texel's median distance."""
    bands: int = 5
    """Frequency bands of the blend, at most 5; 1 is a plain weighted mean."""
    sharpening: float = 0.2
    """How much of a photograph's second difference is taken away where a texel looks it up: undoes
    the blur of the pixels' own area and of a good lens (0: as photographed)."""
    confidence: float = 0.02
    """Total weight at which a texel counts as fully seen (1: one frontal view)."""
    match_colors: bool = True
    """Solve for the cameras' colours first, unless they are given."""
    fill: bool = True
    """Complete texels that no view sees."""
    stack_megabytes: int = 256
    """Memory for the colours of all views in one tile, on the CPU."""


@dataclass(frozen=True)
class Texture:
    """A fused texture on the images' device; row 0 is the top (v = 1).

    `srgb` is float32 in [0, 1], complete over the islands and 32 texels beyond. `coverage` is the
    effective number of views behind each texel, (Σw)²/Σw²; 0 where the colour is made up.
    """

    srgb: Float[Tensor, "S S 3"]
    coverage: Float[Tensor, "S S"]
    colors: CameraColors


@dataclass
class _Canvas:
    """A texture in the making: colour, total weight and effective number of views."""

    color: Float32[np.ndarray, "S S 3"]
    weight: Float32[np.ndarray, "S S"]
    views: Float32[np.ndarray, "S S"]

    @classmethod
    def empty(cls, size: int) -> "_Canvas":
        return cls(
            np.zeros((size, size, 3), np.float32),
            np.zeros((size, size), np.float32),
            np.zeros((size, size), np.float32),
        )


def fuse_texture(
    views: Views | Photographs,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    size: int = 2048,
    config: FusionConfig | None = None,
    *,
    colors: CameraColors | None = None,
    exclude: Bool[Tensor, "S S"] | None = None,
    skin: Float[Tensor, "S S 3"] | None = None,
) -> Texture:
    """The texture that the views of one instant show on a mesh, complete.

    `colors` are the cameras' corrections (see `solve_colors`); without them they are solved here.
    `exclude` marks texels that must not be taken from the views; `skin` is an srgb texture for
    texels that neither side of the head shows. Both are S×S. Images on a CUDA device are fused
    there, `Photographs` only there.
    """
    config = config or FusionConfig()
    _check(topology, size, config)
    if colors is None:
        same = not config.match_colors or len(views.cameras) < 2
        colors = (
            CameraColors.identity(views.cameras.names)
            if same
            else solve_colors(views, topology, vertices, config=config.sight)
        )
    if views.images[0].is_cuda:
        return _on_device().fuse_texture(
            views, topology, vertices, size, config, colors, exclude, skin
        )
    texels = texel_map(topology, size)
    canvas = _gather(views, texels, vertices, colors, exclude, config)
    return _finished(canvas, texels, colors, skin, config)


def fuse_frames(
    frames: Iterable[tuple[Views | Photographs, Float[Tensor, "V 3"]]],
    topology: Topology,
    size: int = 2048,
    config: FusionConfig | None = None,
    *,
    colors: CameraColors | None = None,
    exclude: Bool[Tensor, "S S"] | None = None,
    skin: Float[Tensor, "S S 3"] | None = None,
) -> Texture:
    """One texture for a whole take: every frame's texture, then the frames as if they were views.

    What only some frames see (teeth, lids) is taken from those; what differs (blinks, moving
    highlights) is outvoted. Memory grows by 7 bytes a texel and frame: eight to twelve frames
    spread over the take are plenty. Cameras' colours are solved on the first frame.
    """
    config = config or FusionConfig()
    _check(topology, size, config)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError("expected at least one frame to fuse a texture from, got none")
    frames = chain([first], frames)
    if first[0].images[0].is_cuda:
        return _on_device().fuse_frames(frames, topology, size, config, colors, exclude, skin)
    texels = texel_map(topology, size)
    layers: list[_Layer] = []
    for views, vertices in frames:
        if colors is None and config.match_colors and len(views.cameras) > 1:
            colors = solve_colors(views, topology, vertices, config=config.sight)
        colors = colors or CameraColors.identity(views.cameras.names)
        layers.append(_Layer.of(_gather(views, texels, vertices, colors, exclude, config)))
    assert colors is not None, "there was a frame"
    canvas = _merge(layers, texels, config)
    return _finished(canvas, texels, colors, skin, config)


def _on_device() -> ModuleType:
    """The same on CUDA."""
    try:
        from topohead.solvers import fusion_cuda  # noqa: PLC0415 -- only where CUDA is
    except ImportError as error:
        raise InputError(
            "expected Triton for images on a CUDA device, found none: pip install triton, or run "
            "with --device cpu"
        ) from error
    return fusion_cuda


def _check(topology: Topology, size: int, config: FusionConfig) -> None:
    if len(topology.uv) == 0:
        raise InputError(f"expected a mesh with UVs to texture, got '{topology.name}' without any")
    if not 16 <= size <= 16384 or size % 16:
        raise InputError(f"expected a texture size of 16 to 16384, a multiple of 16, got {size}")
    if not 1 <= config.bands <= 5:
        raise ValueError(f"bands must be 1 to 5, got {config.bands}")


def _finished(
    canvas: _Canvas,
    texels: TexelMap,
    colors: CameraColors,
    skin: Float[Tensor, "S S 3"] | None,
    config: FusionConfig,
) -> Texture:
    if config.fill:
        _complete(canvas, texels, skin, config)
    np.clip(canvas.color, 0, 1, out=canvas.color)
    texels.dilate(canvas.color)
    return Texture(torch.from_numpy(canvas.color), torch.from_numpy(canvas.views), colors)


def _complete(
    canvas: _Canvas, texels: TexelMap, skin: Float[Tensor, "S S 3"] | None, config: FusionConfig
) -> None:
    """Fill what was not seen, and blend towards the filling what was hardly seen."""
    seen = canvas.weight / np.float32(config.confidence)
    np.clip(seen, 0, 1, out=seen)
    np.multiply(seen * seen, 3 - 2 * seen, out=seen)
    reference = None if skin is None else np.ascontiguousarray(skin.numpy(), np.float32)
    fill_unseen(canvas.color, seen, texels, reference)


def _gather(
    views: Views | Photographs,
    texels: TexelMap,
    vertices: Float[Tensor, "V 3"],
    colors: CameraColors,
    exclude: Bool[Tensor, "S S"] | None,
    config: FusionConfig,
) -> _Canvas:
    """What the views of one instant say of the texels."""
    assert isinstance(views, Views), "lenses are undone for the CPU"
    topology = texels.topology
    surface = make_surface(topology, vertices)
    side = texel_size(topology, vertices, texels.size)
    sights = make_sights(views, surface, side, config.sight)
    corrections = [
        colors.packed(name, (sight.image.shape[1], sight.image.shape[0]))
        for name, sight in zip(views.cameras.names, sights, strict=True)
    ]
    triangle = texels.triangle
    if exclude is not None:
        triangle = np.where(exclude.numpy(), np.int32(-1), triangle)
    canvas = _Canvas.empty(texels.size)
    for tile in _tiles(triangle, len(sights), config):
        patch = surface.patch(texels, tile.cut(triangle, -1), tile.top - APRON, tile.left - APRON)
        gathered, weights = _look(sights, corrections, patch, surface, config)
        tile.write(canvas, *_blended(gathered, weights, config))
    return canvas


@dataclass(frozen=True)
class _Tile:
    """A window of the texture with its apron; may reach over the texture's border."""

    top: int
    left: int
    side: int
    size: int

    def cut(self, picture: np.ndarray, outside: int) -> np.ndarray:
        """The window's part of a picture [S S ...], padded with `outside`."""
        window = (self.side + 2 * APRON,) * 2
        cut = np.full(window + picture.shape[2:], outside, picture.dtype)
        top, left = self.top - APRON, self.left - APRON
        rows = slice(max(top, 0), min(top + window[0], self.size))
        columns = slice(max(left, 0), min(left + window[1], self.size))
        cut[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
            picture[rows, columns]
        )
        return cut

    def write(
        self, canvas: _Canvas, color: np.ndarray, weight: np.ndarray, views: np.ndarray
    ) -> None:
        """Put the window's inner part where it belongs."""
        bottom, right = min(self.top + self.side, self.size), min(self.left + self.side, self.size)
        target = (slice(self.top, bottom), slice(self.left, right))
        inner = (
            slice(APRON, APRON + bottom - self.top),
            slice(APRON, APRON + right - self.left),
        )
        canvas.color[target] = color[inner]
        canvas.weight[target] = weight[inner]
        canvas.views[target] = views[inner]


def _tiles(triangle: np.ndarray, views: int, config: FusionConfig) -> Iterator[_Tile]:
    """Windows over the islands, as large as memory for all views' colours allows."""
    size = triangle.shape[0]
    budget = config.stack_megabytes * 2**20 / (16 * views + 64)
    # multiples of 64: the pyramids of neighbouring tiles then share their grid
    side = max(64, min(int(budget**0.5) - 2 * APRON, size, 2048) // 64 * 64)
    for top in range(0, size, side):
        for left in range(0, size, side):
            if (triangle[top : top + side, left : left + side] >= 0).any():
                yield _Tile(top, left, side, size)


def _look(
    sights: list[Sight],
    corrections: list[np.ndarray],
    patch: Patch,
    surface: Surface,
    config: FusionConfig,
) -> tuple[Float32[np.ndarray, "C h w 3"], Float32[np.ndarray, "C h w"]]:
    """Colours and weights of a tile's texels in the views that see any of them."""
    looks = []
    for sight, correction in zip(sights, corrections, strict=True):
        weights = sight.weights(patch, surface, config.sight)
        if weights.any():
            looks.append((sight, correction, weights))
    shape = patch.triangle.shape
    colors = np.empty((len(looks), *shape, 3), np.float32)
    stacked = np.empty((len(looks), *shape), np.float32)
    for index, (sight, correction, weights) in enumerate(looks):
        stacked[index] = weights
        gather_colors(
            sight.image,
            patch.points,
            sight.camera,
            correction,
            np.float32(config.sharpening),
            stacked[index],
            colors[index],
        )
    return colors, stacked


def _blended(
    colors: Float32[np.ndarray, "C h w 3"],
    weights: Float32[np.ndarray, "C h w"],
    config: FusionConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return blend(colors, weights, config.bands, config.outlier_floor, config.outlier_spread)


@dataclass(frozen=True)
class _Layer:
    """One frame's texture put by until all frames are there: 7 bytes a texel instead of 20."""

    color: UInt8[np.ndarray, "S S 3"]
    weight: Float16[np.ndarray, "S S"]
    views: Float16[np.ndarray, "S S"]

    @classmethod
    def of(cls, canvas: _Canvas) -> "_Layer":
        color = np.empty(canvas.color.shape, np.uint8)
        for row, codes in zip(canvas.color, color, strict=True):
            codes[:] = np.rint(np.clip(row, 0, 1) * 255)
        return cls(color, canvas.weight.astype(np.float16), canvas.views.astype(np.float16))


def _merge(layers: list[_Layer], texels: TexelMap, config: FusionConfig) -> _Canvas:
    """The frames' textures blended like views, each frame by its own weights."""
    merged = _Canvas.empty(texels.size)
    scale = np.float32(1 / 255)
    for tile in _tiles(texels.triangle, len(layers), config):
        colors = np.stack([tile.cut(layer.color, 0) * scale for layer in layers])
        weights = np.stack([tile.cut(layer.weight, 0).astype(np.float32) for layer in layers])
        color, weight, _ = _blended(colors, weights, config)
        views = np.asarray(sum(tile.cut(layer.views, 0).astype(np.float32) for layer in layers))
        tile.write(merged, color, weight / len(layers), views)
    return merged
