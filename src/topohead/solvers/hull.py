"""What belongs to a person but not to the head's mesh: hair, ears of a cap, shoulders.

The visual hull (Laurentini 1994) of all mattes, carried into the resting head's frame: a point is
kept where every picture that has it in sight shows the person. Its outermost layer, as far as it
stands off the mesh, is where Gaussians begin that follow the head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import PosedViews
from topohead.geometry.correspondence import TriangleTree
from topohead.solvers.reprojection import picture_values

REACH = (0.10, 0.10, 0.10)
"""Metres beyond the mesh's box that are looked at, along each axis of the world."""

OFF = 0.006
"""Metres that a point must stand off the mesh: nearer, the skin's own Gaussians reach."""

FARTHEST = 0.12
"""Metres off the mesh beyond which nothing is kept: a hull of few views has long false corners."""

LEAST_VIEWS = 3
"""Cameras that must show a point, in directions that differ: fewer cut no hull out."""


@dataclass(frozen=True)
class HullPoints:
    """N points on the outside of the hull, at rest: nearest triangle, its barycentrics, colour."""

    places: Float[Tensor, "N 3"]
    triangles: Int[Tensor, " N"]
    barycentrics: Float[Tensor, "N 3"]
    colors: Float[Tensor, "N 3"]
    spacing: float


def hull_points(
    posed: PosedViews, rest: Float[Tensor, "V 3"], carriers: Bool[Tensor, " T"], spacing: float
) -> HullPoints:
    """The hull's outer layer off the mesh, `spacing` metres apart; may be empty.

    `carriers` are the triangles that points may follow, such as scalp and neck: not lips and lids.
    """
    grid = _grid(rest, spacing)
    inside, colors = _carved(posed, grid.reshape(-1, 3))
    solid = inside.reshape(grid.shape[:3])
    deep = solid.clone()
    for axis in range(3):
        for step in (-1, 1):
            deep &= solid.roll(step, axis)
    shell = (solid & ~deep).reshape(-1).nonzero()[:, 0]
    owners = carriers.nonzero()[:, 0]
    places = grid.reshape(-1, 3)[shell]
    triangles = posed.topology.triangles
    corners = rest[triangles].double()
    height = _height(places, corners)
    kept = (height > OFF) & (height < FARTHEST)
    shell, places = shell[kept], places[kept]
    if not len(shell):
        empty = torch.zeros(0, 3)
        return HullPoints(empty, torch.zeros(0, dtype=torch.long), empty, empty, spacing)
    nearest, weights, _ = TriangleTree(corners[owners].numpy()).closest(places.double().numpy())
    return HullPoints(
        places, owners[torch.from_numpy(nearest)], torch.from_numpy(weights).float(),
        colors[shell], spacing,
    )  # fmt: skip


def _grid(rest: Float[Tensor, "V 3"], spacing: float) -> Float[Tensor, "X Y Z 3"]:
    reach = torch.tensor(REACH)
    low, high = rest.amin(0) - reach, rest.amax(0) + reach
    axes = [torch.arange(float(a), float(b), spacing) for a, b in zip(low, high, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def _carved(
    posed: PosedViews, points: Float[Tensor, "N 3"]
) -> tuple[Bool[Tensor, " N"], Float[Tensor, "N 3"]]:
    """Which points all pictures show as the person, and their mean colour there."""
    inside = torch.ones(len(points), dtype=torch.bool)
    total, seen = torch.zeros(len(points), 3), torch.zeros(len(points))
    cameras: dict[str, Tensor] = {}
    for t, view in enumerate(posed.views):
        pose = posed.poses[t].float()
        moved = points @ pose[:3, :3].T + pose[:3, 3]
        for index, image in enumerate(view.images):
            assert view.masks is not None
            camera = view.cameras.world_to_camera[index].float()
            local = moved @ camera[:3, :3].T + camera[:3, 3]
            lens = view.cameras.intrinsics[index].float()
            pixels = local[:, :2] / local[:, 2:].clamp(min=1e-6) * lens.diagonal()[:2] + lens[:2, 2]
            height, width = image.shape[:2]
            visible = (local[:, 2] > 0) & (pixels >= 0).all(1)
            visible &= (pixels[:, 0] < width) & (pixels[:, 1] < height)
            mask = picture_values(view.masks[index][..., None], pixels)[:, 0]
            inside &= ~visible | (mask > 0.5)
            total += visible[:, None] * picture_values(image, pixels)
            seen += visible
            name = view.cameras.names[index]
            cameras[name] = cameras.get(name, torch.zeros(len(points), dtype=torch.bool)) | visible
    shown = torch.stack(list(cameras.values())).sum(0)
    return inside & (shown >= LEAST_VIEWS), total / seen.clamp(min=1)[:, None]


def _height(places: Float[Tensor, "N 3"], corners: Float[Tensor, "T 3 3"]) -> Float[Tensor, " N"]:
    """Metres from the surface, negative behind it: inside the head."""
    nearest, weights, distance = TriangleTree(corners.numpy()).closest(places.double().numpy())
    found = corners[torch.from_numpy(nearest)]
    foot = (torch.from_numpy(weights)[..., None] * found).sum(1)
    normals = torch.linalg.cross(found[:, 1] - found[:, 0], found[:, 2] - found[:, 0])
    side = ((places.double() - foot) * normals).sum(1).sign()
    return side * torch.from_numpy(distance)
