"""Surfaces triangulated anew, as scanners leave them: fused, scattered, seen from one side.

The registration network is trained on points drawn from the reference's own faces; these are what
it never saw. All take and give outer surfaces in metres and keep nothing of the old triangles.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_dilation
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from topohead.geometry.meshes import face_normals, vertex_areas
from topohead.rendering.mesh import Raster, rasterize

VIEWS, PICTURE = 24, 1024
"""From how many sides a surface is looked at, and the size of each picture."""

AWAY, ROOM = 6.0, 1.1
"""How far these views are and what half a picture holds, times the radius of the ball around a
surface."""

TRUNCATED = 2.0
"""Distances count up to so many cells before and behind what a view sees."""

JUMP = 4.0
"""Neighbouring pixels farther apart in depth than so many of their sides share no triangle."""


class Triangulated(NamedTuple):
    """A triangle surface, metres, counter-clockwise from outside."""

    vertices: Float[Tensor, "V 3"]
    triangles: Int[Tensor, "T 3"]


def seen_part(surface: Triangulated) -> Triangulated:
    """What is seen from any side: no mouth bag, no back of an eyeball; unused vertices left out."""
    vertices, triangles = surface
    seen = torch.zeros(len(triangles), dtype=torch.bool)
    for *_, facing, raster in _pictures(surface):
        seen[raster.triangle[facing > 0].unique().long()] = True
    # a triangle smaller than a pixel is seen when the ones around it are
    around = torch.zeros(len(vertices)).index_add_(
        0, triangles.flatten(), (seen.float() * 2 - 1).repeat_interleave(3)
    )
    return _used(vertices, triangles[seen | (around[triangles] > 0).all(1)])


def fused(surface: Triangulated, cell: float) -> Triangulated:
    """The surface through a grid of cells of this side, as depth pictures from around are fused.

    Signed distances along the views' rays, truncated and averaged by the cosine of their incidence
    (Curless and Levoy 1996); meshed by surface nets (Gibson 1998): each crossed cell holds a
    vertex, the mean of the crossings of its edges, each crossed edge makes a quad of the four
    cells around it. Open where nothing was seen; folds nearer than a cell or two grow together.
    """
    inside, origin = _distances(surface, cell)
    known = np.isfinite(inside)
    corner = [np.s_[a : a - 1 or None, b : b - 1 or None, c : c - 1 or None]
              for a in (0, 1) for b in (0, 1) for c in (0, 1)]  # fmt: skip
    whole = np.logical_and.reduce([known[part] for part in corner])
    total, crossings = np.zeros((*whole.shape, 3)), np.zeros(whole.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        for a in range(8):
            for axis in range(3):
                b = a | (4 >> axis)
                if a == b:
                    continue
                near, far = inside[corner[a]], inside[corner[b]]
                crossed = (near < 0) != (far < 0)
                place = np.array([a >> 2 & 1, a >> 1 & 1, a & 1], float) + np.zeros_like(total)
                place[..., axis] += np.where(crossed, near / (near - far), 0)
                total += np.where(crossed[..., None], place, 0)
                crossings += crossed
    filled = whole & (crossings > 0)
    number = np.full(whole.shape, -1)
    number[filled] = np.arange(filled.sum())
    index = np.stack(np.nonzero(filled), 1)
    vertices = origin + cell * (index + total[filled] / crossings[filled][:, None])
    return _used(torch.from_numpy(vertices).float(), torch.from_numpy(_net(inside, number)))


def _distances(surface: Triangulated, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances on grid points near the surface, NaN elsewhere; the first point's place."""
    low, high = (torch.stack(surface.vertices.aminmax(dim=0)).double().numpy() + 0.0).copy()
    origin = low - 4 * cell
    size = np.ceil((high + 4 * cell - origin) / cell).astype(int) + 1
    corners = surface.vertices[surface.triangles].double().numpy()
    touched = np.zeros(size, bool)
    for here in (*np.moveaxis(corners, 1, 0), corners.mean(1)):
        touched[tuple(np.rint((here - origin) / cell).astype(int).T)] = True
    index = np.stack(np.nonzero(binary_dilation(touched, np.ones((3, 3, 3), bool))), 1)
    points = torch.from_numpy(origin + cell * index)
    total, weights = torch.zeros(len(points)).double(), torch.zeros(len(points)).double()
    for camera, intrinsics, cosine, raster in _pictures(surface):
        seen = (points @ camera[:3, :3].T + camera[:3, 3]) @ intrinsics.T
        column, row = (seen[:, :2] / seen[:, 2:]).floor().long().clamp(0, PICTURE - 1).unbind(1)
        ahead = raster.depth[row, column].double() - seen[:, 2]
        facing = cosine[row, column]
        known = (facing > 0) & (ahead > -TRUNCATED * cell)
        weight = torch.where(known, facing, 0.0)
        total += weight * torch.where(known, facing * ahead, 0.0).clamp(max=TRUNCATED * cell)
        weights += weight
    field = np.full(size, np.nan)
    field[tuple(index.T)] = torch.where(weights > 0, total / weights, torch.nan).numpy()
    return field, origin


def _net(inside: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Two triangles for each grid edge between inside and outside whose four cells are filled."""
    found = []
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        field = np.moveaxis(inside, (axis, first, second), (0, 1, 2))
        cells = np.moveaxis(number, (axis, first, second), (0, 1, 2))
        low, high = field[:-1, 1:-1, 1:-1], field[1:, 1:-1, 1:-1]
        around = [cells[:, i : i - 1 or None, j : j - 1 or None]
                  for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]  # fmt: skip
        corners = np.stack(around, -1)
        crossed = ((low < 0) != (high < 0)) & (corners >= 0).all(-1)
        quads = corners[crossed]
        quads[(low >= 0)[crossed]] = quads[(low >= 0)[crossed]][:, ::-1]
        found += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    return np.concatenate(found)


def scattered(surface: Triangulated, count: int, generator: torch.Generator) -> Triangulated:
    """Points thrown on the surface without order, triangulated by Delaunay along the surface.

    The dual of their Voronoi cells by geodesic distance (along edges, so the surface should hold
    many more vertices than `count`). Neither even nor well shaped, as random insertion is.
    """
    vertices, triangles = surface
    area = vertex_areas(vertices, triangles)
    seeds = torch.multinomial(area / area.sum(), count, generator=generator)
    edges = torch.cat([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    edges = edges.sort(1).values.unique(dim=0)
    length = (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=-1).double().numpy()
    graph = coo_array((length, tuple(edges.T.numpy())), shape=(len(vertices), len(vertices)))
    # sources are numbered by vertex; the nearest one of each vertex is its cell
    _, _, cell = dijkstra(
        graph.tocsr(), False, seeds.numpy(), return_predecessors=True, min_only=True
    )
    owner = torch.from_numpy(cell).long()[triangles]
    meeting = (owner[:, 0] != owner[:, 1]) & (owner[:, 1] != owner[:, 2])
    meeting &= (owner[:, 2] != owner[:, 0]) & (owner >= 0).all(1)
    return _used(vertices, owner[meeting].unique(dim=0))


def halved(surface: Triangulated) -> Triangulated:
    """The same surface, every triangle in four at the middles of its sides."""
    vertices, triangles = surface
    sides = torch.cat([triangles[:, [k, (k + 1) % 3]] for k in range(3)]).sort(1).values
    ends, place = sides.unique(dim=0, return_inverse=True)
    middle = (len(vertices) + place.reshape(3, -1).T).to(triangles)
    (a, b, c), (ab, bc, ca) = triangles.unbind(1), middle.unbind(1)
    parts = ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))
    return Triangulated(
        torch.cat([vertices, vertices[ends].mean(1)]),
        torch.cat([torch.stack(part, 1) for part in parts]),
    )


def depth_view(
    surface: Triangulated, towards: Float[Tensor, "3"], side: int, error: float, seed: int = 0
) -> Triangulated:
    """One frame of a depth camera on the side `towards`, half a metre away, as a mesh.

    `side` pixels square; depths are off by `error` metres rms, together over patches of a few
    pixels as those of structured light are. Triangles end at jumps of depth.
    """
    center, radius = _ball(surface.vertices)
    camera, intrinsics = looking_at(center, towards, 0.5 + radius, side, 1.1 * radius)
    raster = rasterize(surface.vertices, surface.triangles, camera, intrinsics, (side, side))
    rough = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    kernel = torch.ones(1, 1, 3, 3) / 3
    rough = torch.nn.functional.conv2d(rough, kernel, padding=1)[0, 0]
    depth = raster.depth.float() + error * rough
    row, column = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    focal, middle = intrinsics[0, 0], intrinsics[0, 2]
    ray = torch.stack([(column - middle) / focal, (row - middle) / focal, torch.ones_like(row)], -1)
    seen = torch.where(raster.covered, depth, 0.0)[..., None] * ray.float()
    points = (seen.reshape(-1, 3) - camera[:3, 3].float()) @ camera[:3, :3].float()
    number = torch.arange(side * side).reshape(side, side)
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    triangles = torch.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    corner = depth.reshape(-1)[triangles]
    pixel = float(center.new_tensor(0.5 + radius) / focal)
    joined = (corner.amax(1) - corner.amin(1) < JUMP * pixel) & corner.isfinite().all(1)
    return _used(points, triangles[joined])


def looking_at(
    center: Float[Tensor, "3"],
    towards: Float[Tensor, "3"],
    distance: float,
    side: int,
    half: float,
    up: Float[Tensor, "3"] | None = None,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
    """A camera on the side `towards`, `distance` from the centre: world to camera, intrinsics.

    Its square picture of `side` pixels holds `half` metres each way; `up` is +y by default.
    """
    up = torch.tensor([0.0, 1.0, 0.0]) if up is None else up
    back = torch.nn.functional.normalize(towards.double(), dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(up.double(), back), dim=0)
    turn = torch.stack([right, -torch.linalg.cross(back, right), -back])
    camera = torch.eye(4).double()
    camera[:3, :3] = turn
    camera[:3, 3] = -turn @ (center.double() + distance * back)
    focal = side / 2 * distance / half
    intrinsics = torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    return camera, intrinsics.double()


def _pictures(surface: Triangulated) -> Iterator[tuple[Tensor, Tensor, Tensor, Raster]]:
    """The surface from all sides: world to camera, intrinsics, at what cosine each pixel sees it,
    and what it sees.

    The cosine is 0 where that is a surface from behind, as through the neck from below: it hides
    what lies farther, and nobody scans a head from inside.
    """
    center, radius = _ball(surface.vertices)
    normals = face_normals(surface.vertices.double(), surface.triangles)
    for towards in evenly_around(VIEWS):
        camera, intrinsics = looking_at(center, towards, AWAY * radius, PICTURE, ROOM * radius)
        raster = rasterize(*surface, camera, intrinsics, (PICTURE, PICTURE), cull=False)
        facing = -(normals @ camera[:3, :3].T)[:, 2].clamp(max=0)
        seen = torch.where(raster.covered, facing[raster.triangle.long()], 0.0)
        yield camera, intrinsics, seen, raster


def evenly_around(count: int) -> Float[Tensor, "N 3"]:
    """Directions spread evenly over the sphere (a golden spiral), none straight up or down."""
    k = torch.arange(count) + 0.5
    height = 0.9 * (1 - 2 * k / count)
    turn = math.pi * (3 - math.sqrt(5)) * k
    flat = (1 - height.square()).sqrt()
    return torch.stack([flat * torch.sin(turn), height, flat * torch.cos(turn)], 1)


def _ball(vertices: Float[Tensor, "V 3"]) -> tuple[Float[Tensor, "3"], float]:
    center = (vertices.amin(0) + vertices.amax(0)) / 2
    return center, float((vertices - center).norm(dim=1).max())


def _used(vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]) -> Triangulated:
    """Without vertices that no triangle uses."""
    used: Bool[Tensor, " V"] = torch.zeros(len(vertices), dtype=torch.bool)
    used[triangles.flatten()] = True
    return Triangulated(vertices[used], (used.long().cumsum(0) - 1)[triangles])
