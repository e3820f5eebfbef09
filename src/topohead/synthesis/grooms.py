"""Hair styles as numbers: what a groom is, fourteen named ones, and random ones.

Places are those of the template head: metres from between the eyes, x to the subject's left, y up,
z out of the face. The crown is about (0, 0.10, −0.13), ears about (±0.085, −0.03, −0.08).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

EUMELANIN = (0.419, 0.697, 1.37)
PHEOMELANIN = (0.187, 0.4, 1.05)
"""Absorption of a fibre by unit concentration, linear RGB (d'Eon et al. 2011)."""

AZIMUTHAL = 3.65
"""√absorption to −log of the colour of many fibres. Chiang et al. (2016) have 5.9 at roughness 0.3,
for strands that light passes one by one; lower here, as ours are locks: 1.3 looks mid-brown."""

WHITE = 0.62
"""Linear brightness of hair without pigment."""

VEIL = 0.018
"""What cuticles turn back before light meets pigment, seen from all sides. Without it black hair
has L* below 6 and brown b* 20; measured on tresses ("Measurement of hair luster", Journal of
Cosmetic Science 51(5)): black L* a* b* 18, 0, −1 without gloss, dark brown 22–24, 3–4, 4–5."""


GREY = (0.42, 0.41, 0.39)
"""Linear colour of hair without pigment, as a mass."""

BROWS_GREY = 0.3
"""Share of grey hairs on the head from which on brows are grey too."""


@dataclass(frozen=True)
class Groom:
    """One head of hair. Lengths in metres, angles in radians, shares from 0 to 1.

    `length_*` are by where the root is; `fade` shortens the sides towards the ear; hair in front of
    `fringe` falls over the forehead and is cut at `fringe_cut`; below height `cut` all is cut.
    `curl_*` are a helix: radius, turns a metre, spread of phase between locks. The hair divides at
    `parting` along x = `part_offset` + `part_angle` · z down to z = `part_depth`. `sweep` is a
    direction all hair is combed to, `whorl` the strength of its natural growth around the crown,
    `tuck` how far it is combed behind the ears. Gathered hair (`tie`) meets at (`tie_y`, `tie_z`)
    of the middle and falls as a tail or winds on a ball of radius `bun`. `strip` leaves hair only
    where |x| is less; the rest is `shaved` long.
    """

    length_front: float = 0.05
    length_top: float = 0.05
    length_side: float = 0.03
    length_back: float = 0.03
    fade: float = 0.0
    cut: float = -1.0
    fringe: float = 0.0
    fringe_cut: float = 0.03
    curl_radius: float = 0.0
    curl_frequency: float = 0.0
    curl_spread: float = 0.3
    parting: float = 0.0
    part_offset: float = 0.0
    part_angle: float = 0.0
    part_depth: float = -0.12
    sweep_x: float = 0.0
    sweep_y: float = 0.0
    sweep_z: float = 0.0
    whorl: float = 1.0
    tuck: float = 0.0
    radial: float = 0.0
    tie: float = 0.0
    tie_y: float = 0.07
    tie_z: float = -0.18
    bun: float = 0.0
    strip: float = 0.0
    shaved: float = 0.004
    density: float = 1.0
    hairline: float = 0.5
    recession: float = 0.2
    lift: float = 0.6
    volume: float = 0.006
    gravity: float = 0.5
    stiffness: float = 0.5
    clump: float = 0.5
    frizz: float = 0.2
    eumelanin: float = 1.3
    pheomelanin: float = 0.3
    grey: float = 0.0
    dye: float = 0.0
    dye_red: float = 0.3
    dye_green: float = 0.05
    dye_blue: float = 0.3
    tip_light: float = 0.15
    jitter: float = 0.15
    width: float = 0.0006


STYLES: dict[str, Groom] = {
    "bald": Groom(density=0.0),
    "buzz": Groom(
        length_front=0.007, length_top=0.007, length_side=0.005, length_back=0.005, fade=0.4,
        lift=0.5, gravity=0.0, stiffness=0.9, clump=0.0, frizz=0.05, volume=0.002, width=0.0004,
    ),
    "crew cut": Groom(
        length_front=0.034, length_top=0.028, length_side=0.014, length_back=0.012, fade=0.6,
        lift=0.8, gravity=0.1, stiffness=0.75, clump=0.25, frizz=0.12, volume=0.007,
        sweep_y=0.5, sweep_z=-0.1, width=0.0005,
    ),
    "pixie": Groom(
        length_front=0.075, length_top=0.070, length_side=0.045, length_back=0.045, fade=0.1,
        fringe=0.7, fringe_cut=0.034, lift=0.5, gravity=0.45, stiffness=0.55, clump=0.5,
        frizz=0.12, volume=0.007, parting=0.6, part_offset=0.03, width=0.0006, tuck=0.5,),
    "side part": Groom(
        length_front=0.09, length_top=0.075, length_side=0.026, length_back=0.030, fade=0.6,
        parting=1.0, part_offset=0.036, part_angle=0.05, part_depth=-0.12, sweep_z=-0.35,
        lift=0.55, gravity=0.45, stiffness=0.6, clump=0.45, frizz=0.06, volume=0.009, tuck=1.0,),
    "slicked back": Groom(
        length_front=0.14, length_top=0.12, length_side=0.06, length_back=0.055, sweep_z=-1.6,
        sweep_y=-0.7, whorl=0.2, lift=0.4, gravity=0.5, stiffness=0.2, clump=0.6, frizz=0.03,
        volume=0.006, recession=0.35, tuck=1.0,),
    "fringe bob": Groom(
        length_front=0.20, length_top=0.26, length_side=0.22, length_back=0.20, cut=-0.085,
        fringe=1.0, fringe_cut=0.019, parting=0.3, lift=0.4, gravity=1.0, stiffness=0.25,
        clump=0.15, frizz=0.03, volume=0.009,
    ),
    "long straight": Groom(
        length_front=0.42, length_top=0.44, length_side=0.38, length_back=0.36, parting=1.0,
        part_offset=0.0, lift=0.35, gravity=1.0, stiffness=0.2, clump=0.4, frizz=0.04,
        volume=0.008,
    ),
    "long wavy": Groom(
        length_front=0.38, length_top=0.42, length_side=0.36, length_back=0.34, parting=1.0,
        part_offset=0.022, curl_radius=0.009, curl_frequency=9.0, curl_spread=0.12, lift=0.5,
        gravity=0.95, stiffness=0.25, clump=0.6, frizz=0.07, volume=0.009,
    ),
    "curly": Groom(
        length_front=0.13, length_top=0.15, length_side=0.12, length_back=0.12, parting=0.4,
        part_offset=0.015, curl_radius=0.009, curl_frequency=26.0, curl_spread=1.0, lift=1.0,
        gravity=0.55, stiffness=0.3, clump=0.9, frizz=0.12, volume=0.018,
    ),
    "afro": Groom(
        length_front=0.042, length_top=0.058, length_side=0.05, length_back=0.052, radial=1.5,
        curl_radius=0.0038, curl_frequency=55.0, curl_spread=1.0, lift=1.4, gravity=0.03,
        stiffness=0.4, clump=0.35, frizz=0.45, volume=0.05, whorl=0.2,
    ),
    "bun": Groom(
        length_front=0.40, length_top=0.40, length_side=0.40, length_back=0.40, tie=1.0,
        tie_y=0.115, tie_z=-0.150, bun=0.032, lift=0.4, gravity=0.1, stiffness=0.2, clump=0.35,
        frizz=0.05, volume=0.004, whorl=0.0,
    ),
    "ponytail": Groom(
        length_front=0.44, length_top=0.40, length_side=0.42, length_back=0.36, tie=1.0,
        tie_y=0.055, tie_z=-0.196, lift=0.4, gravity=0.5, stiffness=0.2, clump=0.35, frizz=0.05,
        volume=0.004, whorl=0.0,
    ),
    "mohawk": Groom(
        length_front=0.06, length_top=0.07, length_side=0.06, length_back=0.04, strip=0.018,
        shaved=0.004, radial=1.5, whorl=0.1, lift=1.4, gravity=0.05, stiffness=0.75, clump=0.45,
        frizz=0.08, volume=0.07,
    ),
}  # fmt: skip
"""Named styles, brown; `style` gives one and `replace` changes it."""

LENGTHS = ("length_front", "length_top", "length_side", "length_back")


def style(name: str) -> Groom:
    """A named style."""
    if name not in STYLES:
        raise ValueError(f"no hair style {name!r}; there are {', '.join(STYLES)}")
    return STYLES[name]


def random_groom(seed: int, name: str | None = None) -> Groom:
    """A style (any, or the named one), all of its numbers varied, in a random natural colour."""
    random = np.random.default_rng([seed, 51])
    groom = style(name or str(random.choice(list(STYLES))))

    def around(value: float, share: float) -> float:
        return float(value * np.exp(share * random.standard_normal()))

    longer = around(1.0, 0.12)
    changed = {key: min(longer * around(getattr(groom, key), 0.06), 0.45) for key in LENGTHS}
    for key in ("curl_radius", "curl_frequency", "frizz", "volume", "clump", "gravity"):
        changed[key] = around(getattr(groom, key), 0.15)
    side = float(random.choice([-1.0, 1.0]))
    changed["part_offset"] = side * (groom.part_offset + float(random.normal(0, 0.004)))
    changed["part_angle"] = side * groom.part_angle
    changed["fringe_cut"] = groom.fringe_cut + float(random.normal(0, 0.003))
    if groom.cut > -1:
        changed["cut"] = groom.cut + float(random.normal(0, 0.015))
    changed["hairline"] = float(random.uniform(0.2, 0.8))
    changed["recession"] = float(random.beta(1.2, 2.5)) * (0.6 if groom.tie else 1.0)
    changed["density"] = groom.density * float(random.uniform(0.75, 1.0))
    return natural_color(replace(groom, **changed), random)


def natural_color(groom: Groom, random: np.random.Generator) -> Groom:
    """The same hair in a colour that people have, seldom dyed."""
    kind = random.choice(["black", "brown", "blond", "red"], p=[0.35, 0.40, 0.17, 0.08])
    low, high, red = {
        "black": (2.5, 6.0, 0.2),
        "brown": (0.55, 2.0, 0.4),
        "blond": (0.08, 0.28, 0.35),
        "red": (0.08, 0.25, 1.5),
    }[str(kind)]
    dyed = random.random() < 0.06
    dye = random.uniform(0.02, 0.5, 3)
    return replace(
        groom,
        eumelanin=float(np.exp(random.uniform(np.log(low), np.log(high)))),
        pheomelanin=float(red * random.uniform(0.5, 1.5)),
        grey=float(max(0.0, random.uniform(-1.2, 0.9))),
        dye=float(dyed * random.uniform(0.6, 1.0)),
        dye_red=float(dye[0]),
        dye_green=float(dye[1]),
        dye_blue=float(dye[2]),
        tip_light=float(random.uniform(0.0, 0.3)),
    )


def root_color(groom: Groom) -> Float[Tensor, "3"]:
    """The linear colour of a groom's hair where it grows, without grey and dye."""
    table = GroomTable([groom], torch.device("cpu"))
    return pigment_color(table.eumelanin, table.pheomelanin)[0, 0]


def aged_color(groom: Groom, later: float = 0.0) -> Float[Tensor, "3"]:
    """`root_color` as far as age has made it grey; nothing is before a share `later` of the head's.

    Brows are dark when temples are grey.
    """
    share = min(max((1.1 * groom.grey - later) / (1 - later), 0.0), 1.0)
    return torch.lerp(root_color(groom), torch.tensor(GREY), share)


def pigment_color(
    eumelanin: Float[Tensor, "*B"], pheomelanin: Float[Tensor, "*B"]
) -> Float[Tensor, "*B 3"]:
    """Linear colour of a mass of fibres with these pigments.

    Light that many fibres scatter is exp(−k √σ), σ the absorption of one (Chiang et al. 2016).
    """
    dark = eumelanin[..., None] * eumelanin.new_tensor(EUMELANIN)
    absorbed = dark + pheomelanin[..., None] * eumelanin.new_tensor(PHEOMELANIN)
    return VEIL + (WHITE - VEIL) * torch.exp(-AZIMUTHAL * absorbed.sqrt())


class GroomTable:
    """Grooms of a batch by parameter: `table.lift` is [B 1], to meet one number a strand."""

    def __init__(self, grooms: Sequence[Groom], device: torch.device) -> None:
        self._names = {field.name: k for k, field in enumerate(fields(Groom))}
        rows = [[getattr(groom, name) for name in self._names] for groom in grooms]
        self._values = torch.tensor(rows, dtype=torch.float32, device=device)

    def __getattr__(self, name: str) -> Float[Tensor, "B 1"]:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(name)
        return self._values[:, self._names[name], None]
