"""Gaussians on a posed head, fitted to its pictures: a generator, so that its caller may stop it.

Every Gaussian stays on its triangle (`geometry.binding`; the idea is that of GaussianAvatars, Qian
et al. 2024) and their number is fixed. What expression changes in colour and place is linear in a
few codes of the 52 weights (`geometry.avatars.ExpressionChange`): local in the face, nothing to
train beforehand, and bounded where the pictures end. Loss: 0.8 L1 + 0.2 (1 − SSIM) of the picture
over black, L1 of the coverage, and pulls to where the fit began.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from topohead.core import BoundSplats
from topohead.geometry.avatars import ExpressionChange
from topohead.geometry.binding import posed_factors
from topohead.losses.photometric import l1_dssim
from topohead.rendering.bound_splats import render_factored
from topohead.rendering.harmonics import shaded


@dataclass(frozen=True)
class SplattingConfig:
    """Numbers of the fit; rates are Adam's (Kingma and Ba 2015) at the first step.

    Rates fall by half a cosine to `last` of themselves. Offsets and scales are in the triangles'
    unit; growth beyond `large` times the first scale is a spike in other poses, and is dear. A step
    sees `batch` cameras of one instant.
    """

    steps: int = 1200
    batch: int = 1
    degree: int = 1
    seed: int = 0
    dssim: float = 0.2
    coverage: float = 0.2
    offset_rate: float = 5e-3
    scale_rate: float = 1e-2
    turn_rate: float = 5e-3
    opacity_rate: float = 2e-2
    color_rate: float = 1e-2
    harmonics_rate: float = 5e-4
    change_rate: float = 2e-3
    gain_rate: float = 1e-3
    last: float = 0.1
    hold: float = 0.1
    large: float = 1.6
    gain_decay: float = 1e-2


@dataclass(frozen=True)
class Instant:
    """One posed head and the pictures of it, all of one device.

    `codes` are the expression's; `turn` takes directions in the world to the head's frame. Pictures
    of equal size; `cameras` number them over the whole fit. `weights` say where a picture counts,
    `coverage` where the person is; the picture is multiplied by it.
    """

    vertices: Float[Tensor, "V 3"]
    codes: Float[Tensor, " R"]
    turn: Float[Tensor, "3 3"]
    world_to_camera: Float[Tensor, "C 4 4"]
    intrinsics: Float[Tensor, "C 3 3"]
    cameras: Int[Tensor, " C"]
    images: UInt8[Tensor, "C H W 3"]
    coverage: UInt8[Tensor, "C H W"]
    weights: UInt8[Tensor, "C H W"] | None = None


class GaussianHead(nn.Module):
    """What the fit changes; `start` gives its first values and what stays: triangles, places."""

    def __init__(
        self, start: BoundSplats, change: ExpressionChange, cameras: int, degree: int
    ) -> None:
        super().__init__()
        binding, ranks = start.binding, change.axes.shape[1]
        count = len(start)
        self.start, self.codes = start, change
        self.offsets = nn.Parameter(binding.offsets.clone())
        self.quats = nn.Parameter(binding.quats.clone())
        self.sizes = nn.Parameter(binding.scales.log())
        self.opacities = nn.Parameter(torch.logit(start.opacities.clamp(0.01, 0.99)))
        self.colors = nn.Parameter(start.harmonics[:, :1].clone())
        rest = start.harmonics.new_zeros(count, (degree + 1) ** 2 - 1, 3)
        kept = min(rest.shape[1], start.harmonics.shape[1] - 1)
        rest[:, :kept] = start.harmonics[:, 1 : 1 + kept]
        self.harmonics = nn.Parameter(rest)
        self.color_change = nn.Parameter(start.harmonics.new_zeros(count, ranks, 3))
        self.offset_change = nn.Parameter(start.harmonics.new_zeros(count, ranks, 3))
        self.gains = nn.Parameter(start.harmonics.new_zeros(cameras, 2, 3))

    def forward(
        self, instant: Instant, triangles: Int[Tensor, "T 3"], chosen: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W"]]:
        """Pictures over black, and coverage, of some of an instant's cameras."""
        codes = instant.codes
        offsets = self.offsets + torch.einsum("r,nrc->nc", codes, self.offset_change)
        base = self.colors[:, 0] + torch.einsum("r,nrc->nc", codes, self.color_change)
        binding = replace(
            self.start.binding, offsets=offsets, quats=self.quats, scales=self.sizes.exp()
        )
        means, factors = posed_factors(binding, triangles, instant.vertices)
        harmonics = torch.cat([base[:, None], self.harmonics], 1)
        poses, lenses = instant.world_to_camera[chosen], instant.intrinsics[chosen]
        colors = shaded(harmonics, means.detach(), poses, instant.turn)
        height, width = instant.images.shape[1:3]
        images, alphas = render_factored(
            means, factors, torch.sigmoid(self.opacities), colors, poses, lenses, (width, height)
        )
        gain = self.gains[instant.cameras[chosen]][:, None, None]
        images = images * gain[..., 0, :].exp() + gain[..., 1, :] * alphas[..., None]
        return images, alphas

    def restraint(self, config: SplattingConfig) -> Float[Tensor, ""]:
        """Pulls to the start: a Gaussian that hardly any pixel shows must not follow noise.

        Mean squares in colours, in triangles, in logarithms of size. Adam would otherwise take
        full steps wherever a gradient is small but not zero.
        """
        start = self.start
        pulls = [
            (1.0, self.colors - start.harmonics[:, :1]),
            (4.0, self.harmonics),
            (4.0, self.color_change),
            (10.0, self.offset_change),
            (1.0, self.offsets - start.binding.offsets),
            (0.3, self.sizes - start.binding.scales.log()),
            (1.0, self.quats - start.binding.quats),
            (0.02, self.opacities - torch.logit(start.opacities.clamp(0.01, 0.99))),
        ]
        held = sum(
            (weight * gap.square().sum() / len(start) for weight, gap in pulls if gap.numel()),
            self.gains.new_zeros(()),
        )
        growth = self.sizes - start.binding.scales.log()
        spikes = (growth - math.log(config.large)).clamp(min=0).square().sum() / len(start)
        gains = config.gain_decay * self.gains.square().sum()
        return config.hold * held + spikes + gains

    @torch.no_grad()
    def result(self) -> tuple[BoundSplats, ExpressionChange]:
        """The Gaussians as they are now, on the CPU; gains stay with the cameras."""
        quats = nn.functional.normalize(self.quats, dim=1)
        binding = replace(
            self.start.binding, offsets=self.offsets, quats=quats, scales=self.sizes.exp()
        )
        parts = {
            name: getattr(binding, name).detach().cpu().clone()
            for name in ("triangles", "barycentrics", "offsets", "quats", "scales")
        }
        harmonics = torch.cat([self.colors, self.harmonics], 1).detach().cpu()
        opacities = torch.sigmoid(self.opacities).detach().cpu()
        splats = BoundSplats(replace(binding, **parts), opacities, harmonics)
        codes = self.codes
        held = [t.cpu() for t in (codes.mean, codes.axes, codes.low, codes.high)]
        changes = [t.detach().cpu().clone() for t in (self.color_change, self.offset_change)]
        return splats, ExpressionChange(*held, *changes)


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
        self.rates = [rates[name] for name, _ in head.named_parameters()]
        groups = [
            {"params": [value], "lr": rate}
            for (_, value), rate in zip(head.named_parameters(), self.rates, strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups, eps=1e-8, fused=True)

    def state(self) -> dict[str, Any]:
        """Everything, as `torch.save` keeps it."""
        parameters = {name: value.detach() for name, value in self.head.named_parameters()}
        return {
            "step": self.step, "head": parameters, "optimizer": self.optimizer.state_dict()
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken; numbers and Gaussians must be the same."""
        with torch.no_grad():
            for name, value in self.head.named_parameters():
                value.copy_(state["head"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def splat(
    fit: Splatting, instants: Sequence[Instant], triangles: Int[Tensor, "T 3"]
) -> Iterator[dict[str, float]]:
    """Walks from the fit's step to its last one; yields the losses of each."""
    config = fit.config
    visits = _visits(instants, config.batch)
    while fit.step < config.steps:
        where, chosen = visits[_drawn(fit.step, len(visits), config.seed)]
        share = config.last + (1 - config.last) * 0.5 * (
            1 + math.cos(math.pi * fit.step / config.steps)
        )
        for group, rate in zip(fit.optimizer.param_groups, fit.rates, strict=True):
            group["lr"] = rate * share
        instant = instants[where]
        chosen = chosen.to(instant.images.device)
        losses = _losses(fit.head, instant, triangles, chosen, config)
        fit.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        fit.optimizer.step()
        fit.step += 1
        yield {name: float(value.detach()) for name, value in losses.items()}


def _losses(
    head: GaussianHead,
    instant: Instant,
    triangles: Int[Tensor, "T 3"],
    chosen: Int[Tensor, " B"],
    config: SplattingConfig,
) -> dict[str, Float[Tensor, ""]]:
    images, alphas = head(instant, triangles, chosen)
    picture = images.new_zeros(())
    covered = images.new_zeros(())
    for image, alpha, index in zip(images, alphas, chosen.tolist(), strict=True):
        coverage = instant.coverage[index].float() / 255
        target = instant.images[index].float() / 255
        counts = None if instant.weights is None else instant.weights[index].float() / 255
        picture = picture + l1_dssim(image, target, config.dssim, counts)
        gap = (alpha - coverage).abs()
        covered = covered + (gap if counts is None else gap * counts).mean()
    share = 1 / len(chosen)
    total = share * (picture + config.coverage * covered) + head.restraint(config)
    return {"loss": total, "picture": share * picture, "coverage": share * covered}


def _visits(instants: Sequence[Instant], batch: int) -> list[tuple[int, Int[Tensor, " B"]]]:
    """Every camera of every instant once, in groups of one instant."""
    return [
        (where, group)
        for where, instant in enumerate(instants)
        for group in torch.arange(len(instant.images)).split(batch)
    ]


def _drawn(step: int, count: int, seed: int) -> int:
    """Which of `count` a step takes: all once a round, every round in another order."""
    turn, place = divmod(step, count)
    generator = torch.Generator().manual_seed(seed * 100_003 + turn)
    return int(torch.randperm(count, generator=generator)[place])
