"""Pictures in one topology's UVs redrawn in those of another that a bridge leads to."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from topohead.core import Mesh, SurfacePoints, Topology
from topohead.geometry.bridge import Bridge
from topohead.geometry.correspondence import FacingSurface, interpolate
from topohead.geometry.following import BOUND
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.shading import sample_texture
from topohead.rendering.uv import texel_map

STRETCH = 4.0
"""A triangle whose places in the source picture are so many times farther apart than its size
would have it crosses a seam: its texels are looked up one by one."""

CHUNK = 200_000
"""Texels looked up at once."""


def carried_texture(
    picture: Float[Tensor, "H W K"], bridge: Bridge, size: int
) -> Float[Tensor, "S S K"]:
    """A picture in the source's UVs as one in the target's, `size` texels wide.

    Colours and other scalar maps; not normals in tangent space, whose axes turn. Within triangles
    that lie on one island places are linear; others are looked up on the source's surface texel by
    texel. Islands are dilated. Needs UVs of both topologies.
    """
    for topology in (bridge.source, bridge.target):
        if not len(topology.uv):
            raise ValueError(f"{topology.name} has no UVs to carry a picture to or from")
    target = bridge.target
    texels = texel_map(target, size)
    row, column = np.nonzero(texels.inside)
    triangle = torch.from_numpy(texels.triangle[row, column].astype(np.int64))
    weights = _barycentrics(texels.corners, triangle, column, row)
    places, flat = _corner_places(bridge)
    look_up = _Looker(bridge)
    out = np.zeros((size, size, picture.shape[2]), np.float32)
    for start in range(0, len(row), CHUNK):
        part = slice(start, start + CHUNK)
        uv = (weights[part, :, None] * places[triangle[part]]).sum(1)
        astray = ~flat[triangle[part]]
        if bool(astray.any()):
            on_target = SurfacePoints(triangle[part][astray], weights[part][astray])
            uv[astray] = look_up(on_target)
        out[row[part], column[part]] = sample_texture(picture.float(), uv.float()).numpy()
    texels.dilate(out)
    return torch.from_numpy(out)


def _barycentrics(
    corners: np.ndarray, triangle: Int[Tensor, " N"], column: np.ndarray, row: np.ndarray
) -> Float[Tensor, "N 3"]:
    """Weights of texel centres within their triangles, whose corners are (column, row)."""
    a, b, c = (corners[triangle.numpy(), k].astype(np.float64) for k in range(3))
    point = np.stack([column + 0.5, row + 0.5], 1)

    def area(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0])

    whole = area(a, b, c)
    whole = np.where(np.abs(whole) > 1e-12, whole, 1.0)
    first, second = area(point, b, c) / whole, area(a, point, c) / whole
    weights = np.stack([first, second, 1 - first - second], 1).clip(0, 1)
    return torch.from_numpy(weights / weights.sum(1, keepdims=True).clip(1e-12)).float()


def _corner_places(bridge: Bridge) -> tuple[Float[Tensor, "T 3 2"], Bool[Tensor, " T"]]:
    """The source's UVs of every target triangle's corners, and where they may be interpolated."""
    source, points = bridge.source, bridge.points
    corners = source.uv[source.triangle_uv[points.triangles]].float()
    uv = (points.barycentrics.to(corners)[..., None] * corners).sum(1)
    island = _islands(source)[points.triangles]
    triangles = bridge.target.triangles
    places, together = uv[triangles], island[triangles]
    flat = (together == together[:, :1]).all(1)
    on_surface = bridge.rest[triangles]
    wide = (places - places.roll(1, 1)).norm(dim=2).amax(1)
    long = (on_surface - on_surface.roll(1, 1)).norm(dim=2).amax(1)
    skin = flat & (bridge.kind == BOUND)[triangles].all(1)
    density = (wide[skin] / long[skin].clamp(min=1e-12)).median()
    return places, flat & (wide < STRETCH * density * long)


def _islands(topology: Topology) -> Int[Tensor, " T"]:
    """Which UV island each triangle belongs to."""
    corners = topology.triangle_uv.numpy()
    ends = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]]])
    size = len(topology.uv)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    return torch.from_numpy(connected_components(graph, directed=False)[1][corners[:, 0]]).long()


class _Looker:
    """The source's surface as it was placed on the mesh, asked for its UVs."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.normals = vertex_normals(bridge.rest, bridge.target.triangles)
        placed = Mesh(bridge.source, bridge.placed)
        outward = vertex_normals(bridge.placed, bridge.source.triangles)
        self.surface = FacingSurface(placed, outward)

    def __call__(self, points: SurfacePoints) -> Float[Tensor, "N 2"]:
        """UVs of the source where points of the bound mesh lie on it."""
        triangles, source = self.bridge.target.triangles, self.bridge.source
        where = interpolate(points, triangles, self.bridge.rest)
        outward = interpolate(points, triangles, self.normals)
        found = self.surface.closest(where, outward)[0]
        uv = source.uv[source.triangle_uv[found.triangles]].float()
        return (found.barycentrics.to(uv)[..., None] * uv).sum(1)
