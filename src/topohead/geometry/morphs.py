"""A sequence as one shape and weighted offsets, one UV a vertex: what morph targets need."""

import math
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


COLUMNS = 24_576
"""Coordinates that are worked on at once: a block of all frames stays small."""


def morphs_of(
    frames: NDArray[np.floating], pca_above: int, pca_error_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Offsets [K V 3] from the first frame and weights [T K] that rebuild every frame [T V 3].

    One offset a frame, or above `pca_above` frames as many principal ones as bring every vertex of
    every frame within `pca_error_mm`.
    """
    count = len(frames)
    rest = frames[:1].astype(np.float32)
    if count <= pca_above:
        each = np.stack([(frame - rest[0]).astype(np.float32) for frame in frames[1:]] or [rest[0]])
        return each[: count - 1], np.eye(count, dtype=np.float32)[:, 1:]
    flat, still = frames.reshape(count, -1), rest.reshape(1, -1)
    # The T×T Gram matrix is far smaller than the T×3V offsets, and has the same left vectors.
    gram = np.zeros((count, count))
    for part in _blocks(flat):
        offsets = flat[:, part].astype(np.float64) - still[:, part]
        gram += offsets @ offsets.T
    energy, left = np.linalg.eigh(gram)
    left = np.ascontiguousarray(left[:, ::-1], np.float32)
    # the last 1 % is left for rounding morphs and weights to float32
    limit = (0.99 * pca_error_mm / 1000) ** 2
    kept = _fewest(flat, still, left, energy[::-1], limit)
    weights = left[:, :kept]
    scale = np.abs(weights).max(0)
    morphs = np.empty((kept, flat.shape[1]), np.float32)
    for part in _blocks(flat):
        morphs[:, part] = (weights * scale).T @ (flat[:, part] - still[:, part])
    return morphs.reshape(kept, -1, 3), weights / scale


def largest_error(
    frames: NDArray[np.floating], morphs: NDArray[np.float32], weights: NDArray[np.float32]
) -> float:
    """How far any vertex of any frame is from first frame + weights · morphs, metres."""
    flat = frames.reshape(len(frames), -1)
    offsets = morphs.reshape(len(morphs), flat.shape[1])
    worst = 0.0
    for part in _blocks(flat):
        made = weights @ offsets[:, part] + flat[:1, part].astype(np.float32)
        gap = np.square(made - flat[:, part])
        worst = max(worst, float((gap[:, ::3] + gap[:, 1::3] + gap[:, 2::3]).max()))
    return worst**0.5


def _blocks(flat: NDArray) -> list[slice]:
    return [slice(at, at + COLUMNS) for at in range(0, flat.shape[1], COLUMNS)]


def _fewest(
    flat: NDArray[np.floating],
    still: NDArray[np.float32],
    left: NDArray[np.float32],
    energy: NDArray[np.float64],
    limit: float,
) -> int:
    """How many principal offsets leave no vertex of any frame with a squared error over `limit`.

    Every look passes over the whole take. The first guesses suppose that the largest error falls as
    the mean one does, which the energies tell; then false position (the Illinois rule) on the
    error's logarithm. Up to 6 % more than needed will do.
    """
    # what the first k offsets leave over, summed over frames and coordinates
    left_over = energy.clip(0).sum() - np.cumsum(energy.clip(0))

    def first_below(total: float) -> int:
        return int(np.sum(left_over > total)) + 1

    # the mean squared error cannot pass the largest
    too_few, enough = first_below(limit * flat.size / 3) - 1, len(flat) - 1
    guess = first_below(limit * flat.size / 3 / PEAK)
    above = below = 0.0  # logarithms of the errors at both ends over the limit; 0 is unknown
    while enough - too_few > max(1, enough // 16):
        guess = min(max(guess, too_few + 1), enough - 1)
        error = math.log(max(_worst(flat, still, left[:, :guess]), 1e-6 * limit) / limit)
        if error > 0:
            too_few, above, below = guess, error, below / 2 if above else below
        else:
            enough, below, above = guess, min(error, -1e-9), above / 2 if below else above
        if above and below:
            guess = round(too_few + (enough - too_few) * above / (above - below))
        else:
            guess = first_below(left_over[guess - 1] * 0.95 * math.exp(-error))
    return max(enough, 1)


PEAK = 10.0
"""How far the largest squared error is supposed to be over the mean one before any look."""


def _worst(
    flat: NDArray[np.floating], still: NDArray[np.float32], basis: NDArray[np.float32]
) -> float:
    """The largest squared distance of a vertex from its place in the span of `basis` [T K]."""
    worst = 0.0
    for part in _blocks(flat):
        offsets = (flat[:, part] - still[:, part]).astype(np.float32, copy=False)
        offsets -= basis @ (basis.T @ offsets)
        np.square(offsets, out=offsets)
        worst = max(worst, float((offsets[:, ::3] + offsets[:, 1::3] + offsets[:, 2::3]).max()))
    return worst


def morph_normals(
    topology: Topology, frames: Float[Tensor, "T V 3"], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Offsets [K V 3] of normals from the first frame's that best give all frames' normals.

    Least squares over the frames; exact when every frame is its own morph target.
    """
    normals = np.stack([unit_normals(frame, topology) for frame in frames])
    flat = normals.reshape(len(normals), -1)
    flat -= flat[:1].copy()
    inverse = np.linalg.pinv(weights.astype(np.float64)).astype(np.float32)
    return (inverse @ flat).reshape(weights.shape[1], -1, 3)


def unit_normals(vertices: Float[Tensor, "V 3"], topology: Topology) -> NDArray[np.float32]:
    """Unit normals [V 3]; up where a vertex has no area around it (glTF forbids zero normals)."""
    normals = vertex_normals(vertices, topology.triangles).numpy()
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0])
    return np.where(length > 0.5, normals / np.maximum(length, 1e-12), up).astype(np.float32)
