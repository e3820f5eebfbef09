"""Plain pictures of a mesh: textured, clay or coloured by vertex; for reports, docs and checks."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from topohead.core import Topology
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.creases import openness
from topohead.rendering.mesh import Raster, interpolate, rasterize

Shading = Literal["texture", "clay", "colors"]

CLAY_ALBEDO = (0.60, 0.57, 0.54)
"""A warm light grey, linear: light enough for soft shadows to read, no hue of its own."""


def srgb_to_linear(srgb: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Linear light from sRGB code values (IEC 61966-2-1), both in [0, 1]."""
    low = srgb / 12.92
    high = ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb <= 0.04045, low, high)


def linear_to_srgb(linear: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """sRGB code values from linear light (IEC 61966-2-1), both in [0, 1]."""
    low = linear * 12.92
    high = 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, low, high)


def sample_texture(
    texture: Float[Tensor, "S1 S2 K"], uv: Float[Tensor, "*B 2"]
) -> Float[Tensor, "*B K"]:
    """Texture values at UV positions (origin bottom-left), bilinear, clamped at the border.

    Row 0 of a texture is its top, v = 1. Differentiable in both arguments.
    """
    grid = torch.stack([2 * uv[..., 0] - 1, 1 - 2 * uv[..., 1]], -1).reshape(1, 1, -1, 2)
    picture = texture.permute(2, 0, 1)[None]
    values = functional.grid_sample(
        picture, grid.to(picture), padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T.reshape(*uv.shape[:-1], texture.shape[2])


def render_mesh(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    appearance: Float[Tensor, "*A 3"] | None,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
    supersample: int = 2,
    shading: Shading = "clay",
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Float[Tensor, "H W 3"]:
    """An srgb picture of a mesh seen by a pinhole camera; `size` is (width, height).

    `appearance` is an srgb texture [S S 3] for "texture" (shown unlit: a fused texture holds its
    light already), srgb vertex colours [V 3] for "colors" (gently shaded, so that the shape
    reads under a heat map), and None for "clay". Edges are antialiased in linear light.
    """
    _check_appearance(appearance, shading, len(vertices))
    width, height = size[0] * supersample, size[1] * supersample
    fine = intrinsics.clone()
    fine[:2] *= supersample
    raster = rasterize(
        vertices, topology.triangles, world_to_camera, fine, (width, height), cull=False
    )
    cameras = world_to_camera, fine
    linear = _surface_colors(vertices, topology, appearance, raster, cameras, shading)
    empty = srgb_to_linear(torch.tensor(background, dtype=torch.float32))
    linear = torch.where(raster.triangle[..., None] >= 0, linear, empty)
    pooled = functional.avg_pool2d(linear.permute(2, 0, 1)[None], supersample)[0].permute(1, 2, 0)
    return linear_to_srgb(pooled).clamp(0, 1)


def portrait_camera(
    vertices: Float[Tensor, "V 3"],
    size: tuple[int, int],
    yaw: float = 0.0,
    pitch: float = 0.0,
    field_of_view: float = 0.35,
    margin: float = 1.08,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """World-to-camera and intrinsics that frame a head (y up, face along +z).

    `yaw` > 0 looks from the person's left, `pitch` > 0 from above, radians; `field_of_view` is the
    angle of the shorter side. The camera looks at the middle of the bounding box.
    """
    points = vertices.double()
    low, high = points.amin(0), points.amax(0)
    target = (low + high) / 2
    back = torch.tensor(
        [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    ).double()
    right = torch.tensor([math.cos(yaw), 0.0, -math.sin(yaw)]).double()
    rotation = torch.stack([right, torch.linalg.cross(right, back), -back])
    local = (points - target) @ rotation.T
    width, height = size
    tangent = math.tan(field_of_view / 2)
    reach = torch.tensor([tangent * max(1, width / height), tangent * max(1, height / width)])
    # every vertex must project inside: |x| / (z + d) ≤ reach / margin
    distance = (local[:, :2].abs() * margin / reach - local[:, 2:]).amax()
    world_to_camera = torch.eye(4, dtype=torch.float64)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ target
    world_to_camera[2, 3] += distance
    focal = min(width, height) / 2 / tangent
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]).double()
    return world_to_camera, intrinsics


def _check_appearance(
    appearance: Float[Tensor, "*A 3"] | None, shading: Shading, vertex_count: int
) -> None:
    wanted = {"texture": 3, "colors": 2}.get(shading)
    got = None if appearance is None else appearance.ndim
    if wanted != got and wanted is not None:
        raise ValueError(
            f"shading '{shading}' needs {'a texture [S S 3]' if wanted == 3 else 'colours [V 3]'}, "
            f"got {None if appearance is None else tuple(appearance.shape)}"
        )
    if shading == "colors" and appearance is not None and len(appearance) != vertex_count:
        raise ValueError(f"{len(appearance)} vertex colours for {vertex_count} vertices")


def _surface_colors(
    vertices: Float[Tensor, "V 3"],
    topology: Topology,
    appearance: Float[Tensor, "*A 3"] | None,
    raster: Raster,
    cameras: tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]],
    shading: Shading,
) -> Float[Tensor, "H W 3"]:
    """Linear colours of the pixels that a mesh covers; what the rest holds is undefined."""
    if shading == "texture" and appearance is not None:
        uv = interpolate(topology.uv.float(), topology.triangle_uv, raster)
        return srgb_to_linear(sample_texture(appearance.float(), uv))
    light = _clay_light(vertices, topology.triangles, raster, *cameras)
    if shading == "colors" and appearance is not None:
        colors = interpolate(appearance.float(), topology.triangles, raster)
        # half of the light stays flat, so that a colour can be read against its legend
        return srgb_to_linear(colors.clamp(0, 1)) * (0.5 + 0.5 * light[..., None].clamp(0, 1))
    return light[..., None] * torch.tensor(CLAY_ALBEDO)


def _clay_light(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    raster: Raster,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
) -> Float[Tensor, "H W"]:
    """Irradiance of a studio that turns with the camera: soft key, sky above, warm bounce below;
    less of it in creases."""
    rotation = world_to_camera[:3, :3].float()
    normals = vertex_normals(vertices.float(), triangles) @ rotation.T
    normals = functional.normalize(interpolate(normals, triangles, raster), dim=-1)
    inside = normals[..., 2] > 0.05  # the far side of an open surface, seen through its hole
    normals = torch.where(inside[..., None], -normals, normals)
    key = functional.normalize(torch.tensor([-0.55, -0.65, -0.75]), dim=0)
    # wrapped diffuse: a large soft box lights a little beyond the terminator
    lit = ((normals @ key + 0.25) / 1.25).clamp(min=0) ** 1.5
    sky = 0.5 - 0.5 * normals[..., 1]
    facing = (-normals[..., 2]).clamp(0, 1)
    light = 0.85 * lit + 0.22 * sky + 0.10 + 0.12 * facing
    light = light * openness(raster.depth, normals, intrinsics).square()
    return torch.where(inside, 0.35 * light, light)
