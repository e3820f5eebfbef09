"""Where hair stands: roots on the scalp, the hairline, and how long hair is where.

All places are canonical: the head scaled and shifted onto the template, metres from between the
eyes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.head_field import HeadField, Placed
from topohead.geometry.meshes import triangle_areas
from topohead.synthesis.grooms import GroomTable
from topohead.synthesis.hashing import uniform, waves

TEMPLE = ((-0.060, -0.058), (-0.020, -0.055), (0.000, -0.047), (0.020, -0.032), (0.035, -0.020),
          (0.050, -0.014), (0.075, -0.012))  # fmt: skip
"""Height, and how far forward hair grows there on the side of the head."""

GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Roots:
    """S roots on each of B heads: where, which way the skin faces, and their canonical places."""

    triangle: Int[Tensor, "B S"]
    barycentrics: Float[Tensor, "B S 3"]
    points: Float[Tensor, "B S 3"]
    normals: Float[Tensor, "B S 3"]
    canonical: Float[Tensor, "B S 3"]
    number: Int[Tensor, " S"]


def scatter(
    field: HeadField,
    weights: Float[Tensor, " T"],
    heads: Placed,
    seed: Int[Tensor, " B"],
    count: int,
) -> Roots:
    """Roots spread evenly over the triangles with a weight, by their area on each head.

    One root falls into each of `count` equal shares of the area, triangle after triangle, and takes
    the next step of a golden sequence within it.
    """
    used = weights.nonzero()[:, 0]
    corners = field.triangles[used]
    table = heads.table.view(len(seed), heads.count, 6)
    area = triangle_areas(table[..., :3], corners) * weights[used]
    # float64: in float32 sums over a thousand triangles drift from device to device
    ends = area.double().cumsum(-1)
    ends = ends / ends[:, -1:]
    number = torch.arange(count, device=seed.device)
    share = (number + uniform(seed, number, 1).double()) / count
    row = torch.searchsorted(ends, share).clamp(max=len(used) - 1)
    start = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1).gather(1, row)
    within = (share - start) / (ends.gather(1, row) - start).clamp(min=1e-12)
    first = within.clamp(0, 1).float().sqrt()  # a triangle is wide at its far end
    second = torch.remainder(number * GOLDEN + uniform(seed, number, 2), 1)
    barycentrics = torch.stack([1 - first, first * (1 - second), first * second], -1)
    chosen = corners[row]
    flat = chosen + torch.arange(len(seed), device=seed.device)[:, None, None] * heads.count
    both = (heads.table[flat] * barycentrics[..., None]).sum(2)
    points = both[..., :3].contiguous()
    normals = torch.nn.functional.normalize(both[..., 3:], dim=-1)
    return Roots(used[row], barycentrics, points, normals, heads.canonical(points), number)


def scalp_weights(field: HeadField) -> Float[Tensor, " T"]:
    """One for the triangles of region `scalp` on which hair can grow, else zero."""
    scalp = field.topology.region_mask("scalp").to(field.triangles.device)
    inside = scalp[field.triangles].all(1)
    middle = field.template[field.triangles].mean(1)
    room = _inside(middle, torch.zeros_like(middle[:, 0]), middle.new_zeros(1))
    return (inside & (room > -0.012)).float()


def hairline(
    q: Float[Tensor, "B S 3"], groom: GroomTable, seed: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B S"]]:
    """Chance that a canonical place bears hair, and how far inside the hairline it is, metres.

    A person's hairline: higher at the temples, with a peak in the middle, down before the ears,
    around them, and across the nape; ragged by some millimetres. Recession raises the temples and
    thins the crown.
    """
    wander = 0.0022 * waves(seed, q, 0.022, 11) + 0.0012 * waves(seed, q, 0.008, 12)
    raised = 0.012 * (groom.hairline - 0.5)
    room = _inside(q, groom.recession.expand(q.shape[:2]), raised) + wander
    crown = q - q.new_tensor([0.0, 0.098, -0.125])
    thin = torch.exp(-(crown / 0.035).square().sum(-1)) * (groom.recession - 0.35).clamp(min=0)
    chance = _smooth(room, -0.002, 0.007) * (1 - 1.1 * thin).clamp(0, 1)
    return chance, room


def lengths(roots: Roots, groom: GroomTable, room: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Metres of hair at each root before any cut: by zone, faded towards the ears."""
    x, y, z = roots.canonical.unbind(-1)
    front = torch.sigmoid((z + 0.030) / 0.010)
    back = torch.sigmoid((-0.118 - z) / 0.014) * torch.sigmoid((0.062 - y) / 0.014)
    side = torch.sigmoid((x.abs() - 0.058) / 0.006) * torch.sigmoid((0.058 - y) / 0.010)
    side = side * (1 - back)
    front = front * (1 - side)
    top = (1 - front - back - side).clamp(min=0)
    total = (
        front * groom.length_front
        + back * groom.length_back
        + side * groom.length_side
        + top * groom.length_top
    )
    total = total / (front + back + side + top)
    faded = _smooth(y, -0.075, 0.055)
    total = total * (1 - groom.fade * (1 - faded) * (side + back).clamp(max=1))
    # young hair along the line is short
    total = total * (0.35 + 0.65 * _smooth(room, 0.0, 0.012))
    stripped = (groom.strip > 0) & (x.abs() > groom.strip + 0.15 * (0.02 - z).clamp(max=0).abs())
    shaved = groom.shaved * (0.35 + 0.65 * faded)
    return torch.where(stripped, shaved, total)


def _inside(q: Tensor, recession: Tensor, raised: Tensor) -> Tensor:
    """Metres from the hairline inwards, negative outside it."""
    x, y, z = q[..., 0].abs(), q[..., 1], q[..., 2]
    angle = torch.atan2(y - 0.02, z + 0.08)
    angle = torch.where(angle < -1.5, angle + 2 * torch.pi, angle)  # the back of the head
    bay = _smooth(x, 0.008, 0.040)
    line = 0.60 + 0.07 * bay + 0.42 * recession * bay + 0.10 * recession
    front = 0.095 * (angle - line) - raised
    heights = q.new_tensor([height for height, _ in TEMPLE])
    reach = q.new_tensor([forward for _, forward in TEMPLE])
    at = torch.bucketize(y.contiguous(), heights).clamp(1, len(TEMPLE) - 1)
    part = ((y - heights[at - 1]) / (heights[at] - heights[at - 1])).clamp(0, 1)
    temple = torch.lerp(reach[at - 1], reach[at], part) - z
    temple = temple - 0.030 * recession * torch.exp(-(((y - 0.055) / 0.022) ** 2))
    sideways = _smooth(x, 0.044, 0.062)
    room = torch.lerp(front, temple - 0.5 * raised.clamp(min=0), sideways)
    burn = torch.where(z > -0.080, y + 0.030, torch.full_like(y, 1.0))
    nape = y - (-0.066 + 0.022 * _smooth(x, 0.030, 0.062))
    nape = torch.where(z < -0.080, nape, torch.full_like(y, 1.0))
    return torch.minimum(torch.minimum(room, burn), nape)


def _smooth(value: Tensor, low: float, high: float) -> Tensor:
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
