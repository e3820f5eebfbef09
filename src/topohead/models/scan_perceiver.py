"""Registration through one global code: the published recipe that learned ICP is compared with.

Points are read into latent tokens on template nodes (a Perceiver, Jaegle et al. 2021), squeezed,
and read again by a query at every template vertex. Positions are metres in (about) the head frame
outside, millimetres inside.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from topohead.core import ARKIT_52
from topohead.models.attention import CrossAttention, SelfAttention, exactly, fourier
from topohead.models.learned_icp import FIRST_LOG_SIGMA, Registered, Template, zeroed

OCTAVES = 8

UNIT_MM = 100.0
"""A radian of the slowest wave of the position code."""


@dataclass(frozen=True)
class PerceiverSize:
    """How large the network is: each of `groups` reads the points once and thinks `blocks` times.

    A node's token is squeezed to `code` numbers; queries are `query` wide.
    """

    points: int = 4096
    nodes: int = 256
    width: int = 256
    heads: int = 8
    groups: int = 2
    blocks: int = 2
    code: int = 16
    decoding: int = 3
    query: int = 128


class ScanPerceiver(nn.Module):
    """Points near the head frame to the template in the head's shape, like `LearnedIcp`."""

    template: Tensor
    nodes: Tensor
    places: Tensor

    def __init__(self, size: PerceiverSize, template: Template) -> None:
        super().__init__()
        self.size = size
        width, reading = size.width, 3 + 6 * OCTAVES
        self.register_buffer("template", template.vertices)
        self.register_buffer("nodes", template.nodes)
        places = fourier(template.vertices * 1e3 / UNIT_MM, OCTAVES)
        self.register_buffer("places", torch.cat([places, template.normals], 1))
        self.identity = nn.Parameter(torch.randn(len(template.nodes), width) * 0.02)
        self.position = nn.Linear(reading + 3, width)
        first, second = nn.Linear(reading + 4, width), nn.Linear(width, width)
        self.point = nn.Sequential(first, nn.GELU(), second)
        self.reads = nn.ModuleList([CrossAttention(width, size.heads) for _ in range(size.groups)])
        thinking = size.groups * size.blocks
        self.blocks = nn.ModuleList([SelfAttention(width, size.heads) for _ in range(thinking)])
        self.squeeze = nn.Linear(width, size.code)
        self.spread = nn.Linear(size.code, width)
        self.decoding = nn.ModuleList(
            [SelfAttention(width, size.heads) for _ in range(size.decoding)]
        )
        self.known = nn.Linear(width, size.query)
        self.asked = nn.Linear(reading + 3, size.query)
        self.answer = CrossAttention(size.query, size.heads)
        self.last = zeroed(nn.Linear(size.query, 3))
        self.sigma = zeroed(nn.Linear(size.query, 1))
        nn.init.constant_(self.sigma.bias, FIRST_LOG_SIGMA)
        self.trust = nn.Sequential(nn.Linear(2 * width, 64), nn.GELU(), nn.Linear(64, 1))
        self.express = zeroed(nn.Linear(width, len(ARKIT_52)))

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        normals: Float[Tensor, "B N 3"],
        valid: Bool[Tensor, "B N"],
    ) -> Registered:
        """There are no rounds."""
        points = torch.where(valid[..., None], points.float() * 1e3 / UNIT_MM, 0.0)
        present = (normals.square().sum(-1, keepdim=True) > 0.25).to(points.dtype)
        elements = self.point(torch.cat([fourier(points, OCTAVES), normals, present], -1))
        tokens = self.identity + self.position(self.places[self.nodes])
        tokens = tokens.expand(len(points), -1, -1)
        for group, read in enumerate(self.reads):
            tokens = read(tokens, elements, valid)
            for block in self.blocks[group * self.size.blocks : (group + 1) * self.size.blocks]:
                tokens = block(tokens)
        tokens = self.spread(self.squeeze(tokens))
        for block in self.decoding:
            tokens = block(tokens)
        pooled = tokens.mean(1)
        queries = self.asked(self.places).expand(len(points), -1, -1)
        everything = valid.new_ones(tokens.shape[:2])
        answers = self.answer(queries, self.known(tokens), everything)
        vertices = self.template * 1e3 + 10 * exactly(self.last, answers)
        both = torch.cat([elements, pooled[:, None].expand(-1, points.shape[1], -1)], -1)
        return Registered(
            vertices.new_zeros(0, len(points), len(self.nodes), 3),
            vertices * 1e-3,
            exactly(self.sigma, answers)[..., 0],
            self.trust(both)[..., 0].float(),
            exactly(self.express, pooled),
        )
