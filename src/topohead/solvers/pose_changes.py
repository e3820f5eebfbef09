"""Small changes of what a fit is told: where the head is, what the face does, where cameras are.

Tracks of photos are off by some pixels. Gaussians that are fitted to several pictures of a head in
slightly wrong places blur; letting each instant and camera move by a little takes that away (as in
bundle adjustment, and as GaussianAvatars and CAP4D let expressions and poses move). Every change is
bounded, and pulled to zero. What all instants, or all cameras, have in common is left alone: the
Gaussians could follow it unseen, and new pictures would find them elsewhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topohead.geometry.binding import turns


@dataclass(frozen=True)
class Doubt:
    """Standard deviations of what is told, in radians, metres and weights; bounds are `BOUND` of
    them. Doubts of 0 leave things where they are."""

    head_turn: float = 0.015
    head_shift: float = 0.003
    weight: float = 0.06
    camera_turn: float = 0.002
    camera_shift: float = 0.001


BOUND = 3.0
"""Of its deviation, how far a change may go."""


class PoseChanges(nn.Module):
    """Changes of T instants and C cameras; all start at zero.

    `blendshapes` are the rig's in the head frame, still where nothing may move but by the gaze.
    """

    def __init__(
        self, blendshapes: Float[Tensor, "52 V 3"], instants: int, cameras: int, doubt: Doubt
    ) -> None:
        super().__init__()
        self.doubt = doubt
        self.register_buffer("blendshapes", blendshapes, persistent=False)

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(blendshapes.new_zeros(*shape))

        self.head_turns, self.head_shifts = zeros(instants, 3), zeros(instants, 3)
        self.weights = zeros(instants, len(blendshapes))
        self.camera_turns, self.camera_shifts = zeros(cameras, 3), zeros(cameras, 3)

    def head(
        self, vertices: Float[Tensor, "V 3"], turn: Float[Tensor, "3 3"], instant: int
    ) -> Float[Tensor, "V 3"]:
        """The instant's vertices, in the world; `turn` takes directions there to the head's."""
        doubt = self.doubt
        weights = _bounded(self.weights, doubt.weight)[instant]
        face = torch.tensordot(weights, self.blendshapes, 1) @ turn  # pyright: ignore
        middle = vertices.mean(0)
        turned = _bounded(self.head_turns, doubt.head_turn)[instant : instant + 1]
        rotation, shift = (
            _rotations(turned)[0],
            _bounded(self.head_shifts, doubt.head_shift)[instant],
        )
        return (vertices + face - middle) @ rotation.T + middle + shift

    def cameras(
        self, world_to_camera: Float[Tensor, "B 4 4"], numbers: Int[Tensor, " B"]
    ) -> Float[Tensor, "B 4 4"]:
        """The cameras of these numbers, turned about themselves and moved."""
        doubt = self.doubt
        rotation = _rotations(_bounded(self.camera_turns, doubt.camera_turn)[numbers])
        shift = _bounded(self.camera_shifts, doubt.camera_shift)[numbers]
        upper = rotation @ world_to_camera[:, :3]
        upper = upper + torch.nn.functional.pad(shift[:, :, None], (3, 0))
        return torch.cat([upper, world_to_camera[:, 3:]], 1)

    def restraint(self) -> Float[Tensor, ""]:
        """Mean over instants, and over cameras, of squares in deviations."""
        total = self.head_turns.new_zeros(())
        for name, deviation in self.deviations().items():
            value = getattr(self, name)
            if deviation > 0:
                total = total + value.square().sum() / (max(len(value), 1) * deviation**2)
        return total

    def deviations(self) -> dict[str, float]:
        """What each parameter may be off by; rates go with it."""
        doubt = self.doubt
        return {
            "head_turns": doubt.head_turn, "head_shifts": doubt.head_shift, "weights": doubt.weight,
            "camera_turns": doubt.camera_turn, "camera_shifts": doubt.camera_shift,
        }  # fmt: skip

    @torch.no_grad()
    def told(self) -> dict[str, float]:
        """Root mean squares of the changes: degrees, millimetres, weights."""
        doubt, units = self.doubt, {"turn": 180 / torch.pi, "shift": 1e3, "weight": 1.0}
        rows = {
            "head_turn": self.head_turns, "head_shift": self.head_shifts, "weight": self.weights,
            "camera_turn": self.camera_turns, "camera_shift": self.camera_shifts,
        }  # fmt: skip
        return {
            name: units[name.split("_")[-1]]
            * float(_bounded(value, getattr(doubt, name)).square().mean().sqrt())
            for name, value in rows.items()
        }


def _bounded(value: Float[Tensor, "N K"], deviation: float) -> Float[Tensor, "N K"]:
    """Rows less their mean, none beyond the bound by more than the mean of the others."""
    most = BOUND * deviation
    if most <= 0:
        return torch.zeros_like(value)
    bounded = most * torch.tanh(value / most)
    return bounded - bounded.mean(0)


def _rotations(vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
    """Rotations about small vectors, by nearly their length."""
    return turns(torch.nn.functional.pad(vectors / 2, (1, 0), value=1.0))
