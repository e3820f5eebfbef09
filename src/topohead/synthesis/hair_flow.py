"""Which way hair wants to go, by nature, comb, parting, fringe and tie, and how it grows there.

Directions are of the head frame, places canonical. Ward et al. 2007 survey such style fields.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from topohead.geometry.head_field import HeadField, Placed
from topohead.geometry.strands import BIAS_REACH, CLEARANCE, root_bias, steered
from topohead.synthesis.grooms import GroomTable
from topohead.synthesis.hashing import normal, uniform, waves
from topohead.synthesis.scalps import Roots

CROWN = (0.012, 0.098, -0.135)
"""The whorl that hair grows around."""

MIDDLE = (0.0, 0.030, -0.080)
"""Middle of the skull."""

EAR = (0.090, -0.022, -0.082)
"""The left ear's middle."""

ABOVE_EAR = (0.082, 0.030, -0.080)

SWIRL = 0.5
"""Radians by which natural growth turns about the crown."""


@dataclass(frozen=True)
class Plan:
    """What each strand keeps all the way: its side of the parting, its place in a tie, its noise.

    `fringe` is 1 for hair that falls over the forehead, `side` −1 or 1, `layer` how far up the
    shell it lies, `wander` a sideways lean, `tie` its own point of the tie, `axis` its turn in a
    bun.
    """

    fringe: Float[Tensor, "B S"]
    side: Float[Tensor, "B S"]
    layer: Float[Tensor, "B S"]
    wander: Float[Tensor, "B S"]
    tie: Float[Tensor, "B S 3"]
    axis: Float[Tensor, "B S 3"]
    up: Float[Tensor, "B S 3"]


def plan(roots: Roots, groom: GroomTable, seed: Int[Tensor, " B"]) -> Plan:
    """The fixed choices of every strand."""
    q, number = roots.canonical, roots.number
    x, _, z = q.unbind(-1)
    ragged = 0.0015 * waves(seed, q, 0.012, 21)
    line = groom.part_offset + groom.part_angle * z + ragged
    side = torch.where(x > line, 1.0, -1.0)
    reach = torch.sigmoid((z + 0.074 - 0.7 * x.abs()) / 0.006)
    fringe = (uniform(seed, number, 20) * 0.5 + 0.25 < reach).float() * groom.fringe
    layer = 0.25 + 0.75 * uniform(seed, number, 22)
    wander = 0.16 * waves(seed, q, 0.045, 23) + 0.07 * normal(seed, number, 24)
    around = 2 * torch.pi * uniform(seed, number, 25)
    spread = 0.010 * uniform(seed, number, 26).sqrt()
    knot = torch.stack(
        [
            spread * around.cos(),
            groom.tie_y + spread * around.sin(),
            groom.tie_z.expand_as(spread),
        ],
        -1,
    )
    outward = normalize(_knot(groom) - q.new_tensor(MIDDLE), dim=-1)
    tilt = torch.stack([normal(seed, number, 27 + k) for k in range(3)], -1)
    axis = normalize(outward + 0.35 * tilt, dim=-1)
    up = normalize(q - q.new_tensor(MIDDLE), dim=-1) + 0.16 * tilt
    return Plan(fringe, side, layer, wander, knot, axis, normalize(up, dim=-1))


def flow(
    q: Float[Tensor, "B S 3"], up: Float[Tensor, "B S 3"], plan: Plan, groom: GroomTable
) -> Float[Tensor, "B S 3"]:
    """Where hair at `q`, over skin that faces `up`, is led to; of about unit length."""
    away = q - q.new_tensor(CROWN)
    away = away - (away * up).sum(-1, keepdim=True) * up
    away = normalize(away, dim=-1, eps=1e-6)
    swirled = math.cos(SWIRL) * away + math.sin(SWIRL) * torch.linalg.cross(up, away)
    total = groom.whorl[..., None] * swirled
    front = torch.sigmoid((q[..., 2] - groom.part_depth) / 0.012)
    parted = torch.stack(
        [plan.side, torch.full_like(plan.side, -0.15), torch.full_like(plan.side, -0.45)], -1
    )
    total = total + (2.5 * groom.parting * front * (1 - plan.fringe))[..., None] * parted
    sweep = torch.stack([groom.sweep_x, groom.sweep_y, groom.sweep_z], -1)
    total = total + 2.0 * sweep
    forward = torch.stack(
        [0.35 * plan.side * groom.parting + 4.0 * q[..., 0],
         torch.full_like(plan.side, -0.35), torch.ones_like(plan.side)], -1,
    )  # fmt: skip
    total = total + (3.0 * plan.fringe)[..., None] * forward
    beside = torch.sigmoid((q[..., 0].abs() - 0.060) / 0.006)
    beside = beside * torch.sigmoid((0.035 - q[..., 1]) / 0.012)
    behind = total.new_tensor([0.0, -0.35, -1.0])
    total = total + (4.0 * groom.tuck * beside)[..., None] * behind
    total = normalize(total, dim=-1, eps=1e-6)
    lean = torch.linalg.cross(up, total)
    return total + plan.wander[..., None] * lean


def grown(
    roots: Roots,
    length: Float[Tensor, "B S"],
    plan: Plan,
    groom: GroomTable,
    field: HeadField,
    heads: Placed,
    points: int,
) -> Float[Tensor, "B S P 3"]:
    """Strands of the given lengths, grown step by step along the flow, bent down by gravity.

    Near the head a strand rises to its layer of the shell and then keeps that height, so that hair
    from above lies over hair from below.
    """
    step = length / (points - 1)
    place, up = roots.points, roots.normals
    lead = _flat(flow(roots.canonical, up, plan, groom), up)
    lift = groom.lift[..., None]
    way = normalize(torch.sin(lift) * up + torch.cos(lift) * lead, dim=-1)
    bend = 0.012 + 0.09 * groom.stiffness
    bloom = 0.015 + 0.035 * groom.parting
    loose = groom.gravity * (1 - groom.tie - groom.tuck).clamp(min=0)
    keep = torch.exp(-step / (0.008 + 0.05 * groom.stiffness))[..., None]
    bias = root_bias(place, field, heads)
    distance = bias
    tied = torch.zeros_like(step)
    down = place.new_tensor([0.0, -1.0, 0.0])
    trail = [place]
    for k in range(points - 1):
        reached = step * k
        q = heads.canonical(place)
        height = groom.volume * plan.layer * (1 - torch.exp(-reached / bloom))
        height = height * (1 - 0.85 * _ears(q)) + CLEARANCE  # ears hold hair out as it is
        near = torch.exp(-((distance - height).clamp(min=0) / 0.03))
        lead = flow(q, up, plan, groom)
        heavy = groom.gravity * (1 - torch.exp(-reached / bend))
        lead, near, heavy, tied = _gathered(lead, near, heavy, tied, q, step, plan, groom)
        # what hangs over an ear stands off above it already, so that no step shows
        height = height + 0.011 * loose * _above_ears(q)
        # combed hair keeps to the surface; hair that hangs may leave it
        lead = torch.lerp(lead, _flat(lead, up), near[..., None])
        fall = torch.lerp(down.expand_as(up), _above(down, up), near[..., None])
        aim = (1 - heavy)[..., None] * lead + heavy[..., None] * (
            fall + _draped(q, roots) + _off_face(q, plan)
        )
        aim = aim + (groom.radial * (1 - tied))[..., None] * plan.up
        rise = ((height - distance) / 0.012).clamp(-0.8, 1.0) * near * (1 - tied)
        rise = torch.where(rise < 0, rise * (1 - heavy), rise)  # what hangs, hangs straight
        aim = normalize(aim + rise[..., None] * up, dim=-1, eps=1e-6)
        way = normalize(torch.lerp(aim, way, keep), dim=-1, eps=1e-6)
        wanted = (0.5 * (reached + step)).clamp(max=CLEARANCE)
        wanted = wanted + bias * torch.exp(-reached / BIAS_REACH)
        # turned aside by the skin, hair does not fly on that way: only the step is steered
        place = place + step[..., None] * steered(way, step, distance, up, wanted)
        trail.append(place)
        distance, up = field.distance(place, heads)
    return torch.stack(trail, 2)


def _gathered(
    lead: Tensor, near: Tensor, heavy: Tensor, tied: Tensor, q: Tensor, step: Tensor,
    plan: Plan, groom: GroomTable,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Tied hair makes for its point of the knot; past it, it falls free or winds on the bun."""
    tie = groom.tie.expand_as(tied)
    arm = plan.tie - q
    far = arm.norm(dim=-1)
    tied = torch.maximum(tied, ((far < torch.clamp(0.9 * step, min=0.012)) & (tie > 0)).float())
    lead = torch.lerp(lead, arm / far.clamp(min=1e-6)[..., None], (tie * (1 - tied))[..., None])
    near = near * torch.where(tie > 0, (far / 0.035).clamp(max=1), 1.0) * (1 - tied)
    heavy = heavy * (1 - tie * (1 - tied))
    knot = _knot(groom)
    outward = normalize(knot - knot.new_tensor(MIDDLE), dim=-1)
    ball = groom.bun[..., None]
    from_center = q - (knot + 0.55 * ball * outward)
    radius = from_center.norm(dim=-1, keepdim=True)
    spin = normalize(torch.linalg.cross(plan.axis, from_center), dim=-1, eps=1e-6)
    inward = (ball * (0.35 + 0.65 * plan.layer[..., None]) - radius) / ball.clamp(min=1e-3)
    wound = spin + 1.5 * inward * from_center / radius.clamp(min=1e-6)
    tail = 0.35 * outward + 0.9 * lead.new_tensor([0.0, -1.0, 0.0])
    after = torch.where(ball > 0, wound, tail.expand_as(wound))
    heavy = torch.where((ball[..., 0] > 0) & (tied > 0), torch.zeros_like(heavy), heavy)
    return torch.lerp(lead, after, tied[..., None]), near, heavy, tied


def _knot(groom: GroomTable) -> Float[Tensor, "B 1 3"]:
    """The middle of the tie."""
    return torch.stack([torch.zeros_like(groom.tie_y), groom.tie_y, groom.tie_z], -1)


def _draped(q: Tensor, roots: Roots) -> Tensor:
    """Hair parts at the shoulders: what grew before the ears falls in front of them."""
    low = torch.sigmoid((-0.085 - q[..., 1]) / 0.015)
    onto = torch.where(roots.canonical[..., 2] > -0.062, 1.0, -1.0)
    clear = torch.exp(-(((q[..., 2] + 0.11) * onto / 0.06).clamp(min=0)).square())
    push = 0.7 * low * onto * clear
    return torch.stack([torch.zeros_like(push), torch.zeros_like(push), push], -1)


def _off_face(q: Tensor, plan: Plan) -> Tensor:
    """Hair that is no fringe is kept out of the face: aside and back."""
    before = torch.sigmoid((q[..., 2] + 0.004) / 0.006) * torch.sigmoid((0.062 - q[..., 1]) / 0.010)
    push = 1.6 * before * (1 - plan.fringe) * (1 - q[..., 0].abs() / 0.075).clamp(min=0).sqrt()
    aside = torch.where(q[..., 0].abs() > 0.012, q[..., 0].sign(), plan.side)
    return torch.stack([push * aside, torch.zeros_like(push), -0.5 * push], -1)


def _ears(q: Tensor) -> Tensor:
    """1 over the ears, fading around them."""
    arm = (torch.stack([q[..., 0].abs(), q[..., 1], q[..., 2]], -1) - q.new_tensor(EAR)) / 0.035
    return torch.exp(-arm.square().sum(-1))


def _above_ears(q: Tensor) -> Tensor:
    arm = torch.stack([q[..., 0].abs(), q[..., 1], q[..., 2]], -1) - q.new_tensor(ABOVE_EAR)
    return torch.exp(-(arm / q.new_tensor([0.03, 0.028, 0.05])).square().sum(-1))


def _flat(direction: Tensor, up: Tensor) -> Tensor:
    """The direction along the surface, as long as before."""
    across = direction - (direction * up).sum(-1, keepdim=True) * up
    return normalize(across, dim=-1, eps=1e-6) * direction.norm(dim=-1, keepdim=True)


def _above(direction: Tensor, up: Tensor) -> Tensor:
    """The direction without what of it points into the surface."""
    return direction - (direction * up).sum(-1, keepdim=True).clamp(max=0) * up
