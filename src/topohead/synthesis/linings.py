"""The mouth from within: wet, red lining, tongue, and the plain rows of teeth of a head mesh."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering.fields import Fields
from topohead.synthesis.canvas import Texels
from topohead.synthesis.complexions import SkinParameters

LINING = (0.36, 0.11, 0.10)
TONGUE = (0.42, 0.16, 0.15)
IVORY = (0.66, 0.58, 0.45)


def line(
    albedo: Float[Tensor, "N 3"],
    roughness: Float[Tensor, " N"],
    height: Float[Tensor, " N"],
    texels: Texels,
    lip: Float[Tensor, "3"],
    fields: Fields,
    parameters: SkinParameters,
) -> None:
    """Write the inside of the mouth over the skin's colour, roughness and height, in place.

    It gets darker from the lips (`lip` is their middle) to the throat.
    """
    parts = [texels.regions.get(n, texels.zero) for n in ("mouth_interior", "tongue", "teeth")]
    weights = torch.stack(parts).clamp(0, 1)
    chosen = weights.amax(0).nonzero()[:, 0]
    if not len(chosen):
        return
    p, (inside, tongue, teeth) = texels.points[chosen], weights[:, chosen]
    depth = ((lip[2] - p[:, 2]).clamp(0, 0.06) / 0.06)[:, None]
    patchy = fields.octaves(p, 0.008, 0.002, "mouth")[:, None]
    shade = (1 + 0.15 * patchy) * (1 - 0.75 * depth)
    color = torch.lerp(albedo[chosen], p.new_tensor(LINING) * shade, inside[:, None])
    coat = fields.octaves(p, 0.006, 0.002, "tongue-coat")[:, None].clamp(0, 1)
    flesh = p.new_tensor(TONGUE) * (1 + 0.12 * patchy) + 0.06 * coat
    color = torch.lerp(color, flesh * (1 - 0.6 * depth), tongue[:, None])
    ivory = p.new_tensor(IVORY) * (1 - 0.25 * parameters.tooth_shade) * (1 + 0.05 * patchy)
    albedo[chosen] = torch.lerp(color, ivory, teeth[:, None])
    wet = torch.lerp(roughness[chosen], torch.full_like(inside, 0.28), inside)
    roughness[chosen] = torch.lerp(wet, torch.full_like(wet, 0.18), teeth)
    bumps, _ = fields.spots(p, 0.0013, (0.0003, 0.0006), tongue, "papillae")
    height[chosen] = height[chosen] * (1 - inside) + 0.00012 * bumps * tongue
