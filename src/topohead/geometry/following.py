"""How vertices move that have no place on the other head: they follow those that have."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import Topology
from topohead.geometry import alignment
from topohead.geometry.filling import LeastBending
from topohead.geometry.meshes import connected_parts

BOUND, CONTINUED, FOLLOWING, SOLID = 0, 1, 2, 3
"""Kinds of vertices: on the other head's skin; skin beside it or where it would fold, continued
with least bending; thin shells that follow the skin beneath; from `SOLID` on, bodies that keep
their shape, each with a number of its own."""

SKIN_NEIGHBOURS = 8
"""A following vertex moves as the mean of so many skin vertices, the near ones most."""

GRIP = 60
"""A body without a counterpart moves with so many skin vertices that lie nearest."""


@dataclass(frozen=True)
class Following:
    """What moves the vertices that are not `BOUND`, prepared for one topology at rest."""

    kind: Int[Tensor, " V"]
    rest: Float[Tensor, "V 3"]
    continued: LeastBending
    held: Int[Tensor, "N K"]
    shares: Float[Tensor, "N K"]
    anchors: tuple[Int[Tensor, " _"], ...]

    @staticmethod
    def of(
        topology: Topology,
        rest: Float[Tensor, "V 3"],
        kind: Int[Tensor, " V"],
        near: Bool[Tensor, " V"],
    ) -> "Following":
        """`near` tells which vertices of bodies have a place on the other head to be moved by."""
        skin = (kind <= CONTINUED).nonzero()[:, 0]
        tree, points = KDTree(rest[skin].double().numpy()), rest.double().numpy()
        distance, found = tree.query(points[(kind == FOLLOWING).numpy()], k=SKIN_NEIGHBOURS)
        weights = 1 / (np.asarray(distance) + 1e-3 * np.ptp(points, axis=0).max()) ** 2
        anchors = []
        for number in range(SOLID, int(kind.max()) + 1):
            body = kind == number
            own = (body & near).nonzero()[:, 0]
            if 2 * len(own) < int(body.sum()) or len(own) < 3:
                around = np.asarray(tree.query(points[body.numpy()], k=1)[1])
                middle = points[body.numpy()].mean(0)
                far = np.linalg.norm(points[skin.numpy()[around]] - middle, axis=1)
                around = np.unique(around[np.argsort(far, kind="stable")])[:GRIP]
                if len(around) < 3:
                    around = np.asarray(tree.query(middle, k=min(GRIP, len(skin)))[1])
                own = skin[torch.from_numpy(around)]
            anchors.append(own)
        return Following(
            kind,
            rest,
            LeastBending.of(topology, kind == CONTINUED),
            skin[torch.from_numpy(np.asarray(found))],
            torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(rest),
            tuple(anchors),
        )

    def __call__(
        self, bound: Float[Tensor, "V 3"], similarity: Float[Tensor, "4 4"]
    ) -> Float[Tensor, "V 3"]:
        """All vertices in their places, where `bound` has those that are bound.

        `similarity` takes the rest shape to about where the head is.
        """
        rest = alignment.apply(similarity.to(bound), self.rest.to(bound))
        moved = self.continued(bound - rest)
        follows = self.kind == FOLLOWING
        moved[follows] = (self.shares.to(bound)[..., None] * moved[self.held]).sum(1)
        placed = rest + moved
        for number, anchors in enumerate(self.anchors, SOLID):
            body = self.kind == number
            if not bool(body.any()):
                continue
            goal = torch.where(body[anchors, None], bound[anchors], placed[anchors])
            carried = alignment.rigid(rest[anchors], goal, scale=True)
            placed[body] = alignment.apply(carried, rest[body])
        return placed


def kinds(
    topology: Topology,
    near: Bool[Tensor, " V"],
    small: Bool[Tensor, " V"],
    bodies: tuple[Bool[Tensor, " V"], ...],
    reach: Float[Tensor, " V"],
    thin: float,
) -> Int[Tensor, " V"]:
    """The kind of every vertex of a mesh.

    `small` marks parts that are no skin; one of them belongs to a body when at least half of it
    lies in its mask. Others are shells when their median distance from skin, `reach`, is below
    `thin`; the rest are bodies of their own.
    """
    kind = torch.where(near, BOUND, CONTINUED)
    part = connected_parts(topology)
    number = SOLID + len(bodies)
    for piece in part[small].unique().tolist():
        members = part == piece
        shares = [float(body[members].float().mean()) for body in bodies]
        best = max(range(len(bodies)), key=shares.__getitem__, default=0)
        if shares and shares[best] >= 0.5:
            kind[members] = SOLID + best
        elif float(reach[members].median()) <= thin:
            kind[members] = FOLLOWING
        else:
            kind[members] = number
            number += 1
    return kind
