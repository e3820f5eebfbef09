"""Curves of hair: frames, arc length, keeping them outside a head, and Gaussians along them."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from topohead.core import Splats, Strands
from topohead.geometry.head_field import HeadField, Placed

CLEARANCE = 0.0012
"""Metres that hair keeps from the skin, once it is twice as far from its root."""

BIAS_REACH = 0.015
"""Metres from the root over which the field's error there is taken to fade."""


def segment_lengths(points: Float[Tensor, "*B P 3"]) -> Float[Tensor, "*B P1"]:
    """Metres from each point of a curve to the next."""
    return points.diff(dim=-2).norm(dim=-1)


def tangents(points: Float[Tensor, "*B P 3"]) -> Float[Tensor, "*B P 3"]:
    """Unit directions along curves, central differences."""
    step = points.diff(dim=-2)
    both = torch.cat([step[..., :1, :], step], -2) + torch.cat([step, step[..., -1:, :]], -2)
    return normalize(both, dim=-1, eps=1e-12)


def transported(
    tangent: Float[Tensor, "*B P 3"], start: Float[Tensor, "*B 3"]
) -> Float[Tensor, "*B P 3"]:
    """A unit normal of each curve that turns about it as little as it can, beginning near `start`.

    Each step projects the last normal (a first-order parallel transport, Bishop 1975).
    """
    made = []
    normal = start
    for k in range(tangent.shape[-2]):
        along = tangent[..., k, :]
        normal = normal - (normal * along).sum(-1, keepdim=True) * along
        normal = normalize(normal, dim=-1, eps=1e-9)
        made.append(normal)
    return torch.stack(made, -2)


def resampled(
    points: Float[Tensor, "*B P 3"], share: Float[Tensor, "*B"]
) -> Float[Tensor, "*B P 3"]:
    """The first `share` (by point number) of each curve, with as many points as before."""
    count = points.shape[-2]
    at = share[..., None] * torch.arange(count, device=points.device)
    low = at.long().clamp(max=count - 2)
    part = (at - low)[..., None]
    first = points.gather(-2, low[..., None].expand(points.shape))
    second = points.gather(-2, (low + 1)[..., None].expand(points.shape))
    return torch.lerp(first, second, part)


def steered(
    direction: Float[Tensor, "B N 3"],
    length: Float[Tensor, "B N"],
    distance: Float[Tensor, "B N"],
    normal: Float[Tensor, "B N 3"],
    wanted: Float[Tensor, "B N"],
) -> Float[Tensor, "B N 3"]:
    """The unit direction nearest to `direction` whose step of `length` ends `wanted` from the skin.

    `distance` and `normal` hold where the step begins; the skin is taken for a plane.
    """
    needed = ((wanted - distance) / length.clamp(min=1e-9)).clamp(-1, 0.98)
    rise = (direction * normal).sum(-1)
    flat = normalize(direction - rise[..., None] * normal, dim=-1, eps=1e-9)
    turned = needed[..., None] * normal + (1 - needed.square()).sqrt()[..., None] * flat
    return torch.where((rise < needed)[..., None], turned, direction)


def collide(
    points: Float[Tensor, "B S P 3"], field: HeadField, heads: Placed, passes: int = 2
) -> Float[Tensor, "B S P 3"]:
    """Curves moved out of the heads, from root to tip; segments keep their lengths.

    Each segment turns about its first point until its end is `CLEARANCE` outside, less near the
    root; the rest of the strand follows. Roots stay.
    """
    steps = points.diff(dim=-2)
    sizes = steps.norm(dim=-1)
    reached = sizes.cumsum(-1)
    last = points[:, :, 0]
    wanted = (0.5 * reached).clamp(max=CLEARANCE)
    wanted = wanted + root_bias(last, field, heads)[..., None] * torch.exp(-reached / BIAS_REACH)
    made = [last]
    for k in range(steps.shape[2]):
        size = sizes[:, :, k]
        way = steps[:, :, k] / size.clamp(min=1e-9)[..., None]
        for _ in range(passes):
            end = last + size[..., None] * way
            distance, normal = field.distance(end, heads)
            # the plane at the step's end, carried back to where the step begins
            before = distance - size * (way * normal).sum(-1)
            way = steered(way, size, before, normal, wanted[:, :, k])
        last = last + size[..., None] * way
        made.append(last)
    return torch.stack(made, 2)


def root_bias(
    roots: Float[Tensor, "B S 3"], field: HeadField, heads: Placed
) -> Float[Tensor, "B S"]:
    """What the field says of roots, which lie on the skin: planes through vertices miss facets."""
    return field.distance(roots, heads)[0]


def gaussians(strands: Strands, opacity: float = 0.95) -> Splats:
    """One long Gaussian a segment of the strands of a single head; colours as they are.

    Its first axis lies along the segment and a little beyond, so that neighbours meet; across it
    covers as much as a ribbon of the strand's width.
    """
    strands = strands.packed()
    step = strands.points.diff(dim=-2).reshape(-1, 3)
    middle = (strands.points[:, 1:] + strands.points[:, :-1]).reshape(-1, 3) / 2
    width = (strands.widths[:, 1:] + strands.widths[:, :-1]).reshape(-1) / 2
    color = (strands.colors[:, 1:] + strands.colors[:, :-1]).reshape(-1, 3) / 2
    size = step.norm(dim=-1)
    # a Gaussian of deviation w / √(2π) has the area of a ribbon of width w
    across = width / (2 * torch.pi) ** 0.5
    scales = torch.stack([0.42 * size, across, across], -1).clamp(min=1e-7)
    opacities = torch.full_like(size, opacity)
    return Splats.colored(middle, turns_to(step), scales, opacities, color)


def turns_to(direction: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4"]:
    """Quaternions (wxyz) of the shortest turns from the x axis to each direction."""
    unit = normalize(direction, dim=-1, eps=1e-12)
    x, y, z = unit.unbind(-1)
    half = torch.stack([1 + x, torch.zeros_like(x), -z, y], -1)
    # straight back: any axis across will do
    back = (x < -0.999999)[:, None]
    return normalize(torch.where(back, half.new_tensor([0.0, 0.0, 0.0, 1.0]), half), dim=-1)
