"""The lines that two heads must share: rims of lids and lips, run from landmark to landmark."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import SurfacePoints, Topology
from topohead.geometry.regions import between_vertices

LINES: Mapping[str, tuple[int, ...]] = {
    "right upper lid": (36, 37, 38, 39),
    "right lower lid": (36, 41, 40, 39),
    "left upper lid": (45, 44, 43, 42),
    "left lower lid": (45, 46, 47, 42),
    "upper lip": (60, 61, 62, 63, 64),
    "lower lip": (60, 67, 66, 65, 64),
}
"""iBUG-68 landmarks along each line; lips where they meet."""

INNER = slice(27, 68)
"""iBUG-68 landmarks of nose, eyes and mouth: brows are drawn in many ways, the outline slides."""


def landmark_lines(
    topology: Topology, vertices: Float[Tensor, "V 3"]
) -> dict[str, tuple[Int[Tensor, " _"], ...]]:
    """Vertices along each of `LINES`, a row of them from each landmark to the next.

    Shortest ways over edges: where artists lay an edge loop along a rim, they follow it. Landmarks
    within a face count at its nearest corner. Needs the landmarks "ibug68".
    """
    edges = topology.edges.numpy()
    length = (vertices[edges[:, 0]] - vertices[edges[:, 1]]).norm(dim=1).double().numpy()
    count = topology.vertex_count
    graph = coo_array((length, (edges[:, 0], edges[:, 1])), shape=(count, count)).tocsr()
    points = topology.landmarks["ibug68"]
    corner = points.barycentrics.argmax(1, keepdim=True)
    nearest = topology.triangles[points.triangles].gather(1, corner)[:, 0].numpy()
    starts = sorted({mark for marks in LINES.values() for mark in marks})
    before = dijkstra(graph, directed=False, indices=nearest[starts], return_predecessors=True)[1]
    lines = {}
    for name, marks in LINES.items():
        pieces = []
        for first, last in pairwise(marks):
            row, way = before[starts.index(first)], [int(nearest[last])]
            while way[-1] != nearest[first]:
                if row[way[-1]] < 0:
                    raise ValueError(f"no way over edges of {topology.name} along the {name}")
                way.append(int(row[way[-1]]))
            pieces.append(torch.tensor(way[::-1]))
        lines[name] = tuple(pieces)
    return lines


def line_points(
    topology: Topology, vertices: Float[Tensor, "V 3"],
    lines: Mapping[str, tuple[Int[Tensor, " _"], ...]], inner: int = 4,
) -> SurfacePoints:  # fmt: skip
    """`inner` points between each two landmarks of every line, evenly by length."""
    first, second, fraction = [], [], []
    for pieces in lines.values():
        for way in pieces:
            if len(way) < 2:
                raise ValueError(f"two landmarks of {topology.name} share a vertex")
            steps = (vertices[way[1:]] - vertices[way[:-1]]).norm(dim=1).double().numpy()
            along = np.concatenate([[0], np.cumsum(steps)])
            for share in np.arange(1, inner + 1) / (inner + 1):
                place = share * along[-1]
                at = min(int(np.searchsorted(along, place, "right")) - 1, len(steps) - 1)
                first.append(way[at])
                second.append(way[at + 1])
                fraction.append((place - along[at]) / steps[at])
    ends = torch.stack(first), torch.stack(second)
    return between_vertices(topology, *ends, torch.tensor(fraction).float())


def drawn(
    vertices: Float[Tensor, "V 3"], pieces: tuple[Int[Tensor, " _"], ...], split: int = 6
) -> Float[Tensor, "N 3"]:
    """Points along a line over vertices, `split` of them to each edge."""
    way = torch.cat([pieces[0][:1], *(piece[1:] for piece in pieces)])
    start, end = vertices[way[:-1]], vertices[way[1:]]
    share = torch.arange(split).to(vertices)[:, None, None] / split
    inner = torch.lerp(start, end, share).transpose(0, 1).reshape(-1, 3)
    return torch.cat([inner, vertices[way[-1:]]])


def nearest_along(
    topology: Topology, vertices: Float[Tensor, "V 3"], pieces: tuple[Int[Tensor, " _"], ...],
    points: Float[Tensor, "N 3"],
) -> SurfacePoints:  # fmt: skip
    """Where on a line over vertices points have their nearest, to a sixth of an edge."""
    split = 6
    way = torch.cat([pieces[0][:1], *(piece[1:] for piece in pieces)])
    there = drawn(vertices, pieces, split).double().numpy()
    near = torch.from_numpy(KDTree(there).query(points.double().numpy())[1])
    edge = (near // split).clamp(max=len(way) - 2)
    return between_vertices(topology, way[edge], way[edge + 1], near / split - edge)


def hausdorff(first: Float[Tensor, "N 3"], second: Float[Tensor, "M 3"]) -> float:
    """The farthest that a point of either set lies from the other set, in their unit."""
    one, other = first.double().numpy(), second.double().numpy()
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    return float(max(np.max(there), np.max(back)))
