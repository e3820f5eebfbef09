"""What a scan's triangles say of the skin between their corners: where it bulges, how it faces."""

import math
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Scan
from topohead.geometry.meshes import vertex_normals

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
    scan: Scan, corners: Int[Tensor, "N 3"], weights: Float[Tensor, "N 3"], spacing: float
) -> Float[Tensor, "N 3"]:
    """Unit normals at points (numbers of corners, barycentric weights) of samples so far apart.

    Large triangles have their own. Small ones have what is between their corners': the normal of a
    triangle no larger than a scanner's noise is noise.
    """
    places = scan.points[corners].double()
    double = torch.linalg.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])
    own = torch.nn.functional.normalize(double, dim=1, eps=1e-30)
    side = double.norm(dim=1, keepdim=True).sqrt() / spacing
    large = ((side - SMALL[0]) / (SMALL[1] - SMALL[0])).clamp(0, 1)
    if bool((large == 1).all()):
        return own
    between = (weights[..., None] * calm_normals(scan)[corners]).sum(1)
    between = torch.nn.functional.normalize(between, dim=1, eps=1e-30)
    return torch.nn.functional.normalize(torch.lerp(between, own, large), dim=1, eps=1e-30)


def calm_normals(scan: Scan) -> Float[Tensor, "V 3"]:
    """Vertices' unit normals, float64, averaged with their neighbours' where noise turns them.

    Found once for a scan; nobody may change them.
    """
    found = _CALM.get(scan)
    if found is None:
        found = _CALM[scan] = _calmed(scan.points.detach().double(), scan.triangles)
    return found


_CALM: WeakKeyDictionary[Scan, Tensor] = WeakKeyDictionary()


def _calmed(vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]) -> Float[Tensor, "V 3"]:
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
