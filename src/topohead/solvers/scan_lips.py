"""Lips that a scan shows closed: where its skin runs on from one lip to the other, they meet."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import fixed
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import Matches
from topohead.solvers.scan_samples import ScanSamples

WIDEST = 5e-3
"""Lips farther apart than this are open, whatever lies between, metres."""
RESTING = 9e-4
"""Closed lips face each other at this distance, metres: that of the reference and of made people.
Nearer ones are left as they are, and so are those nearer than two samples: no scan tells."""
OPPOSED = -0.3
"""Greatest cosine between the normals of two places that face each other."""
AHEAD = 0.7
"""Least cosine between a place's normal and the way to its counterpart."""
MIDDLE = 0.3
"""Skin bridges two places if the scan is this near to their middle, in shares of their distance:
along the way between them, and across the skin."""
SIDEWAYS = 0.5
"""Greatest cosine between the normal of skin that bridges two places and the way between them: what
faces along it is a lip itself, and parted lips (1.7 mm, say) were drawn together over their own."""
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
        """What closes facing places of the lips to `RESTING`, where the scan's skin lies between.

        A scanner sees closed lips as one surface; distances along normals say nothing of it, and
        leave lips as far open as they began. Open lips have nothing between them, or teeth farther
        in.
        """
        above, below, facing = self._facing(points, normals)
        if not fixed(points):  # what does not face each other is no work
            above, below, facing = (part[facing] for part in (above, below, facing))
        way = points[below] - points[above]
        bridged, sample = _bridged(points[above], way, samples)
        normal = normals[above] - normals[below]
        normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-12)
        half = 0.5 * ((normal * way).sum(1) - samples.spacing.clamp(min=RESTING))
        closed = facing & bridged & (half > 0)
        half = half.masked_fill(~closed, 0)
        return Matches(
            torch.cat([above, below]),
            torch.cat([normal, -normal]),
            torch.cat([half, half]),
            torch.cat([closed, closed]).to(half.dtype),
            torch.cat([sample, sample]),
            torch.cat([closed, closed]),
        )

    def _facing(
        self, points: Float[Tensor, "S 3"], normals: Float[Tensor, "S 3"]
    ) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"], Bool[Tensor, " P"]]:
        """Pairs of places, one of each lip, and whether they face each other no farther than
        `WIDEST`; that of two which face each other is told once."""
        if not len(self.upper) or not len(self.lower):
            return self.upper[:0], self.lower[:0], self.upper[:0].bool()
        pairs = []
        for own, other in ((self.upper, self.lower), (self.lower, self.upper)):
            distance, index = (t[:, 0] for t in PointTree(points[other]).query(points[own]))
            there = other[index]
            way = points[there] - points[own]
            ahead = (way * normals[own]).sum(1) >= AHEAD * distance
            opposed = (normals[own] * normals[there]).sum(1) < OPPOSED
            pairs.append((there, index, (distance < WIDEST) & ahead & opposed))
        (below, _, down), (above, upper, up) = pairs
        again = down[upper] & (below[upper] == self.lower)
        return (
            torch.cat([self.upper, above]),
            torch.cat([below, self.lower]),
            torch.cat([down, up & ~again]),
        )


def _bridged(
    places: Float[Tensor, "P 3"], way: Float[Tensor, "P 3"], samples: ScanSamples
) -> tuple[Bool[Tensor, " P"], Int[Tensor, " P"]]:
    """Whether a sample lies half way between places and those at `way`, and the nearest sample."""
    apart = way.norm(dim=1, keepdim=True)
    middle = places + 0.5 * way
    _, index = samples.tree.query(middle, min(LOOKED_AT, len(samples.points)))
    offset = samples.points[index] - middle[:, None]
    over, facing = (way / apart.clamp(min=1e-9))[:, None], samples.normals[index]
    along, across = (offset * over).sum(2), (offset * facing).sum(2)
    aside = offset.norm(dim=2) < apart + samples.spacing
    near = MIDDLE * apart + samples.noise
    between = (facing * over).sum(2).abs() < SIDEWAYS
    found = (along.abs() < near) & (across.abs() < near) & aside & between
    return found.any(1), index[:, 0]
