"""The Gaussians of a fit, and the pictures that they make of an instant."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from topohead.core import BoundSplats
from topohead.geometry.avatars import ExpressionChange
from topohead.geometry.binding import posed_factors
from topohead.rendering.bound_splats import render_factored
from topohead.rendering.harmonics import shaded
from topohead.solvers.pose_changes import PoseChanges


@dataclass(frozen=True)
class SplattingConfig:
    """Numbers of the fit; rates are Adam's (Kingma and Ba 2015) at the first step.

    Rates fall by half a cosine to `last` of themselves. Offsets and scales are in the triangles'
    unit; growth beyond `large` times the first scale is a spike in other poses, and is dear. A step
    sees `batch` cameras of one instant. Poses, expressions and cameras move by `doubt_rate` of
    their `pose_changes.Doubt` a step.
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
    light_rate: float = 2e-3
    light_decay: float = 1e-2
    doubt_rate: float = 0.1
    doubt_hold: float = 1e-4


@dataclass(frozen=True)
class Lights:
    """Light of T instants on N Gaussians: log gain and its slope along `normals` (head frame)."""

    values: Float[Tensor, "T 4 3"]
    normals: Float[Tensor, "N 3"]


@dataclass(frozen=True)
class Instant:
    """One posed head and the pictures of it, all of one device.

    `number` counts instants over the whole fit. `codes` are the expression's; `turn` takes
    directions in the world to the head's frame. Pictures of equal size; `cameras` number them over
    the whole fit. `weights` say where a picture counts, `coverage` where the person is; the picture
    is multiplied by it. `facing` says how much of colours is believed, for what they show aslant.
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
    number: int = 0
    facing: UInt8[Tensor, "C H W"] | None = None


class GaussianHead(nn.Module):
    """What the fit changes; `start` gives its first values and what stays: triangles, places."""

    def __init__(
        self, start: BoundSplats, change: ExpressionChange, cameras: int, degree: int,
        changes: PoseChanges | None = None, lights: Lights | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        binding, count = start.binding, len(start)
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
        self.register_buffer("first_harmonics", rest.clone(), False)
        self.color_change = nn.Parameter(change.colors.clone())
        self.offset_change = nn.Parameter(change.offsets.clone())
        self.gains = nn.Parameter(start.harmonics.new_zeros(cameras, 2, 3))
        self.changes = changes
        self.lights, ones = None, start.harmonics.new_ones(count, 1)
        if lights is not None:
            self.lights = nn.Parameter(lights.values.clone())
            self.register_buffer("directions", torch.cat([ones, lights.normals], 1), False)

    def forward(
        self, instant: Instant, triangles: Int[Tensor, "T 3"], chosen: slice
    ) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W"]]:
        """Pictures over black, and coverage, of some of an instant's cameras."""
        codes = instant.codes
        offsets = self.offsets + torch.einsum("r,nrc->nc", codes, self.offset_change)
        base = self.colors[:, 0] + torch.einsum("r,nrc->nc", codes, self.color_change)
        binding = replace(
            self.start.binding, offsets=offsets, quats=self.quats, scales=self.sizes.exp()
        )
        vertices, poses = instant.vertices, instant.world_to_camera[chosen]
        numbers, lenses = instant.cameras[chosen], instant.intrinsics[chosen]
        if self.changes is not None:
            vertices = self.changes.head(vertices, instant.turn, instant.number)
            poses = self.changes.cameras(poses, numbers)
        means, factors = posed_factors(binding, triangles, vertices)
        harmonics = torch.cat([base[:, None], self.harmonics], 1)
        colors = shaded(harmonics, means.detach(), poses.detach(), instant.turn)
        if self.lights is not None:
            # what all instants have in common belongs to the Gaussians
            light = (self.lights - self.lights.mean(0))[instant.number]
            colors = colors * (self.directions @ light).exp()  # pyright: ignore
        height, width = instant.images.shape[1:3]
        images, alphas = render_factored(
            means, factors, torch.sigmoid(self.opacities), colors, poses, lenses, (width, height)
        )
        gain = self.gains[numbers][:, None, None]
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
            (4.0, self.harmonics - self.first_harmonics),  # pyright: ignore
            (4.0, self.color_change - self.codes.colors),
            (10.0, self.offset_change - self.codes.offsets),
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
        total = config.hold * held + spikes + gains
        if self.lights is not None:
            total = total + config.light_decay * self.lights.square().mean()
        if self.changes is not None:
            total = total + config.doubt_hold * self.changes.restraint()
        return total

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
