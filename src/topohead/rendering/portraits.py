"""Batched portraits: many heads, each with its own camera, skin, hair, light and sensor, at once.

The renderer that makes training data. Meshes and hair ribbons share one z-buffer of 2×2 samples a
pixel; every covered sample is shaded. Light is a sky in spherical harmonics, whose reach into
folds is found from a ring of shadow maps, and a few ball lamps with soft shadows. On the device of
the vertices: compiled loops on CPU cores, Triton kernels on CUDA. Nothing is differentiable.
"""

from dataclasses import dataclass
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from topohead.core import InputError
from topohead.geometry.meshes import fan_normals
from topohead.rendering import portraits_cpu
from topohead.rendering.portrait_batch import (
    LABELS,
    PortraitHeads,
    PortraitMesh,
    Portraits,
    SceneBatch,
    TexturePool,
    each_tensor,
    moved,
)
from topohead.rendering.portrait_light import camera_projections, eyes, gather_light

__all__ = [
    "LABELS",
    "PortraitHeads",
    "PortraitMesh",
    "Portraits",
    "SceneBatch",
    "TexturePool",
    "each_tensor",
    "moved",
    "portrait_maps",
    "portrait_points",
    "render_portraits",
    "smooth_normals",
]

BLUR_TAPS = 11
"""Of the sensor's blur: enough for a deviation of 1.7 pixels."""


def render_portraits(
    mesh: PortraitMesh,
    heads: PortraitHeads,
    textures: TexturePool,
    scenes: SceneBatch,
    backdrops: Float[Tensor, "N h w 3"],
    size: tuple[int, int],
    supersampling: int = 2,
) -> Portraits:
    """Pictures of (width, height) of a batch of heads; all tensors on one device.

    `backdrops` are linear. Same inputs give the same bytes on a CPU; pictures made on CUDA agree
    with those up to the tolerance that docs/portraits.md states.
    """
    backend = _backend(heads.vertices)
    normals = smooth_normals(heads.vertices, mesh)
    views, focals = camera_projections(scenes.world_to_camera, scenes.intrinsics, supersampling)
    fine = (size[0] * supersampling, size[1] * supersampling)
    drawn = backend.draw(mesh.triangles, heads.vertices, heads.strands, views, focals, fine)
    light = gather_light(backend, mesh, heads, normals, scenes, supersampling, drawn)
    eye = eyes(scenes.world_to_camera)
    linear, alpha, label = backend.shade(
        drawn, supersampling, mesh, heads, normals, views, eye, textures, light
    )
    srgb = backend.expose(linear, alpha, backdrops, scenes, _taps(scenes.blur))
    return Portraits(srgb, alpha, label, linear)


@dataclass(frozen=True)
class PortraitMaps:
    """What pixel centres see. Nothing: depth inf, triangle −1, the rest zero.

    `depth` is along the optical axis, metres. `triangle`, `barycentrics`, `normal` (world, smooth)
    and `uv` are of the mesh; where hair is in front, triangle is −1 and they are zero.
    """

    depth: Float[Tensor, "B H W"]
    triangle: Int[Tensor, "B H W"]
    barycentrics: Float[Tensor, "B H W 3"]
    normal: Float[Tensor, "B H W 3"]
    uv: Float[Tensor, "B H W 2"]


def portrait_maps(
    mesh: PortraitMesh, heads: PortraitHeads, scenes: SceneBatch, size: tuple[int, int]
) -> PortraitMaps:
    """Geometry under every pixel centre of the pictures that `render_portraits` makes."""
    backend = _backend(heads.vertices)
    views, focals = camera_projections(scenes.world_to_camera, scenes.intrinsics, 1)
    drawn = backend.draw(mesh.triangles, heads.vertices, heads.strands, views, focals, size)
    inverse, name = backend.inverse_depths(drawn)[:, 0], backend.names(drawn)[:, 0]
    depth = torch.where(inverse > 0, 1 / inverse.clamp(min=1e-9), torch.inf)
    triangle = torch.where(name < len(mesh.triangles), name, -1)
    seen = (triangle >= 0)[..., None]
    corner = mesh.triangles[triangle.clamp(min=0).long()].long()
    batch = torch.arange(len(corner), device=corner.device)[:, None, None, None]
    projected = backend.project(heads.vertices, views)[:, 0]
    weights = _weights(projected[batch, corner]) * seen
    normals = smooth_normals(heads.vertices, mesh)
    normal = functional.normalize((normals[batch, corner] * weights[..., None]).sum(-2), dim=-1)
    uv = (mesh.corner_uv[triangle.clamp(min=0).long()] * weights[..., None]).sum(-2)
    return PortraitMaps(depth, triangle, weights, normal, uv)


def _weights(corner: Float[Tensor, "B H W 3 3"]) -> Float[Tensor, "B H W 3"]:
    """Perspective-correct barycentrics of pixel centres; see `mesh_cpu.barycentrics_of`."""
    height, width = corner.shape[1:3]
    y, x = torch.meshgrid(
        torch.arange(height, device=corner.device) + 0.5,
        torch.arange(width, device=corner.device) + 0.5,
        indexing="ij",
    )
    place = (corner[..., :2] - torch.stack([x, y], -1)[..., None, :]) * corner[..., 2:]
    following, last = place.roll(-1, -2), place.roll(-2, -2)
    area = following[..., 0] * last[..., 1] - following[..., 1] * last[..., 0]
    sign = torch.where(area.sum(-1, keepdim=True) > 0, 1.0, -1.0)
    weights = (area * sign).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)


def portrait_points(
    mesh: PortraitMesh,
    heads: PortraitHeads,
    scenes: SceneBatch,
    size: tuple[int, int],
    tolerance: float = 0.002,
) -> tuple[Float[Tensor, "B V 2"], Bool[Tensor, "B V"]]:
    """Where every vertex appears (pixels), and whether it is seen.

    Seen: inside the picture, not turned away by more than 12°, and at most `tolerance` metres
    behind the farthest of the four pixel centres about it.
    """
    backend = _backend(heads.vertices)
    views, focals = camera_projections(scenes.world_to_camera, scenes.intrinsics, 1)
    drawn = backend.draw(mesh.triangles, heads.vertices, heads.strands, views, focals, size)
    inverse = backend.inverse_depths(drawn)[:, 0]
    projected = backend.project(heads.vertices, views)[:, 0]
    pixels, depth = projected[..., :2], projected[..., 2]
    corner = (pixels - 0.5).nan_to_num().clamp(-1e6, 1e6).floor().long()
    farthest = torch.full_like(depth, torch.inf)
    for step in range(4):
        column = (corner[..., 0] + step % 2).clamp(0, size[0] - 1)
        row = (corner[..., 1] + step // 2).clamp(0, size[1] - 1)
        found = inverse.flatten(1).gather(1, row * size[0] + column)
        farthest = torch.minimum(farthest, found)
    inside = ((pixels >= 0) & (pixels < pixels.new_tensor(size))).all(-1) & (depth > 0)
    normals = smooth_normals(heads.vertices, mesh)
    towards = functional.normalize(eyes(scenes.world_to_camera)[:, None] - heads.vertices, dim=-1)
    facing = (normals * towards).sum(-1) > -0.2
    return pixels, inside & facing & ((depth - tolerance) * farthest <= 1)


def smooth_normals(vertices: Float[Tensor, "B V 3"], mesh: PortraitMesh) -> Float[Tensor, "B V 3"]:
    """Unit normals of vertices, triangles weighted by area, summed in a fixed order."""
    if vertices.device.type == "cpu":
        return portraits_cpu.smooth_normals(vertices, mesh)
    return fan_normals(vertices, mesh.triangles, mesh.fan)


def _taps(sigma: Float[Tensor, " B"]) -> Float[Tensor, "B K"]:
    """Taps of a Gaussian a head, sum 1."""
    reach = BLUR_TAPS // 2
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    weight = torch.exp(-0.5 * (offset / sigma.clamp(min=0.05)[:, None]) ** 2)
    return weight / weight.sum(1, keepdim=True)


def _backend(vertices: Tensor) -> ModuleType:
    """The module of compiled loops, or of Triton kernels, for the vertices' device."""
    if vertices.device.type == "cpu":
        return portraits_cpu
    if not vertices.is_cuda:
        raise InputError(f"expected tensors on the CPU or a CUDA device, got {vertices.device}")
    try:
        from topohead.rendering import portraits_triton  # noqa: PLC0415 -- only where CUDA is
    except ImportError as error:
        raise InputError(
            "expected Triton for tensors on a CUDA device, found none: pip install triton"
        ) from error
    return portraits_triton
