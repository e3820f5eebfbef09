"""What a batch of portraits is made of, and what comes back; drawn by `portraits`."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from topohead.core import InputError, Strands
from topohead.geometry.meshes import vertex_fan

LABELS = ("background", "skin", "eye", "mouth", "hair", "cloth")
"""What a pixel mostly shows, by its number in `Portraits.label`; cloth is any worn thing."""

Tensors = TypeVar("Tensors")


def moved(data: Tensors, device: torch.device | str) -> Tensors:
    """A tensor, or a frozen dataclass with all tensors in it, on another device.

    Pinned memory goes to a GPU without waiting for it.
    """
    ahead = torch.device(device).type == "cuda"  # the way back must wait
    return each_tensor(data, lambda tensor: tensor.to(device, non_blocking=ahead))


def each_tensor(data: Tensors, function: Callable[[Tensor], Tensor]) -> Tensors:
    """The function of a tensor, or of all tensors in a frozen dataclass."""
    whole: Any = data
    if isinstance(whole, Tensor):
        whole = function(whole)
    elif is_dataclass(whole):
        parts = {f.name: each_tensor(getattr(whole, f.name), function) for f in fields(whole)}
        whole = replace(cast("Any", whole), **parts)
    return whole


@dataclass(frozen=True)
class PortraitMesh:
    """What the heads of a batch share: triangles of the head, then of parts such as teeth or caps.

    `label` is a number into LABELS; triangles that are not `textured` (int, 0 or 1) take the plain
    colour of their vertices, which come after the first `head_vertices`. `fan` lists the triangles
    at each vertex, padded with the number of triangles. A part that a head lacks has all its
    vertices in one place.
    """

    triangles: Int[Tensor, "T 3"]
    corner_uv: Float[Tensor, "T 3 2"]
    label: Int[Tensor, " T"]
    textured: Int[Tensor, " T"]
    fan: Int[Tensor, "V K"]
    head_vertices: int

    @staticmethod
    def of(
        triangles: Int[Tensor, "T 3"],
        corner_uv: Float[Tensor, "T 3 2"],
        label: Int[Tensor, " T"],
        vertex_count: int,
        head_vertices: int | None = None,
    ) -> "PortraitMesh":
        """A mesh whose triangles are textured up to the first one with a vertex of a part."""
        head = vertex_count if head_vertices is None else head_vertices
        plain = (triangles >= head).any(1)
        fan = vertex_fan(triangles, vertex_count)
        whole = (x.to(torch.int32).contiguous() for x in (triangles, label, ~plain))
        corners, labels, textured = whole
        return PortraitMesh(corners, corner_uv.float().contiguous(), labels, textured, fan, head)


@dataclass(frozen=True)
class TexturePool:
    """Skins of many people as pyramids of texels, coarser and coarser, one after the other.

    Channels: linear albedo, roughness, specular level (f0 = 0.08 level), and the slopes of the
    surface along u and v, that is −x/z and −y/z of a tangent-space normal. Row 0 is v = 1.
    """

    texels: Float[Tensor, "N K 7"]
    offsets: Int[Tensor, " L"]
    sizes: Int[Tensor, " L"]

    @staticmethod
    def of(
        albedo: Float[Tensor, "N S S 3"],
        roughness: Float[Tensor, "N S S"],
        specular: Float[Tensor, "N S S"],
        normal: Float[Tensor, "N S S 3"] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "TexturePool":
        """A pool of square maps, a power of two a side; `normal` is unit, in tangent space.

        float16 halves the memory; the CPU reads float32 only.
        """
        size = albedo.shape[1]
        if size < 8 or size & (size - 1) or albedo.shape[2] != size:
            raise InputError(f"expected square maps, a power of two a side, got {size} texels")
        slope = torch.zeros(*albedo.shape[:3], 2, device=albedo.device)
        if normal is not None:
            slope = -normal[..., :2] / normal[..., 2:].clamp(min=0.1)
        level = torch.cat([albedo, roughness[..., None], specular[..., None], slope], -1)
        levels = [level]
        while level.shape[1] > 8:
            half = level.shape[1] // 2
            level = level.reshape(len(level), half, 2, half, 2, 7).mean((2, 4))
            levels.append(level)
        sizes = torch.tensor([x.shape[1] for x in levels], dtype=torch.int32)
        offsets = (sizes.long() ** 2).cumsum(0).roll(1)
        offsets[0] = 0
        texels = torch.cat([x.flatten(1, 2) for x in levels], 1).to(dtype)
        device = albedo.device
        return TexturePool(texels.contiguous(), offsets.int().to(device), sizes.to(device))


@dataclass(frozen=True)
class PortraitHeads:
    """Shapes of a batch in world metres, which skin of the pool each wears, colours of parts.

    `tint` holds linear albedo and roughness of the vertices after the head's.
    """

    vertices: Float[Tensor, "B V 3"]
    skin: Int[Tensor, " B"]
    tint: Float[Tensor, "B Q 4"]
    strands: Strands | None = None


@dataclass(frozen=True)
class SceneBatch:
    """Everything around the heads of a batch.

    `sky`: radiance as real spherical harmonics up to degree 3, linear, order (l, m) = (0, 0),
    (1, −1), (1, 0) …; y is up. `lamps`: place (world metres), radius of a ball, radiance; radius 0
    is no lamp. `backdrop` is a picture of the pool, `window` what is seen of it (left, top, width,
    height in parts). `sensor`: gains of red, green and blue, light lost in a corner, read and shot
    noise; `blur` in pixels; `key` decides the noise, from 2⁶² to 2⁶³ − 1.
    """

    world_to_camera: Float[Tensor, "B 4 4"]
    intrinsics: Float[Tensor, "B 3 3"]
    sky: Float[Tensor, "B 16 3"]
    lamps: Float[Tensor, "B L 7"]
    backdrop: Int[Tensor, " B"]
    window: Float[Tensor, "B 4"]
    sensor: Float[Tensor, "B 6"]
    blur: Float[Tensor, " B"]
    key: Int[Tensor, " B"]


@dataclass(frozen=True)
class Portraits:
    """Pictures of a batch: srgb and coverage in [0, 1], number of the label, linear light.

    `linear` is premultiplied by alpha, before background and sensor.
    """

    srgb: Float[Tensor, "B H W 3"]
    alpha: Float[Tensor, "B H W"]
    label: UInt8[Tensor, "B H W"]
    linear: Float[Tensor, "B H W 3"]

    @property
    def codes(self) -> UInt8[Tensor, "B H W 3"]:
        """srgb as whole numbers up to 255."""
        return (self.srgb * 255 + 0.5).to(torch.uint8)
