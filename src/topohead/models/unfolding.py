"""Another family's skin as the reference topology wears it, smooth where places found there fold.

The nearest place on a strange head is a bad guess in the folds of ears, within nostrils and where
lids turn in: neighbours find places that lie the wrong way round, and triangles run through others.
There the reference keeps its own shape, bent as little as what lies around it asks for; from that
smooth shape it looks for the other's skin again, and is drawn to it gently.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor

from topohead.core import Mesh, SurfacePoints, Topology
from topohead.geometry.bridge import bind
from topohead.geometry.correspondence import interpolate
from topohead.geometry.filling import bending, picking
from topohead.geometry.mesh_quality import self_intersections
from topohead.geometry.meshes import connected_parts, face_normals, neighbour_rings
from topohead.models.linear import LinearHead
from topohead.models.sliding import shared_points

FIRM, GENTLE, FAINT = 1e3, 0.3, 0.01
"""Weight of a place that is kept, of one found again, and of all where bends only are asked for."""

SHARED = 10.0
"""Weight of a point of a landmark or line."""

STRETCH = 0.025
"""Weight of an edge's change beside bending's: what nothing holds moves along, it does not run on
the way its rim tilts."""

TURNED = 0.3
"""Cosine of a triangle's turn against what smooth bending makes of it, below which it is folded."""

ROUNDS = 3
"""Times that folds are sought, and times that the skin is looked for again."""


@dataclass(frozen=True)
class Places:
    """Where vertices lie on the other family's skin, and how much each of them is believed.

    `points` are on the triangles of `topology`, the other's skin alone; `weight` is 0 where nothing
    is known.
    """

    topology: Topology
    points: SurfacePoints
    weight: Float[Tensor, " V"]

    def __call__(self, values: Float[Tensor, "V0 K"]) -> Float[Tensor, "V K"]:
        """Fields over the other's vertices where ours lie, float64."""
        return interpolate(self.points, self.topology.triangles, values.double())

    @property
    def known(self) -> Bool[Tensor, " V"]:
        """Vertices of which anything is known."""
        return self.weight > 0


class Continued:
    """Fields wanted on part of the skin, continued over the rest of the head.

    min Σ weight |d − wanted|² + bending + stretching, `points` tied besides. Parts apart from the
    skin move as the mouth's socket does on average.
    """

    def __init__(
        self, topology: Topology, weight: Float[Tensor, " V"], points: SurfacePoints | None = None
    ) -> None:
        part = connected_parts(topology)
        self.main, self.apart = (part == 0).numpy(), part != 0
        self.mouth = topology.region_mask("mouth_socket")
        self.weight = weight.double().numpy()[self.main]
        count, edges = topology.vertex_count, topology.edges.numpy()
        ends = np.arange(len(edges)).repeat(2), edges.reshape(-1)
        sign = np.tile([1.0, -1.0], len(edges))
        change = csr_array((sign, ends), shape=(len(edges), count))
        system = bending(topology) + STRETCH * (change.T @ change)
        self.picks = csr_array((0, count)) if points is None else picking(topology, points)
        system = (system + SHARED * (self.picks.T @ self.picks)).tocsr()[self.main][:, self.main]
        self.solver = splu((system + diags_array(self.weight)).tocsc())

    def __call__(
        self, values: Float[Tensor, "V 3"], tied: Float[Tensor, "N 3"] | None = None
    ) -> Float[Tensor, "V 3"]:
        """What the field is everywhere; `tied` are its values at the points."""
        right = self.weight[:, None] * values.double().numpy()[self.main]
        if tied is not None:
            right = right + SHARED * (self.picks.T @ tied.double().numpy())[self.main]
        filled = np.zeros((len(self.main), 3))
        filled[self.main] = self.solver.solve(right)
        out = torch.from_numpy(filled)
        out[self.apart] = out[self.mouth].mean(0)
        return out


@dataclass(frozen=True)
class Laid:
    """The reference's own shape laid over another family's skin."""

    places: Places
    fill: Continued
    shared: SurfacePoints
    mean: Float[Tensor, "V 3"]

    def mode(self, row: Float[Tensor, "V0 3"], other: Topology) -> Float[Tensor, "V 3"]:
        """A motion of the other's vertices as motion of ours."""
        return self.fill(self.places(row), interpolate(self.shared, other.triangles, row.double()))


def unfolded(vertices: Float[Tensor, "V 3"], other: LinearHead, reference: LinearHead) -> Laid:
    """The reference laid over the other's mean head, from where its vertices were put there.

    The vertices' own places hold but where they fold; `geometry.lines` and inner landmarks hold
    everywhere.
    """
    topology, template = reference.topology, other.template.double()
    ours, theirs = shared_points(vertices, reference, other)
    goal = interpolate(theirs, other.topology.triangles, template)
    first = places_on(vertices, other, topology)
    base = _affine(reference.template.double(), first(template), first.known)

    def laid(places: Places) -> Laid:
        fill = Continued(topology, places.weight, ours)
        tied = goal - interpolate(ours, topology.triangles, base)
        return Laid(places, fill, theirs, base + fill(places(template) - base, tied))

    smooth = laid(_weighted(first, FAINT * first.known)).mean
    firm = first.known
    for _ in range(ROUNDS):
        found = laid(_weighted(first, FIRM * firm))
        bad = folded(found.mean, smooth, topology)
        if not bool(bad.any()):
            break
        firm = firm & (neighbour_rings(topology, bad, 1) > 1)
    for _ in range(ROUNDS):
        again = places_on(found.mean, other, topology, lips=0, lids=1)
        points = SurfacePoints(
            torch.where(firm, first.points.triangles, again.points.triangles),
            torch.where(firm[:, None], first.points.barycentrics, again.points.barycentrics),
        )
        weight = torch.where(firm, FIRM, GENTLE * again.known)
        found = laid(Places(first.topology, points, weight))
    return found


def folded(
    vertices: Float[Tensor, "V 3"], smooth: Float[Tensor, "V 3"], topology: Topology
) -> Bool[Tensor, " V"]:
    """Corners of the skin's triangles that run through others or have turned away from `smooth`."""
    skin = topology.region_mask("skin")
    corners = topology.triangles[skin[topology.triangles].all(1)]
    normals = [face_normals(shape, corners) for shape in (vertices, smooth)]
    wrong = (normals[0] * normals[1]).sum(1) < TURNED
    wrong |= self_intersections(vertices, corners)
    bad = torch.zeros_like(skin)
    bad[corners[wrong]] = True
    return bad


def places_on(
    vertices: Float[Tensor, "V 3"], other: LinearHead, topology: Topology,
    lips: int = 2, lids: int = 2,
) -> Places:  # fmt: skip
    """The nearest places on the other's mean skin that face as the vertices do; weights 0 or 1.

    Nothing is known within so many edges of the sockets behind lips and lids, where both sides of a
    slit are equally near, nor where one lip found the other.
    """
    skin = skin_of(other)
    bridge = bind(Mesh(skin, other.template), Mesh(topology, vertices.float()))
    known = bridge.near & topology.region_mask("skin")
    for name, rings in (("mouth_socket", lips), ("eye_sockets", lids)):
        known &= neighbour_rings(topology, topology.region_mask(name), rings) > rings
    for ours, wrong in (("lips_upper", "lips_lower"), ("lips_lower", "lips_upper")):
        found = bridge.values(other.topology.region_mask(wrong).float()[:, None])[:, 0] > 0.3
        known &= ~(topology.region_mask(ours) & found)
    return Places(skin, bridge.points, known.double())


def skin_of(head: LinearHead) -> Topology:
    """The topology with the faces of skin alone: no shells, globes or teeth to be caught by."""
    inside = head.topology.region_mask("skin")[head.topology.faces].all(1)
    faces = head.topology.faces[inside]
    neck = {"neck": head.topology.regions["neck"]}
    return Topology(head.topology.vertex_count, faces, head.topology.uv, 0 * faces, neck)


def _weighted(places: Places, weight: Float[Tensor, " V"]) -> Places:
    return Places(places.topology, places.points, weight.double())


def _affine(
    start: Float[Tensor, "V 3"], goal: Float[Tensor, "V 3"], known: Bool[Tensor, " V"]
) -> Float[Tensor, "V 3"]:
    """All of `start` by the affine map that brings what is known nearest to `goal`."""
    ones = torch.cat([start, torch.ones(len(start), 1).to(start)], 1)
    return ones @ torch.linalg.lstsq(ones[known], goal[known]).solution
