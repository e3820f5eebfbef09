"""Gaussians on a posed head, fitted to its pictures: a generator, so that its caller may stop it.

Every Gaussian stays on its triangle (`geometry.binding`; the idea is that of GaussianAvatars, Qian
et al. 2024) and their number is fixed. What expression changes in colour and
place is linear in a few codes of the 52 weights (`geometry.avatars.ExpressionChange`): local in the
face, nothing to train beforehand, and bounded where the pictures end. Loss: 0.8 L1 + 0.2 (1 − SSIM)
of the picture over black, L1 of the coverage, and pulls to where the fit began.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import BoundSplats, GaussianBinding
from topohead.losses.photometric import l1_dssim
from topohead.solvers.gaussian_head import GaussianHead, Instant, SplattingConfig


class Splatting:
    """All that changes during a fit; `state` and `load` carry it over a stop."""

    def __init__(self, head: GaussianHead, config: SplattingConfig) -> None:
        self.head, self.config, self.step = head, config, 0
        rates = {
            "offsets": config.offset_rate, "quats": config.turn_rate, "sizes": config.scale_rate,
            "opacities": config.opacity_rate, "colors": config.color_rate,
            "harmonics": config.harmonics_rate, "color_change": config.change_rate,
            "offset_change": config.change_rate, "gains": config.gain_rate,
        }  # fmt: skip
        if head.lights is not None:
            rates["lights"] = config.light_rate
        if head.changes is not None:
            rates |= {
                f"changes.{name}": config.doubt_rate * deviation
                for name, deviation in head.changes.deviations().items()
            }
        self.rates = [rates[name] for name, _ in head.named_parameters()]
        groups = [
            {"params": [value], "lr": rate}
            for (_, value), rate in zip(head.named_parameters(), self.rates, strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups, eps=1e-8, fused=True)

    def state(self) -> dict[str, Any]:
        """Everything, as `torch.save` keeps it."""
        parameters = {name: value.detach() for name, value in self.head.named_parameters()}
        start = self.head.start  # flat discs turn freely in their plane: another start, other turns
        began = vars(start.binding) | {"o": start.opacities, "h": start.harmonics}
        optimizer = self.optimizer.state_dict()
        return {
            "step": self.step, "head": parameters, "start": began, "optimizer": optimizer,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; numbers and Gaussians must be the same."""
        with torch.no_grad():
            for name, value in self.head.named_parameters():
                value.copy_(state["head"][name])
        rows = dict(state["start"])
        opacities, harmonics = rows.pop("o"), rows.pop("h")
        self.head.start = BoundSplats(GaussianBinding(**rows), opacities, harmonics)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def splat(
    fit: Splatting, instants: Sequence[Instant], triangles: Int[Tensor, "T 3"]
) -> Iterator[dict[str, Float[Tensor, ""]]]:
    """Walks from the fit's step to its last one; yields the losses of each.

    They stay on the device: who reads one waits for it.
    """
    config = fit.config
    visits = _visits(instants, config.batch)
    while fit.step < config.steps:
        where, chosen = visits[_drawn(fit.step, len(visits), config.seed)]
        share = config.last + (1 - config.last) * 0.5 * (
            1 + math.cos(math.pi * fit.step / config.steps)
        )
        for group, rate in zip(fit.optimizer.param_groups, fit.rates, strict=True):
            group["lr"] = rate * share
        losses = _losses(fit.head, instants[where], triangles, chosen, config)
        fit.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        fit.optimizer.step()
        fit.step += 1
        yield {name: value.detach() for name, value in losses.items()}


def _losses(
    head: GaussianHead,
    instant: Instant,
    triangles: Int[Tensor, "T 3"],
    chosen: slice,
    config: SplattingConfig,
) -> dict[str, Float[Tensor, ""]]:
    images, alphas = head(instant, triangles, chosen)
    target = instant.images[chosen].float() / 255
    gap = (alphas - instant.coverage[chosen].float() / 255).abs()
    counts = None if instant.weights is None else instant.weights[chosen].float() / 255
    believed = counts
    if instant.facing is not None:
        believed = instant.facing[chosen].float() / 255
        believed = believed if counts is None else believed * counts
    picture = l1_dssim(images, target, config.dssim, believed)
    covered = (gap if counts is None else gap * counts).mean()
    total = picture + config.coverage * covered + head.restraint(config)
    return {"loss": total, "picture": picture, "coverage": covered}


def _visits(instants: Sequence[Instant], batch: int) -> list[tuple[int, slice]]:
    """Every camera of every instant once, in groups of one instant, as even as they get."""
    found = []
    for where, instant in enumerate(instants):
        count = len(instant.images)
        groups = -(-count // batch)
        ends = [round(count * k / groups) for k in range(groups + 1)]
        found += [(where, slice(*pair)) for pair in pairwise(ends)]
    return found


def _drawn(step: int, count: int, seed: int) -> int:
    """Which of `count` a step takes: all once a round, every round in another order."""
    turn, place = divmod(step, count)
    generator = torch.Generator().manual_seed(seed * 100_003 + turn)
    return int(torch.randperm(count, generator=generator)[place])
