# Triton annotates launches with what kernels see; it may be absent where no CUDA is
# pyright: reportMissingImports=false, reportArgumentType=false
"""Portraits on a CUDA device: the functions of `portraits_cpu` around Triton kernels.

All heads and views of a batch in every launch; nothing waits for the device. Drawn pictures are
keys as of `mesh_triton`, int64 [B M h w].
"""

import torch
import triton
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from topohead.core import Strands
from topohead.rendering import mesh_triton, portraits_draw_cpu
from topohead.rendering import portraits_hair_triton as hair
from topohead.rendering import portraits_sensor_triton as sensor
from topohead.rendering import portraits_shade_triton as shading
from topohead.rendering.portrait_batch import (
    PortraitHeads,
    PortraitMesh,
    SceneBatch,
    TexturePool,
)
from topohead.rendering.portrait_light import PortraitLight

_EXACT = {"enable_fp_fusion": False}
"""Launch option: a fused multiply-add would round differently from the CPU."""

_ONE_WARP = {"num_warps": 1}
"""Launch option: lanes wait for the longest of few."""


def project(
    points: Float[Tensor, "B N 3"], projections: Float[Tensor, "B M 3 4"]
) -> Float[Tensor, "B M N 3"]:
    """(u, v, depth) float32 of points in every view of their head, computed in float64."""
    (heads, views), count = projections.shape[:2], points.shape[1]
    out = torch.empty(heads, views, count, 3, dtype=torch.float32, device=points.device)
    with torch.cuda.device_of(points):
        hair.project[(triton.cdiv(count, 128), heads * views)](
            points.contiguous(), projections.contiguous(), out, count, views, BLOCK=128, **_EXACT
        )
    return out


def draw(
    triangles: Int[Tensor, "T 3"],
    vertices: Float[Tensor, "B V 3"],
    strands: Strands | None,
    projections: Float[Tensor, "B M 3 4"],
    focals: Float[Tensor, "B M"],
    size: tuple[int, int],
) -> Int[Tensor, "B M h w"]:
    """Meshes and ribbons in all views of their heads."""
    heads, views = projections.shape[:2]
    projected = project(vertices, projections).flatten(0, 1)
    device = vertices.device
    ids = torch.arange(len(triangles), dtype=torch.int32, device=device)
    sizes = torch.empty(heads * views, 2, dtype=torch.int32, device=device)
    sizes[:, 0], sizes[:, 1] = size
    with torch.cuda.device_of(vertices):
        keys = mesh_triton.draw(
            projected, triangles, ids, sizes, size, False, portraits_draw_cpu.NEAR
        )
        if strands is not None and heads * views > 0:
            _, count, points = strands.points.shape[:3]
            hair.draw_ribbons[(triton.cdiv(count * (points - 1), 32), heads * views)](
                strands.points.contiguous(), strands.widths.contiguous(), projections.contiguous(),
                focals.contiguous(), keys, count, points, views, size[1], size[0], len(triangles),
                BLOCK=32, **_EXACT, **_ONE_WARP,
            )  # fmt: skip
    return keys.unflatten(0, (heads, views))


def inverse_depths(drawn: Int[Tensor, "B M h w"]) -> Float[Tensor, "B M h w"]:
    """1/depth; zero where nothing is seen."""
    return drawn.view(torch.int32).unflatten(-1, (-1, 2))[..., 1].contiguous().view(torch.float32)


def names(drawn: Int[Tensor, "B M h w"]) -> Int[Tensor, "B M h w"]:
    """Triangle, or number of triangles plus segment of hair; -1 where nothing is seen."""
    low = drawn.view(torch.int32).unflatten(-1, (-1, 2))[..., 0]
    return torch.where(drawn > 0, low ^ 0x7FFFFFFF, -1)


def seen(
    drawn: Int[Tensor, "B 1 h w"], mesh: PortraitMesh, heads: PortraitHeads
) -> tuple[None, None]:
    """Nothing: light is gathered everywhere, in less time than it takes to find where it shows."""
    return None, None


def gather_mesh(
    vertices: Float[Tensor, "B V 3"],
    normals: Float[Tensor, "B V 3"],
    projections: Float[Tensor, "B D 3 4"],
    maps: Int[Tensor, "B D h w"],
    directions: Float[Tensor, "D 3"],
    radiance: Float[Tensor, "B D 3"],
    texel: Float[Tensor, " B"],
    bounce: Float[Tensor, "3"],
    shown: None = None,
) -> Float[Tensor, "B V 3"]:
    """Share of the sky's irradiance that reaches each vertex."""
    heads, count = vertices.shape[:2]
    out = torch.empty_like(vertices)
    with torch.cuda.device_of(vertices):
        hair.gather_mesh[(triton.cdiv(count, 128), heads)](
            vertices.contiguous(), normals.contiguous(), projections, maps.view(torch.int32),
            directions, radiance.contiguous(), texel, bounce, out, count, len(directions),
            maps.shape[-1], BLOCK=128,
        )  # fmt: skip
    return out


def gather_hair(
    strands: Strands | None,
    projections: Float[Tensor, "B D 3 4"],
    maps: Int[Tensor, "B D h w"],
    directions: Float[Tensor, "D 3"],
    radiance: Float[Tensor, "B D 3"],
    shown: None = None,
) -> Float[Tensor, "B S P 3"]:
    """∫ L sin(T, ω) visible dω at points of strands."""
    if strands is None:
        return torch.zeros(len(projections), 0, 2, 3, device=projections.device)
    out = torch.empty_like(strands.points, memory_format=torch.contiguous_format)
    heads, count, points = out.shape[:3]
    with torch.cuda.device_of(out):
        hair.gather_hair[(triton.cdiv(count * points, 128), heads)](
            strands.points.contiguous(), projections, maps.view(torch.int32), directions,
            radiance.contiguous(), out, count, points, len(directions), maps.shape[-1], BLOCK=128,
        )  # fmt: skip
    return out


def shade(
    drawn: Int[Tensor, "B 1 h w"],
    factor: int,
    mesh: PortraitMesh,
    heads: PortraitHeads,
    normals: Float[Tensor, "B V 3"],
    views: Float[Tensor, "B 1 3 4"],
    eye: Float[Tensor, "B 3"],
    textures: TexturePool,
    light: PortraitLight,
) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W"], UInt8[Tensor, "B H W"]]:
    """Linear colour, premultiplied, coverage and label of pictures drawn with one view a head."""
    device, count = drawn.device, len(drawn)
    height, width = drawn.shape[2] // factor, drawn.shape[3] // factor
    color = torch.empty(count, height, width, 3, dtype=torch.float32, device=device)
    coverage = torch.empty(count, height, width, dtype=torch.float32, device=device)
    label = torch.empty(count, height, width, dtype=torch.uint8, device=device)
    strands = heads.strands
    points = light.hair if strands is None else strands.points.contiguous()
    colors = light.hair if strands is None else strands.colors.contiguous()
    tiles = triton.cdiv(width, 16) * triton.cdiv(height, 8)
    with torch.cuda.device_of(drawn):
        shading.shade[(tiles, count)](
            drawn, mesh.triangles, mesh.corner_uv, mesh.label, mesh.textured,
            heads.vertices.contiguous(), normals, light.ambient,
            project(heads.vertices, views), heads.tint.contiguous(), eye, views.contiguous(),
            heads.skin, textures.texels, textures.offsets, textures.sizes,
            points, colors, light.hair, light.sky.contiguous(), light.lamps.contiguous(),
            light.lamp_views, light.lamp_maps.view(torch.int32), light.lamp_texel, light.disk,
            color, coverage, label,
            factor, len(mesh.triangles), mesh.head_vertices, normals.shape[1],
            heads.tint.shape[1], len(textures.sizes), textures.texels.shape[1],
            points.shape[1], points.shape[2], light.lamps.shape[1], light.lamp_maps.shape[-1],
            len(light.disk) // factor**2, height, width,
        )  # fmt: skip
    return color, coverage, label


def expose(
    linear: Float[Tensor, "B H W 3"],
    alpha: Float[Tensor, "B H W"],
    backdrops: Float[Tensor, "N h w 3"],
    scenes: SceneBatch,
    taps: Float[Tensor, "B K"],
) -> Float[Tensor, "B H W 3"]:
    """Stored pictures, srgb, of premultiplied light before a backdrop."""
    heads, height, width = alpha.shape
    light, out = torch.empty_like(linear), torch.empty_like(linear)
    rows, count = heads * height, taps.shape[1]
    with torch.cuda.device_of(linear):
        sensor.composite[(rows, triton.cdiv(width, 256))](
            linear, alpha, backdrops.contiguous(), scenes.backdrop, scenes.window.contiguous(),
            light, height, width, backdrops.shape[1], backdrops.shape[2], BLOCK=256,
        )  # fmt: skip
        blurred = torch.empty_like(light)
        sensor.blur_columns[(rows, triton.cdiv(3 * width, 256))](
            light, taps, blurred, height, 3 * width, count, BLOCK=256
        )
        sensor.expose[(rows, triton.cdiv(width, 256))](
            blurred, taps, scenes.sensor.contiguous(), scenes.key, out, height, width, count,
            BLOCK=256,
        )  # fmt: skip
    return out
