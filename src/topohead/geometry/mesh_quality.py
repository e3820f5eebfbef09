"""What can be wrong with a mesh in itself: turned-over faces, sheets through sheets, bad angles."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import face_normals

FLAT = 1e-12
"""Volumes and areas below this share of their largest possible value count as touching, not as
crossing."""


def flipped(
    vertices: Float[Tensor, "V 3"], like: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> Bool[Tensor, " T"]:
    """Triangles that face away from where those of another shape face, once turned onto it.

    Both shapes should lie alike; for the true shape and a registered one they do.
    """
    cosine = (face_normals(vertices, triangles) * face_normals(like, triangles)).sum(-1)
    return cosine < 0


def quad_angles(vertices: Float[Tensor, "V 3"], topology: Topology) -> Float[Tensor, "Q 4"]:
    """Inner angles at the corners of all faces with four corners, degrees."""
    corners = vertices[topology.faces[topology.is_quad]].double()
    before = torch.nn.functional.normalize(corners.roll(1, 1) - corners, dim=-1)
    after = torch.nn.functional.normalize(corners.roll(-1, 1) - corners, dim=-1)
    return torch.rad2deg(torch.acos((before * after).sum(-1).clamp(-1, 1)))


def self_intersections(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> Bool[Tensor, " T"]:
    """Triangles that an edge of another one pierces, or that pierce another; touching is none.

    Two triangles that share a vertex are not compared. Segments against triangles by signs of
    volumes (Segura and Feito 2001), in float64.
    """
    places = vertices.detach().double().numpy()
    corner = triangles.numpy()
    pairs = _near(places[corner])
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    own, other = corner[pairs[:, 0]], corner[pairs[:, 1]]
    apart = (own[:, :, None] != other[:, None, :]).all((1, 2))
    pairs, own, other = pairs[apart], own[apart], other[apart]
    hit = np.zeros(len(triangles), bool)
    a, b, c = (places[other[:, k]] for k in range(3))
    for k in range(3):
        p, q = places[own[:, k]], places[own[:, (k + 1) % 3]]
        sides = _volume(p, a, b, c), _volume(q, a, b, c)
        around = [_volume(p, q, *edge) for edge in ((a, b), (b, c), (c, a))]
        size = np.linalg.norm(q - p, axis=1) * np.linalg.norm(b - a, axis=1)
        least = FLAT * size * np.linalg.norm(c - a, axis=1)
        through = (sides[0] * sides[1] < 0) & (np.abs(sides).min(0) > least)
        through &= (np.min(around, 0) >= -least) | (np.max(around, 0) <= least)
        hit[pairs[through].ravel()] = True
    return torch.from_numpy(hit)


def _near(corners: Float[np.ndarray, "T 3 3"]) -> Int[np.ndarray, "P 2"]:
    """Pairs of triangles whose boxes meet, each once.

    By size: every class holds radii up to twice as large as the one before, so that few large
    triangles do not make every small one look far.
    """
    middle = corners.mean(1)
    radius = np.linalg.norm(corners - middle[:, None], axis=-1).max(1)
    level = np.ceil(np.log2(np.maximum(radius / max(np.median(radius), 1e-12), 0.25)))
    classes = [np.flatnonzero(level == value) for value in np.unique(level)]
    trees = [KDTree(middle[members]) for members in classes]
    reach = [radius[members].max() for members in classes]
    found = []
    for i, first in enumerate(classes):
        for j, second in enumerate(classes[: i + 1]):
            near = trees[i].sparse_distance_matrix(
                trees[j], reach[i] + reach[j], output_type="ndarray"
            )
            found.append(np.stack([first[near["i"]], second[near["j"]]], 1))
    pairs = np.concatenate(found)
    low, high = corners.min(1), corners.max(1)
    one, other = pairs.T
    # both orders come out of a class with itself, one out of two different ones
    once = (level[one] != level[other]) | (one < other)
    pairs, one, other = pairs[once], one[once], other[once]
    return pairs[((low[one] <= high[other]) & (low[other] <= high[one])).all(1)]


def _volume(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Six times the signed volume of tetrahedra."""
    return (np.cross(a - p, b - p) * (c - p)).sum(1)
