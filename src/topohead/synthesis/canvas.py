"""Texels of a map as points on the template head, tile by tile."""

from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import HeadModel, Topology
from topohead.geometry.meshes import triangle_areas
from topohead.rendering.mesh import interpolate, rasterize_uv

MARGIN, APRON = 6, 9
"""Texels beyond a chart's border that are painted as if the surface went on; and how many around a
tile they depend on."""

STRAIGHT = 2
"""Rings of them that carry on straight; the rest repeats the last."""

REGION_RINGS = {"lips": 2, "ears": 3, "scalp": 5, "mouth_interior": 0, "teeth": 0, "tongue": 0,
                "eyes": 0, "eye_sockets": 0, "nose": 3, "neck": 3, "eyelids": 2}  # fmt: skip
"""Regions that painting asks for, and over how many edges their borders are softened."""


@dataclass(frozen=True)
class Texels:
    """A tile's painted texels in a list: where they are on the template (metres), in which regions.

    `index` numbers them in the tile, row by row, `texel` is the metres from one to the next.
    """

    points: Float[Tensor, "N 3"]
    regions: dict[str, Float[Tensor, " N"]]
    index: Tensor
    covered: Bool[Tensor, "H W"]
    texel: float

    def picture(self, values: Float[Tensor, "N K"]) -> Float[Tensor, "H W K"]:
        """Values of the list as a picture, zero where nothing is painted."""
        out = values.new_zeros(self.covered.numel(), values.shape[1])
        out[self.index] = values
        return out.reshape(*self.covered.shape, -1)

    @cached_property
    def zero(self) -> Float[Tensor, " N"]:
        """Nothing, at every texel."""
        return torch.zeros_like(self.points[:, 0])


class Canvas:
    """The template's UVs, to be rasterised in tiles, on the template's device.

    With `kept`, tiles are remembered: for many skins of one size, painted on it by any threads.
    """

    def __init__(self, head: HeadModel, kept: bool = False) -> None:
        topology, self._device = head.topology, head.template.device
        self._tiles: dict[tuple[int, ...], Texels] | None = {} if kept else None
        self._one = Lock()
        self.template = head.template
        self._uv = topology.uv.double().to(self._device)
        self._triangle_uv = topology.triangle_uv.to(self._device)
        self._triangles = topology.triangles.to(self._device)
        self._names = [name for name in REGION_RINGS if name in topology.regions]
        masks = [
            _soften(topology.region_mask(name).float(), topology, REGION_RINGS[name])
            for name in self._names
        ]
        columns = [head.template, *(mask[:, None].to(self._device) for mask in masks)]
        self._values = torch.cat(columns, 1).float()
        self._spacing = _texel_of_unit(head)

    def texel(self, size: int) -> float:
        """Metres from texel to texel of a map, its root mean square over the surface."""
        return self._spacing / size

    def tile(self, size: int, row: int, column: int, side: int, samples: int) -> Texels:
        """`side` texels square of a map of `size`, from a row and column on, each `samples`²."""
        if self._tiles is None:
            return self._tile(size, row, column, side, samples)
        key = (size, row, column, side, samples)
        with self._one:
            if key not in self._tiles:
                self._tiles[key] = self._tile(*key)
            return self._tiles[key]

    def _tile(self, size: int, row: int, column: int, side: int, samples: int) -> Texels:
        scale = torch.tensor([size / side, size / side], dtype=torch.float64, device=self._device)
        # texels count from the top, v from the bottom
        shift = torch.tensor([column / side, (size - row - side) / side], dtype=torch.float64)
        raster = rasterize_uv(
            self._uv * scale - shift.to(self._device),
            self._triangle_uv,
            (side * samples, side * samples),
        )
        covered = raster.triangle >= 0
        values = interpolate(self._values, self._triangles, raster)
        texel = self.texel(size * samples)
        values, painted = _extended(values, covered, MARGIN * samples, 4 * texel)
        index = painted.flatten().nonzero()[:, 0]
        found = values.reshape(-1, values.shape[-1])[index]
        regions = {name: found[:, 3 + i] for i, name in enumerate(self._names)}
        return Texels(found[:, :3].contiguous(), regions, index, covered, texel)


def _texel_of_unit(head: HeadModel) -> float:
    """√(surface / charts' area): metres that a unit of UV spans."""
    topology = head.topology
    surface = triangle_areas(head.template.cpu().double(), topology.triangles).sum()
    corner = topology.uv.double()[topology.triangle_uv]
    a, b = (corner[:, 1] - corner[:, 0]), (corner[:, 2] - corner[:, 0])
    charts = 0.5 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs().sum()
    return float((surface / charts).sqrt())


def _extended(
    values: Float[Tensor, "H W K"], covered: Bool[Tensor, "H W"], rings: int, reach: float
) -> tuple[Float[Tensor, "H W K"], Bool[Tensor, "H W"]]:
    """Values carried on beyond the covered texels, ring by ring, and what is known then.

    The first rings go on in a straight line, so that slopes are right up to the border; neighbours
    more than `reach` apart belong to different charts.
    """
    height, width = covered.shape
    wide = width + 4
    known = torch.nn.functional.pad(covered, (2, 2, 2, 2)).flatten()
    flat = torch.nn.functional.pad(values, (0, 0, 2, 2, 2, 2)).reshape(-1, values.shape[-1])
    inner = torch.nn.functional.pad(torch.ones_like(covered), (2, 2, 2, 2)).flatten()
    steps = [dy * wide + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    ring_of = known
    for ring in range(rings):
        near = torch.zeros_like(known)
        edge = ring_of.nonzero()[:, 0] if ring else known.nonzero()[:, 0]
        for step in steps:
            near[(edge + step).clamp(0, len(near) - 1)] = True
        near &= ~known & inner
        places = near.nonzero()[:, 0]
        if not len(places):
            break
        total = flat.new_zeros(len(places), flat.shape[1])
        count = flat.new_zeros(len(places), 1)
        for step in steps:
            first, second = places + step, (places + 2 * step).clamp(0, len(near) - 1)
            weight = known[first].float()[:, None]
            guess = flat[first]
            if ring < STRAIGHT:
                way = flat[first] - flat[second]
                close = known[second] & (way[:, :3].norm(dim=1) < reach)
                guess = guess + way * close[:, None]
            total, count = total + weight * guess, count + weight
        flat[places] = total / count
        known = known | near
        ring_of = near
    shape = (height + 4, wide)
    inside = (slice(2, -2), slice(2, -2))
    return flat.reshape(*shape, -1)[inside], known.reshape(shape)[inside]


def _soften(mask: Float[Tensor, " V"], topology: Topology, rings: int) -> Float[Tensor, " V"]:
    first, second = topology.edges.unbind(1)
    degree = torch.bincount(topology.edges.flatten(), minlength=len(mask)).clamp(min=1)
    for _ in range(rings):
        mean = torch.zeros_like(mask).index_add_(0, first, mask[second])
        mask = 0.5 * mask + 0.5 * mean.index_add_(0, second, mask[first]) / degree
    return mask
