"""Hair of any groom on any head of a topology: roots, growth, locks, curls, cut, colours."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Strands
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import (
    collide,
    resampled,
    segment_lengths,
    tangents,
    transported,
)
from topohead.synthesis import scalps
from topohead.synthesis.grooms import Groom, GroomTable, pigment_color
from topohead.synthesis.hair_flow import Plan, grown, plan
from topohead.synthesis.hashing import normal, uniform, waves
from topohead.synthesis.scalps import Roots

STRANDS, POINTS = 8192, 32
LOCK = 26
"""Strands a guide leads."""

TURN_POINTS, TOO_FAST = 6.0, 0.3
"""Points of a curl's turn at least; turns from point to point of waves that are left out."""


def grow(
    groom: Groom | Sequence[Groom],
    field: HeadField,
    rest: Float[Tensor, "*B V 3"],
    seed: int | Sequence[int],
    strands: int = STRANDS,
    points: int = POINTS,
) -> Strands:
    """Hair on one head [V 3], or on a batch [B V 3] with a groom and a seed each.

    Roots lie on `rest`; the other points keep `CLEARANCE` from it. All is a function of groom,
    head, seed and the number of the strand: what `density` takes away moves no other.
    On the device of `field` and `rest`.
    """
    single = rest.dim() == 2
    grooms = [groom] if isinstance(groom, Groom) else list(groom)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    bodies = rest[None] if single else rest
    if not len(grooms) == len(seeds) == len(bodies):
        raise ValueError(f"{len(bodies)} heads, {len(grooms)} grooms, {len(seeds)} seeds")
    if rest.is_cuda or single:
        grew = _grow(grooms, field, bodies, seeds, strands, points)
    else:  # vector units round the end of an array differently: a head must not be another's middle
        each = [
            _grow([groom], field, body[None], [key], strands, points)
            for groom, body, key in zip(grooms, bodies, seeds, strict=True)
        ]
        grew = Strands(
            *(torch.cat(part) for part in zip(*(one.parts for one in each), strict=True))
        )
    return Strands(*(part[0] for part in grew.parts)) if single else grew


def _grow(
    grooms: list[Groom],
    field: HeadField,
    bodies: Float[Tensor, "B V 3"],
    seeds: list[int],
    strands: int,
    points: int,
) -> Strands:
    table = GroomTable(grooms, bodies.device)
    keys = torch.tensor(seeds, device=bodies.device)
    heads = field.place(bodies.float())
    roots = scalps.scatter(field, scalps.scalp_weights(field), heads, keys, strands)
    chance, room = scalps.hairline(roots.canonical, table, keys)
    length = scalps.lengths(roots, table, room)
    length = length * (1 + 0.10 * normal(keys, roots.number, 31))
    choices = plan(roots, table, keys)
    curves = grown(roots, length, choices, table, field, heads, points)
    share = _cut(heads.canonical(curves), choices, table, keys, roots)
    curves = resampled(curves, share)
    guide = _guides(roots, choices, keys)
    curves, coil = _locked(curves, guide, length, roots, choices, table, keys)
    curves = collide(curves, field, heads)
    kept = uniform(keys, roots.number, 30) < chance * table.density
    widths = _widths(share, points, table, kept)
    colors = _colors(guide, length, points, roots, table, keys) * coil[..., None]
    return Strands(curves, widths, colors, roots.triangle, roots.barycentrics)


def scalp_cover(groom: Groom, points: Float[Tensor, "N 3"], seed: int) -> Float[Tensor, " N"]:
    """How much of the skin's colour hair roots and stubble hide at canonical points, 0 to 1.

    For painting the scalp below the strands, which are too few to be opaque where they are short.
    """
    table = GroomTable([groom], points.device)
    key = torch.tensor([seed], device=points.device)
    chance, _ = scalps.hairline(points[None], table, key)
    return (chance * table.density)[0].clamp(0, 1)


def _cut(
    canonical: Float[Tensor, "B S P 3"],
    choices: Plan,
    groom: GroomTable,
    seed: Int[Tensor, " B"],
    roots: Roots,
) -> Float[Tensor, "B S"]:
    """The share of each strand above the scissors, the hem's or the fringe's: 1 is uncut."""
    ragged = 0.0035 * normal(seed, roots.number, 32)
    hem = (groom.cut + ragged)[..., None]
    fringe = (groom.fringe_cut + 0.5 * ragged)[..., None]
    in_front = (canonical[..., 2] > -0.02) & (choices.fringe > 0)[..., None]
    below = canonical[..., 1] - torch.where(in_front, fringe, hem)
    under = below < 0
    count = canonical.shape[2]
    first = torch.where(under.any(-1), under.float().argmax(-1), count)
    index = first.clamp(1, count - 1)
    now = below.gather(-1, index[..., None])[..., 0]
    before = below.gather(-1, index[..., None] - 1)[..., 0]
    at = index - 1 + (before / (before - now).clamp(min=1e-9)).clamp(0, 1)
    share = torch.where(first < count, at / (count - 1), torch.ones_like(at))
    return share.clamp(min=0.04)


def _locked(
    curves: Float[Tensor, "B S P 3"],
    guide: Int[Tensor, "B S"],
    length: Float[Tensor, "B S"],
    roots: Roots,
    choices: Plan,
    groom: GroomTable,
    seed: Int[Tensor, " B"],
) -> tuple[Float[Tensor, "B S P 3"], Float[Tensor, "B S P"]]:
    """Strands drawn to the guide of their lock, wound into curls, roughened; and light on coils.

    A coil shades its own inside: colours there are dimmed by up to a half.
    """
    shares = torch.linspace(0, 1, curves.shape[2], device=curves.device)
    lead = curves.gather(1, guide[..., None, None].expand(curves.shape))
    # from the root on, a lock closes by two thirds of its length
    sticky = groom.clump * ((length - 0.008) / 0.02).clamp(0, 1)  # stubble stands alone
    pull = sticky[..., None] * (shares / 0.65).clamp(max=1) ** 0.8
    pull = pull * (0.7 + 0.3 * uniform(seed, roots.number, 41))[..., None]
    apart = curves - lead
    apart = apart - apart[:, :, :1]
    rooted = curves[:, :, :1] - lead[:, :, :1]
    loose = apart + rooted
    curves = lead + loose * (1 - pull[..., None])
    reached = segment_lengths(curves).cumsum(-1)
    reached = torch.cat([torch.zeros_like(reached[..., :1]), reached], -1)
    along = tangents(curves)
    first = transported(along, roots.normals)
    second = torch.linalg.cross(along, first)
    led = torch.stack([uniform(seed, roots.number, 42), uniform(seed, roots.number, 43)], -1)
    led = led.gather(1, guide[..., None].expand(led.shape))
    own = uniform(seed, roots.number, 44) - 0.5
    # neighbours wave together unless phases spread
    shared = 0.25 * waves(seed, roots.canonical, 0.12, 46)
    phase = 2 * torch.pi * (shared + groom.curl_spread * (led[..., 0] + 0.12 * own))
    turns = groom.curl_frequency * (1 + groom.curl_spread * 0.4 * (led[..., 1] - 0.5))
    # a turn of fewer points would show as corners
    turns = turns.clamp(max=1 / TURN_POINTS / _spacing(reached))
    angle = phase[..., None] + 2 * torch.pi * turns[..., None] * reached
    radius = groom.curl_radius[..., None] * (reached / 0.025).clamp(max=1)
    wound = radius[..., None] * (angle.cos()[..., None] * first + angle.sin()[..., None] * second)
    start = wound[:, :, :1]
    outwards = (wound * choices.up[:, :, None]).sum(-1) / 0.006
    coil = 1 + 0.5 * outwards.clamp(-1, 0) + 0.15 * outwards.clamp(0, 1)
    return curves + (wound - start) + _rough(reached, first, second, groom, seed, roots), coil


def _guides(roots: Roots, choices: Plan, seed: Int[Tensor, " B"]) -> Int[Tensor, "B S"]:
    """The strand that leads each strand's lock: the nearest of every `LOCK`-th, same side."""
    count = roots.number.shape[0]
    chosen = torch.arange(0, count, LOCK, device=seed.device)
    parted = torch.stack([0.03 * choices.side, 0.03 * choices.fringe], -1)
    shaken = torch.stack([normal(seed, roots.number, 45 + k) for k in range(3)], -1)
    place = torch.cat([roots.canonical, parted], -1)
    seen = torch.cat([roots.canonical + 0.0015 * shaken, parted], -1)
    # exact differences: by products, near ties would fall to other guides on another device
    apart = torch.cdist(seen, place[:, chosen], compute_mode="donot_use_mm_for_euclid_dist")
    return chosen[apart.argmin(-1)]


def _rough(
    reached: Tensor, first: Tensor, second: Tensor, groom: GroomTable, seed: Tensor, roots: Roots
) -> Tensor:
    """Frizz: waves of random phase across each strand, a few strands far more than the rest."""
    astray = uniform(seed, roots.number, 51)
    strength = groom.frizz * (0.5 + astray + 4.0 * (astray > 0.96))
    spacing = _spacing(reached)[..., None]
    grown = 0.0035 * strength[..., None] * (reached / 0.06).clamp(max=1.5)
    out = torch.zeros_like(first)
    for k, axis in enumerate((first, second)):
        for turn, (frequency, share) in enumerate(((14.0, 0.7), (37.0, 0.35))):
            draw = 60 + 4 * k + turn
            phase = 2 * torch.pi * uniform(seed, roots.number, draw)[..., None]
            rate = frequency * (0.7 + 0.6 * uniform(seed, roots.number, draw + 2)[..., None])
            wave = (2 * torch.pi * rate * reached + phase).sin() - phase.sin()
            carried = ((TOO_FAST - rate * spacing) / (TOO_FAST - 1 / TURN_POINTS)).clamp(0, 1)
            out = out + (share * grown * carried * wave)[..., None] * axis
    return out


def _spacing(reached: Float[Tensor, "B S P"]) -> Float[Tensor, "B S"]:
    """Metres from point to point of each strand."""
    return reached[..., -1].clamp(min=1e-6) / (reached.shape[-1] - 1)


def _widths(
    share: Float[Tensor, "B S"], points: int, groom: GroomTable, kept: Tensor
) -> Float[Tensor, "B S P"]:
    """Tapered diameters, blunt where cut; fewer strands are wider, so that they hide as much."""
    along = torch.linspace(0, 1, points, device=share.device)
    width = groom.width * (STRANDS / share.shape[1]) ** 0.6 * kept
    taper = torch.where(share < 1, 0.2, 0.65)
    return width[..., None] * (1 - taper[..., None] * along**3)


def _colors(
    guide: Int[Tensor, "B S"],
    length: Float[Tensor, "B S"],
    points: int,
    roots: Roots,
    groom: GroomTable,
    seed: Int[Tensor, " B"],
) -> Float[Tensor, "B S P 3"]:
    """Linear colours: pigment of each strand and lock, some grey, dye, lighter to the tips."""
    drawn = normal(seed, roots.number, 71)
    spread = groom.jitter * (drawn + drawn.gather(1, guide))
    pigment = torch.exp(spread)
    natural = pigment_color(groom.eumelanin * pigment, groom.pheomelanin * pigment)
    white = natural.new_tensor([0.56, 0.55, 0.52]) * (0.8 + 0.2 * pigment)[..., None]
    # a strand stands for a lock, which greys by and by; the more hairs it stands for, the slower
    spared = uniform(seed, roots.number, 72)
    soft = 0.4 * (STRANDS / roots.number.shape[0]) ** 0.5
    grey = (((1 + soft) * groom.grey - spared) / soft).clamp(0, 1)
    natural = torch.lerp(natural, white, grey[..., None])
    dye = torch.stack([groom.dye_red, groom.dye_green, groom.dye_blue], -1)
    dyed = groom.dye * ((length - 0.006) / 0.012).clamp(0, 1)  # stubble has grown since
    root = torch.lerp(natural, dye * pigment[..., None], dyed[..., None])
    lighter = (root * 1.9 + 0.01).clamp(max=0.7)
    shares = torch.linspace(0, 1, points, device=seed.device)
    fade = (groom.tip_light[..., None] * shares**1.5)[..., None]
    return torch.lerp(root[:, :, None], lighter[:, :, None], fade)
