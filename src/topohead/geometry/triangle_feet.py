"""Distances to a mesh from places near it, on the device of its vertices."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.geometry.point_tree import PointTree

VERTICES = 3
"""Nearest vertices whose triangles are looked at."""


def nearest_triangles(
    places: Float[Tensor, "N 3"],
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    fan: Int[Tensor, "V K"],
    counts: Bool[Tensor, " T"],
    rows: Int[Tensor, " R"] | None = None,
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The nearest triangle that counts, and its distance, for places no farther than a few edges.

    Asked are the triangles (`vertex_fan`) at the `VERTICES` nearest vertices of any that counts:
    of some thousand places one or two miss their nearest triangle and get a distance that is a few
    tenths of an edge too great. `rows` are the vertices of those that count, if they are known. On
    CUDA nothing waits for the device.
    """
    if rows is None:
        rows = corners_of(triangles[counts], len(vertices))
    _, near = PointTree(vertices[rows]).query(places, min(VERTICES, len(rows)))
    asked = fan[rows[near]].flatten(1).sort(1).values
    there = asked < len(triangles)
    there[:, 1:] &= asked[:, 1:] != asked[:, :-1]
    asked = asked.clamp(max=len(triangles) - 1)
    there &= counts[asked]
    if places.is_cuda:
        away = triangle_distances(places[:, None], vertices[triangles[asked]])
        away = away.masked_fill(~there, torch.inf)
    else:
        place, slot = there.nonzero(as_tuple=True)
        feet = triangle_distances(places[place], vertices[triangles[asked[place, slot]]])
        away = torch.full(there.shape, torch.inf).to(places)
        away[place, slot] = feet
    distance, best = away.min(1)
    return asked.gather(1, best[:, None])[:, 0], distance


def corners_of(triangles: Int[Tensor, "T 3"], count: int) -> Int[Tensor, " R"]:
    """Which of `count` vertices are a triangle's, in order."""
    used = torch.zeros(count, dtype=torch.bool, device=triangles.device)
    used[triangles.flatten()] = True
    return used.nonzero()[:, 0]


def triangle_distances(
    places: Float[Tensor, "*B 3"], corners: Float[Tensor, "*C 3 3"]
) -> Float[Tensor, "*D"]:
    """From places to triangles: to the foot on the plane where that lies inside, else the edges."""
    after = corners.roll(-1, -2)
    along, arm = after - corners, places[..., None, :] - corners
    share = (arm * along).sum(-1) / (along * along).sum(-1).clamp(min=1e-30)
    off = arm - share.clamp(0, 1)[..., None] * along
    edges = off.norm(dim=-1).amin(-1)
    normal = torch.linalg.cross(along[..., 0, :], along[..., 1, :])
    inward = torch.linalg.cross(normal[..., None, :].expand_as(along), along)
    length = normal.norm(dim=-1)
    inside = ((arm * inward).sum(-1) >= 0).all(-1) & (length > 1e-30)
    height = (arm[..., 0, :] * normal).sum(-1).abs() / length.clamp(min=1e-30)
    return torch.where(inside, height, edges)
