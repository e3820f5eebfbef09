"""Where each picture shows the head's points, against where the mesh says: found from each other.

Expressions and poses of tracked photos are right to some pixels. What one picture shows, carried
over the mesh into another, lies beside what that one shows, and an average of both is blurred.
Optical flow between a picture and what the others say of it (Kroeger et al. 2016) measures by how
much; a smooth offset of the instant's vertices (`track_fields`) takes half of it away, the others'
offsets the other half. Few rounds suffice. Light differs between photos: what is compared is each
picture's luminance against its surroundings.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import PosedViews, SurfacePoints
from topohead.geometry.correspondence import interpolate
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import depth_maps, rasterize
from topohead.solvers.reprojection import picture_values, sight
from topohead.solvers.track_fields import Smoothness, offset_field

ROUNDS = 3
SHARE = 0.6
"""Of what lies between a picture and the others, how much a round takes away."""

SURROUNDINGS = 1 / 24
"""Of the head's height in the picture, deviation of the surroundings that luminance is held
against."""

CONTRAST = 0.02
"""Luminance that is noise."""

SHARP = 2.0
"""Power of cos⁴ by which the other pictures are blended."""

LEAST = 0.02
"""Of cos⁴, what a picture and the others must have of a point for it to be compared."""

BLUR = 1.0
"""Pixels that a flow is off, at best."""

RETURN = 1.0
"""Pixels by which a flow and the flow back may disagree: beyond, it counts for little."""

MOST = 8
"""Other pictures that one is compared with: those from the most similar directions."""

FARTHEST = 1 / 24
"""Of the head's height: longer flows are mistakes."""

OWN = Smoothness(offset=0.1, bend=0.0002)
"""What an instant may have beyond its expression."""


@dataclass(frozen=True)
class _Picture:
    instant: int
    camera: int
    light: Float[Tensor, "H W 1"]
    mask: Float[Tensor, "H W"]


def aligned_vertices(posed: PosedViews) -> Float[Tensor, "T V 3"]:
    """The vertices of every instant, moved smoothly to where its pictures show the same skin."""
    base = posed.vertices.double()
    pictures = [
        _Picture(t, c, _local_light(posed, t, c), _mask(posed, t, c))
        for t, view in enumerate(posed.views)
        for c in range(len(view.images))
    ]
    directions = torch.stack([_direction(posed, one) for one in pictures])
    near = (directions @ directions.T).argsort(dim=1, descending=True)
    moved = base.clone()
    for _ in range(ROUNDS):
        seen = [
            vertex_sight(posed, moved[one.instant], one.instant, one.camera) for one in pictures
        ]
        after = moved.clone()
        for t in range(len(base)):
            rows = [
                _measured(posed, moved, pictures, seen, k, near[k].tolist())
                for k, one in enumerate(pictures)
                if one.instant == t
            ]
            points, slopes, gaps = (torch.cat([row[i] for row in rows]) for i in range(3))
            if not len(points):
                continue
            offsets = (moved[t] - base[t])[points]
            total = torch.einsum("pkj,pj->pk", slopes, offsets) + gaps
            after[t] = base[t] + offset_field(
                posed.topology, base[t], _at_vertices(posed, points), slopes, total, OWN
            )
        moved = after
    return moved.to(posed.vertices)


def _measured(
    posed: PosedViews, moved: Tensor, pictures: list[_Picture], seen: list[Tensor], k: int,
    near: list[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Vertices that picture k and others see; pixels a metre, pixels they are off, both whitened.

    `near` are all pictures, those from the most similar directions first.
    """
    one, triangles = pictures[k], posed.topology.triangles
    pose, lens, size = _camera(posed, one)
    raster = rasterize(moved[one.instant].float(), triangles, pose, lens, size, cull=False)
    covered = raster.triangle >= 0
    points = SurfacePoints(raster.triangle[covered].long(), raster.barycentrics[covered])
    total = torch.zeros(len(points.triangles))
    blend = torch.zeros(len(points.triangles), 1)
    corners = triangles[points.triangles]
    others = [j for j in near if pictures[j].instant != one.instant]
    for j in others[:MOST]:
        other = pictures[j]
        weight = (points.barycentrics * seen[j][corners]).sum(1) ** SHARP
        places = interpolate(points, triangles, moved[other.instant].float())
        pixels = _drawn(places, *_camera(posed, other)[:2])
        blend += weight[:, None] * picture_values(other.light, pixels)
        total += weight
    own = (points.barycentrics * seen[k][corners]).sum(1)
    known = (total > LEAST**SHARP) & (own > LEAST)
    height, width = one.mask.shape
    theirs = torch.zeros(height, width)
    valid = torch.zeros(height, width, dtype=torch.bool)
    valid[covered] = known
    theirs[covered] = torch.where(known, blend[:, 0] / total.clamp(min=1e-9), 0.0)
    flow, trust = _flow(theirs, one.light[..., 0], valid, _tall(covered))
    vertices = moved[one.instant]
    pixels = _drawn(vertices.float(), pose, lens)
    trusted = picture_values(trust[..., None], pixels)[:, 0]
    asked = ((seen[k] > LEAST) & (trusted > 0.05)).nonzero()[:, 0]
    gaps = SHARE * picture_values(flow, pixels[asked]).double()
    slopes = _slopes(vertices[asked], pose.double(), lens.double())
    sure = trusted[asked].double()[:, None] / BLUR
    return asked, slopes * sure[..., None], gaps * sure


def _flow(
    theirs: Float[Tensor, "H W"], mine: Float[Tensor, "H W"], valid: Bool[Tensor, "H W"], tall: int
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
    """Pixels from where the others have a thing to where this picture has it, and their trust."""
    pair = [
        (128 + 40 * torch.where(valid, part, 0.0)).clamp(0, 255).to(torch.uint8).numpy()
        for part in (theirs, mine)
    ]
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still = np.zeros((*valid.shape, 2), np.float32)
    there = solver.calc(pair[0], pair[1], still.copy())
    back = solver.calc(pair[1], pair[0], still.copy())
    rows, columns = np.mgrid[: valid.shape[0], : valid.shape[1]].astype(np.float32)
    returned = cv2.remap(back, columns + there[..., 0], rows + there[..., 1], cv2.INTER_LINEAR)
    gap = torch.from_numpy(there + returned).norm(dim=-1)
    flow = torch.from_numpy(there)
    inner = cv2.erode(valid.numpy().astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    trust = 1 / (1 + (gap / RETURN).square()).square()
    trust = trust * torch.from_numpy(inner) * (flow.norm(dim=-1) < FARTHEST * tall)
    return flow, trust


def _local_light(posed: PosedViews, t: int, c: int) -> Float[Tensor, "H W 1"]:
    """Log luminance against its surroundings' mean, over their deviation; within the mesh."""
    view = posed.views[t]
    light = view.images[c] @ torch.tensor([0.299, 0.587, 0.114])
    light = (light + CONTRAST).log().numpy()
    pose, lens = view.cameras.world_to_camera[c], view.cameras.intrinsics[c]
    raster = rasterize(
        posed.vertices[t].float(), posed.topology.triangles, pose, lens, view.cameras.size(c),
        cull=False,
    )  # fmt: skip
    mask = ((raster.triangle >= 0) & (_mask(posed, t, c) > 0.5)).float().numpy()
    wide = max(_tall(torch.from_numpy(mask) > 0) * SURROUNDINGS, 1.0)

    def around(values: np.ndarray) -> np.ndarray:
        total = cv2.GaussianBlur(values * mask, (0, 0), wide)
        return total / np.maximum(cv2.GaussianBlur(mask, (0, 0), wide), 1e-3)

    mean = around(light)
    spread = np.sqrt(np.maximum(around((light - mean) ** 2), 0))
    return torch.from_numpy(np.clip((light - mean) / (spread + 0.05), -3, 3) * mask)[..., None]


def _mask(posed: PosedViews, t: int, c: int) -> Float[Tensor, "H W"]:
    view = posed.views[t]
    if view.masks is None:
        return torch.ones(view.images[c].shape[:2])
    return view.masks[c]


def vertex_sight(
    posed: PosedViews, moved: Float[Tensor, "V 3"], t: int, c: int
) -> Float[Tensor, " V"]:
    """cos⁴ of the angle at which camera c of instant t sees each vertex, 0 where it is hidden."""
    vertices, triangles, cameras = moved.float(), posed.topology.triangles, posed.views[t].cameras
    depth = depth_maps(vertices, triangles, cameras, cull=False)[c]
    pixels, weight = sight(
        vertices, vertex_normals(vertices, triangles), cameras.world_to_camera[c],
        cameras.intrinsics[c], depth,
    )  # fmt: skip
    return weight * picture_values(_mask(posed, t, c)[..., None], pixels)[:, 0] ** 4


def _camera(posed: PosedViews, one: _Picture) -> tuple[Tensor, Tensor, tuple[int, int]]:
    cameras, c = posed.views[one.instant].cameras, one.camera
    return cameras.world_to_camera[c], cameras.intrinsics[c], cameras.size(c)


def _direction(posed: PosedViews, one: _Picture) -> Float[Tensor, "3"]:
    """Where a picture looks, in the head's frame."""
    away = posed.vertices[one.instant].double().mean(0)
    away = away - posed.views[one.instant].cameras.centers[one.camera].double()
    return torch.nn.functional.normalize(away @ posed.poses[one.instant, :3, :3].double(), dim=0)


def _drawn(places: Tensor, pose: Tensor, lens: Tensor) -> Float[Tensor, "N 2"]:
    local = places @ pose[:3, :3].to(places).T + pose[:3, 3].to(places)
    flat = local @ lens.to(places).T
    return flat[:, :2] / flat[:, 2:].clamp(min=1e-6)


def _slopes(places: Tensor, pose: Tensor, lens: Tensor) -> Float[Tensor, "N 2 3"]:
    """Pixels a metre in the world, at each place."""
    matrix = lens @ pose[:3]
    flat = places @ matrix[:, :3].T + matrix[:, 3]
    drawn = flat[:, :2] / flat[:, 2:]
    return (matrix[:2, :3] - drawn[..., None] * matrix[2, :3]) / flat[:, 2, None, None]


def _at_vertices(posed: PosedViews, rows: Tensor) -> SurfacePoints:
    """Vertices as points of triangles that have them."""
    triangles = posed.topology.triangles
    owner = torch.zeros(posed.topology.vertex_count, 2, dtype=torch.long)
    for corner in range(3):
        owner[triangles[:, corner]] = torch.stack(
            [torch.arange(len(triangles)), torch.full((len(triangles),), corner)], 1
        )
    shares = torch.nn.functional.one_hot(owner[rows, 1], 3).double()
    return SurfacePoints(owner[rows, 0], shares)


def _tall(covered: Bool[Tensor, "H W"]) -> int:
    rows = covered.any(1).nonzero()[:, 0]
    return int(rows[-1] - rows[0] + 1) if len(rows) else 1
