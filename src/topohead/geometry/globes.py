"""Eyeballs: spheres through points, turns by gaze, and how far points lie outside a globe."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

DIRECTIONS = 128
"""Directions along an edge of a `RadialMap`: 1.5° apart."""


def fit_sphere(points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "3"], float]:
    """Centre and radius of the least-squares sphere (linear form: |p|² = 2 c·p + k)."""
    middle = points.double().mean(0)
    p = points.double() - middle
    system = torch.cat([2 * p, torch.ones(len(p), 1, dtype=torch.float64)], 1)
    square = p.square().sum(1, keepdim=True)
    # normal equations by plain sums: LAPACK's last digits depend on where arrays lie in memory
    normal = (system[:, :, None] * system[:, None, :]).sum(0)
    solution = torch.linalg.solve(normal, (system * square).sum(0))
    radius = float((solution[3] + solution[:3].square().sum()).sqrt())
    return (middle + solution[:3]).float(), radius


def gaze_rotation(gaze: Float[Tensor, "*B 2"]) -> Float[Tensor, "*B 3 3"]:
    """Turns of an eye in the head frame: yaw about +y (to the person's left) · pitch (up).

    Radians; a pitch upward turns about −x. No torsion.
    """
    yaw, pitch = gaze.unbind(-1)
    cy, sy, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    zero = torch.zeros_like(yaw)
    rows = [cy, -sy * sp, sy * cp, zero, cp, sp, -sy, -cy * sp, cy * cp]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


@dataclass(frozen=True)
class RadialMap:
    """The distance from a centre to the outermost surface, tabulated over all directions.

    Directions are laid out on a square by the octahedral map (Meyer et al. 2010); `radius` is in
    metres at the nodes of an even grid. Meant for closed surfaces that are seen whole from the
    centre; where there is none, a sphere's radius stands in.
    """

    radius: Float[Tensor, "N N"]

    @staticmethod
    def of(arms: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"], sphere: float) -> "RadialMap":
        """The map of a mesh whose vertices `arms` are relative to the centre."""
        side = torch.linspace(-1, 1, DIRECTIONS, dtype=torch.float64)
        x, y = torch.meshgrid(side, side, indexing="xy")
        rays = _unfolded(torch.stack([x, y], -1).reshape(-1, 2))
        corners = arms.double()[triangles].transpose(1, 2)
        corners = corners[torch.linalg.det(corners).abs() > 1e-15]
        # u inside the cone of (a b c): u = w₁a + w₂b + w₃c with w ≥ 0; the surface is at u / Σw
        inverse = torch.linalg.inv(corners)
        radius = torch.zeros(len(rays), dtype=torch.float64)
        for part in inverse.split(128):
            weights = (part.reshape(-1, 3) @ rays.T).unflatten(0, (-1, 3))
            reach = 1 / weights.sum(1).clamp(min=1e-9)
            reach[weights.amin(1) < -1e-9] = 0
            radius = torch.maximum(radius, reach.amax(0))
        radius = torch.where(radius > 0, radius, sphere)
        return RadialMap(radius.reshape(DIRECTIONS, DIRECTIONS))

    def clearance(self, arms: Float[Tensor, "P 3"]) -> Float[Tensor, " P"]:
        """How far points (relative to the centre, in the map's axes) lie outside, metres.

        Along the radius; negative inside.
        """
        length = arms.norm(dim=1).clamp(min=1e-12)
        place = (_folded(arms / length[:, None]).clamp(-1, 1) + 1) / 2 * (DIRECTIONS - 1)
        first = place.floor().long().clamp(max=DIRECTIONS - 2)
        fraction = place - first
        (column, row), (x, y) = first.unbind(1), fraction.unbind(1)
        table = self.radius.to(arms)
        upper = torch.lerp(table[row, column], table[row, column + 1], x)
        lower = torch.lerp(table[row + 1, column], table[row + 1, column + 1], x)
        return length - torch.lerp(upper, lower, y)


def _folded(directions: Tensor) -> Tensor:
    """Unit vectors on the square [−1, 1]²; the front (+z) is its inner diamond."""
    flat = directions[:, :2] / directions.abs().sum(1, keepdim=True)
    back = (1 - flat.flip(1).abs()) * _sign(flat)
    return torch.where(directions[:, 2:] < 0, back, flat)


def _unfolded(place: Tensor) -> Tensor:
    z = 1 - place.abs().sum(1, keepdim=True)
    back = (1 - place.flip(1).abs()) * _sign(place)
    return torch.nn.functional.normalize(torch.cat([torch.where(z < 0, back, place), z], 1), dim=1)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values)
