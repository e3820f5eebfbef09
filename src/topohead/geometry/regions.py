"""Named parts of a head found from its shape, its mirror symmetry and what its expressions move."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import SurfacePoints, Topology
from topohead.geometry.meshes import boundary_edges, connected_parts

MOVED = 1e-4
"""An expression moves a vertex when it displaces it by more than this, in metres."""


def unmoved(expression_basis: Float[Tensor, "E V 3"]) -> Bool[Tensor, " V"]:
    """Vertices that no expression at full weight moves by more than 0.1 mm."""
    return expression_basis.norm(dim=-1).amax(0) <= MOVED


def open_rim(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Int[Tensor, " N"]:
    """Vertices of the open edge of the largest connected part that lies lowest: the neck's."""
    edges = boundary_edges(topology)
    edges = edges[connected_parts(topology)[edges[:, 0]] == 0]
    if not len(edges):
        return edges.flatten()
    loops = connected_parts(
        Topology(topology.vertex_count, edges[:, [0, 1, 1, 1]], topology.uv, edges[:, [0] * 4])
    )
    label = loops[edges[:, 0]]
    lowest = min(label.unique().tolist(), key=lambda k: vertices[edges[label == k][:, 0], 1].mean())
    return edges[label == lowest].unique()


def whole_parts(topology: Topology, name: str) -> Int[Tensor, " N"]:
    """Vertices of the connected parts that a region consists of, to nine tenths at least.

    What may be moved as a rigid body without tearing the mesh. Empty without such a region.
    """
    region = topology.regions.get(name)
    if region is None or not len(region):
        return torch.zeros(0, dtype=torch.long)
    part = connected_parts(topology)
    size = torch.bincount(part)
    named = torch.bincount(part[region], minlength=len(size))
    return as_index((named >= 0.9 * size)[part])


def mirror_by_position(vertices: Float[Tensor, "V 3"], tolerance: float) -> Int[Tensor, " V"]:
    """The vertex nearest to each vertex's reflection in x = 0; partners must choose each other.

    A vertex without a partner within `tolerance` metres is its own mirror.
    """
    points = vertices.double().numpy()
    found = KDTree(points).query(points * [-1, 1, 1])
    distance, partner = np.asarray(found[0]), np.asarray(found[1])
    own = np.arange(len(points))
    mutual = (partner[partner] == own) & (distance <= tolerance)
    return torch.from_numpy(np.where(mutual, partner, own))


def at_vertices(topology: Topology, vertices: Int[Tensor, " N"]) -> SurfacePoints:
    """Vertices as points of the surface: a corner of the first triangle that uses each."""
    return between_vertices(topology, vertices, vertices, torch.zeros(len(vertices)))


def between_vertices(
    topology: Topology, first: Int[Tensor, " N"], second: Int[Tensor, " N"],
    fraction: Float[Tensor, " N"],
) -> SurfacePoints:  # fmt: skip
    """Points on edges of triangles, `fraction` of the way from `first` to `second`."""
    corners = topology.triangles
    chosen, weights = [], []
    for a, b, t in zip(first.tolist(), second.tolist(), fraction.tolist(), strict=True):
        both = ((corners == a).any(1) & (corners == b).any(1)).nonzero()
        if not len(both):
            raise ValueError(f"no triangle of {topology.name} joins vertices {a} and {b}")
        row = corners[both[0, 0]]
        chosen.append(int(both[0, 0]))
        weights.append((row == a).float() * (1 - t) + (row == b).float() * t)
    return SurfacePoints(torch.tensor(chosen), torch.stack(weights))


def as_index(mask: Bool[Tensor, " V"]) -> Int[Tensor, " N"]:
    """The numbers of the vertices in a mask, ascending."""
    return mask.nonzero()[:, 0]


def as_mask(topology: Topology, *indices: Int[Tensor, " _"]) -> Bool[Tensor, " V"]:
    """Which vertices any of the index sets names."""
    mask = torch.zeros(topology.vertex_count, dtype=torch.bool)
    for index in indices:
        mask[index] = True
    return mask


def complete_mirror(
    topology: Topology, seed: Int[Tensor, " V"], vertices: Float[Tensor, "V 3"]
) -> Int[Tensor, " V"]:
    """A mirror map grown from certain pairs over the faces, for meshes that are nearly symmetric.

    `seed` maps each vertex to its partner, or to itself where none is known (off the middle). Seeds
    count that carry a whole face onto a face: shells may touch each other at a point. A face next
    to a known edge fixes the partners of its other corners. What no face reaches stays its own.
    """
    faces = [list(dict.fromkeys(face)) for face in topology.faces.tolist()]
    mirror = seed.tolist()
    paired = ((seed != torch.arange(len(seed))) | (vertices[:, 0].abs() < 1e-5)).tolist()
    corner_sets = {frozenset(face) for face in faces}
    known = [False] * len(mirror)
    for face in faces:
        if all(paired[v] for v in face) and frozenset(mirror[v] for v in face) in corner_sets:
            for v in face:
                known[v] = True
    mirror = [m if sure else v for v, (m, sure) in enumerate(zip(mirror, known, strict=True))]
    at_edge = {
        (a, b): number
        for number, face in enumerate(faces)
        for a, b in zip(face, face[1:] + face[:1], strict=True)
    }
    pending = list(range(len(faces)))
    while pending:
        waiting = []
        for number in pending:
            face = faces[number]
            if all(known[v] for v in face):
                continue
            for k, a in enumerate(face):
                b = face[(k + 1) % len(face)]
                other = at_edge.get((mirror[b], mirror[a])) if known[a] and known[b] else None
                if other is not None and len(faces[other]) == len(face):
                    opposite = faces[other]
                    start = opposite.index(mirror[a])
                    for step, v in enumerate(face[k:] + face[:k]):
                        mirror[v] = opposite[(start - step) % len(face)]
                        known[v] = True
                    break
            else:
                waiting.append(number)
        if len(waiting) == len(pending):
            break
        pending = waiting
    return torch.tensor(mirror)
