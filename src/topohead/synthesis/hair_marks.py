"""Hair that is part of the skin's picture: brows, lash line, stubble, close-cropped scalp."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel
from topohead.rendering.fields import Fields
from topohead.synthesis import strokes
from topohead.synthesis.canvas import Texels
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.decals import Decal, drawn
from topohead.synthesis.facial_areas import Areas, template_landmarks

STUB = 0.00062
"""Metres between the dots of a beard's field; one in three cuts the surface."""


class HairMarks:
    """Hair of one person; brows and lashes are drawn once, the rest is a field."""

    def __init__(self, head: HeadModel, parameters: SkinParameters, seed: int) -> None:
        marks, device = template_landmarks(head), head.template.device
        self._parameters = parameters
        brows = strokes.brows(marks, seed, parameters.brow_density, parameters.brow_width)
        rims = strokes.lashes(marks, seed, parameters.lash_density)
        self._decals: list[tuple[Decal, float]] = []
        for hairs, opacity, reach in ((brows, 0.92, 0.012), (rims, 0.9, 0.006)):
            for side in (1, -1):
                mine = hairs.points[:, 0] * side > 0
                decal = drawn(hairs.points[mine], hairs.areas[mine], (reach, reach))
                self._decals.append((decal.to(device), opacity))

    def over(
        self, albedo: Float[Tensor, "N 3"], texels: Texels, areas: Areas, fields: Fields
    ) -> Float[Tensor, "N 3"]:
        """Linear albedo with the hair over it."""
        p, own = texels.points, self._parameters
        below = areas.beard * own.stubble
        # hairs below the skin darken a shaven face
        albedo = albedo * (1 - 0.28 * below[:, None] * p.new_tensor([1.0, 0.85, 0.7]))
        crop = areas.scalp.nonzero()[:, 0]
        crowd = fields.octaves(p[crop], 0.0018, 0.0008, "crop", 0.8)
        cropped = texels.zero.clone()
        cropped[crop] = (areas.scalp[crop] * own.hair * (0.86 + 0.14 * crowd)).clamp(0, 0.97)
        layers = [cropped, self._stubs(p, below, fields)]
        layers += [opacity * decal.at(p, texels.texel) for decal, opacity in self._decals]
        hairy = torch.stack(layers).amax(0).nonzero()[:, 0]
        tone = fields.octaves(p[hairy], 0.002, 0.0007, "hair-tone", 0.8)
        shades = p.new_tensor(own.hair_color) * (1 + 0.25 * tone).clamp(0.4, 1.6)[:, None]
        covered = albedo[hairy]
        for layer in layers:
            covered = torch.lerp(covered, shades, layer[hairy, None])
        albedo[hairy] = covered
        return albedo

    def _stubs(
        self, p: Float[Tensor, "N 3"], where: Float[Tensor, " N"], fields: Fields
    ) -> Float[Tensor, " N"]:
        """Shaven hairs: short dashes that point down, each some texels or less wide."""
        if self._parameters.stubble <= 0.02:
            return torch.zeros_like(where)
        down = torch.zeros_like(p)
        down[:, 1] = 0.97
        # a dash thinner than the samples is drawn wider and fainter, its mean the same
        thin, thick = 0.00005, 0.00011
        wide = max(1.0, 0.7 * fields.footprint / thick)
        radii = (min(thin * wide, 0.3 * STUB), min(thick * wide, 0.5 * STUB))
        depth, own = fields.spots(p, STUB, radii, where.clamp(max=1), "stubs", down)
        return (0.55 + 0.4 * own) * (2.5 * depth).clamp(max=1) / wide**2
