"""Lips that a scan shows closed: where its skin runs on from one lip to the other, they meet."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import fixed
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import Matches, ramp, within
from topohead.solvers.scan_samples import ScanSamples

WIDEST = 5e-3
"""Lips farther apart than this are open, whatever lies between, metres."""
RESTING = 9e-4
"""Closed lips face each other at this distance, metres: that of the reference and of made people.
Nearer ones are left as they are, and so are those nearer than two samples: no scan tells."""
SETTLED = 2e-5
"""Half of what facing lips still have to go counts fully from here on, metres."""
OPPOSED = -0.3
"""Greatest cosine between the normals of two places that face each other."""
AHEAD = 0.7
"""Least cosine between a place's normal and the way to its counterpart."""
TURNED = 0.1
"""From so far below these cosines to so far above them a decision falls."""
MIDDLE = 0.3
"""Skin bridges two places if the scan is this near to their middle, in shares of their distance:
along the way between them, and across the skin."""
SIDEWAYS = 0.5
"""Greatest cosine between the normal of skin that bridges two places and the way between them: what
faces along it is a lip itself, and parted lips (1.7 mm, say) were drawn together over their own."""
AROUND = 4
"""Vertices of the other lip whose mean is a place's counterpart, but for the last."""
TWICE = 0.7
"""What a place and its counterpart count, as most are told from both sides."""
LOOKED_AT = 8
"""Samples nearest to the middle that are asked."""


@dataclass(frozen=True)
class LipLine:
    """The vertices of the finer surface's upper and lower lip."""

    upper: Int[Tensor, " U"]
    lower: Int[Tensor, " L"]

    @staticmethod
    def of(surface: ScanHead) -> "LipLine":
        """Of a topology with the reference's regions; without lips it closes nothing."""
        known = surface.fine.regions
        return LipLine(
            *(
                (known[name] if name in known else torch.zeros(0).long()).to(surface.device)
                for name in ("lips_upper", "lips_lower")
            )
        )

    def closing(
        self,
        points: Float[Tensor, "S 3"],
        normals: Float[Tensor, "S 3"],
        samples: ScanSamples,
    ) -> Matches:
        """What brings the lips half way towards `RESTING` from each other, wherever the scan's skin
        lies between.

        A scanner sees closed lips as one surface; distances along normals say nothing of it, and
        leave lips as far open as they began. Open lips have nothing between them, or teeth farther
        in.
        """
        sides = (self.upper, self.lower), (self.lower, self.upper)
        parts = [_facing(points, normals, own, other) for own, other in sides]
        rows, theirs, share, way, normal, facing = map(torch.cat, zip(*parts, strict=True))
        if not fixed(points):  # what does not face the other lip is no work
            some = facing > 0
            rows, theirs, share, way, normal, facing = (
                part[some] for part in (rows, theirs, share, way, normal, facing)
            )
        half = 0.5 * ((normal * way).sum(1) - samples.spacing.clamp(min=RESTING))
        belief = facing * _bridged(points[rows], way, samples) * ramp(half, 0, SETTLED)
        half, belief = half.masked_fill(belief == 0, 0), TWICE * belief
        count = theirs.shape[1]
        belief = torch.cat([belief, (belief[:, None] * share).flatten()])
        return Matches(
            torch.cat([rows, theirs.flatten()]),
            torch.cat([normal, -normal.repeat_interleave(count, 0)]),
            torch.cat([half, half.repeat_interleave(count)]).masked_fill(belief == 0, 0),
            belief,
            belief,
            torch.zeros_like(belief),
        )


def _facing(
    points: Float[Tensor, "S 3"],
    normals: Float[Tensor, "S 3"],
    own: Int[Tensor, " P"],
    other: Int[Tensor, " Q"],
) -> tuple[Tensor, ...]:
    """Of places [P] on one lip: the vertices [P K] of the other whose mean is the counterpart, with
    their shares; the way there and the unit normal along which both meet [P 3]; and how far they
    face each other, no farther than `WIDEST`, in [0, 1]."""
    if not len(own) or not len(other):
        none = points.new_zeros(0, AROUND)
        return own[:0], none.long(), none, points[:0], normals[:0], none[:, 0]
    here = points[own]
    distance, index = PointTree(points[other]).query(here, min(AROUND, len(other)))
    # who is the last to be asked must not matter
    share = distance[:, -1:] ** 2 - distance**2 + 1e-12
    share, index = share / share.sum(1, keepdim=True), other[index]
    way = (share[..., None] * points[index]).sum(1) - here
    theirs = (share[..., None] * normals[index]).sum(1)
    theirs = theirs / theirs.norm(dim=1, keepdim=True).clamp(min=1e-12)
    distance = way.norm(dim=1)
    ahead = (way * normals[own]).sum(1) / distance.clamp(min=1e-9)
    opposed = (normals[own] * theirs).sum(1)
    normal = normals[own] - theirs
    normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-12)
    facing = (
        within(distance, WIDEST)
        * ramp(ahead, AHEAD - TURNED, AHEAD + TURNED)
        * ramp(opposed, OPPOSED + TURNED, OPPOSED - TURNED)
    )
    return own, index, share, way, normal, facing


def _bridged(
    places: Float[Tensor, "P 3"], way: Float[Tensor, "P 3"], samples: ScanSamples
) -> Float[Tensor, " P"]:
    """How far a sample lies half way between places and those at `way`, in [0, 1]."""
    apart = way.norm(dim=1, keepdim=True)
    middle = places + 0.5 * way
    away, index = samples.tree.query(middle, min(LOOKED_AT, len(samples.points)))
    offset = samples.points[index] - middle[:, None]
    over, facing = (way / apart.clamp(min=1e-9))[:, None], samples.normals[index]
    along, across = (offset * over).sum(2), (offset * facing).sum(2)
    near = MIDDLE * apart + samples.noise
    found = (
        within(along.abs(), near)
        * within(across.abs(), near)
        * within(away, apart + samples.spacing)
        * within((facing * over).sum(2).abs(), SIDEWAYS)
        * ramp(away, away[:, -1:], 0.9 * away[:, -1:])
    )
    return found.masked_fill(away.isinf(), 0).amax(1)
