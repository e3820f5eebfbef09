"""Random fields in space without end or period: a value is a hash of (seed, name, cell), no more.

So neither the order of tiles, nor threads, nor a texture's size changes what is painted by them.
Compiled loops on CPU cores, Triton kernels on CUDA devices; both hash the same integers, and agree
to 1e-4 of a field's deviation.
"""

import math
from types import ModuleType
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering import fields_cpu

DEVIATION = 0.191
"""Standard deviation of the plain gradient noise (measured on 2²¹ points)."""

BOX = (2 * math.pi) ** 2 / 24
"""A wave of length λ averaged over a box of width T keeps exp(−BOX (T/λ)²) of its amplitude: the
Gaussian of the box's variance T²/12."""


class Fields:
    """The fields of one seed, on the points' device; `name` keeps fields apart.

    `footprint` is the distance in metres between the points that will ask: of waves that are
    shorter, only what remains of their mean over that distance is there.
    """

    def __init__(self, seed: int, footprint: float = 0.0) -> None:
        self._seed, self.footprint = seed, footprint

    def octaves(
        self,
        points: Float[Tensor, "N 3"],
        coarsest: float,
        finest: float,
        name: str,
        falloff: float = 0.5,
    ) -> Float[Tensor, " N"]:
        """Fractal gradient noise (Perlin 2002), unit variance before what `footprint` takes away.

        Wavelengths (metres from bump to bump, about) halve, amplitudes shrink by `falloff`.
        """
        waves, weights = [coarsest], [1.0]
        while waves[-1] * 0.487 >= finest * 0.999:
            # not exactly a half, so that the lattices of the octaves do not line up
            waves.append(waves[-1] * 0.487)
            weights.append(weights[-1] * falloff)
        power = math.sqrt(sum(w * w for w in weights)) * DEVIATION
        kept = [w / power * self.kept(wave) for w, wave in zip(weights, waves, strict=True)]
        seeds = [self._key(f"{name}/{octave}") for octave in range(len(waves))]
        # a bump and a hollow take two cells of the lattice
        frequencies = [2.0 / wave for wave in waves]
        if points.is_cuda:
            tables = (torch.tensor(x, device=points.device) for x in (frequencies, kept, seeds))
            return _triton().octaves(points.contiguous(), *tables)
        tables = (np.array(frequencies, np.float32), np.array(kept, np.float32))
        found = fields_cpu.octaves(
            points.T.contiguous().numpy(), *tables, np.array(seeds, np.uint32)
        )
        return torch.from_numpy(found)

    def cells(
        self,
        points: Float[Tensor, "N 3"],
        size: float,
        name: str,
        axis: Float[Tensor, "N 3"] | None = None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Distances to the nearest and next of scattered dots, and the nearest's number in [0, 1).

        One dot in every cube of `size` metres, distances in such sizes (Worley 1996). A dot is as
        near as if it were 1/√(1−|axis|²) times nearer along `axis`.
        """
        places = (points / size).contiguous()
        axis = torch.zeros_like(places) if axis is None else axis.contiguous()
        if points.is_cuda:
            found = _triton().cells(places, self._key(name), axis)
        else:
            found = torch.from_numpy(
                fields_cpu.cells(places.numpy(), self._key(name), axis.numpy())
            )
        first, second, number = found.unbind(1)
        return first, second, number

    def spots(
        self,
        points: Float[Tensor, "N 3"],
        size: float,
        radii: tuple[float, float],
        presence: Float[Tensor, " N"],
        name: str,
        axis: Float[Tensor, "N 3"] | None = None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """How deep points lie in a spot (1 in the middle, 0 outside), and its number in [0, 1).

        A cube of `size` metres holds a ball with probability `presence`; `radii` in metres, at
        most half the size, small ones more often. `axis` as in `cells`.
        """
        small, large = (radius / size for radius in radii)
        assert large <= 0.5, "spots reach into the next cell at most"
        places = (points / size).contiguous()
        axis = torch.zeros_like(places) if axis is None else axis.contiguous()
        presence = presence.float().contiguous()
        if points.is_cuda:
            found = _triton().spots(places, self._key(name), presence, small, large, axis)
        else:
            found = torch.from_numpy(
                fields_cpu.spots(
                    places.numpy(), self._key(name), presence.numpy(), small, large, axis.numpy()
                )
            )
        depth, number = found.unbind(1)
        return depth, number

    def kept(self, wave: float) -> float:
        """The share of a wave's amplitude that the footprint lets through."""
        return math.exp(-BOX * (self.footprint / wave) ** 2)

    def _key(self, name: str) -> int:
        return crc32(f"{self._seed}/{name}".encode())


def _triton() -> ModuleType:
    from topohead.rendering import fields_triton  # noqa: PLC0415 -- only where CUDA is

    return fields_triton
