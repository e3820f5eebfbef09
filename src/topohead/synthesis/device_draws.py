"""Random numbers by name and counter: the same for a sample on every device and in any batch.

A value is a hash of (seed, sample index, name, position), so nothing has a state: a sample does
not depend on its neighbours in the batch, on how many were drawn before, or on the machine.
"""

import math
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Draws:
    """Random fields of samples; `keys` are two 32-bit words for each, as int64."""

    keys: Int[Tensor, "B 2"]

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "B *S"]:
        """Uniform in [0, 1), multiples of 2⁻²⁴: bit-equal on all devices."""
        if self.keys.is_cuda and _compiler():
            from topohead.synthesis import device_draws_triton  # noqa: PLC0415

            salt = zlib.crc32(name.encode())
            drawn = device_draws_triton.uniform(self.keys, salt, math.prod(shape))
            return drawn.view(-1, *shape)
        return (self._words(name, math.prod(shape)) >> 8).float().mul_(2.0**-24).view(-1, *shape)

    def between(self, name: str, low: float, high: float, *shape: int) -> Float[Tensor, "B *S"]:
        """Uniform in [low, high)."""
        return low + (high - low) * self.uniform(name, *shape)

    def normal(self, name: str, *shape: int) -> Float[Tensor, "B *S"]:
        """Standard normal by Box and Muller (1958); devices differ in the last bits."""
        count = math.prod(shape)
        half = (count + 1) // 2
        first, second = self.uniform(name, 2, half).unbind(1)
        radius = torch.sqrt(-2 * torch.log1p(-first))
        angle = 2 * math.pi * second
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], 1)
        return both[:, :count].reshape(-1, *shape)

    def chance(self, name: str, share: float, *shape: int) -> Bool[Tensor, "B *S"]:
        """True with probability `share`."""
        return self.uniform(name, *shape) < share

    def _words(self, name: str, count: int) -> Int[Tensor, "B N"]:
        salt = zlib.crc32(name.encode())
        position = torch.arange(count, device=self.keys.device)
        first, second = self.keys[:, :1], self.keys[:, 1:]
        return _mixed(_mixed((position + first) & _WORD ^ salt) ^ second)


@cache
def _compiler() -> bool:
    return find_spec("triton") is not None


def draws(seed: int, indices: Int[Tensor, " B"]) -> Draws:
    """The random numbers of samples `indices` (up to 2⁵³) under a seed, on their device."""
    low, high = indices & _WORD, indices >> 32
    seeded = _mixed(_mixed(torch.full_like(indices, seed & _WORD)) ^ ((seed >> 32) & _WORD))
    first = _mixed(_mixed(low ^ seeded) ^ high)
    second = _mixed(_mixed(first ^ 0x9E3779B9) ^ low)
    return Draws(torch.stack([first, second], 1))


def _mixed(words: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """A 32-bit permutation without visible structure (C. Wellons' constants, bias 0.17)."""
    words = ((words ^ (words >> 16)) * 0x7FEB352D) & _WORD
    words = ((words ^ (words >> 15)) * 0x846CA68B) & _WORD
    return words ^ (words >> 16)
