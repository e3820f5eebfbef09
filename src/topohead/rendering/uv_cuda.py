"""Texel maps on a CUDA device; `rendering.uv` tells what they are."""

import weakref
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from topohead.core import Topology
from topohead.rendering.uv import DILATION, mirrored_uv
from topohead.rendering.uv_triton import carry_outwards, draw_texels, island_offsets


@dataclass(frozen=True)
class DeviceTexels:
    """`TexelMap` on a device: 6 bytes a texel with what dilation needs."""

    topology: Topology
    size: int
    triangle: Int[Tensor, "S S"]
    """int32, −1 outside the islands."""
    corners: Float[Tensor, "T 3 2"]
    """(column, row) of every triangle's corners, in texels."""
    triangles: Int[Tensor, "T 3"]
    """int32, of the topology."""

    @cached_property
    def mirrored_corners(self) -> Float[Tensor, "T 3 2"]:
        """(column, row) of the corners' places on the other side of the head; NaN: none."""
        return _in_texels(mirrored_uv(self.topology), self.size).to(self.corners.device)

    @cached_property
    def _offsets(self) -> Int8[Tensor, "S S"]:
        return island_offsets(self.triangle, DILATION)

    def dilate(self, picture: Float[Tensor, "S S 3"]) -> None:
        """Carry the islands' border colours outwards by `DILATION` texels, in place."""
        carry_outwards(picture, self._offsets, DILATION)


_maps: dict[tuple[int, int, torch.device], tuple[weakref.ref, DeviceTexels]] = {}


def device_texels(topology: Topology, size: int, device: torch.device) -> DeviceTexels:
    """The texel map of a topology at S×S on a device, made once (the last four live)."""
    key = (id(topology), size, device)
    held = _maps.get(key)
    if held is not None and held[0]() is topology:
        return held[1]
    triangle = draw_texels(topology.uv.to(device), topology.triangle_uv.to(device), size)
    corners = _in_texels(topology.uv.double()[topology.triangle_uv], size).to(device)
    triangles = topology.triangles.to(device, torch.int32).contiguous()
    made = DeviceTexels(topology, size, triangle, corners, triangles)
    while len(_maps) >= 4:
        _maps.pop(next(iter(_maps)))
    _maps[key] = (weakref.ref(topology), made)
    return made


def _in_texels(uv: Float[Tensor, "T 3 2"], size: int) -> Float[Tensor, "T 3 2"]:
    """(column, row) float32 of UV positions."""
    return torch.stack([uv[..., 0] * size, (1 - uv[..., 1]) * size], -1).float().contiguous()
