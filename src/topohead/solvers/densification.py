"""More Gaussians where pictures ask for them (Kerbl et al. 2023), each staying on its triangle."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topohead.core import BoundSplats
from topohead.geometry.binding import turns

APART = 0.5
"""Of its longest deviation, how far the two halves of a Gaussian move from where it was."""

SHORTER = 0.6
"""Of the longest deviation, what the halves keep."""


class Unrest:
    """How strongly pictures pull at each Gaussian's place: ‖∂L/∂mean‖ summed over steps."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.pull = torch.zeros(count, device=device)

    def add(self, gradient: Float[Tensor, "N 3"]) -> None:
        """One step's gradient by the means in space."""
        self.pull += gradient.norm(dim=1)

    def largest(self, count: int) -> Int[Tensor, " K"]:
        """The Gaussians that are pulled most."""
        return self.pull.topk(min(count, len(self.pull))).indices


def exchange(
    head: nn.Module, optimizer: torch.optim.Optimizer, name: str, value: Tensor
) -> nn.Parameter:
    """Puts another tensor, maybe of another length, into a parameter's place; its state stays."""
    old, new = getattr(head, name), nn.Parameter(value)
    setattr(head, name, new)
    for group in optimizer.param_groups:
        group["params"] = [new if one is old else one for one in group["params"]]
    if old in optimizer.state:
        optimizer.state[new] = optimizer.state.pop(old)
    return new


@torch.no_grad()
def split(head: nn.Module, optimizer: torch.optim.Optimizer, chosen: Int[Tensor, " K"]) -> None:
    """Halves the chosen Gaussians of a `GaussianHead`: N become N + K.

    Both halves lie along the longest axis, and so do their starts, so that the pull to the start
    does not bring them together again. Moments of the descent are those of the whole.
    """
    start: BoundSplats = head.start  # pyright: ignore[reportAssignmentType]
    count = len(start)
    rows = torch.cat([torch.arange(count, device=chosen.device), chosen])
    parameters = head.per_gaussian()  # pyright: ignore[reportCallIssue]
    places, sizes, quats = (parameters[name] for name in ("offsets", "sizes", "quats"))
    longest = sizes[chosen].argmax(1)
    axis = turns(quats[chosen]).gather(2, longest[:, None, None].expand(-1, 3, 1))[..., 0]
    length = sizes[chosen].exp().gather(1, longest[:, None])
    step = APART * length * axis
    shorter = torch.zeros_like(sizes[chosen]).scatter_(1, longest[:, None], math.log(SHORTER))
    binding = start.binding
    moved = {
        name: getattr(binding, name)[rows]
        for name in ("triangles", "barycentrics", "offsets", "quats", "scales")
    }
    grown = {
        name: exchange(head, optimizer, name, value.detach()[rows])
        for name, value in parameters.items()
    }
    for value in grown.values():
        state = optimizer.state.get(value, {})
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state:
                state[name] = state[name][rows]
    places, sizes = grown["offsets"], grown["sizes"]
    second = slice(count, None)
    for offsets in (places.data, moved["offsets"]):
        offsets[chosen] -= step
        offsets[second] += step
    sizes.data[chosen] += shorter
    sizes.data[second] += shorter
    for part in (chosen, second):
        moved["scales"][part] *= shorter.exp()
    head.start = BoundSplats(
        replace(binding, **moved), start.opacities[rows], start.harmonics[rows]
    )
