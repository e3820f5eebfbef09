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


def lined(
    albedo: Float[Tensor, "N 3"],
    roughness: Float[Tensor, " N"],
    height: Float[Tensor, " N"],
    texels: Texels,
    lip: Float[Tensor, "3"],
    fields: Fields,
    parameters: SkinParameters,
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, roughness and height with the inside of the mouth over the skin's.

    It gets darker from the lips (`lip` is their middle) to the throat.
    """
    p, zero = texels.points, texels.zero
    depth = ((lip[2] - p[:, 2]).clamp(0, 0.06) / 0.06)[:, None]
    patchy = fields.octaves(p, 0.008, 0.002, "mouth")[:, None]
    inside = texels.regions.get("mouth_interior", zero).clamp(0, 1)
    tongue = texels.regions.get("tongue", zero).clamp(0, 1)
    teeth = texels.regions.get("teeth", zero).clamp(0, 1)
    shade = (1 + 0.15 * patchy) * (1 - 0.75 * depth)
    albedo = torch.lerp(albedo, p.new_tensor(LINING) * shade, inside[:, None])
    coat = fields.octaves(p, 0.006, 0.002, "tongue-coat")[:, None].clamp(0, 1)
    flesh = p.new_tensor(TONGUE) * (1 + 0.12 * patchy) + 0.06 * coat
    albedo = torch.lerp(albedo, flesh * (1 - 0.6 * depth), tongue[:, None])
    ivory = p.new_tensor(IVORY) * (1 - 0.25 * parameters.tooth_shade) * (1 + 0.05 * patchy)
    albedo = torch.lerp(albedo, ivory, teeth[:, None])
    wet = torch.full_like(roughness, 0.28)
    roughness = torch.lerp(roughness, wet, inside)
    roughness = torch.lerp(roughness, torch.full_like(roughness, 0.18), teeth)
    bumps, _ = fields.spots(p, 0.0013, (0.0003, 0.0006), tongue, "papillae")
    return albedo, roughness, height * (1 - inside) + 0.00012 * bumps * tongue
