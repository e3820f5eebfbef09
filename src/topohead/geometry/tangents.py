"""Tangents that normal maps are read with, one a vertex along UV seams split."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.morphs import SeamSplit


def split_tangents(
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    normals: NDArray[np.floating],
    split: SeamSplit,
) -> NDArray[np.float32]:
    """Unit tangents along +u and the side of the bitangent, [S 4], of `split`'s vertices.

    MikkTSpace (Mikkelsen 2008, section 3.3): every triangle's ∂p/∂u is laid into the vertex's
    tangent plane, made unit and summed by the corner's angle. The bitangent, along +v upwards, is
    side · normal × tangent. `normals` [V 3] are unit. Vertices where UVs have no extent get any
    tangent.
    """
    corners = vertices.double().numpy()[split.source_vertex[split.triangles]]
    uv = topology.uv.double().numpy()[split.source_uv[split.triangles]]
    across = normals.astype(np.float64)[split.source_vertex]
    (u1, v1), (u2, v2) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    side = np.where(u1 * v2 - u2 * v1 < 0, -1.0, 1.0)
    edge, far = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    along = side[:, None] * (v2[:, None] * edge - v1[:, None] * far)
    total, sides = np.zeros_like(across), np.zeros(len(across))
    for corner in range(3):
        vertex = split.triangles[:, corner]
        normal = across[vertex]
        legs = [_flat(corners[:, k] - corners[:, corner], normal) for k in (corner - 1, corner - 2)]
        angle = np.arccos(np.clip((legs[0] * legs[1]).sum(1), -1, 1))
        np.add.at(total, vertex, angle[:, None] * _flat(along, normal))
        np.add.at(sides, vertex, angle * side)
    tangents = _unit(total)
    none = np.linalg.norm(tangents, axis=1) < 0.5
    least = np.eye(3)[np.abs(across[none]).argmin(1)]
    tangents[none] = _flat(least, across[none])
    bitangent = np.where(sides < 0, -1.0, 1.0)
    return np.concatenate([tangents, bitangent[:, None]], 1).astype(np.float32)


def _flat(vectors: NDArray[np.float64], normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors in the plane across the normals."""
    return _unit(vectors - (vectors * normals).sum(1, keepdims=True) * normals)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
