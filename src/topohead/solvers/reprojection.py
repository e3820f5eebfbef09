"""Colours of a surface from the pictures that saw it, and of what nobody saw from its like."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import PosedViews, SurfacePoints
from topohead.geometry.correspondence import interpolate
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import depth_maps
from topohead.rendering.shading import sample_texture

DEPTH_TOLERANCE = 0.004
"""Metres by which a point may lie behind what a camera sees there."""

GRAZING = 0.2
"""Cosine of the angle of view below which a picture says nothing of a surface."""

TWIN = 0.006
"""Metres within which a point on the other side of the face stands for an unseen one."""


@dataclass(frozen=True)
class SeenColors:
    """srgb colours of N surface points and how much was seen of each: Σ cos⁴, 0 for nothing."""

    colors: Float[Tensor, "N 3"]
    seen: Float[Tensor, " N"]


def seen_colors(points: SurfacePoints, posed: PosedViews) -> SeenColors:
    """Mean colour of points fixed on the head over all pictures that see them, facing ones first.

    Weights are cos⁴ of the angle of view, times the mask (as multi-view fusion has it; Debevec et
    al. 1996).
    """
    triangles = posed.topology.triangles
    total = torch.zeros(len(points.triangles), 3)
    seen = torch.zeros(len(points.triangles))
    for view, vertices in zip(posed.views, posed.vertices.float(), strict=True):
        places = interpolate(points, triangles, vertices)
        normals = interpolate(points, triangles, vertex_normals(vertices, triangles))
        normals = torch.nn.functional.normalize(normals, dim=1)
        depths = depth_maps(vertices, triangles, view.cameras, cull=False)
        for index, image in enumerate(view.images):
            pixels, weight = sight(
                places, normals, view.cameras.world_to_camera[index],
                view.cameras.intrinsics[index], depths[index],
            )  # fmt: skip
            if view.masks is not None:
                weight = weight * picture_values(view.masks[index][..., None], pixels)[:, 0] ** 4
            total += weight[:, None] * picture_values(image, pixels)
            seen += weight
    return SeenColors(total / seen.clamp(min=1e-9)[:, None], seen)


def sight(
    places: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    depth: Float[Tensor, "H W"],
    tolerance: Float[Tensor, " N"] | float = DEPTH_TOLERANCE,
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " N"]]:
    """Pixels of points in a camera, and cos⁴ of the angle of view; 0 where they are hidden.

    A point may lie `tolerance` metres behind what the camera sees there.
    """
    pose = world_to_camera.float()
    local = places @ pose[:3, :3].T + pose[:3, 3]
    away = local[:, 2].clamp(min=1e-6)
    lens = intrinsics.float()
    pixels = local[:, :2] / away[:, None] * lens.diagonal()[:2] + lens[:2, 2]
    height, width = depth.shape
    inside = (local[:, 2] > 0) & (pixels > 1).all(1)
    inside &= (pixels[:, 0] < width - 1) & (pixels[:, 1] < height - 1)
    column = pixels[:, 0].long().clamp(0, width - 1)
    row = pixels[:, 1].long().clamp(0, height - 1)
    inside &= local[:, 2] < depth[row, column] + tolerance
    center = -(pose[:3, :3].T @ pose[:3, 3])
    ways = torch.nn.functional.normalize(center - places, dim=1)
    cosine = (ways * normals).sum(1)
    return pixels, torch.where(inside & (cosine > GRAZING), cosine.clamp(min=0) ** 4, 0.0)


def picture_values(
    picture: Float[Tensor, "H W K"], pixels: Float[Tensor, "N 2"]
) -> Float[Tensor, "N K"]:
    """A picture at pixel positions, bilinear."""
    height, width = picture.shape[:2]
    uv = torch.stack([pixels[:, 0] / width, 1 - pixels[:, 1] / height], 1)
    return sample_texture(picture, uv)


def completed(
    found: SeenColors, places: Float[Tensor, "N 3"], least: float = 0.01
) -> Float[Tensor, "N 3"]:
    """Colours of all points: unseen ones have their twin's across the face, else their neighbours'.

    `places` are of the resting head in the head frame, whose x = 0 is the plane of symmetry.
    """
    known = found.seen >= least
    if bool(known.all()) or not bool(known.any()):
        return found.colors
    colors = found.colors.clone()
    source, given = places[known].double().numpy(), found.colors[known]
    missing = (~known).nonzero()[:, 0]
    tree = KDTree(source)
    across = places[missing].double() * torch.tensor([-1.0, 1.0, 1.0]).double()
    distance, twin = tree.query(across.numpy())
    near = torch.from_numpy(distance) < TWIN
    count = min(16, len(source))
    _, around = tree.query(places[missing].double().numpy(), k=count)
    smooth = given[torch.from_numpy(around).reshape(len(missing), count)].mean(1)
    colors[missing] = torch.where(near[:, None], given[torch.from_numpy(twin)], smooth)
    return colors
