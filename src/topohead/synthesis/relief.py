"""Height of the skin at every texel: furrows, pores, lip lines, bumps and scars; and its gloss."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering.fields import Fields
from topohead.synthesis.canvas import Texels
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.facial_areas import Areas

FURROWS, PORES = 0.00075, 0.00125
"""Metres between the dots of the network of fine furrows, and between pores."""

STRETCH = 0.75
"""How much cells and pores are drawn out along the lines of skin tension; 0 not at all."""


def fine_height(
    texels: Texels,
    areas: Areas,
    fields: Fields,
    parameters: SkinParameters,
    pores: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Metres above the smooth surface, folds of expression left out; `pores` is `pore_depth`.

    Fine furrows enclose polygons of half a millimetre (Piérard et al. 2004, "relief lines", 20 to
    100 µm deep); pores are dents of 0.1 to 0.4 mm, wider and denser on nose and cheeks; both lie
    lengthwise along the lines of tension, more so with age.
    """
    p = texels.points
    axis = areas.tension * (STRETCH * (0.75 + 0.25 * parameters.age))
    bare = (1 - areas.lips) * (1 - 0.6 * areas.scalp)
    soft = 0.000028 * fields.octaves(p, 0.0050, 0.0012, "unevenness", 0.7)
    height = soft + 0.000006 * fields.octaves(p, 0.00045, 0.0002, "grit", 0.7)
    height = height + bare * _furrows(p, areas, fields, parameters, axis)
    height = height - bare * pores
    height = height + (1 - areas.lips) * _marks(p, areas, fields, parameters)
    lip = areas.lips.nonzero()[:, 0]
    height[lip] = torch.lerp(height[lip], _lip_height(p[lip], fields), areas.lips[lip])
    return height


def pore_depth(
    texels: Texels, areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    """Metres that pores are deep, 0 between them."""
    axis = 0.8 * areas.tension * (0.5 + 0.5 * parameters.age)
    rich = areas.nose * (0.6 + 0.7 * parameters.nose_pores)
    rich = (0.42 + rich + 0.75 * areas.cheeks + 0.3 * areas.t_zone) * (1 - 0.7 * areas.lid)
    widest = 0.00030 + 0.00026 * parameters.pore_size
    depth, own = fields.spots(
        texels.points, PORES, (0.00010, widest), rich.clamp(max=1), "pores", axis
    )
    x = depth.clamp(0, 1)
    cup = x * x * (3 - 2 * x)
    shown = fields.kept(2.5 * widest)
    return (
        (0.000045 + 0.000105 * parameters.pores) * rich.clamp(max=1.3) * (0.5 + own) * cup * shown
    )


def _furrows(
    p: Float[Tensor, "N 3"],
    areas: Areas,
    fields: Fields,
    parameters: SkinParameters,
    axis: Float[Tensor, "N 3"],
) -> Float[Tensor, " N"]:
    shown = fields.kept(FURROWS)
    if shown < 0.02:
        return torch.zeros_like(p[:, 0])
    sway = torch.stack([fields.octaves(p, 0.0024, 0.0011, f"sway{k}") for k in range(3)], 1)
    first, second, own = fields.cells(p + 0.00016 * sway, FURROWS, "furrows", axis)
    edge = second - first
    furrow = torch.exp(-((edge / 0.16) ** 2))
    dome = 0.35 * (own - 0.5) + 0.5 * (1 - first)
    patch = (1 + 0.4 * fields.octaves(p, 0.012, 0.004, "furrow-depth")).clamp(0.2, 2)
    # the nose is smooth between its pores
    where = patch * (1 - 0.55 * areas.nose) * (0.8 + 0.6 * areas.neck)
    depth = 0.000020 + 0.000022 * parameters.grain + 0.000014 * parameters.age
    return depth * shown * where * (dome - furrow)


def _marks(
    p: Float[Tensor, "N 3"], areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    """Bumps under moles and blemishes, pits and cuts of scars; places as in `pigments`."""
    total = torch.zeros_like(p[:, 0])
    outside = 1 - areas.lips
    moles, own = fields.spots(p, 0.016, (0.0005, 0.0026), 0.7 * parameters.moles * outside, "moles")
    total = total + 0.00022 * (own > 0.6) * moles.clamp(0, 0.7)
    if parameters.blemishes > 0.02:
        odds = parameters.blemishes * (0.15 + areas.chin + areas.t_zone + 0.7 * areas.cheeks)
        spot, own = fields.spots(p, 0.011, (0.0010, 0.0040), 0.5 * odds * outside, "blemishes")
        total = total + 0.00025 * own * spot * spot
    if parameters.scars > 0.02:
        odds = parameters.scars * (0.05 + 0.8 * areas.cheeks + 0.3 * areas.t_zone)
        pit, own = fields.spots(p, 0.0042, (0.0006, 0.0016), 0.6 * odds * outside, "scars")
        total = total - 0.00022 * (0.4 + 0.6 * own) * (3 * pit).clamp(max=1) * pit.sqrt()
    return total


def _lip_height(p: Float[Tensor, "N 3"], fields: Fields) -> Float[Tensor, " N"]:
    """Upright creases of the lips: ridged noise, long from top to bottom."""
    bent = p + 0.0009 * torch.stack([fields.octaves(p, 0.006, 0.003, "lip-bend")] * 3, 1)
    narrow = bent * p.new_tensor([1.0, 0.16, 0.16])
    ridge = fields.octaves(narrow, 0.0030, 0.0030, "lip-creases").abs()
    fine = fields.octaves(narrow * p.new_tensor([1.0, 1.8, 1.8]), 0.0011, 0.0005, "lip-lines", 0.6)
    crease = torch.exp(-((ridge / 0.30) ** 2))
    plump = fields.octaves(p, 0.0035, 0.0016, "lip-bumps")
    return -0.00011 * crease + 0.000022 * fine + 0.000024 * plump


def gloss(
    texels: Texels,
    areas: Areas,
    fields: Fields,
    parameters: SkinParameters,
    pores: Float[Tensor, " N"],
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Perceptual roughness, and reflectance at normal incidence.

    Sebum makes the T-zone smoother (Weyrich et al. 2006 measured forehead and nose as the
    glossiest parts of the face); pores hold less light at their bottom.
    """
    p = texels.points
    patchy = fields.octaves(p, 0.020, 0.003, "roughness")
    fine = fields.octaves(p, 0.0016, 0.0005, "roughness-grain", 0.7)
    rough = parameters.roughness + 0.028 * patchy + 0.018 * fine
    rough = rough - (0.04 + 0.11 * parameters.oiliness) * areas.t_zone - 0.03 * areas.cheeks
    rough = rough + 0.05 * areas.neck + 0.06 * parameters.age
    lip = areas.lips.nonzero()[:, 0]
    moist = 0.36 + 0.05 * fields.octaves(p[lip], 0.004, 0.001, "lip-gloss")
    rough[lip] = torch.lerp(rough[lip], moist, areas.lips[lip])
    rough = torch.lerp(rough, rough.new_full((1,), 0.16), areas.caruncle.clamp(max=1))
    level = parameters.specular * (1 - 0.45 * (pores / 0.00012).clamp(max=1)) * (1 + 0.06 * patchy)
    return rough, level
