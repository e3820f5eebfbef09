"""Pigments of the skin: optical depth of melanin and blood at every texel, and their albedo.

Linear albedo = veil + (base − veil) · exp(−melanin · a_m − haemoglobin · a_h), per channel: Beer's
law under a veil of light that the horny layer turns back before it meets pigment. Without the veil
no absorption gives both fair and dark skin: measured chroma falls again below L* = 45. The numbers
are a least-squares fit to seven CIELAB tones of L* = 72 to 28, set by judgement (docs/skin.md).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering.fields import Fields
from topohead.synthesis.canvas import Texels
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.facial_areas import Areas

VEIL = 0.035
BASE = (0.675, 0.655, 0.615)
MELANIN = (1.28, 1.99, 2.75)
HAEMOGLOBIN = (0.12, 0.75, 0.80)
CAROTENE = (0.00, 0.02, 0.16)
"""Depths of a unit of pigment in red, green and blue."""

VENOUS = (0.17, 0.09, 0.03)
"""Depth of a vein below the skin: red light reaches it and does not come back, so it looks blue."""

BROWN_SPOT = (0.75, 0.50, 0.26)
"""Depth of spots at fair skin's melanin 0, by kind: mole, freckle, age spot."""


def albedo_of(depth: Float[Tensor, "N 3"], scatter: float) -> Float[Tensor, "N 3"]:
    """Linear albedo under an optical depth; `scatter` 0 to 1 is how white the skin below is."""
    base = depth.new_tensor(BASE) * (0.96 + 0.08 * scatter)
    return VEIL + (base - VEIL) * torch.exp(-depth)


def optical_depth(
    texels: Texels, areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, "N 3"]:
    """Depth per channel: melanin, blood and veins with all their patches and spots."""
    p = texels.points
    melanin = _melanin(p, areas, fields, parameters)
    blood = _blood(p, areas, fields, parameters)
    depth = melanin[:, None].clamp(min=0) * p.new_tensor(MELANIN)
    depth = depth + blood[:, None].clamp(min=0.05) * p.new_tensor(HAEMOGLOBIN)
    depth = depth + (0.25 + 0.75 * parameters.carotene) * p.new_tensor(CAROTENE)
    return depth + _veins(p, areas, fields, parameters)[:, None] * p.new_tensor(VENOUS)


def _melanin(
    p: Float[Tensor, "N 3"], areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    patchy = fields.octaves(p, 0.060, 0.006, "melanin", 0.6)
    grain = fields.octaves(p, 0.004, 0.0006, "melanin-grain", 0.75)
    m = parameters.melanin**1.3  # half of all people are fair, tan and olive
    # forehead and temples see more sun than the jaw's underside
    shade = 0.05 * torch.tanh((p[:, 1] + 0.06) / 0.05)
    total = m * (1 + 0.055 * patchy + 0.035 * grain + shade) + 0.006 * grain
    total = total + 0.055 * (0.4 + m) * (2 * parameters.under_eye * areas.under_eye)
    total = total + 0.06 * (0.4 + m) * parameters.lid_tone * areas.lid
    total = total + 0.22 * m * parameters.lip_melanin * areas.lips
    return total + _spots(p, areas, fields, parameters)


def _spots(
    p: Float[Tensor, "N 3"], areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    """Moles, freckles and age spots, as melanin."""
    warp = torch.stack([fields.octaves(p, 0.004, 0.002, f"warp{k}") for k in range(3)], 1)
    bent = p + 0.00012 * warp
    outside = 1 - areas.lips
    moles, own = fields.spots(
        bent, 0.016, (0.0005, 0.0026), 0.7 * parameters.moles * outside, "moles"
    )
    total = BROWN_SPOT[0] * (0.25 + 0.75 * own) * _plateau(moles, 0.6)
    if parameters.freckles > 0.02:
        sunny = (areas.cheeks + areas.nose + 0.4 * areas.t_zone + 0.08).clamp(max=1) * outside
        reach = (parameters.freckles * sunny).clamp(max=1)
        for name, size, largest in (("freckles", 0.0034, 0.0014), ("dots", 0.0021, 0.0007)):
            spot, own = fields.spots(bent, size, (0.0003, largest), 0.9 * reach**0.5, name)
            faint = (0.25 + 0.75 * own) * (0.3 + 0.7 * reach)
            total = torch.maximum(total, BROWN_SPOT[1] * faint * _plateau(spot, 0.8))
    if parameters.age_spots > 0.02:
        odds = parameters.age_spots * outside * (0.35 + areas.temples + 0.6 * areas.cheeks)
        spot, own = fields.spots(
            bent + 0.0006 * warp, 0.017, (0.0015, 0.0060), 0.45 * odds, "age-spots"
        )
        total = total + BROWN_SPOT[2] * (0.3 + 0.7 * own) * _plateau(spot, 0.5)
    return total


def _plateau(depth: Float[Tensor, " N"], rise: float) -> Float[Tensor, " N"]:
    """A spot's profile: 0 at its border, 1 within, over a `rise` of its radius."""
    x = (depth / rise).clamp(0, 1)
    return x * x * (3 - 2 * x)


def _blood(
    p: Float[Tensor, "N 3"], areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    mottle = fields.octaves(p, 0.013, 0.0012, "blood", 0.8)
    broad = fields.octaves(p, 0.040, 0.012, "flush", 0.7)
    flush = 0.9 * parameters.cheek_redness * areas.cheeks
    flush = flush + 0.9 * parameters.nose_redness * areas.nose + 0.08 * areas.nose
    flush = flush + 0.5 * parameters.chin_redness * areas.chin
    flush = flush + 0.9 * parameters.ear_redness * areas.ears
    blood = parameters.haemoglobin * (1 + 0.13 * parameters.mottling * mottle + 0.08 * broad)
    flush = flush * (1 + 0.22 * mottle + 0.22 * broad).clamp(min=0)
    blood = blood + 0.55 * parameters.redness * flush
    blood = blood + 0.30 * parameters.under_eye * areas.under_eye
    blood = blood + 0.22 * parameters.lid_tone * areas.lid + 0.6 * areas.caruncle
    vermilion = areas.lips * (1 + 0.12 * mottle + 0.10 * broad)
    blood = blood + (0.45 + 0.55 * parameters.lip_blood) * vermilion
    if parameters.blemishes > 0.02:
        odds = parameters.blemishes * (0.15 + areas.chin + areas.t_zone + 0.7 * areas.cheeks)
        spot, own = fields.spots(
            p, 0.011, (0.0010, 0.0040), 0.5 * odds * (1 - areas.lips), "blemishes"
        )
        blood = blood + 0.9 * (0.3 + 0.7 * own) * _plateau(spot, 1.0)
    # threads of widened vessels on nose and cheeks, more with age
    wander = fields.octaves(p, 0.0075, 0.0018, "threads", 0.6)
    thread = torch.exp(-((wander / 0.035) ** 2)) * (areas.nose + areas.cheeks)
    return blood + 0.28 * thread * parameters.redness * (0.2 + 0.8 * parameters.age)


def _veins(
    p: Float[Tensor, "N 3"], areas: Areas, fields: Fields, parameters: SkinParameters
) -> Float[Tensor, " N"]:
    """Winding veins at temples, lids and neck, which melanin hides."""
    wander = fields.octaves(p, 0.034, 0.010, "veins", 0.5)
    vein = torch.exp(-((wander / 0.07) ** 2)) * (1 - areas.lips)
    where = (areas.temples + 0.8 * areas.under_eye + 0.6 * areas.lid + 0.4 * areas.neck).clamp(
        max=1
    )
    return 1.2 * parameters.veins * vein * where * 2.718 ** (-2.0 * parameters.melanin)
