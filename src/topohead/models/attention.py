"""Transformer blocks and position codes that the networks share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """A pre-norm block: attention of all tokens to all, then a perceptron (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = perceptron(width)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        split = self.query_key_value(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        tokens = tokens + self.out(_attended(*split.permute(2, 0, 3, 1, 4)))
        return tokens + self.perceptron(tokens)


class CrossAttention(nn.Module):
    """A pre-norm block in which tokens attend to a set, of which `valid` elements count."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.set_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = perceptron(width)

    def forward(
        self, tokens: Float[Tensor, "B L D"], elements: Float[Tensor, "B N D"], valid: Tensor
    ) -> Float[Tensor, "B L D"]:
        query = self.query(self.norm(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        both = self.key_value(self.set_norm(elements)).unflatten(-1, (2, self.heads, -1))
        key, value = both.permute(2, 0, 3, 1, 4)
        tokens = tokens + self.out(_attended(query, key, value, valid[:, None, None]))
        return tokens + self.perceptron(tokens)


def perceptron(width: int) -> nn.Sequential:
    """Norm, four times wider, back again: the second half of a transformer block."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    )


def fourier(points: Float[Tensor, "*B 3"], octaves: int) -> Float[Tensor, "*B K"]:
    """Coordinates, and sine and cosine of them at 1, 2, 4, … radians a unit; K = 3 + 6 octaves."""
    powers = 2.0 ** torch.arange(octaves, device=points.device, dtype=points.dtype)
    angles = (points[..., None] * powers).flatten(-2)
    return torch.cat([points, angles.sin(), angles.cos()], -1)


def exactly(layer: nn.Module, values: Float[Tensor, "*B K"]) -> Float[Tensor, "*B L"]:
    """A layer in float32 also under autocast: bfloat16 would round 30 mm to an eighth of one."""
    with torch.autocast(values.device.type, enabled=False):
        return layer(values.float())


def _attended(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None
) -> Float[Tensor, "B L D"]:
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=valid)
    return mixed.transpose(1, 2).flatten(-2)
