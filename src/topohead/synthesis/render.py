"""The stage's own renderer: a finely tessellated head under gathered light, seen through lenses.

Pictures are supersampled, shaded in linear light and averaged, then pass the camera's sensor
(`synthesis.sensors`). Lenses bend the projection of every vertex; between the vertices of the fine
surface, about 1.5 mm apart, a lens is straight to better than 0.01 px of a 4K picture.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Distortion, Topology
from topohead.geometry.cameras import distort
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import rasterize
from topohead.rendering.stage_cpu import bend_brown, shade
from topohead.synthesis.lights import GatheredLight, Lighting, gather
from topohead.synthesis.props import Props
from topohead.synthesis.skin import SkinMaps

SUBSURFACE_STEPS = (6, 2, 1)
"""Smoothing steps of red, green and blue irradiance on the fine mesh: light bleeds under skin."""


@dataclass(frozen=True)
class Materials:
    """Maps of a subject ready for look-up: a pyramid of texels in one list.

    Channels: linear albedo, roughness, ∂height/∂u, ∂height/∂v in metres a unit of UV. Level l
    starts at `offsets[l]` and is `sizes[l]` texels square.
    """

    atlas: Float[np.ndarray, "N 6"]
    offsets: Int[np.ndarray, " L"]
    sizes: Int[np.ndarray, " L"]

    @staticmethod
    def of(maps: SkinMaps) -> "Materials":
        """Texture pyramid by 2×2 means down to 8 texels."""
        size = len(maps.height)
        height = maps.height.numpy()
        down, along = np.gradient(height)
        # slopes across a chart's border are between unrelated places: flat there
        inside = maps.covered.numpy()
        safe = inside.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                safe &= np.roll(inside, step, axis)
        along, down = along * safe * size, down * safe * size
        level = np.concatenate(
            [
                maps.albedo.numpy(),
                maps.roughness.numpy()[..., None],
                along[..., None],
                -down[..., None],  # v runs up, rows run down
            ],
            -1,
        ).astype(np.float32)
        levels = [level]
        while len(level) >= 16 and len(level) % 2 == 0:
            half = len(level) // 2
            level = level.reshape(half, 2, half, 2, 6).mean((1, 3))
            levels.append(level)
        sizes = np.array([len(level) for level in levels], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes**2)[:-1]]).astype(np.int64)
        return Materials(np.concatenate([x.reshape(-1, 6) for x in levels]), offsets, sizes)


@dataclass(frozen=True)
class LitHead:
    """One instant, ready for any camera: geometry with props, and light per vertex."""

    vertices: Float[Tensor, "S 3"]
    triangles: Int[Tensor, "T 3"]
    normals: Float[Tensor, "S 3"]
    light: GatheredLight
    lighting: Lighting
    corner_uv: Float[np.ndarray, "T 3 2"]
    textured: int
    """Triangles before this one have a texture; the rest are props of plain colour."""
    uv_gradients: tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, "T 3"]]
    tint: Float[np.ndarray, "S 3"]
    roughness: Float[np.ndarray, " S"]


def light_head(
    topology: Topology,
    surface: Float[Tensor, "S 3"],
    blockers: tuple[Float[Tensor, "B 3"], Int[Tensor, "K 3"]],
    props: Props,
    lighting: Lighting,
    dome_samples: int = 72,
) -> LitHead:
    """Gather light on the fine surface and the props; `blockers` is the coarser surface mesh."""
    count = len(surface)
    vertices = torch.cat([surface, props.vertices])
    triangles = torch.cat([topology.triangles, props.triangles + count])
    normals = vertex_normals(vertices, triangles)
    shift = len(blockers[0])
    solid = (
        torch.cat([blockers[0], props.vertices]),
        torch.cat([blockers[1], props.triangles + shift]),
    )
    light = gather(lighting, vertices, normals, solid, dome_samples)
    light = _scattered(light, topology, count)
    uv = topology.uv[topology.triangle_uv].numpy()
    plain = np.zeros((len(props.triangles), 3, 2))
    corner_uv = np.concatenate([uv, plain]).astype(np.float32)
    return LitHead(
        vertices,
        triangles,
        normals,
        light,
        lighting,
        corner_uv,
        len(topology.triangles),
        _uv_gradients(vertices[triangles].double().numpy(), corner_uv),
        np.concatenate([np.zeros((count, 3)), props.colors.numpy()]).astype(np.float32),
        np.concatenate([np.zeros(count), props.roughness.numpy()]).astype(np.float32),
    )


def render_view(
    head: LitHead,
    materials: Materials,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    lens: Distortion,
    size: tuple[int, int],
    supersampling: int = 3,
    gloss: float = 1.0,
) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Linear colour, premultiplied by coverage, and coverage, as a perfect sensor records them."""
    bent = bend(head.vertices, world_to_camera, lens)
    fine = intrinsics.double().clone()
    fine[:2] *= supersampling
    shape = (size[0] * supersampling, size[1] * supersampling)
    raster = rasterize(bent, head.triangles, torch.eye(4).double(), fine, shape)
    pixels = bent @ fine.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    level = _texture_levels(head, pixels, int(materials.sizes[0]))
    gradient_u, gradient_v = head.uv_gradients
    eye = -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
    lamps = head.lighting.lamps
    center = head.vertices.mean(0).double().numpy()
    positions = np.array([lamp.position for lamp in lamps]).reshape(-1, 3)
    distances = np.linalg.norm(positions - center, axis=1)
    color, coverage = shade(
        raster.triangle.numpy(),
        raster.barycentrics.numpy(),
        supersampling,
        head.triangles.numpy(),
        head.corner_uv,
        level,
        gradient_u,
        gradient_v,
        head.vertices.numpy(),
        head.normals.numpy(),
        head.light.irradiance.numpy(),
        head.light.steer.numpy(),
        head.light.open_sky[:, None].numpy(),
        head.light.lamp_seen.numpy(),
        head.tint,
        head.roughness[:, None],
        materials.atlas,
        materials.offsets,
        materials.sizes,
        eye.double().numpy(),
        positions,
        np.array([lamp.radiance for lamp in lamps]).reshape(-1, 3),
        np.array([lamp.radius for lamp in lamps]) / np.maximum(distances, 1e-6),
        np.array([head.lighting.below, head.lighting.above]),
        gloss,
    )
    return torch.from_numpy(color), torch.from_numpy(coverage)


def bend(
    vertices: Float[Tensor, "S 3"], world_to_camera: Float[Tensor, "4 4"], lens: Distortion
) -> Float[Tensor, "S 3"]:
    """Camera-frame points that a pinhole sees where the lens puts the vertices; depth is kept."""
    pose = world_to_camera.double()
    local = vertices.double() @ pose[:3, :3].T + pose[:3, 3]
    if lens.is_identity:
        return local
    if lens.model == "brown":
        return torch.from_numpy(bend_brown(local.numpy(), np.array(lens.coefficients)))
    depth = local[:, 2:]
    return torch.cat([distort(local[:, :2] / depth, lens) * depth, depth], 1)


def _texture_levels(head: LitHead, pixels: Float[Tensor, "S 2"], size: int) -> np.ndarray:
    """Pyramid level per triangle at which a texel is about one sample; −1 for props."""
    corner = pixels[head.triangles].numpy()
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    uv = head.corner_uv
    p, q = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    texels = np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]) * size**2
    level = 0.5 * np.log2(np.maximum(texels, 1e-9) / np.maximum(area, 1e-9))
    level = np.clip(level, 0, 12)
    level[head.textured :] = -1
    return level.astype(np.float32)


def _uv_gradients(corner: np.ndarray, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∂u/∂x and ∂v/∂x on every triangle [T 3], a unit of UV a metre; zero where UVs collapse."""
    e1, e2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    g11, g12, g22 = (e1 * e1).sum(1), (e1 * e2).sum(1), (e2 * e2).sum(1)
    determinant = np.maximum(g11 * g22 - g12**2, 1e-24)[:, None]
    # dual basis: d1·e1 = 1, d1·e2 = 0
    d1 = (g22[:, None] * e1 - g12[:, None] * e2) / determinant
    d2 = (g11[:, None] * e2 - g12[:, None] * e1) / determinant
    p, q = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    gradient_u = p[:, :1] * d1 + q[:, :1] * d2
    gradient_v = p[:, 1:] * d1 + q[:, 1:] * d2
    return gradient_u.astype(np.float32), gradient_v.astype(np.float32)


def _scattered(light: GatheredLight, topology: Topology, count: int) -> GatheredLight:
    """Irradiance blurred over the skin, red widest, as light that wanders below the surface."""
    skin = torch.ones(count, dtype=torch.bool)
    for name in ("eyes", "teeth"):
        if name in topology.regions:
            skin[topology.regions[name]] = False
    first, second = topology.edges.unbind(1)
    both = skin[first] & skin[second]
    first, second = first[both], second[both]
    degree = torch.bincount(torch.cat([first, second]), minlength=count).clamp(min=1)[:, None]
    irradiance = light.irradiance.clone()
    value = irradiance[:count].clone()
    for step in range(max(SUBSURFACE_STEPS)):
        mean = torch.zeros_like(value).index_add_(0, first, value[second])
        mean = mean.index_add_(0, second, value[first]) / degree
        active = torch.tensor([step < steps for steps in SUBSURFACE_STEPS])
        mixed = 0.5 * value + 0.5 * mean
        value = torch.where(active & skin[:, None], mixed, value)
    irradiance[:count] = value
    return GatheredLight(irradiance, light.steer, light.open_sky, light.lamp_seen)
