"""Hair grown once and worn by any head: cut on the template, carried along with the skin below it.

Growing is a long chain of small steps. Heads of one topology that share a groom share the chain
too: each point of a strand follows the skin vertices that it is nearest to on the template, and is
kept as far outside the skin as it was there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Strands
from topohead.geometry.compiled import compiled
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import BIAS_REACH, CLEARANCE, segment_lengths
from topohead.rendering import worn_cpu
from topohead.rendering.portraits_cpu import arrays
from topohead.synthesis.grooms import Groom
from topohead.synthesis.hair import POINTS, STRANDS, grow

NEIGHBOURS = 4
"""Skin vertices that a point of hair follows."""

HOLD = 0.04
"""Metres from the skin at which hair follows it by 1/e; all of it follows the head's size."""


@dataclass(frozen=True)
class Wigs:
    """N heads of hair as they are on the template of `field`; wherever the field is.

    A point follows the vertices `nearest` with `weights`: they sum to the share of their own shift
    that it takes. It is kept `clear` metres outside the skin. What a root is off the skin after
    all that, a point makes good by the share `rooted`.
    """

    field: HeadField
    strands: Strands
    nearest: Int[Tensor, "N S P 4"]
    weights: Float[Tensor, "N S P 4"]
    clear: Float[Tensor, "N S P"]
    rooted: Float[Tensor, "N S P"]

    @staticmethod
    def of(
        grooms: Sequence[Groom],
        field: HeadField,
        seeds: Sequence[int],
        strands: int = STRANDS,
        points: int = POINTS,
    ) -> "Wigs":
        """A wig of each groom and seed, grown where the field is."""
        parts = []
        for groom, seed in zip(grooms, seeds, strict=True):
            grown = grow(groom, field, field.template, seed, strands, points)
            parts.append((*grown.parts, *_bound(grown.points, field)))
        columns = [torch.stack(column) for column in zip(*parts, strict=True)]
        return Wigs(field, Strands(*columns[:5]), *columns[5:])

    @staticmethod
    def several(wigs: Sequence["Wigs"]) -> "Wigs":
        """Wigs of one field as one."""
        whole = [(*w.strands.parts, w.nearest, w.weights, w.clear, w.rooted) for w in wigs]
        columns = [torch.cat(column) for column in zip(*whole, strict=True)]
        return Wigs(wigs[0].field, Strands(*columns[:5]), *columns[5:])

    def __len__(self) -> int:
        return len(self.clear)

    def to(self, device: torch.device | str) -> "Wigs":
        """The same wigs on another device."""
        parts = (self.nearest, self.weights, self.clear, self.rooted)
        moved = (part.to(device) for part in parts)
        return Wigs(self.field.to(device), self.strands.to(device), *moved)

    def worn(
        self,
        which: Int[Tensor, " B"],
        rest: Float[Tensor, "B V 3"],
        posed: Float[Tensor, "B V 3"],
    ) -> Strands:
        """The wigs numbered `which` on heads, shaped at rest, then kept out of the posed face.

        Roots lie on the posed skin, other points as far outside as they were on the template, or
        farther. Segments stretch with the head.
        """
        if compiled(rest):
            return self._worn_there(which, rest, posed)
        if not rest.is_cuda:
            return self._worn_here(which, rest, posed)
        return self._worn_by_tensors(which, rest, posed)

    def _worn_by_tensors(self, which: Tensor, rest: Tensor, posed: Tensor) -> Strands:
        """`worn` where nothing is compiled."""
        field = self.field
        scale, shift, own = self._shaped(rest)
        scale, shift = scale[:, None], shift[:, None]
        wig = Strands(*(part[which] for part in self.strands.parts))
        nearest = self.nearest[which].flatten(1, 2).long()
        weights = self.weights[which].flatten(1, 2)
        rows = torch.arange(len(rest), device=rest.device)[:, None]
        flat = scale * wig.points.flatten(1, 2) + shift
        for k in range(NEIGHBOURS):
            flat = flat + weights[..., k, None] * own[rows, nearest[..., k]]
        points = flat.view(wig.points.shape)
        corners = field.triangles[wig.root_triangle]
        roots = (posed[rows[..., None], corners] * wig.root_barycentrics[..., None]).sum(2)
        off = roots - points[:, :, 0]
        points = points + self.rooted[which][..., None] * off[:, :, None]
        distance, away = field.distance(points.flatten(1, 2), field.place(posed), nearest[..., 0])
        lack = (self.clear[which] - distance.view(points.shape[:3])).clamp(min=0)
        points = points + lack[..., None] * away.view(points.shape)
        points[:, :, 0] = roots
        return replace(wig, points=points)

    def _shaped(self, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale and shift of the template on heads, and what their shape is beyond that."""
        scale, shift = self.field.fitted(rest)
        return scale, shift, rest - (scale[:, None] * self.field.template + shift[:, None])

    def _worn_here(self, which: Tensor, rest: Tensor, posed: Tensor) -> Strands:
        """`worn` by compiled loops on CPU cores."""
        parts = (which, self.strands.points, self.nearest, self.weights, self.clear, self.rooted,
                 self.strands.root_triangle, self.strands.root_barycentrics, rest,
                 posed)  # fmt: skip
        points = worn_cpu.wigs(*arrays(*parts, *self.field.solids))
        others = (part[which] for part in self.strands.parts[1:])
        return Strands(torch.from_numpy(points), *others)

    def _worn_there(self, which: Tensor, rest: Tensor, posed: Tensor) -> Strands:
        """`worn` by a Triton kernel."""
        from topohead.synthesis import wigs_triton  # noqa: PLC0415 -- only where CUDA is

        strands, field = self.strands, self.field
        scale, shift, own = self._shaped(rest)
        parts = (strands.points, self.nearest, self.weights, self.clear, self.rooted,
                 strands.root_triangle, strands.root_barycentrics)  # fmt: skip
        points = wigs_triton.worn(
            which, parts, (scale, shift), own, field.place(posed),
            (field.triangles, field.ring, *field.capsules),
        )  # fmt: skip
        return Strands(points, *(part[which] for part in strands.parts[1:]))


def _bound(points: Float[Tensor, "S P 3"], field: HeadField) -> tuple[Tensor, ...]:
    """What ties hair on the template to the vertices around it: see `Wigs`."""
    heads = field.place(field.template[None])
    flat = points.reshape(1, -1, 3)
    around = field.ring[field.nearest(flat, heads)[0]].long()
    apart = (flat[0, :, None] - field.template[around]).square().sum(-1)
    # a short ring repeats its middle: taken once
    apart[:, 1:].masked_fill_(around[:, 1:] == around[:, :1], torch.inf)
    close, order = apart.topk(NEIGHBOURS, largest=False)
    nearest = around.gather(1, order)
    weights = (close + 1e-7).pow(-2)
    weights = weights / weights.sum(-1, keepdim=True)
    weights = weights * torch.exp(-close[:, :1] / HOLD**2)
    reached = segment_lengths(points).cumsum(-1)
    reached = torch.cat([torch.zeros_like(reached[..., :1]), reached], -1)
    shape = points.shape[:2]
    return (
        nearest.int().view(*shape, NEIGHBOURS),
        weights.view(*shape, NEIGHBOURS),
        field.distance(flat, heads, nearest[:, :1].mT)[0].clamp(max=CLEARANCE).view(shape),
        torch.exp(-reached / BIAS_REACH),
    )
