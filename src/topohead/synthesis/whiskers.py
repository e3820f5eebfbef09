"""Brows, lashes and beards for a pool of skins: grown once, worn by any face as it moves.

Hair on a face goes with the skin below: lids shut, jaws fall. So a strand keeps its shape in the
frame of the triangle that it stands on, and is then kept out of the face. Few strands, wide ones:
the skin's picture has fine brows and stubble of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Strands
from topohead.geometry.head_field import HeadField
from topohead.geometry.root_frames import triangle_frames
from topohead.geometry.strands import CLEARANCE
from topohead.rendering import worn_cpu
from topohead.rendering.portraits_cpu import arrays
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.facial_hair import (
    BEARDS,
    Beard,
    Brows,
    grow_beard,
    grow_brows,
    grow_lashes,
)
from topohead.synthesis.grooms import BROWS_GREY, GREY, Groom, aged_color, root_color

SHARES = (0.09, 0.05, 0.25)
"""Strands of brows, of lashes and of a beard, as shares of those of the head's hair."""

GROWN = (1600, 280, 1600)
"""Strands that are grown; of those that stand an even choice is kept."""

KINDS = {"stubble": 0.2, "short": 0.35, "full": 0.2, "goatee": 0.15, "moustache": 0.1}
"""Beards of those who have one, and how many of them wear it."""

SHADOW = 0.75
"""Least stubble on the skin below a beard, whose strands are too few to be opaque."""

LASHES = (0.6, 0.9)
"""Length and width of a lash that stands for several, of those of `grow_lashes`."""


@dataclass(frozen=True)
class Whiskers:
    """Facial hair of N skins on the template of `field`, wherever the field is.

    `local` are the strands' points, metres, in the frames of their root triangles. They are kept
    `clear` metres outside the skin, whose vertices `nearest` they were next to. From strand
    `beard` on they are a beard's, which not everybody wears whom the skin would suit.
    """

    field: HeadField
    strands: Strands
    local: Float[Tensor, "N S P 3"]
    nearest: Int[Tensor, "N S P"]
    clear: Float[Tensor, "N S P"]
    beard: int

    @staticmethod
    def of(
        skins: Sequence[SkinParameters],
        grooms: Sequence[Groom],
        beards: Sequence[Beard],
        field: HeadField,
        seeds: Sequence[int],
        strands: int,
        points: int,
    ) -> "Whiskers":
        """What goes with each skin, groom and beard, beside `strands` hairs of `points` points."""
        counts = [max(4, round(share * strands)) for share in SHARES]
        rows, heads = [], field.place(field.template[None])
        for skin, groom, beard, seed in zip(skins, grooms, beards, seeds, strict=True):
            grown = _grown(skin, groom, beard, field, seed, counts, points)
            flat = grown.points.reshape(1, -1, 3)
            nearest = field.nearest(flat, heads)
            away = field.distance(flat, heads, nearest)[0].clamp(max=CLEARANCE)
            origin, axes, _ = triangle_frames(field.template, field.triangles, grown)
            local = (grown.points - origin[:, None]) @ axes
            shape = grown.points.shape[:2]
            rows.append((*grown.parts, local, nearest.int().view(shape), away.view(shape)))
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        return Whiskers(field, Strands(*columns[:5]), *columns[5:], beard=counts[0] + counts[1])

    @staticmethod
    def several(whiskers: Sequence["Whiskers"]) -> "Whiskers":
        """Those of several pools of one field as one's."""
        whole = [(*w.strands.parts, w.local, w.nearest, w.clear) for w in whiskers]
        columns = [torch.cat(column) for column in zip(*whole, strict=True)]
        first = whiskers[0]
        return Whiskers(first.field, Strands(*columns[:5]), *columns[5:], beard=first.beard)

    def to(self, device: torch.device | str) -> "Whiskers":
        """The same on another device."""
        parts = (part.to(device) for part in (self.local, self.nearest, self.clear))
        return Whiskers(self.field.to(device), self.strands.to(device), *parts, beard=self.beard)

    def worn(
        self,
        which: Int[Tensor, " B"],
        bearded: Bool[Tensor, " B"],
        posed: Float[Tensor, "B V 3"],
    ) -> Strands:
        """The rows numbered `which` on faces as they are now; beards only on the `bearded`."""
        own = Strands(*(part[which] for part in self.strands.parts))
        if posed.is_cuda:
            points = self._worn_by_tensors(which, own, posed)
        else:
            parts = (which, self.local, self.nearest, self.clear, self.strands.root_triangle,
                     self.strands.root_barycentrics, posed)  # fmt: skip
            points = torch.from_numpy(worn_cpu.whiskers(*arrays(*parts, *self.field.solids)))
        kept = torch.ones_like(own.widths[:, :, :1])
        kept[:, self.beard :] = bearded[:, None, None].to(kept)
        return replace(own, points=points, widths=own.widths * kept)

    def _worn_by_tensors(self, which: Tensor, own: Strands, posed: Tensor) -> Tensor:
        """Points of `own` strands on faces."""
        origin, axes, _ = triangle_frames(posed, self.field.triangles, own)
        points = origin[..., None, :] + self.local[which] @ axes.mT
        distance, away = self.field.distance(
            points.flatten(1, 2), self.field.place(posed), self.nearest[which].flatten(1).long()
        )
        lack = (self.clear[which] - distance.view(points.shape[:3])).clamp(min=0)
        points = points + lack[..., None] * away.view(points.shape)
        points[:, :, 0] = origin
        return points


def draw_beard(seed: int, skin: SkinParameters, groom: Groom) -> tuple[Beard, SkinParameters]:
    """A beard for a skin, and the skin below it; smooth skins have none.

    Its colour is that of the hair, redder by a little, as its age makes it grey.
    """
    if skin.stubble <= 0:
        return BEARDS["shaved"], skin
    random = np.random.default_rng([seed, 61])
    beard = BEARDS[str(random.choice(list(KINDS), p=list(KINDS.values())))]
    longer = float(np.exp(0.2 * random.standard_normal()))
    root = root_color(groom).double().numpy() * np.array([1.15, 1.0, 0.9])
    white = float(np.clip(1.1 * groom.grey, 0, 1))
    red, green, blue = ((1 - white) * root + white * np.array(GREY)).tolist()
    beard = replace(
        beard, color=(red, green, blue), moustache=beard.moustache * longer,
        chin=beard.chin * longer, cheeks=beard.cheeks * longer,
        density=float(random.uniform(0.75, 1.0)),
    )  # fmt: skip
    return beard, replace(skin, stubble=max(skin.stubble, SHADOW))


def _grown(
    skin: SkinParameters,
    groom: Groom,
    beard: Beard,
    field: HeadField,
    seed: int,
    counts: Sequence[int],
    points: int,
) -> Strands:
    """One face's strands on the template: brows, lashes, beard, as many of each as told."""
    red, green, blue = (0.85 * aged_color(groom, BROWS_GREY)).tolist()
    brows = Brows((red, green, blue), 0.8 + 0.5 * skin.brow_width, 1.0, skin.brow_density)
    red, green, blue = (0.35 * root_color(groom)).clamp(max=0.03).tolist()
    lashes = grow_lashes((red, green, blue), field, field.template, seed, GROWN[1], points)
    root = lashes.points[:, :1]
    short = torch.lerp(root, lashes.points, LASHES[0])
    grown = (
        grow_brows(brows, field, field.template, seed, GROWN[0], points),
        replace(lashes, points=short, widths=LASHES[1] * lashes.widths),
        grow_beard(beard, field, field.template, seed, GROWN[2], points),
    )
    few = [_some(one, count) for one, count in zip(grown, counts, strict=True)]
    return Strands.joined(*few)


def _some(grown: Strands, count: int) -> Strands:
    """So many of the strands that stand, wider as they are fewer; empty slots where none do."""
    packed = grown.packed()
    there = len(packed.points)
    if there == 0:
        none = Strands(*(part[:count] for part in grown.parts))
        return replace(none, widths=torch.zeros_like(none.widths))
    slot = torch.arange(count)
    chosen = Strands(*(part[slot * there // count if there > count else slot.clamp(max=there - 1)]
                       for part in packed.parts))  # fmt: skip
    wider = max(there / count, 1.0) ** 0.95 * (slot < there)[:, None]
    return replace(chosen, widths=chosen.widths * wider)
