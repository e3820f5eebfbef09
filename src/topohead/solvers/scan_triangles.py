"""What a scan's triangles say of the skin between their corners: where it bulges, how it faces."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.meshes import face_normals, vertex_normals

BULGE = 0.75
"""How far points of triangles go to where their corners' planes have them, as Boubekeur and Alexa
have it. Half-way is right for a sphere; on tuning scans (seed 150) all the way was best."""

SMALL = 0.35, 0.7
"""Triangles are small whose sides are shorter than so many spacings between samples, large from the
second number on, in between both in part. The network's samples are 2.9 mm apart on a head."""

ROUGH, SMOOTH, ROUNDS = math.cos(math.radians(12)), math.cos(math.radians(4)), 8
"""Cosine between corners' normals (the median) below which a scan is rough, that which averaging
aims at, and how often it is done at most."""


def bulged(
    corners: Float[Tensor, "N 3 3"], normals: Float[Tensor, "N 3 3"], weights: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """Points of triangles that are curved as their corners' unit normals say (Phong tessellation).

    A chord of a convex skin lies inside it: by h²/8r for sides h and a radius r. Boubekeur and
    Alexa 2008: the mean of a point's projections onto the planes at the corners.
    """
    flat = (weights[..., None] * corners).sum(1)
    height = ((flat[:, None] - corners) * normals).sum(2)
    return flat - BULGE * ((weights * height)[..., None] * normals).sum(1)


def skin_normals(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    face: Int[Tensor, " N"],
    weights: Float[Tensor, "N 3"],
    spacing: float,
) -> Float[Tensor, "N 3"]:
    """Unit normals at points (numbers of triangles, barycentric weights) of samples so far apart.

    Large triangles have their own. Small ones have what is between their corners': the normal of a
    triangle no larger than a scanner's noise is noise.
    """
    own = face_normals(vertices, triangles)[face]
    corners = vertices[triangles[face]]
    double = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    side = double.norm(dim=1, keepdim=True).sqrt() / spacing
    large = ((side - SMALL[0]) / (SMALL[1] - SMALL[0])).clamp(0, 1)
    if bool((large == 1).all()):
        return own
    around = calm_normals(vertices, triangles)[triangles[face]]
    between = torch.nn.functional.normalize((weights[..., None] * around).sum(1), dim=1, eps=1e-30)
    return torch.nn.functional.normalize(torch.lerp(between, own, large), dim=1, eps=1e-30)


def calm_normals(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, "V 3"]:
    """Vertices' unit normals, averaged with their neighbours' where noise turns them."""
    normals = vertex_normals(vertices, triangles)
    wanted = ROUGH
    for _ in range(ROUNDS):
        corner = normals[triangles]
        if float((corner[:, 0] * corner[:, 1]).sum(1).median()) >= wanted:
            break
        wanted = SMOOTH
        mean = corner.sum(1)
        total = torch.zeros_like(normals)
        for k in range(3):
            total.index_add_(0, triangles[:, k], mean)
        normals = torch.nn.functional.normalize(total, dim=1, eps=1e-30)
    return normals
