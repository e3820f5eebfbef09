"""How heads lie in scans, and what the registration network's stages are handed in training."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.models.scan_pose import quarter_turns
from topohead.synthesis.constants import constant
from topohead.synthesis.device_draws import Draws
from topohead.synthesis.performances import euler

QUARTERS = tuple(tuple(map(tuple, turn.tolist())) for turn in quarter_turns())
"""The rotations of a cube, row by row."""

UNITS = (1e-3, 1e-2, 1e2, 1e3)
"""What a scan is multiplied by when its unit is taken for another."""


@dataclass(frozen=True)
class Pose:
    """Head frame to scan: p = scale · rotation · v + translation."""

    scale: Float[Tensor, " B"]
    rotation: Float[Tensor, "B 3 3"]
    translation: Float[Tensor, "B 3"]

    def apply(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        turned = points @ self.rotation.transpose(1, 2)
        return self.scale[:, None, None] * turned + self.translation[:, None]

    def inverse(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        centred = (points - self.translation[:, None]) / self.scale[:, None, None]
        return centred @ self.rotation


def random_pose(random: Draws) -> Pose:
    """±25° about each axis, a tenth of scans at any yaw; ±15 % in size, a tenth in a wrong unit."""
    angles = math.radians(25) * random.between("turn", -1, 1, 3)
    any_yaw = math.pi * random.between("yaw", -1, 1)
    angles[:, 0] = torch.where(random.chance("any yaw", 0.1), any_yaw, angles[:, 0])
    units = constant(UNITS, angles.device)
    unit = units[(random.uniform("unit") * len(UNITS)).long()]
    unit = torch.where(random.chance("wrong unit", 0.1), unit, 1.0)
    scale = unit * random.between("size", 0.85, 1.15)
    place = unit[:, None] * 0.2 * random.normal("place", 3)
    return Pose(scale, euler(angles), place)


def near_pose(
    random: Draws, vertices: Float[Tensor, "B V 3"], template: Float[Tensor, "V 3"]
) -> Pose:
    """What the learned ICP is handed: half as a pose stage leaves it, half as an earlier pass.

    A pose stage leaves ±6°, ±4 %, ±4 mm, or twice to thrice that. A pass leaves ±3°, and brings
    `vertices` to the template's middle and size to ±2 mm and ±1.5 %.
    """
    rough = torch.where(random.chance("rough", 0.5, 1), 1.0, 0.0)
    passed = random.chance("passed", 0.5, 1)
    turn = torch.where(passed, 3.0, 6 + 6 * rough)
    size = torch.where(passed, 0.015, 0.04 + 0.04 * rough)
    place = torch.where(passed, 0.002, 0.004 + 0.008 * rough)
    turn = torch.deg2rad(turn) * random.between("near turn", -1, 1, 3)
    size = size * random.between("near size", -1, 1, 1)
    place = place * random.between("near place", -1, 1, 3)
    middle, goal = vertices.mean(1), template.mean(0)
    spread = (vertices - middle[:, None]).square().mean((1, 2)).sqrt()
    fitting = (template - goal).square().mean().sqrt() / spread
    scale = (1 + size[:, 0]) * torch.where(passed[:, 0], fitting, 1.0)
    rotation = euler(turn)
    carried = (rotation @ middle[..., None])[..., 0] * scale[:, None]
    return Pose(scale, rotation, place + torch.where(passed, goal - carried, 0.0))


def guessed_turn(random: Draws) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, " B"]]:
    """A wrong idea of which way a head faces, rotation and its angle in radians.

    Three in ten are off by up to 75°, two in ten by up to 10°, half are any quarter turn off by up
    to 60°: what a pose stage is asked to judge.
    """
    axis = torch.nn.functional.normalize(random.normal("guess axis", 3), dim=-1)
    kind, share = random.uniform("guess kind"), random.uniform("guess angle")
    most = torch.where(kind < 0.3, 75.0, torch.where(kind < 0.5, 10.0, 60.0))
    angle = torch.deg2rad(most) * share
    near = _about(axis, angle)
    turns = constant(QUARTERS, kind.device)
    off = turns[(random.uniform("guess quarter") * len(turns)).long()] @ near
    cosine = (off.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    far = kind >= 0.5
    angle = torch.where(far, torch.acos(cosine.clamp(-1, 1)), angle)
    return torch.where(far[:, None, None], off, near), angle


def _about(axis: Float[Tensor, "B 3"], angle: Float[Tensor, " B"]) -> Float[Tensor, "B 3 3"]:
    """Rotations about unit axes (Rodrigues)."""
    zero = torch.zeros_like(angle)
    x, y, z = axis.unbind(-1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sine, cosine = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
    return torch.eye(3, device=axis.device) + sine * cross + (1 - cosine) * cross @ cross
