"""What a decoder of heads knows of a point on the reference's surface, and where its tokens sit.

Everything about a point interpolates along the surface, so a finer level or another topology asks
with features of its own and the same weights answer.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Topology
from topohead.geometry.bridge import Bridge
from topohead.geometry.meshes import edges_around, vertex_normals
from topohead.geometry.neighbours import farthest_points
from topohead.geometry.spectrum import laplace_eigenvectors
from topohead.geometry.subdivision import refine

JAW_OPEN = 0.6
"""Places are taken with the mouth this far open: lips that touch at rest are then apart."""

FIELDS = 32
"""Laplace eigenfunctions of the skin that tell a point where it is; the last waves over 0.14 m."""

PARTS: tuple[tuple[str, ...], ...] = (
    ("eye_sockets", "mouth_socket"),
    ("eyes",),
    ("tongue",),
    ("teeth_upper",),
    ("teeth_lower",),
)
"""Regions that lie against others and move on their own; the rest is skin."""

APART = 0.015
"""Distance added between points of different parts, metres: a lid is no neighbour of its globe."""

MIDDLE = 0.002
"""Nodes keep so far from the plane of symmetry that each has a partner, metres."""


@dataclass(frozen=True)
class Queries:
    """Points on the reference: `rest` is where they are on the mean head, `opened` with its mouth
    open, metres; unit `normals` of the opened head; `fields` of mean square 1; shares of `parts`.
    """

    rest: Float[Tensor, "Q 3"]
    opened: Float[Tensor, "Q 3"]
    normals: Float[Tensor, "Q 3"]
    fields: Float[Tensor, "Q 32"]
    parts: Float[Tensor, "Q 6"]

    def __len__(self) -> int:
        return len(self.rest)

    def __getitem__(self, chosen: slice | Int[Tensor, " N"]) -> "Queries":
        return Queries(*(part[chosen] for part in self._all()))

    def to(self, device: torch.device | str) -> "Queries":
        return Queries(*(part.to(device) for part in self._all()))

    @property
    def places(self) -> Float[Tensor, "Q 9"]:
        """Coordinates whose distances tell neighbours: opened, and `APART` between parts."""
        return torch.cat([self.opened, self.parts * (APART / math.sqrt(2))], 1)

    def _all(self) -> tuple[Tensor, ...]:
        return self.rest, self.opened, self.normals, self.fields, self.parts


def queries_of(head: HeadModel) -> Queries:
    """All vertices of a head model's own topology; symmetric where that has a mirror map."""
    topology = head.topology
    opened = head.template + JAW_OPEN * head.expression_basis[ARKIT_52.index("jawOpen")]
    fields, _ = laplace_eigenvectors(topology, head.template, FIELDS)
    parts = torch.zeros(topology.vertex_count, 1 + len(PARTS))
    for column, names in enumerate(PARTS, 1):
        known = [name for name in names if name in topology.regions]
        parts[topology.region_mask(*known), column] = 1
    parts[:, 0] = 1 - parts.sum(1)
    normals, fields = vertex_normals(opened, topology.triangles), fields.T.float().contiguous()
    if topology.mirror is not None:
        # a jaw that opens is a little lopsided, and so are normals by quads' diagonals
        flip = torch.tensor([-1.0, 1, 1])
        opened = (opened + flip * opened[topology.mirror]) / 2
        normals = normals + flip * normals[topology.mirror]
        parity = _parity(fields, topology.mirror)
        fields = (fields + parity * fields[topology.mirror]) / 2
    normals = torch.nn.functional.normalize(normals, dim=1)
    return Queries(head.template, opened, normals, fields, parts)


def subdivided(queries: Queries, matrix: Float[Tensor, "V1 V0"]) -> Queries:
    """The vertices of a finer level, by `geometry.subdivision`'s matrix."""
    rest, opened, normals, fields, parts = (refine(matrix, part) for part in queries._all())
    return Queries(rest, opened, torch.nn.functional.normalize(normals, dim=1), fields, parts)


def bridged(queries: Queries, bridge: Bridge) -> Queries:
    """The vertices of a topology that is bound to the one whose vertices are given.

    Vertices keep their small steps off the surface, as long as on the mean head.
    """
    opened = bridge.vertices(queries.opened)
    normals = torch.nn.functional.normalize(bridge.values(queries.normals), dim=1)
    fields, parts = bridge.values(queries.fields), bridge.values(queries.parts)
    return Queries(bridge.vertices(queries.rest), opened, normals, fields, parts)


@dataclass(frozen=True)
class Nodes:
    """Where tokens sit: vertices of the reference, the left half's, then their mirror images.

    `patches` are each left node's nearest vertices, nearest first, then those of the right ones,
    mirrored: row i of both halves sees the same through a mirror. `parity` is −1 for fields that
    the mirror turns over.
    """

    vertices: Int[Tensor, " K"]
    patches: Int[Tensor, "K P"]
    parity: Float[Tensor, " 32"]


def nodes_of(topology: Topology, queries: Queries, count: int, patch: int) -> Nodes:
    """`count` (even) nodes, each standing for about as many vertices."""
    mirror = topology.mirror
    assert mirror is not None
    places = queries.places
    side = queries.rest[:, 0]
    beside = (side.abs() > MIDDLE) & (side * side[mirror] < 0)
    paired = (beside & beside[mirror]).nonzero()[:, 0]
    back = torch.full((len(places),), -1)
    back[paired] = torch.arange(len(paired))
    # as dense as the vertices that the artist needed, linings half so
    density = (0.5 + 0.5 * queries.parts[:, 0]) / edges_around(topology, queries.opened)
    chosen = paired[farthest_points(places[paired], count, back[mirror[paired]], density[paired])]
    left = chosen[side[chosen] > 0]
    assert 2 * len(left) == count
    near = torch.cdist(places[left].double(), places.double())
    patches = near.topk(patch, largest=False).indices
    parity = _parity(queries.fields, mirror)
    vertices = torch.cat([left, mirror[left]])
    return Nodes(vertices, torch.cat([patches, mirror[patches]]), parity)


def _parity(fields: Float[Tensor, "V K"], mirror: Int[Tensor, " V"]) -> Float[Tensor, " K"]:
    """1 for fields that a mirror leaves, −1 for those that it turns over."""
    return (fields * fields[mirror]).sum(0).sign()


@dataclass(frozen=True)
class Audience:
    """Which nodes each query hears, [Q H], and how much: weights sum to one.

    Shares fall to zero at the distance of the first node that is not heard, so what a point hears
    changes continuously along the surface (Shepard's partition of unity; Franke and Nielson 1980).
    """

    nodes: Int[Tensor, "Q H"]
    weights: Float[Tensor, "Q H"]


def audience(places: Float[Tensor, "Q 9"], nodes: Float[Tensor, "K 9"], heard: int) -> Audience:
    """The `heard` nearest nodes of each query."""
    distance, near = torch.cdist(places.double(), nodes.double()).topk(heard + 1, largest=False)
    share = (1 - (distance[:, :-1] / distance[:, -1:]).square()).clamp(min=1e-9).square()
    return Audience(near[:, :-1], (share / share.sum(1, keepdim=True)).float())
