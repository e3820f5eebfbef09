"""The dense texture stage of the published method, Topo4D (Li et al. 2024), section 3.3.

The faces of the tracked Gaussian mesh are cut into N×N smaller ones with a Gaussian on each corner
("UV densification"); their colours alone are fitted to full-size pictures, one random view a step,
and drawn into the texture. Marks as in `published_scene`. The same code runs on the CPU for small
sizes; millions of Gaussians need a CUDA device.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from topohead.core import InputError, Views
from topohead.geometry.face_grids import FaceGrid, split_faces
from topohead.losses.photometric import l1_dssim
from topohead.rendering.mesh import rasterize
from topohead.rendering.splats import render_views
from topohead.rendering.uv import texel_map
from topohead.solvers.gaussian_mesh_cuda import DeviceAdam
from topohead.solvers.published_scene import PublishedScene, PublishedState, views_at_random

CPU_LIMIT = 200_000
"""Gaussians that the CPU is asked to draw; a step with this many takes about a second."""
MASK_WIDTH = 1024
"""Pictures larger than this get their masks from a smaller raster."""
TEXELS_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class PublishedTextureConfig:
    """Numbers of the dense stage."""

    gaussians: int = 6_500_000
    """How many at least about; decides N. The paper's N = 30 makes 4.6 to 7.4 million of its mesh,
    as the faces of the face or all are cut."""
    steps: int = 301
    """[C] 300 in the paper."""
    dssim: float = 0.2
    """[P] λ of Eq. 4."""
    color_rate: float = 2.5e-3
    """[C] Adam's; nothing but colour learns."""
    constancy: float = 0.02
    """[C] weight of the L1 distance to the last frame's colours."""
    size: int = 8192
    """[P] texels a side."""
    seed: int = 0


@dataclass(frozen=True)
class DenseLayout:
    """What stays the same over a take: the cut faces, and the point of them that each texel shows.

    `texels` are places in the flattened texture; texel m shows (s, t) = `places[m]` of cut face
    `texel_faces[m]`.
    """

    size: int
    grid: FaceGrid
    is_cut: Bool[Tensor, " T"]
    """Triangles of the topology whose faces are cut."""
    texels: Int[Tensor, " M"]
    texel_faces: Int[Tensor, " M"]
    places: Float[Tensor, "M 2"]


def make_layout(
    scene: PublishedScene, config: PublishedTextureConfig, device: torch.device
) -> DenseLayout:
    """Cut the faces of the region `face` (all, where a mesh has none), and find their texels."""
    topology = scene.mesh.topology
    faces = torch.from_numpy(scene.is_face)[topology.faces].all(1).nonzero()[:, 0]
    split = max(round((config.gaussians / len(faces)) ** 0.5), 1)
    count = len(faces) * split**2
    if device.type == "cpu" and count > CPU_LIMIT:
        raise InputError(
            f"expected a CUDA device for {count} Gaussians, got the CPU, which takes up to "
            f"{CPU_LIMIT}; run with --device cuda or ask for fewer"
        )
    row = torch.full((len(topology.faces),), -1)
    row[faces] = torch.arange(len(faces))
    triangle_row = row[topology.triangle_face]
    grid = split_faces(topology, faces, split)
    texels = _texels(scene, triangle_row, config.size, device)
    return DenseLayout(config.size, grid.to(device), triangle_row >= 0, *texels)


def fit_colors(
    views: Views,
    scene: PublishedScene,
    state: PublishedState,
    layout: DenseLayout,
    config: PublishedTextureConfig,
    last: Float[Tensor, "D 3"] | None = None,
) -> Float[Tensor, "D 3"]:
    """Colours of the dense Gaussians for one tracked frame; `last` are those of the frame before.

    Pictures and layout on one device. Gaussians that no view sees keep the colours of their
    vertices, or take those of the last frame.
    """
    means, quats, scales, colors = densify(state, layout.grid)
    opacities = means.new_ones(len(means))
    vertices = scene.to_meters(state.means)
    counts = [_counts(views, scene, layout, vertices, index) for index in range(len(views.images))]
    poses, lenses = scene.poses_in_units(views), views.cameras.intrinsics
    adam = DeviceAdam(colors)
    order = views_at_random(config.seed, state.steps, len(views.images))
    for step in range(1, config.steps + 1):
        view = next(order)
        leaf = colors.detach().requires_grad_()
        images, _ = render_views(
            means,
            quats,
            scales,
            opacities,
            leaf,
            poses[view : view + 1],
            lenses[view : view + 1],
            views.cameras.size(view),
            near=scene.near,
        )
        loss = l1_dssim(images[0], views.images[view], config.dssim, counts[view])
        (slope,) = torch.autograd.grad(loss, leaf)
        if last is not None:
            slope = slope.add((colors - last).sign_(), alpha=config.constancy / colors.numel())
        adam.move(colors, slope, config.color_rate, step)
    return colors


def densify(
    state: PublishedState, grid: FaceGrid
) -> tuple[Float[Tensor, "D 3"], Float[Tensor, "D 4"], Float[Tensor, "D 3"], Float[Tensor, "D 3"]]:
    """Means, quaternions, scales and colours of dense Gaussians, bilinear between the vertices'.

    Scales are divided by N, as distances are: the paper does not say so, but without it every
    Gaussian would cover N² others.
    """
    at_corners = [
        torch.from_numpy(array).to(grid.corners.device)[grid.corners]
        for array in (state.means, state.quats, state.scales, state.colors)
    ]
    means, quats, scales, colors = at_corners
    # q and -q are one rotation: all four on the first one's side
    quats = torch.where((quats * quats[:, :1]).sum(-1, keepdim=True) < 0, -quats, quats)
    quats = torch.nn.functional.normalize(quats, dim=-1)
    found = [grid.interpolate(values) for values in (means, quats, scales / grid.split, colors)]
    return found[0], found[1], found[2], found[3]


def draw_texture(
    colors: Float[Tensor, "D 3"], layout: DenseLayout
) -> tuple[Float[Tensor, "S S 3"], Bool[Tensor, "S S"]]:
    """The texture, bilinear between the Gaussians' colours and black elsewhere [C], and where it
    is drawn."""
    size, split = layout.size, layout.grid.split
    texture = colors.new_zeros(size * size, 3)
    for begin in range(0, len(layout.texels), TEXELS_AT_ONCE):
        part = slice(begin, begin + TEXELS_AT_ONCE)
        face = layout.texel_faces[part]
        place = layout.places[part] * split
        cell = place.floor().clamp(max=split - 1)
        s, t = (place - cell).unsqueeze(-1).unbind(1)
        column, row = cell.long().unbind(1)
        drawn = (1 - s) * (1 - t) * colors[layout.grid.points[face, row, column]]
        drawn += s * (1 - t) * colors[layout.grid.points[face, row, column + 1]]
        drawn += s * t * colors[layout.grid.points[face, row + 1, column + 1]]
        drawn += (1 - s) * t * colors[layout.grid.points[face, row + 1, column]]
        texture[layout.texels[part]] = drawn.clamp_(0, 1)
    is_drawn = torch.zeros(size * size, dtype=torch.bool, device=colors.device)
    is_drawn[layout.texels] = True
    return texture.view(size, size, 3), is_drawn.view(size, size)


def _counts(
    views: Views, scene: PublishedScene, layout: DenseLayout, vertices: Tensor, index: int
) -> Float[Tensor, "H W"]:
    """Pixels that see a cut face, but for a border of a pixel and the mouth's inside [P]."""
    width, height = views.cameras.size(index)
    factor = max(1, round(width / MASK_WIDTH))
    smaller = views.cameras.resized(views.cameras.sizes // factor)
    topology, device = scene.mesh.topology, views.images[index].device
    raster = rasterize(
        vertices.to(device),
        topology.triangles,
        smaller.world_to_camera[index],
        smaller.intrinsics[index],
        smaller.size(index),
    )
    shows = layout.is_cut.clone()
    if "mouth_interior" in topology.regions:
        shows &= ~topology.triangle_mask("mouth_interior")
    seen = raster.covered & shows.to(device)[raster.triangle.long().clamp(min=0)]
    hidden = max_pool2d((~seen).float()[None, None], 3, 1, 1)
    counts = 1 - interpolate(hidden, (height, width))[0, 0]
    if views.masks is not None:
        counts = counts * (views.masks[index] > 0.95)
    return counts


def _texels(
    scene: PublishedScene, triangle_row: Int[Tensor, " T"], size: int, device: torch.device
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Float[Tensor, "M 2"]]:
    """Texels on cut faces, the faces' rows, and (s, t) of the texels' centres there."""
    topology = scene.mesh.topology
    shown = torch.from_numpy(texel_map(topology, size).triangle).reshape(-1)
    texels = ((shown >= 0) & (triangle_row >= 0)[shown.long().clamp(min=0)]).nonzero()[:, 0]
    triangle = shown[texels].long()
    scaled = torch.stack([topology.uv[:, 0], 1 - topology.uv[:, 1]], 1).double() * size
    corners = scaled[topology.face_uv].to(device)
    faces, texels = topology.triangle_face[triangle].to(device), texels.to(device)
    places = [
        _inverse_bilinear(corners[face], torch.stack([texel % size, texel // size], 1) + 0.5)
        for face, texel in zip(
            faces.split(TEXELS_AT_ONCE), texels.split(TEXELS_AT_ONCE), strict=True
        )
    ]
    return texels, triangle_row[triangle].to(device), torch.cat(places)


def _inverse_bilinear(
    corners: Float[Tensor, "M 4 2"], place: Float[Tensor, "M 2"]
) -> Float[Tensor, "M 2"]:
    """(s, t) in [0, 1] at which the quad (a b c d) reaches each place, by Newton's method."""
    a, b, c, d = corners.unbind(1)
    along, up, twist = b - a, d - a, c - b - d + a
    found = torch.full_like(a, 0.5)
    for _ in range(6):
        s, t = found[:, :1], found[:, 1:]
        miss = a + s * along + t * up + s * t * twist - place
        by_s, by_t = along + t * twist, up + s * twist
        determinant = by_s[:, 0] * by_t[:, 1] - by_s[:, 1] * by_t[:, 0]
        # a face without area in the texture shows its middle
        inverse = torch.where(determinant.abs() > 1e-9, 1 / determinant, 0)
        step_s = (by_t[:, 1] * miss[:, 0] - by_t[:, 0] * miss[:, 1]) * inverse
        step_t = (by_s[:, 0] * miss[:, 1] - by_s[:, 1] * miss[:, 0]) * inverse
        found = (found - torch.stack([step_s, step_t], 1)).clamp(0, 1)
    return found.float()
