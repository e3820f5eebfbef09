"""A sequence as one shape and weighted offsets, one UV a vertex: what morph targets need."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import vertex_normals


@dataclass(frozen=True)
class SeamSplit:
    """A topology with one UV per vertex: which vertex and which uv row each copy S is."""

    source_vertex: NDArray[np.int64]
    source_uv: NDArray[np.int64]
    triangles: NDArray[np.int64]


def split_seams(topology: Topology) -> SeamSplit:
    """Copies of vertices along UV seams, and the triangles [T 3] over the copies.

    Copies are ordered by source vertex; a vertex in no face keeps one copy, so none is lost.
    """
    corners = topology.triangles.reshape(-1).numpy().astype(np.int64)
    corner_uv = topology.triangle_uv.reshape(-1).numpy().astype(np.int64)
    loose = np.setdiff1d(np.arange(topology.vertex_count), corners)
    pairs = np.stack(
        [np.concatenate([corners, loose]), np.concatenate([corner_uv, np.zeros_like(loose)])], 1
    )
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    triangles = index.reshape(-1)[: len(corners)].reshape(-1, 3)
    return SeamSplit(unique[:, 0], unique[:, 1], triangles)


def morphs_of(
    frames: NDArray[np.float64], pca_above: int, pca_error_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Offsets [K V 3] from the first frame and weights [T K] that rebuild every frame [T V 3].

    One offset a frame, or above `pca_above` frames as many principal ones as bring every vertex of
    every frame within `pca_error_mm`.
    """
    count = len(frames)
    offsets = (frames - frames[:1].astype(np.float32)).reshape(count, -1)
    if count <= pca_above:
        return (
            offsets[1:].reshape(count - 1, *frames.shape[1:]).astype(np.float32),
            np.eye(count, dtype=np.float32)[:, 1:],
        )
    # The T×T Gram matrix is far smaller than the T×3V offsets, and has the same left vectors.
    _, left = np.linalg.eigh(offsets @ offsets.T)
    left = left[:, ::-1]
    residual = offsets.copy()
    # the last 1 % is left for rounding morphs and weights to float32
    limit = (0.99 * pca_error_mm / 1000) ** 2
    kept = 0
    while (residual.reshape(count, -1, 3) ** 2).sum(-1).max() > limit and kept < count - 1:
        residual -= np.outer(left[:, kept], left[:, kept] @ residual)
        kept += 1
    kept = max(kept, 1)
    weights = left[:, :kept]
    scale = np.abs(weights).max(0)
    morphs = (weights * scale).T @ offsets
    return morphs.reshape(kept, -1, 3).astype(np.float32), (weights / scale).astype(np.float32)


def morph_normals(
    topology: Topology, frames: Float[Tensor, "T V 3"], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Offsets [K V 3] of normals from the first frame's that best give all frames' normals.

    Least squares over the frames; exact when every frame is its own morph target.
    """
    normals = np.stack([unit_normals(frame, topology) for frame in frames])
    offsets = (normals - normals[:1]).reshape(len(normals), -1)
    solution = np.linalg.pinv(weights.astype(np.float64)) @ offsets
    return solution.reshape(weights.shape[1], -1, 3).astype(np.float32)


def unit_normals(vertices: Float[Tensor, "V 3"], topology: Topology) -> NDArray[np.float32]:
    """Unit normals [V 3]; up where a vertex has no area around it (glTF forbids zero normals)."""
    normals = vertex_normals(vertices, topology.triangles).numpy()
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0])
    return np.where(length > 0.5, normals / np.maximum(length, 1e-12), up).astype(np.float32)
