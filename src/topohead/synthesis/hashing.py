"""Random numbers by counter: what a strand draws depends on nothing but the seed and its number."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LOW = 0xFFFFFFFF


def uniform(
    seed: Int[Tensor, " B"], index: Int[Tensor, "*S"], channel: int
) -> Float[Tensor, "B *S"]:
    """Numbers in [0, 1) for every seed and index; `channel` tells draws of one strand apart.

    Multiply, shift, exclusive-or on 32 bits: exact on every device.
    """
    start = seed.view(-1, *[1] * index.dim()) * 0x9E3779B1 + channel * 0xC2B2AE3D
    mixed = (start + index * 0x85EBCA77) & _LOW
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1), (15, 1)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _LOW
    return (mixed >> 8).float() / (1 << 24)


def normal(
    seed: Int[Tensor, " B"], index: Int[Tensor, "*S"], channel: int
) -> Float[Tensor, "B *S"]:
    """Standard normal numbers, cut at 3: twelve uniform ones less six."""
    total = sum(uniform(seed, index, 1009 * channel + k) for k in range(12))
    return (torch.as_tensor(total) - 6).clamp(-3, 3)


def waves(
    seed: Int[Tensor, " B"], points: Float[Tensor, "B *S 3"], wavelength: float, channel: int
) -> Float[Tensor, "B *S"]:
    """A smooth field in space, about unit deviation: six plane waves of random directions."""
    each = torch.arange(6, device=seed.device)
    draws = torch.stack([uniform(seed, each, 7919 * channel + k) for k in range(4)], -1)
    rise = 2 * draws[..., 0] - 1
    turn = 2 * torch.pi * draws[..., 1]
    flat = (1 - rise.square()).clamp(min=0).sqrt()
    way = torch.stack([flat * turn.cos(), rise, flat * turn.sin()], -1)
    way = way * (2 * torch.pi / wavelength * (0.6 + 0.8 * draws[..., 2:3]))
    shape = (len(seed), *[1] * (points.dim() - 2), 6)
    phase = 2 * torch.pi * draws[..., 3].view(shape)
    # term by term: a matrix product may round a head of a batch and a head alone differently
    x, y, z = (points[..., c, None] * way[..., c].view(shape) for c in range(3))
    along = x + y + z
    return (along + phase).sin().sum(-1) * (2 / 6) ** 0.5
