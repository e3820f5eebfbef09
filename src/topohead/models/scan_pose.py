"""The pose stage: which way a scan of a head is turned, how large it is, where it lies.

A small Perceiver (Jaegle et al. 2021) judges a guess of the orientation and corrects it. Asked
about all quarter turns it finds any orientation; asked again about its own answer it refines.
"""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from topohead.models.attention import CrossAttention, SelfAttention, exactly, fourier

PLAUSIBLE_M = (0.04, 0.25)
"""Median radii between which a cloud may be a head in metres, so that its size is evidence."""

HEAD_CENTRE, HEAD_RADIUS = (0.0, -0.02, -0.07), 0.19
"""A ball around any head and its neck, head frame, metres."""


@dataclass(frozen=True)
class PoseSize:
    """How large the network is; it looks at `points` points of a scan."""

    points: int = 1024
    latents: int = 48
    width: int = 160
    heads: int = 5
    blocks: int = 2


class Normalised(NamedTuple):
    """A cloud about its median, in units of its median radius; `center` and `radius` undo it."""

    points: Float[Tensor, "B N 3"]
    center: Float[Tensor, "B 3"]
    radius: Float[Tensor, " B"]


class PoseGuess(NamedTuple):
    """Normalised points, turned by the guess, to head frame: v = scale · rotation · y + shift.

    `score` is a logit: how good the guess was, 1 within 30°, 0 beyond 75°, where the rest means
    nothing.
    """

    rotation: Float[Tensor, "B 3 3"]
    scale: Float[Tensor, " B"]
    shift: Float[Tensor, "B 3"]
    score: Float[Tensor, " B"]


class ScanPose(nn.Module):
    """The network that judges and corrects a guess."""

    def __init__(self, size: PoseSize) -> None:
        super().__init__()
        self.size = size
        width = size.width
        self.point = nn.Sequential(nn.Linear(43, width), nn.GELU(), nn.Linear(width, width))
        self.extent = nn.Linear(2, width)
        self.latents = nn.Parameter(torch.randn(size.latents, width) * 0.02)
        self.reads = nn.ModuleList([CrossAttention(width, size.heads) for _ in range(2)])
        self.blocks = nn.ModuleList(
            [SelfAttention(width, size.heads) for _ in range(2 * size.blocks)]
        )
        self.norm = nn.LayerNorm(2 * width)
        self.out = nn.Linear(2 * width, 11)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        normals: Float[Tensor, "B N 3"],
        valid: Bool[Tensor, "B N"],
        radius: Float[Tensor, " B"],
    ) -> PoseGuess:
        """The correction of clouds that are normalised and turned by a guess."""
        known = (normals.square().sum(-1, keepdim=True) > 0.25).to(points.dtype)
        seen = torch.cat([fourier(points.clamp(-4, 4), 6), normals, known], -1)
        elements = self.point(seen)
        plausible = ((radius > PLAUSIBLE_M[0]) & (radius < PLAUSIBLE_M[1])).to(points.dtype)
        extent = torch.stack([(radius.clamp(*PLAUSIBLE_M) / 0.1).log() * plausible, plausible], -1)
        latents = self.latents + self.extent(extent)[:, None]
        half = self.size.blocks
        for read, blocks in zip(self.reads, (self.blocks[:half], self.blocks[half:]), strict=True):
            latents = read(latents, elements, valid)
            for block in blocks:
                latents = block(latents)
        pooled = torch.cat([latents.mean(1), latents.amax(1)], -1)
        out = exactly(self.out, self.norm(pooled))
        rotation = rotation_from_6d(out[:, :6])
        return PoseGuess(rotation, 0.1 * out[:, 6].exp(), 0.1 * out[:, 7:10], out[:, 10])


def normalised(points: Float[Tensor, "B N 3"], valid: Bool[Tensor, "B N"]) -> Normalised:
    """Clouds about their median in units of their median radius; padding goes to the middle."""
    hidden = torch.where(valid[..., None], points, torch.nan)
    center = hidden.nanmedian(1).values
    radius = (hidden - center[:, None]).norm(dim=-1).nanmedian(1).values
    scaled = (points - center[:, None]) / radius[:, None, None]
    return Normalised(torch.where(valid[..., None], scaled, 0.0), center, radius)


def rotation_from_6d(columns: Float[Tensor, "*B 6"]) -> Float[Tensor, "*B 3 3"]:
    """Rotations by Gram and Schmidt from two columns (Zhou et al. 2019)."""
    first = nn.functional.normalize(columns[..., :3], dim=-1)
    second = columns[..., 3:] - (first * columns[..., 3:]).sum(-1, keepdim=True) * first
    second = nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


@cache
def quarter_turns() -> Float[Tensor, "24 3 3"]:
    """The rotations of a cube: every orientation is within 63° of one. Not to be changed."""
    turns = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.zeros(3, 3)
            matrix[range(3), list(axes)] = torch.tensor(signs)
            if torch.linalg.det(matrix) > 0:
                turns.append(matrix)
    return torch.stack(turns)
