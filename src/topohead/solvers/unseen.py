"""Complete a texture where no view saw the surface.

First the other side of the head lends its colours, then (if given) a reference skin, then what
is left takes the colours around it, spread over the surface and therefore across UV seams. Each
source is brought to the colour of what it joins by a smooth membrane, so no border shows.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve

from topohead.core import Topology
from topohead.rendering.uv import TexelMap, bake, mirror_texture
from topohead.solvers.sightlines import EYES, MOUTH, SKIN, triangle_parts

PART_COLORS = {SKIN: (0.72, 0.57, 0.50), EYES: (0.80, 0.78, 0.76), MOUTH: (0.30, 0.13, 0.12)}
"""Srgb colours of parts of which nothing was seen: skin, sclera, the dark of a mouth."""

REACH = 48
"""Membrane levels end where a level has this many texels a side; further away a source keeps its
own colours."""


def fill_unseen(
    color: Float32[np.ndarray, "S S 3"],
    seen: Float32[np.ndarray, "S S"],
    texels: TexelMap,
    skin: Float32[np.ndarray, "S S 3"] | None = None,
) -> None:
    """Complete `color` over the islands, in place; `seen` is how far each texel is known, [0, 1].

    Parts (skin, eyes, mouth interior) are completed apart: an unseen palate never takes the
    colour of lips.
    """
    inside = texels.inside
    seen = np.where(inside, seen, 0).astype(np.float32)
    if not (seen[inside] < 1).any():
        return
    parts = _texel_parts(texels)
    if texels.topology.mirror is not None:
        both = mirror_texture(np.dstack([color * seen[..., None], seen]), texels)
        lent = both[..., 3]
        source = both[..., :3] / np.maximum(lent, 1e-6)[..., None]
        seen = _blend_in(color, seen, source, np.where(inside, lent, 0), parts)
    if skin is not None:
        whole = (inside & (parts == SKIN)).astype(np.float32)
        seen = _blend_in(color, seen, skin, whole, parts)
    if (seen[inside] < 1).any():
        vertex_colors = _spread(_vertex_colors(color, seen, texels), texels.topology)
        source = bake(torch.from_numpy(vertex_colors), texels.topology, texels.size, False)
        _blend_in(color, seen, source.numpy(), inside.astype(np.float32), parts)


def _texel_parts(texels: TexelMap) -> UInt8[np.ndarray, "S S"]:
    """The part that each texel belongs to; 255 outside the islands."""
    parts = triangle_parts(texels.topology)[texels.triangle]
    parts[~texels.inside] = 255
    return parts


def _blend_in(
    color: Float32[np.ndarray, "S S 3"],
    seen: Float32[np.ndarray, "S S"],
    source: Float32[np.ndarray, "S S 3"],
    lent: Float32[np.ndarray, "S S"],
    parts: UInt8[np.ndarray, "S S"],
) -> Float32[np.ndarray, "S S"]:
    """Put a source beneath the known colours, in place; returns how far texels are known now.

    Where both are known their difference is read off, spread smoothly and added to the source
    (a membrane: the gradient-domain blend of Pérez et al. 2003, approximated by pull and push).
    """
    for part in (SKIN, EYES, MOUTH):
        here = parts == part
        wanted = here & (seen < 1) & (lent > 0)
        if not wanted.any():
            continue
        both = np.where(here, seen * lent, 0).astype(np.float32)
        offset = _membrane((color - source) * both[..., None], both)
        known = seen[wanted][:, None]
        share = known / np.maximum(known + (1 - known) * lent[wanted][:, None], 1e-6)
        color[wanted] = share * color[wanted] + (1 - share) * (source + offset)[wanted]
    return np.where(parts == 255, 0, seen + (1 - seen) * lent).astype(np.float32)


def _membrane(
    weighted: Float32[np.ndarray, "S S 3"], weight: Float32[np.ndarray, "S S"]
) -> Float32[np.ndarray, "S S 3"]:
    """A smooth extension of values known by weight; fades to zero far from all of them.

    Works at half the size: what it returns is smooth.
    """
    size = weight.shape[0]
    half = (max(size // 2, 1),) * 2
    packed = cv2.resize(np.dstack([weighted, weight]), half, interpolation=cv2.INTER_AREA)
    levels = [packed]
    while min(levels[-1].shape[:2]) > REACH:
        levels.append(cv2.pyrDown(levels[-1]))
    spread = np.zeros((*levels[-1].shape[:2], 3), np.float32)
    for index, level in enumerate(reversed(levels)):
        if index:
            spread = cv2.pyrUp(spread, dstsize=level.shape[1::-1])
        # a few known texels in a cell are enough to trust their mean
        trust = np.minimum(4 * level[..., 3:], 1)
        mean = level[..., :3] / np.maximum(level[..., 3:], 1e-6)
        spread = trust * mean + (1 - trust) * spread
    return cv2.resize(spread, (size, size), interpolation=cv2.INTER_LINEAR)


def _vertex_colors(
    color: Float32[np.ndarray, "S S 3"], seen: Float32[np.ndarray, "S S"], texels: TexelMap
) -> Float32[np.ndarray, "V 4"]:
    """Colour of the known texels around each vertex, and how far they are known, in [0, 1].

    Averaged over cells of 1/256 of the texture; a vertex on a seam hears all its places.
    """
    topology, cells = texels.topology, min(256, texels.size)
    cell = (cells, cells)
    known = cv2.resize(
        np.dstack([color * seen[..., None], seen]), cell, interpolation=cv2.INTER_AREA
    )
    whole = cv2.resize(texels.inside.astype(np.float32), cell, interpolation=cv2.INTER_AREA)
    packed = np.dstack([known, whole])
    corner_uv = topology.uv[topology.triangle_uv].numpy().reshape(-1, 2)
    column = np.clip((corner_uv[:, 0] * cells).astype(int), 0, cells - 1)
    row = np.clip(((1 - corner_uv[:, 1]) * cells).astype(int), 0, cells - 1)
    sums = np.zeros((topology.vertex_count, 5))
    np.add.at(sums, topology.triangles.numpy().ravel(), packed[row, column])
    share = sums[:, 3] / np.maximum(sums[:, 4], 1e-6)
    mean = sums[:, :3] / np.maximum(sums[:, 3:4], 1e-9)
    return np.concatenate([mean, share[:, None]], 1).astype(np.float32)


def _spread(known: Float32[np.ndarray, "V 4"], topology: Topology) -> Float32[np.ndarray, "V 3"]:
    """Vertex colours with the unknown ones harmonic: each the mean of its neighbours.

    Solves (K + L + ε) x = K c + ε d with K how far a colour is known, L the graph Laplacian of
    edges within a part and d the part's colour, which only matters where nothing is in reach.
    """
    part = np.full(topology.vertex_count, SKIN)
    for value, name in ((EYES, "eyes"), (MOUTH, "mouth_interior")):
        if name in topology.regions:
            part[topology.region_mask(name).numpy()] = value
    edges = topology.edges.numpy()
    edges = edges[part[edges[:, 0]] == part[edges[:, 1]]]
    count = topology.vertex_count
    ones = np.ones(len(edges))
    adjacency = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    adjacency = (adjacency + adjacency.T).tocsr()
    degree = np.asarray(adjacency.sum(1)).ravel()
    hold = 10.0 * np.where(known[:, 3] > 0.3, known[:, 3], 0).astype(np.float64)
    default = np.array([PART_COLORS[p] for p in (SKIN, EYES, MOUTH)])
    for value in (SKIN, EYES, MOUTH):
        sample = (part == value) & (hold > 0)
        if value != MOUTH and sample.any():
            default[value] = known[sample, :3].mean(0)
    faint = 1e-5
    system = (diags_array(degree + hold + faint) - adjacency).tocsc()
    right = hold[:, None] * known[:, :3] + faint * default[part]
    return np.asarray(spsolve(system, right)).astype(np.float32)
