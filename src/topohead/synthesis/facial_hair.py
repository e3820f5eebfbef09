"""Brows, lashes and beards: short hair on the face, grown as scalp hair is.

Where they grow is told in canonical places (`scalps`) from the template's iBUG-68 landmarks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn.functional import normalize

from topohead.core import Mesh, Strands
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField, Placed
from topohead.geometry.strands import collide
from topohead.synthesis.hashing import normal, uniform, waves
from topohead.synthesis.scalps import Roots, scatter

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Brows:
    """`thickness` and `length` are factors on the average; `density` a share; colour linear."""

    color: Color = (0.02, 0.012, 0.007)
    thickness: float = 1.0
    length: float = 1.0
    density: float = 0.9
    width: float = 0.00014


@dataclass(frozen=True)
class Beard:
    """Lengths in metres of moustache, chin and cheeks (none: 0); `neck` shares the area's border.

    `density` is a share, `curl` sideways waviness in metres, colour linear.
    """

    moustache: float = 0.002
    chin: float = 0.002
    cheeks: float = 0.002
    color: Color = (0.02, 0.012, 0.007)
    density: float = 0.9
    curl: float = 0.0
    width: float = 0.00022


BEARDS: dict[str, Beard] = {
    "shaved": Beard(0.0, 0.0, 0.0),
    "stubble": Beard(0.0018, 0.0018, 0.0015, density=0.8),
    "short": Beard(0.008, 0.011, 0.008, width=0.0003),
    "full": Beard(0.016, 0.042, 0.026, curl=0.0012, width=0.00042),
    "moustache": Beard(0.013, 0.0, 0.0, width=0.0003),
    "goatee": Beard(0.011, 0.022, 0.0, width=0.0003),
}
"""Named beards, brown."""


def grow_brows(
    brows: Brows | Sequence[Brows],
    field: HeadField,
    rest: Float[Tensor, "*B V 3"],
    seed: int | Sequence[int],
    strands: int = 2800,
    points: int = 6,
) -> Strands:
    """Both brows: hairs rise at the inner end and lie along the brow at the outer one."""
    marks = _landmarks(field)
    mask = field.topology.region_mask("brows").to(field.triangles.device)
    weights = mask[field.triangles].any(1).float()
    inner, outer = marks[22, 0], marks[26, 0]
    knots = marks[22:27].double().cpu().numpy()
    edge = CubicSpline(knots[:, 0], knots[:, 1])
    table = torch.tensor(edge(np.linspace(float(inner), float(outer), 64))).to(marks)

    def sprout(roots: Roots, seeds: Tensor, all_brows: Sequence[Brows]) -> _Sprouts:
        x, y, _ = roots.canonical.unbind(-1)
        along = ((x.abs() - inner) / (outer - inner)).clamp(-0.1, 1.1)
        at = along.clamp(0, 1) * 63
        low = at.long().clamp(max=62)
        upper = torch.lerp(table[low], table[low + 1], at - low)
        thickness = _each(all_brows, "thickness", roots)
        half = 0.0046 * thickness * (1.12 - along).clamp(0, 1).sqrt() * (0.65 + 0.35 * along)
        half = half * (1 + 0.12 * waves(seeds, roots.canonical, 0.008, 80))
        across = (y - upper + 0.4 * half) / half.clamp(min=1e-5)
        ends = _ramp(along, -0.06, 0.05) * _ramp(1.08 - along, 0.0, 0.12)
        chance = (1 - _ramp(across.abs(), 0.7, 1.1)) * ends * _each(all_brows, "density", roots)
        side = torch.where(x > 0, 1.0, -1.0)
        slope = torch.where(along > 0.55, -0.25, 0.25)
        lift = (1.15 - 1.6 * along).clamp(0.0, 1.1) - 0.35 * across.clamp(-1, 1)
        lift = lift + 0.16 * normal(seeds, roots.number, 81)
        way = torch.stack([side, slope + lift, torch.zeros_like(side)], -1)
        length = 0.0085 * _each(all_brows, "length", roots) * (1 - 0.35 * along.clamp(0, 1))
        length = length * (0.75 + 0.4 * uniform(seeds, roots.number, 82))
        bend = torch.stack([0.6 * side, torch.full_like(side, -0.6), torch.zeros_like(side)], -1)
        return _Sprouts(chance, way, bend, length, 0.16)

    return _grow(brows, field, rest, seed, weights, strands, points, sprout)


def grow_beard(
    beard: Beard | Sequence[Beard],
    field: HeadField,
    rest: Float[Tensor, "*B V 3"],
    seed: int | Sequence[int],
    strands: int = 5000,
    points: int = 12,
) -> Strands:
    """Beards: down from the upper lip and cheeks, forward and down from the chin."""
    marks = _landmarks(field)
    lips = field.topology.region_mask("lips", "mouth_interior", "nose").to(field.triangles.device)
    skin = field.topology.region_mask("face", "neck").to(field.triangles.device)
    chosen = skin[field.triangles].all(1) & ~lips[field.triangles].all(1)
    middle = field.template[field.triangles].mean(1)
    likely = (middle[:, 1] < marks[33, 1] + 0.004) & (middle[:, 2] > -0.062)
    weights = (chosen & likely & (middle[:, 1] > marks[8, 1] - 0.028)).float()
    upper = (middle[:, 1] > marks[62, 1] - 0.004) & (middle[:, 0].abs() < marks[54, 0] + 0.012)
    weights = weights * (1 + 4 * upper)  # the upper lip is small, and its hair is dense

    def sprout(roots: Roots, seeds: Tensor, all_beards: Sequence[Beard]) -> _Sprouts:
        x, y, z = roots.canonical.unbind(-1)
        ragged = 0.003 * waves(seeds, roots.canonical, 0.014, 90)
        aside = (x.abs() / marks[14, 0].abs()).clamp(0, 1)
        # from the wings of the nose down round the cheek, up to the ear
        dip = 0.026 * torch.sin(((aside - 0.22) / 0.6).clamp(0, 1) * torch.pi)
        cheek = marks[33, 1] - 0.0025 - dip
        line = torch.lerp(cheek, marks[1, 1] + 0 * y, _ramp(aside, 0.72, 1.0)) + ragged
        above = torch.sigmoid((line - y) / 0.0025)
        throat = torch.sigmoid((y + ragged - marks[8, 1] + 0.012) / 0.004)
        back = torch.sigmoid((z + 0.052) / 0.003)
        lip = ((y > marks[62, 1] - 0.004) & (x.abs() < marks[54, 0] + 0.009)).float()
        tall = torch.where(y > marks[62, 1], marks[51, 1], 2 * marks[62, 1] - marks[57, 1])
        tall = tall - marks[62, 1] + 0.0008
        oval = (x / (marks[54, 0] + 0.001)).square() + ((y - marks[62, 1]) / tall).square()
        red = 1 - _ramp(oval, 0.85, 1.15)
        corner = marks[54, 0] + 0.012
        front = torch.sigmoid((corner - x.abs()) / 0.004) * (1 - lip)
        sides = (1 - lip - front).clamp(min=0)
        # a bare gap beside the lower lip, hair below it
        gap = torch.exp(-(((x.abs() - 0.016) / 0.006) ** 2) - ((y - marks[57, 1]) / 0.006) ** 2)
        length = (
            lip * _each(all_beards, "moustache", roots)
            + front * _each(all_beards, "chin", roots)
            + sides * _each(all_beards, "cheeks", roots)
        )
        young = 0.3 + 0.7 * _ramp(line - y, 0.0, 0.012)
        length = length * young * (0.75 + 0.5 * uniform(seeds, roots.number, 91))
        chance = above * throat * back * (1 - 0.7 * gap) * (1 - red) * (length > 3e-4)
        chance = chance * _each(all_beards, "density", roots)
        sideways = torch.where(x > 0, 1.0, -1.0) * (0.9 * lip * _ramp(x.abs(), 0.0, 0.02))
        drift = 0.14 * normal(seeds, roots.number, 92) - 60.0 * x * length * (1 - lip)
        way = torch.stack(
            [sideways + drift, torch.full_like(x, -1.0), 0.25 + 0.2 * front - 0.25 * sides], -1
        )
        bend = torch.tensor([0.0, -0.5, -0.1], device=x.device).expand_as(way)
        curl = _each(all_beards, "curl", roots).expand_as(length)
        return _Sprouts(chance, way, bend, length, 0.45, curl)

    return _grow(beard, field, rest, seed, weights, strands, points, sprout)


def grow_lashes(
    color: Color | Sequence[Color],
    field: HeadField,
    rest: Float[Tensor, "*B V 3"],
    seed: int | Sequence[int],
    strands: int = 280,
    points: int = 6,
) -> Strands:
    """Lashes on the margins of all four lids: fans that curl away from the eye."""
    marks = _landmarks(field)
    single, seeds, bodies = _batch(rest, seed)
    colors = [color] if isinstance(color[0], float) else list(color)
    heads = field.place(bodies)
    number = torch.arange(strands, device=rest.device)
    triangle, weights, outward, upper = _margins(field, marks, strands)
    corners = heads.table.view(len(bodies), heads.count, 6)[:, field.triangles[triangle]]
    both = (corners * weights[..., None]).sum(-2)
    roots = Roots(
        triangle.expand(len(bodies), -1),
        weights.expand(len(bodies), -1, -1),
        both[..., :3].contiguous(),
        normalize(both[..., 3:], dim=-1),
        heads.canonical(both[..., :3].contiguous()),
        number,
    )
    jitter = 0.12 * torch.stack([normal(seeds, number, 100 + k) for k in range(3)], -1)
    forward = rest.new_tensor([0.0, 0.0, 1.0])
    way = 0.55 * outward + forward + jitter
    length = torch.where(upper, 0.0075, 0.0042) * (0.7 + 0.5 * uniform(seeds, number, 103))
    rise = torch.where(upper, 0.6, -0.3)
    bend = torch.stack([0 * rise, rise, 0 * rise], -1).expand_as(way)
    sprouts = _Sprouts(torch.ones_like(length), way, bend, length, None)
    made = _strands(sprouts, roots, seeds, heads, field, points, 0.00010,
                    torch.tensor(colors, device=rest.device))  # fmt: skip
    return made if not single else Strands(*(part[0] for part in made.parts))


@dataclass(frozen=True)
class _Sprouts:
    """How hair leaves its roots: chance to be there, direction, bend, metres.

    `lie` is the rise over the skin at the root, of which `way` is then the part along the skin;
    None leaves `way` as it is.
    """

    chance: Float[Tensor, "B S"]
    way: Float[Tensor, "B S 3"]
    bend: Float[Tensor, "B S 3"]
    length: Float[Tensor, "B S"]
    lie: float | None
    curl: Float[Tensor, "B S"] | None = None


def _grow(
    kinds: Brows | Beard | Sequence[Brows] | Sequence[Beard],
    field: HeadField,
    rest: Float[Tensor, "*B V 3"],
    seed: int | Sequence[int],
    weights: Float[Tensor, " T"],
    strands: int,
    points: int,
    sprout: Callable[[Roots, Tensor, Any], _Sprouts],
) -> Strands:
    single, seeds, bodies = _batch(rest, seed)
    every = [kinds] if isinstance(kinds, Brows | Beard) else list(kinds)
    heads = field.place(bodies)
    roots = scatter(field, weights, heads, seeds, strands)
    sprouts = sprout(roots, seeds, every)
    width = torch.tensor([kind.width for kind in every], device=rest.device)
    colors = torch.tensor([kind.color for kind in every], device=rest.device)
    made = _strands(sprouts, roots, seeds, heads, field, points, width[:, None], colors)
    return made if not single else Strands(*(part[0] for part in made.parts))


def _strands(
    sprouts: _Sprouts,
    roots: Roots,
    seed: Int[Tensor, " B"],
    heads: Placed,
    field: HeadField,
    points: int,
    width: Float[Tensor, "B 1"] | float,
    colors: Float[Tensor, "B 3"],
) -> Strands:
    """Curves bent from their roots, kept outside the head, tapered and coloured."""
    way = sprouts.way
    if sprouts.lie is not None:
        across = way - (way * roots.normals).sum(-1, keepdim=True) * roots.normals
        way = normalize(across, dim=-1, eps=1e-9) + sprouts.lie * roots.normals
    way = normalize(way, dim=-1, eps=1e-9)
    share = torch.linspace(0, 1, points, device=way.device)[:, None]
    length = sprouts.length[..., None, None]
    curve = roots.points[:, :, None] + length * (
        share * way[:, :, None] + 0.5 * share**2 * sprouts.bend[:, :, None]
    )
    if sprouts.curl is not None:
        turn = 2 * torch.pi * uniform(seed, roots.number, 111)[..., None]
        rate = 9.0 * (0.7 + 0.6 * uniform(seed, roots.number, 112)[..., None])
        wave = (turn + rate * share[:, 0]).sin()
        wave = (wave - wave[..., :1]) * sprouts.curl[..., None]
        aside = torch.linalg.cross(way, roots.normals)
        curve = curve + wave[..., None] * aside[:, :, None]
    curve = collide(curve, field, heads)
    kept = uniform(seed, roots.number, 110) < sprouts.chance
    widths = (width * kept)[..., None] * (1.1 - 0.75 * share[:, 0] ** 2)
    tone = torch.exp(0.2 * normal(seed, roots.number, 113))
    shade = colors[:, None, None] * tone[..., None, None] * torch.ones_like(share)
    return Strands(curve, widths, shade, roots.triangle, roots.barycentrics)


def _margins(
    field: HeadField, marks: Float[Tensor, "68 3"], count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points on the lids' margins of the template: triangle, weights, outward, on the upper lid."""
    low = marks.double().cpu().numpy()
    shares = (count - 2 * (count // 3), count // 3)  # uppers of both eyes, lowers of both
    places, outward, upper = [], [], []
    for first in (36, 42):
        ring = low[first : first + 6]
        middle = ring.mean(0)
        for corners, number, is_upper in (
            (ring[:4], shares[0] // 2, True),
            (ring[[3, 4, 5, 0]], count // 2 - shares[0] // 2, False),
        ):
            at = (np.arange(number) + 0.5) / number * 0.92 + 0.04
            root = CubicSpline(np.linspace(0, 1, 4), corners)(at)
            way = root - middle
            way[:, 2] = 0
            places.append(root)
            outward.append(way / np.linalg.norm(way, axis=1, keepdims=True))
            upper += [is_upper] * number
    topology = field.topology
    found, _ = closest_points(
        torch.from_numpy(np.concatenate(places)).float(), Mesh(topology, field.template.cpu())
    )
    device = marks.device
    missing = count - len(upper)
    index = torch.arange(count).clamp(max=len(upper) - 1) if missing else torch.arange(count)
    return (
        found.triangles[index].to(device),
        found.barycentrics[index].float().to(device),
        torch.from_numpy(np.concatenate(outward)).float()[index].to(device),
        torch.tensor(upper)[index].to(device),
    )


def _batch(
    rest: Float[Tensor, "*B V 3"], seed: int | Sequence[int]
) -> tuple[bool, Int[Tensor, " B"], Float[Tensor, "B V 3"]]:
    single = rest.dim() == 2
    seeds = torch.tensor([seed] if isinstance(seed, int) else list(seed), device=rest.device)
    return single, seeds, (rest[None] if single else rest).float()


def _landmarks(field: HeadField) -> Float[Tensor, "68 3"]:
    points = field.topology.landmarks["ibug68"]
    device = field.template.device
    corners = field.template[field.triangles[points.triangles.to(device)]]
    return (corners * points.barycentrics.to(device)[..., None]).sum(1).float()


def _each(
    kinds: Sequence[Brows] | Sequence[Beard], name: str, roots: Roots
) -> Float[Tensor, "B 1"]:
    values = [float(getattr(kind, name)) for kind in kinds]
    return torch.tensor(values, device=roots.points.device)[:, None]


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
