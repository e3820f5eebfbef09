"""Lens distortion on the normalised image plane, forwards and back."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Distortion

_WIDEST = 20.0
"""Undistorted radii are searched up to here: 87° off the axis, more than any pinhole image."""


def distort(points: Float[Tensor, "*N 2"], lens: Distortion) -> Float[Tensor, "*N 2"]:
    """Where the lens moves points of the normalised image plane. Differentiable.

    Brown (1966) with four radial terms, OpenCV's rational model, or OpenCV's equidistant fisheye.
    Beyond `fold_radius` the polynomial runs back towards the centre and means nothing.
    """
    if lens.is_identity:
        return points
    x, y = points[..., 0], points[..., 1]
    square = x * x + y * y
    radial = _radial_factor(square, lens)
    if lens.model == "fisheye":
        return points * radial[..., None]
    p1, p2 = _tangential(lens)
    along = 2 * (p2 * x + p1 * y)
    # The tangential part, r²·p + 2(p·x)x with p = (p2, p1): Brown's formula as one vector.
    moved_x = x * radial + along * x + p2 * square
    moved_y = y * radial + along * y + p1 * square
    return torch.stack([moved_x, moved_y], -1)


def _tangential(lens: Distortion) -> tuple[float, float]:
    at = {"brown": 4, "rational": 2}[lens.model]
    return lens.coefficients[at], lens.coefficients[at + 1]


def _radial_factor(square: Float[Tensor, "*N"], lens: Distortion) -> Float[Tensor, "*N"]:
    """Distorted over undistorted radius, of the squared undistorted radius."""
    if lens.model == "brown":
        k1, k2, k3, k4 = lens.coefficients[:4]
        return 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    if lens.model == "rational":
        k1, k2, _, _, k3, k4, k5, k6 = lens.coefficients
        above = 1 + square * (k1 + square * (k2 + square * k3))
        return above / (1 + square * (k4 + square * (k5 + square * k6)))
    if lens.model == "fisheye":
        k1, k2, k3, k4 = lens.coefficients
        near = square < 1e-12  # atan(r)/r → 1 − r²/3; the branch keeps 0/0 out of the gradient
        radius = torch.where(near, torch.ones_like(square), square).sqrt()
        angle = torch.atan(radius)
        a2 = angle * angle
        bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
        return torch.where(near, 1 - square / 3, bent / radius)
    return torch.ones_like(square)


@lru_cache(maxsize=256)
def _radius_table(lens: Distortion) -> tuple[Tensor, Tensor]:
    """Undistorted and distorted radii, both rising, up to the fold of the radial part."""
    # Steps fine near the centre, coarse far out: 0 … _WIDEST.
    radius = torch.linspace(0, 1, 4001, dtype=torch.float64)
    radius = _WIDEST * (0.05 * radius + 0.95 * radius**3)
    moved = radius * _radial_factor(radius * radius, lens)
    falling = torch.nonzero(moved.diff() <= 0)
    end = int(falling[0]) + 1 if len(falling) else len(radius)
    return radius[:end], moved[:end]


def fold_radius(lens: Distortion) -> float:
    """The undistorted radius up to which the radial part is one-to-one (to about 1 %)."""
    return float(_radius_table(lens)[0][-1])


def undistort(points: Float[Tensor, "*N 2"], lens: Distortion) -> Float[Tensor, "*N 2"]:
    """The points that `distort` moves here, to 1e-10 (float64) by Newton's method.

    Points that no ray inside the fold reaches come back NaN. No gradient flows.
    """
    if lens.is_identity:
        return points
    target = points.detach().double().reshape(-1, 2)
    radii, moved = _radius_table(lens)
    radii, moved = radii.to(target.device), moved.to(target.device)
    distance = target.norm(dim=-1)
    place = torch.searchsorted(moved, distance).clamp(1, len(moved) - 1)
    share = (distance - moved[place - 1]) / (moved[place] - moved[place - 1])
    start = torch.lerp(radii[place - 1], radii[place], share.clamp(0, 1))
    guess = target * (start / distance.clamp(min=1e-300))[:, None]
    for _ in range(20):
        value, jacobian = _value_and_jacobian(guess, lens)
        step = torch.linalg.solve_ex(jacobian, (target - value)[..., None])[0][..., 0]
        # A step longer than the point is far from the axis would jump to another branch.
        longest = 0.25 * (guess.norm(dim=-1) + 0.1)
        step = step * (longest / step.norm(dim=-1).clamp(min=1e-300)).clamp(max=1)[:, None]
        guess = guess + step
        if not bool((step.norm(dim=-1) > 1e-13).any()):
            break
    missed = (distort(guess, lens) - target).norm(dim=-1) > 1e-10 * (1 + distance)
    outside = guess.norm(dim=-1) > 1.02 * radii[-1]
    guess[missed | outside | ~torch.isfinite(guess).all(-1)] = torch.nan
    return guess.reshape(points.shape).to(points)


def _value_and_jacobian(
    points: Float[Tensor, "N 2"], lens: Distortion
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2 2"]]:
    """`distort` and its derivative, column by column (forward mode)."""
    columns = []
    value = points
    for axis in range(2):
        tangent = torch.zeros_like(points)
        tangent[:, axis] = 1
        value, column, *_ = torch.func.jvp(lambda p: distort(p, lens), (points,), (tangent,))
        columns.append(column)
    return value, torch.stack(columns, -1)
