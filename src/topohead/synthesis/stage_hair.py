"""Hair of staged people: strands as those of `synthesis.people`, filmed as thin tubes."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel, InputError, Strands
from topohead.geometry.head_field import HeadField
from topohead.geometry.tubes import SIDES, tube_triangles, tube_vertices
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.facial_hair import BEARDS
from topohead.synthesis.grooms import STYLES, Groom, random_groom
from topohead.synthesis.hair import STRANDS
from topohead.synthesis.looks import matched
from topohead.synthesis.props import Props
from topohead.synthesis.whiskers import Whiskers
from topohead.synthesis.wigs import Wigs

BROWS, RANDOM = "brows", "random"
"""Kinds of hair beside the styles by name: brows and lashes alone; any style."""

SCALP, POINTS = 3072, 12
"""Strands of a wig, and points of any strand."""

ROUGHNESS = 0.45


@dataclass(frozen=True)
class StageHair:
    """One person's hair: a wig (None: bald, or cropped in the skin's picture), brows and lashes.

    `groom` tells its colour, and its style where there is a wig.
    """

    groom: Groom
    wig: Wigs | None
    whiskers: Whiskers

    def worn(
        self, rest: Float[Tensor, "V 3"], posed: Float[Tensor, "V 3"], pose: Float[Tensor, "4 4"]
    ) -> Strands:
        """The strands in the world, scalp first, on a head whose frame `pose` puts there.

        `rest` and `posed` are in the head frame. The same strands in the same order at any time.
        """
        one, bearded = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.bool)
        face = self.whiskers.worn(one, bearded, posed[None]).head(0)
        both = face
        if self.wig is not None:
            both = Strands.joined(self.wig.worn(one, rest[None], posed[None]).head(0), face)
        return replace(both, points=both.points @ pose[:3, :3].T + pose[:3, 3])


def stage_hair(
    head: HeadModel, skin: SkinParameters, kind: str, seed: int
) -> tuple[StageHair, SkinParameters]:
    """Hair of a kind (a style's name, `BROWS` or `RANDOM`) for a skin, and the skin it goes with.

    Colours are a person's of such skin and age. Only the reference head grows hair.
    """
    if kind not in (BROWS, RANDOM, *STYLES):
        known = ", ".join(("none", BROWS, RANDOM, *STYLES))
        raise InputError(f"--hair {kind!r} is not known; there are {known}")
    missing = {"scalp", "brows"} - set(head.topology.regions)
    if missing:
        raise InputError(f"--hair needs --head reference: {head.topology.name} has no scalp")
    style = None if kind == RANDOM else "bald" if kind == BROWS else kind
    skin, groom = matched(skin, random_groom(seed, style))
    field = HeadField.of(head.topology, head.template)
    whiskers = Whiskers.of([skin], [groom], [BEARDS["shaved"]], field, [seed], STRANDS, POINTS)
    if kind == BROWS:
        return StageHair(groom, None, whiskers), skin
    wig = None if groom.density == 0 else Wigs.of([groom], field, [seed], SCALP, POINTS)
    return StageHair(groom, wig, whiskers), replace(skin, hair=0.0)


def tubes(strands: Strands) -> Props:
    """Strands of one head, none of them empty, as a prop."""
    vertices = tube_vertices(strands.points, strands.widths)
    colors = strands.colors.flatten(0, 1).repeat_interleave(SIDES, 0)
    triangles = tube_triangles(*strands.widths.shape)
    return Props(vertices, triangles, colors, torch.full((len(vertices),), ROUGHNESS))
