"""People drawn from a linear head model, with asymmetries and smooth fields beyond its span."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, Topology
from topohead.models.linear import LinearHead
from topohead.synthesis.device_draws import Draws, draws
from topohead.synthesis.performances import euler

WAVES = 24
"""Plane waves that make up a smooth field."""

ASYMMETRY = 0.08
"""Deviation of the weight of every one-sided shape, of which 1 is extreme."""


@dataclass(frozen=True)
class ModelHeads:
    """People of a linear model; satisfies `core.shapes.Heads`."""

    rest: Float[Tensor, "B V 3"]
    expression_basis: Float[Tensor, "52 V 3"]
    globes: tuple[Int[Tensor, " N"], ...]

    def posed(
        self,
        coefficients: Float[Tensor, "B 52"],
        gaze: Float[Tensor, "B 2 2"],
        neck: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B V 3"]:
        """Control vertices; eyeballs turn about the middle of their vertices."""
        if neck is not None:
            raise ValueError("heads of a linear model have no neck joint; leave `neck` out")
        moved = self.rest + torch.tensordot(coefficients, self.expression_basis, dims=1)
        for side, globe in enumerate(self.globes):
            yaw, pitch = gaze[:, side].unbind(1)
            turn = euler(torch.stack([yaw, -pitch, torch.zeros_like(yaw)], 1))
            ball = self.rest[:, globe]
            center = ball.mean(1, keepdim=True)
            moved[:, globe] = center + (ball - center) @ turn.transpose(1, 2)
        return moved


@dataclass(frozen=True)
class ModelShapes:
    """A source of heads (`core.shapes.ShapeSource`) from a linear model, on the model's device."""

    head: LinearHead
    asymmetry: Float[Tensor, "A V 3"]
    globes: tuple[Int[Tensor, " N"], ...]

    @property
    def topology(self) -> Topology:
        return self.head.topology

    def to(self, device: torch.device | str) -> "ModelShapes":
        """The same source with its bases on a device."""
        bases = (self.head.template, self.head.identity_basis, self.head.expression_basis)
        head = LinearHead(self.head.topology, *(basis.to(device) for basis in bases))
        globes = tuple(globe.to(device) for globe in self.globes)
        return ModelShapes(head, self.asymmetry.to(device), globes)

    def draw(self, seed: int, indices: Int[Tensor, " B"]) -> ModelHeads:
        """Identity is normal, each person's deviation U[0.7, 1.3] of the population's.

        Half of the people carry a smooth field of up to 1.5 mm rms, a tenth one of up to 4 mm.
        """
        random = draws(seed, indices)
        modes = random.normal("identity", len(self.head.identity_basis))
        modes = modes * random.between("spread", 0.7, 1.3, 1)
        tilt = ASYMMETRY * random.normal("asymmetry", len(self.asymmetry))
        rest = self.head.template + torch.tensordot(modes, self.head.identity_basis, dims=1)
        rest = rest + torch.tensordot(tilt, self.asymmetry, dims=1)
        field = _smooth_field(random, self.head.template)
        for globe in self.globes:  # an eyeball is moved, never dented
            field[:, globe] = field[:, globe].mean(1, keepdim=True)
        return ModelHeads(rest + field, self.head.expression_basis, self.globes)


def model_shapes(head: LinearHead, asymmetry: Float[Tensor, "A V 3"]) -> ModelShapes:
    """The source on the CPU; the head's topology names its eyeballs."""
    globes = tuple(head.topology.regions[name] for name in ("eye_left", "eye_right"))
    return ModelShapes(head, asymmetry, globes)


def random_expressions(
    seed: int, indices: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B 52"], Float[Tensor, "B 2 2"]]:
    """ARKit weights, half of them neutral, else about four actions; gaze within ±20°."""
    random = draws(seed, indices)
    active = random.chance("active", 4 / len(ARKIT_52), len(ARKIT_52))
    active &= random.chance("expressive", 0.5, 1)
    coefficients = random.uniform("weights", len(ARKIT_52)) * active
    return coefficients, math.radians(20) * random.between("gaze", -1, 1, 2, 2)


def _smooth_field(random: Draws, points: Float[Tensor, "V 3"]) -> Float[Tensor, "B V 3"]:
    """A sum of plane waves of 50 to 200 mm, metres."""
    towards = torch.nn.functional.normalize(random.normal("field towards", WAVES, 3), dim=-1)
    waves = towards / (0.05 * 4 ** random.uniform("field length", WAVES, 1))
    phase = random.uniform("field phase", 1, WAVES)
    amplitude = random.normal("field amplitude", WAVES, 3) * math.sqrt(2 / WAVES)
    strong = random.chance("field strong", 0.1, 1, 1)
    size = torch.where(strong, 4e-3, 1.5e-3) * random.uniform("field size", 1, 1)
    size = size * (strong | random.chance("field", 0.5, 1, 1))
    values = torch.sin(2 * math.pi * (points @ waves.transpose(1, 2) + phase))
    return size / math.sqrt(3) * (values @ amplitude)
