"""The stage's own renderer: a finely tessellated head under gathered light, seen through lenses.

Pictures are supersampled, shaded in linear light and averaged, then pass the camera's sensor
(`synthesis.sensors`). Lenses bend the projection of every vertex; between the vertices of the fine
surface, about 1.5 mm apart, a lens is straight to better than 0.01 px of a 4K picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Distortion, Topology
from topohead.geometry.cameras import distort
from topohead.geometry.meshes import vertex_normals
from topohead.rendering import stage_cpu
from topohead.rendering.mesh import Raster, rasterize
from topohead.synthesis.lights import GatheredLight, Lighting, gather
from topohead.synthesis.props import Props
from topohead.synthesis.skin import SkinMaps

SUBSURFACE_STEPS = (6, 2, 1)
"""Smoothing steps of red, green and blue irradiance on the fine mesh: light bleeds under skin."""

BAND_SAMPLES = 1 << 25
"""Samples that are drawn at a time, in whole rows of pixels; they take some 20 bytes each."""


@dataclass(frozen=True)
class Materials:
    """Maps of a subject ready for look-up: a pyramid of texels in one list.

    Channels: linear albedo, roughness, ∂height/∂u, ∂height/∂v in metres a unit of UV. Level l
    starts at `offsets[l]` and is `sizes[l]` texels square. Where they are, pictures are made.
    """

    atlas: Float[Tensor, "N 6"]
    offsets: Int[Tensor, " L"]
    sizes: Int[Tensor, " L"]

    def to(self, device: torch.device | str) -> "Materials":
        """The same maps on another device."""
        return Materials(*(x.to(device) for x in (self.atlas, self.offsets, self.sizes)))

    @staticmethod
    def of(maps: SkinMaps) -> "Materials":
        """Texture pyramid by 2×2 means down to 8 texels."""
        size = len(maps.height)
        # heights go on beyond the charts' borders, so slopes are right up to there
        down, along = torch.gradient(maps.height)
        slopes = torch.stack([along, -down], -1) * size  # v runs up, rows run down
        level = torch.cat([maps.albedo, maps.roughness[..., None], slopes], -1)
        levels = [level]
        while len(level) >= 16 and len(level) % 2 == 0:
            half = len(level) // 2
            level = level.reshape(half, 2, half, 2, 6).mean((1, 3))
            levels.append(level)
        sizes = torch.tensor([len(level) for level in levels])
        offsets = torch.cumsum(sizes**2, 0) - sizes**2
        atlas = torch.cat([level.reshape(-1, 6) for level in levels])
        return Materials(atlas, offsets.to(atlas.device), sizes.to(atlas.device))


@dataclass(frozen=True)
class LitHead:
    """One instant, ready for any camera: geometry with props, and light per vertex.

    All tensors are on one device, which makes the pictures.
    """

    vertices: Float[Tensor, "S 3"]
    triangles: Int[Tensor, "T 3"]
    normals: Float[Tensor, "S 3"]
    light: GatheredLight
    lighting: Lighting
    corner_uv: Float[Tensor, "T 3 2"]
    textured: int
    """Triangles before this one have a texture; the rest are props of plain colour."""
    tint: Float[Tensor, "S 3"]
    roughness: Float[Tensor, " S"]
    marked: int = 0
    """The last so many triangles are those that `marked_coverage` tells apart."""

    @cached_property
    def per_vertex(self) -> Float[Tensor, "S K"]:
        """The table of vertices that `rendering.stage_cpu.shade` reads."""
        light = self.light
        parts = (self.vertices, self.normals, light.irradiance, light.steer,
                 light.open_sky[:, None], self.tint, self.roughness[:, None],
                 light.lamp_seen)  # fmt: skip
        return torch.cat(parts, 1)

    @cached_property
    def per_triangle(self) -> Float[Tensor, "T 12"]:
        """The table of triangles that it reads."""
        gradients = _uv_gradients(self.vertices[self.triangles].double(), self.corner_uv.double())
        return torch.cat([self.corner_uv.flatten(1), *(x.float() for x in gradients)], 1)

    @cached_property
    def corners(self) -> Int[Tensor, "T 3"]:
        """The triangles, int32."""
        return self.triangles.int()


def light_head(
    topology: Topology,
    surface: Float[Tensor, "S 3"],
    blockers: tuple[Float[Tensor, "B 3"], Int[Tensor, "K 3"]],
    props: Props,
    lighting: Lighting,
    dome_samples: int = 72,
    device: torch.device | str = "cpu",
) -> LitHead:
    """Gather light on the fine surface and the props; `blockers` is the coarser surface mesh.

    What comes in is on the host. `device` gathers the light and gets the lit head; sums over
    neighbours stay on the host, where their order, and so their last digit, is always the same.
    """
    count = len(surface)
    vertices = torch.cat([surface, props.vertices])
    triangles = torch.cat([topology.triangles, props.triangles + count])
    normals = vertex_normals(vertices, triangles)
    shift = len(blockers[0])
    solid = (
        torch.cat([blockers[0], props.vertices]).to(device),
        torch.cat([blockers[1], props.triangles + shift]).to(device),
    )
    light = gather(lighting, vertices.to(device), normals.to(device), solid, dome_samples)
    scattered = _scattered(light.irradiance.cpu(), topology, count).to(device)
    uv = topology.uv[topology.triangle_uv].float()
    plain = torch.zeros(len(props.triangles), 3, 2)
    return LitHead(
        vertices.to(device),
        triangles.to(device),
        normals.to(device),
        replace(light, irradiance=scattered),
        lighting,
        torch.cat([uv, plain]).to(device),
        len(topology.triangles),
        torch.cat([torch.zeros(count, 3), props.colors]).to(device),
        torch.cat([torch.zeros(count), props.roughness]).to(device),
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
    """Linear colour, premultiplied by coverage, and coverage, as a perfect sensor records them.

    On the device of the head and the materials; cameras may be on the host.
    """
    bent = bend(head.vertices, world_to_camera, lens)
    fine = _finer(intrinsics, supersampling)
    pixels = bent @ fine.T.to(bent.device)
    level = _texture_levels(head, pixels[:, :2] / pixels[:, 2:], int(materials.sizes[0]))
    view = _view(head, world_to_camera, gloss)
    bands = [
        _shade(raster, supersampling, head, level, materials, *view)
        for raster in _bands(bent, head.triangles, fine, size, supersampling)
    ]
    color, coverage = zip(*bands, strict=True)
    return torch.cat(color), torch.cat(coverage)


def marked_coverage(
    head: LitHead,
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    lens: Distortion,
    size: tuple[int, int],
    supersampling: int = 3,
) -> Float[Tensor, "H W"]:
    """The share of every pixel that shows the head's last `marked` triangles, all else in view."""
    bent = bend(head.vertices, world_to_camera, lens)
    first, fine = len(head.triangles) - head.marked, _finer(intrinsics, supersampling)
    bands = []
    for raster in _bands(bent, head.triangles, fine, size, supersampling):
        shown = (raster.triangle >= first).float()[None, None]
        bands.append(torch.nn.functional.avg_pool2d(shown, supersampling)[0, 0])
    return torch.cat(bands)


def _finer(intrinsics: Float[Tensor, "3 3"], factor: int) -> Float[Tensor, "3 3"]:
    fine = intrinsics.double().cpu().clone()
    fine[:2] *= factor
    return fine


def _bands(
    bent: Float[Tensor, "S 3"],
    triangles: Int[Tensor, "T 3"],
    fine: Float[Tensor, "3 3"],
    size: tuple[int, int],
    factor: int,
) -> Iterator[Raster]:
    """What the samples of a picture show, `BAND_SAMPLES` or so at a time, from the top."""
    width, height = size
    rows = max(1, BAND_SAMPLES // (width * factor**2))
    for top in range(0, height, rows):
        shape = (width * factor, min(rows, height - top) * factor)
        shifted = fine.clone()
        shifted[1, 2] -= top * factor
        yield rasterize(bent, triangles, torch.eye(4).double(), shifted, shape)


def _view(
    head: LitHead, world_to_camera: Float[Tensor, "4 4"], gloss: float
) -> tuple[Float[Tensor, "L 7"], Float[Tensor, "10"]]:
    """Lamps and view as `rendering.stage_cpu.shade` takes them, float64 on the host."""
    pose = world_to_camera.double().cpu()
    eye = -pose[:3, :3].T @ pose[:3, 3]
    center = head.vertices.mean(0).double().cpu()
    lamps = []
    for lamp in head.lighting.lamps:
        distance = float((torch.tensor(lamp.position).double() - center).norm())
        lamps.append([*lamp.position, *lamp.radiance, lamp.radius / max(distance, 1e-6)])
    numbers = [*eye.tolist(), *head.lighting.below, *head.lighting.above, gloss]
    table = torch.tensor(lamps, dtype=torch.float64).reshape(-1, 7)
    return table, torch.tensor(numbers, dtype=torch.float64)


def _shade(
    raster: Raster,
    factor: int,
    head: LitHead,
    level: Float[Tensor, " T"],
    materials: Materials,
    lamps: Float[Tensor, "L 7"],
    view: Float[Tensor, "10"],
) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Colour and coverage of a band of the picture, by its device's kernels."""
    tables = (raster.triangle, raster.barycentrics, factor, head.corners, head.per_triangle, level,
              head.per_vertex, materials.atlas, materials.offsets, materials.sizes)  # fmt: skip
    if raster.triangle.is_cuda:
        from topohead.rendering import stage_triton  # noqa: PLC0415 -- only where CUDA is

        device = raster.triangle.device
        return stage_triton.shade(*tables, lamps.float().to(device), view.float().to(device))
    arrays = (x.numpy() if isinstance(x, Tensor) else x for x in (*tables, lamps, view))
    color, coverage = stage_cpu.shade(*arrays)
    return torch.from_numpy(color), torch.from_numpy(coverage)


def bend(
    vertices: Float[Tensor, "S 3"], world_to_camera: Float[Tensor, "4 4"], lens: Distortion
) -> Float[Tensor, "S 3"]:
    """Camera-frame points that a pinhole sees where the lens puts the vertices; depth is kept."""
    pose = world_to_camera.to(vertices.device).double()
    local = vertices.double() @ pose[:3, :3].T + pose[:3, 3]
    if lens.is_identity:
        return local
    if lens.model == "brown" and not local.is_cuda:
        bent = stage_cpu.bend_brown(local.numpy(), np.array(lens.coefficients))
        return torch.from_numpy(bent)
    depth = local[:, 2:]
    return torch.cat([distort(local[:, :2] / depth, lens) * depth, depth], 1)


def _texture_levels(head: LitHead, pixels: Float[Tensor, "S 2"], size: int) -> Float[Tensor, " T"]:
    """Pyramid level per triangle at which a texel is about one sample; −1 for props."""
    corner = pixels[head.triangles]
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs()
    uv = head.corner_uv
    p, q = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    texels = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).abs() * size**2
    level = 0.5 * torch.log2(texels.clamp(min=1e-9) / area.clamp(min=1e-9))
    level = level.clamp(0, 12)
    level[head.textured :] = -1
    return level.float()


def _uv_gradients(
    corner: Float[Tensor, "T 3 3"], uv: Float[Tensor, "T 3 2"]
) -> tuple[Float[Tensor, "T 3"], Float[Tensor, "T 3"]]:
    """∂u/∂x and ∂v/∂x on every triangle, a unit of UV a metre; zero where UVs collapse."""
    e1, e2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    g11, g12, g22 = (e1 * e1).sum(1), (e1 * e2).sum(1), (e2 * e2).sum(1)
    determinant = (g11 * g22 - g12**2).clamp(min=1e-24)[:, None]
    # dual basis: d1·e1 = 1, d1·e2 = 0
    d1 = (g22[:, None] * e1 - g12[:, None] * e2) / determinant
    d2 = (g11[:, None] * e2 - g12[:, None] * e1) / determinant
    p, q = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    return p[:, :1] * d1 + q[:, :1] * d2, p[:, 1:] * d1 + q[:, 1:] * d2


def _scattered(
    irradiance: Float[Tensor, "S 3"], topology: Topology, count: int
) -> Float[Tensor, "S 3"]:
    """Irradiance blurred over the skin, red widest, as light that wanders below the surface."""
    skin = torch.ones(count, dtype=torch.bool)
    for name in ("eyes", "teeth"):
        if name in topology.regions:
            skin[topology.regions[name]] = False
    first, second = topology.edges.unbind(1)
    both = skin[first] & skin[second]
    first, second = first[both], second[both]
    degree = torch.bincount(torch.cat([first, second]), minlength=count).clamp(min=1)[:, None]
    irradiance = irradiance.clone()
    value = irradiance[:count].clone()
    for step in range(max(SUBSURFACE_STEPS)):
        mean = torch.zeros_like(value).index_add_(0, first, value[second])
        mean = mean.index_add_(0, second, value[first]) / degree
        active = torch.tensor([step < steps for steps in SUBSURFACE_STEPS])
        mixed = 0.5 * value + 0.5 * mean
        value = torch.where(active & skin[:, None], mixed, value)
    irradiance[:count] = value
    return irradiance
