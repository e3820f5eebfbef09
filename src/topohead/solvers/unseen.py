"""Complete a texture where no view saw the surface.

First the other side of the head lends its colours, then (if given) a reference skin, then what
is left takes the colours around it, spread over the surface and therefore across UV seams. Each
source is brought to the colour of what it joins by a smooth membrane, so no border shows.

Only the texels that need it are touched at full size; all that is smooth is worked out on a
smaller copy, so that a 4096² texture takes no second one of its size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import splu

from topohead.core import Topology
from topohead.rendering.uv import TexelMap, texel_map
from topohead.solvers.kernels.completion import (
    lend_interpolated,
    lend_mirrored,
    place_beneath,
    shrink_known,
)
from topohead.solvers.sightlines import EYES, MOUTH, SKIN, triangle_parts

PART_COLORS = {SKIN: (0.72, 0.57, 0.50), EYES: (0.80, 0.78, 0.76), MOUTH: (0.30, 0.13, 0.12)}
"""Srgb colours of parts of which nothing was seen: skin, sclera, the dark of a mouth."""

SMALL = 512
"""Smooth things are worked out at this size or up to twice as large."""

CELLS = 256
"""Vertices ask for the colour of the cells around them, so many of them an edge."""

LEAST, HOLD, FAINT = 0.3, 10.0, 1e-5
"""A colour counts around a vertex from where on it is known so far, by so much; and what a part's
own colour counts everywhere."""

REACH = 48
"""Membrane levels end where a level has this many cells a side; further away a source keeps its
own colours."""

Lender = Callable[
    [Int64[np.ndarray, " N"], TexelMap, Float32[np.ndarray, "S S 3"], Float32[np.ndarray, "S S"]],
    Float32[np.ndarray, "N 4"],
]
"""Colours for some texels of a texture of any size, and how far each is known."""


@dataclass(frozen=True)
class Copy:
    """A smaller copy of the texture: colour where known, how far known, part of each texel."""

    texels: TexelMap
    color: Float32[np.ndarray, "S S 3"]
    seen: Float32[np.ndarray, "S S"]
    part: UInt8[np.ndarray, "S S"]


def fill_unseen(
    color: Float32[np.ndarray, "S S 3"],
    seen: Float32[np.ndarray, "S S"],
    texels: TexelMap,
    skin: Float32[np.ndarray, "S S 3"] | None = None,
) -> None:
    """Complete `color` over the islands, in place; `seen` is how far each texel is known, [0, 1].

    Parts (skin, eyes, mouth interior) are completed apart: an unseen palate never takes the
    colour of lips. `seen` becomes 1 over the islands.
    """
    topology = texels.topology
    if topology.mirror is not None:
        _lend(_mirrored, color, seen, texels)
    if skin is not None:
        _lend(_reference(skin, triangle_parts(topology)), color, seen, texels)
    copy = _shrunk(color, seen, texels)
    _lend(_around(surrounding_colors(copy)), color, seen, texels)


def _lend(
    lender: Lender,
    color: Float32[np.ndarray, "S S 3"],
    seen: Float32[np.ndarray, "S S"],
    texels: TexelMap,
) -> None:
    """Put what a source lends beneath what is known, in place.

    Where both are known their difference is read off, spread smoothly and added to the source
    (a membrane: the gradient-domain blend of Pérez et al. 2003, approximated by pull and push).
    """
    wanted = np.flatnonzero((seen < 1) & texels.inside)
    if not len(wanted):
        return
    lent = lender(wanted, texels, color, seen)
    if not lent[:, 3].any():
        return
    part = triangle_parts(texels.topology)[texels.triangle.reshape(-1)[wanted]]
    copy = _shrunk(color, seen, texels)
    everywhere = np.flatnonzero(copy.texels.inside)
    source = np.zeros((*copy.seen.shape, 4), np.float32)
    source.reshape(-1, 4)[everywhere] = lender(everywhere, copy.texels, copy.color, copy.seen)
    place_beneath(wanted, lent, part, _membranes(copy, source), color, seen)


def _membranes(copy: Copy, source: Float32[np.ndarray, "S S 4"]) -> Float32[np.ndarray, "3 S S 3"]:
    """What a source (colour, how far known) lacks to join what is known, for each part."""
    offsets = np.zeros((3, *copy.seen.shape, 3), np.float32)
    for index in np.unique(copy.part[copy.texels.inside]):
        both = np.where(copy.part == index, copy.seen * source[..., 3], np.float32(0))
        offsets[index] = _membrane((copy.color - source[..., :3]) * both[..., None], both)
    return offsets


def _mirrored(
    wanted: Int64[np.ndarray, " N"],
    texels: TexelMap,
    color: Float32[np.ndarray, "S S 3"],
    seen: Float32[np.ndarray, "S S"],
) -> Float32[np.ndarray, "N 4"]:
    """The other side of the head, as far as that is known."""
    return lend_mirrored(
        wanted, texels.triangle, texels.corners, texels.mirrored_corners, color, seen
    )


def _reference(skin: Float32[np.ndarray, "S S 3"], parts: UInt8[np.ndarray, " T"]) -> Lender:
    """A given texture, for skin only."""

    def lend(
        wanted: Int64[np.ndarray, " N"],
        texels: TexelMap,
        color: Float32[np.ndarray, "S S 3"],
        seen: Float32[np.ndarray, "S S"],
    ) -> Float32[np.ndarray, "N 4"]:
        size = (texels.size, texels.size)
        same = (
            skin if skin.shape[:2] == size else cv2.resize(skin, size, interpolation=cv2.INTER_AREA)
        )
        known = parts[texels.triangle.reshape(-1)[wanted]] == SKIN
        return np.column_stack([same.reshape(-1, 3)[wanted], known]).astype(np.float32)

    return lend


def _around(vertex_colors: Float32[np.ndarray, "V 3"]) -> Lender:
    """Colours of vertices, everywhere."""

    def lend(
        wanted: Int64[np.ndarray, " N"],
        texels: TexelMap,
        color: Float32[np.ndarray, "S S 3"],
        seen: Float32[np.ndarray, "S S"],
    ) -> Float32[np.ndarray, "N 4"]:
        triangles = np.ascontiguousarray(texels.topology.triangles.numpy(), np.int32)
        return lend_interpolated(wanted, texels.triangle, texels.corners, triangles, vertex_colors)

    return lend


def _shrunk(
    color: Float32[np.ndarray, "S S 3"], seen: Float32[np.ndarray, "S S"], texels: TexelMap
) -> Copy:
    factor = shrink_factor(texels.size)
    packed = shrink_known(color, seen, texels.triangle, factor)
    return smaller_copy(packed, texels.topology)


def shrink_factor(size: int) -> int:
    """How many times smaller the copy of a texture is."""
    factor = 1
    while size // factor >= 2 * SMALL and size % (2 * factor) == 0:
        factor *= 2
    return factor


def smaller_copy(packed: Float32[np.ndarray, "S S 5"], topology: Topology) -> Copy:
    """The copy from its cells' means of (colour × known, known, on an island).

    Cells that an island only touches are as known as its texels there.
    """
    small = texel_map(topology, len(packed))
    mean = packed[..., :3] / np.maximum(packed[..., 3:4], 1e-9)
    known = packed[..., 3] / np.maximum(packed[..., 4], 1e-9)
    part = triangle_parts(topology)[small.triangle]
    part[~small.inside] = 255
    return Copy(small, mean, known * small.inside, part)


def _membrane(
    weighted: Float32[np.ndarray, "S S 3"], weight: Float32[np.ndarray, "S S"]
) -> Float32[np.ndarray, "S S 3"]:
    """A smooth extension of values known by weight; fades to zero far from all of them."""
    levels = [np.dstack([weighted, weight])]
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
    return spread


def surrounding_colors(copy: Copy) -> Float32[np.ndarray, "V 3"]:
    """Colours of all vertices: known around some of them, spread over the surface to the rest."""
    return _spread(_vertex_colors(copy), copy.texels.topology)


def _vertex_colors(copy: Copy) -> Float32[np.ndarray, "V 4"]:
    """Colour of the known texels around each vertex, and how far they are known, in [0, 1].

    Averaged over cells of about 1/256 of the texture; a vertex on a seam hears all its places.
    """
    topology, size = copy.texels.topology, copy.seen.shape[0]
    cells = min(CELLS, size)
    packed = cv2.resize(
        np.dstack([copy.color * copy.seen[..., None], copy.seen]),
        (cells, cells),
        interpolation=cv2.INTER_AREA,
    )
    whole = cv2.resize(
        copy.texels.inside.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA
    )
    row, column = corner_cells(topology, cells)
    corners = topology.triangles.numpy().ravel()
    shape = (topology.vertex_count, len(corners))
    around = coo_array((np.ones(len(corners)), (corners, np.arange(len(corners)))), shape).tocsr()
    sums = around @ np.dstack([packed, whole])[row, column].astype(np.float64)
    share = sums[:, 3] / np.maximum(sums[:, 4], 1e-6)
    mean = sums[:, :3] / np.maximum(sums[:, 3:4], 1e-9)
    return np.concatenate([mean, share[:, None]], 1).astype(np.float32)


def corner_cells(
    topology: Topology, cells: int
) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Row and column of the cell, of cells × cells, that every triangle's every corner lies in."""
    corner_uv = topology.uv[topology.triangle_uv].numpy().reshape(-1, 2)
    column = np.clip((corner_uv[:, 0] * cells).astype(int), 0, cells - 1)
    return np.clip(((1 - corner_uv[:, 1]) * cells).astype(int), 0, cells - 1), column


def vertex_parts(topology: Topology) -> Int64[np.ndarray, " V"]:
    """`SKIN`, `EYES` or `MOUTH` of every vertex, from the regions that the topology has."""
    part = np.full(topology.vertex_count, SKIN)
    for value, name in ((EYES, "eyes"), (MOUTH, "mouth_interior")):
        if name in topology.regions:
            part[topology.region_mask(name).numpy()] = value
    return part


def part_adjacency(topology: Topology, part: Int64[np.ndarray, " V"]) -> csr_array:
    """Ones where an edge joins two vertices of one part, V×V."""
    edges = topology.edges.numpy()
    edges = edges[part[edges[:, 0]] == part[edges[:, 1]]]
    count = topology.vertex_count
    ones = np.ones(len(edges))
    adjacency = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(count, count))
    return (adjacency + adjacency.T).tocsr()


def part_laplacian(topology: Topology, part: Int64[np.ndarray, " V"]) -> csr_array:
    """L + ε of `_spread`."""
    adjacency = part_adjacency(topology, part)
    degree = np.asarray(adjacency.sum(1)).ravel()
    return (diags_array(degree + FAINT) - adjacency).tocsr()


def _spread(known: Float32[np.ndarray, "V 4"], topology: Topology) -> Float32[np.ndarray, "V 3"]:
    """Vertex colours with the unknown ones harmonic: each the mean of its neighbours.

    Solves (K + L + ε) x = K c + ε d with K how far a colour is known, L the graph Laplacian of
    edges within a part and d the part's colour, which only matters where nothing is in reach.
    """
    part = vertex_parts(topology)
    adjacency = part_adjacency(topology, part)
    degree = np.asarray(adjacency.sum(1)).ravel()
    hold = HOLD * np.where(known[:, 3] > LEAST, known[:, 3], 0).astype(np.float64)
    default = np.array([PART_COLORS[p] for p in (SKIN, EYES, MOUTH)])
    for value in (SKIN, EYES, MOUTH):
        sample = (part == value) & (hold > 0)
        if value != MOUTH and sample.any():
            default[value] = known[sample, :3].mean(0)
    if "lips" in topology.regions:
        # lips meet in the dark: without this the line of a closed mouth would vanish
        hidden = topology.region_mask("lips").numpy() & (part == SKIN) & (hold == 0)
        hold[hidden] = 1.0
        known[hidden, :3] = PART_COLORS[MOUTH]
    system = (diags_array(degree + hold + FAINT) - adjacency).tocsc()
    right = hold[:, None] * known[:, :3] + FAINT * default[part]
    # symmetric and diagonally dominant: no pivoting, and an ordering for symmetric patterns
    factored = splu(
        system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factored.solve(right).astype(np.float32)
