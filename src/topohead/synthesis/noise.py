"""Seamless noise in space: the same point has the same value, whatever texture asks for it.

A field is a periodic cube of smooth random values, sampled trilinearly. Its period is far larger
than its grain, and octaves use periods that share no common multiple, so repeats do not show.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

CELLS = 64
"""Voxels on a side of a noise cube."""

GRAIN = 6.0
"""Voxels from one bump of the noise to the next: enough for trilinear sampling to look smooth."""


class Noise:
    """Fields of one seed; unit variance, zero mean. `name` keeps fields of one seed apart.

    All fields are cut from the same few cubes, each name at a place of its own.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        random = np.random.default_rng([seed, 76])
        white = random.standard_normal((3, CELLS, CELLS, CELLS)).astype(np.float32)
        self._cubes = [_padded(_band_passed(torch.from_numpy(cube))) for cube in white]

    def smooth(
        self, points: Float[Tensor, "N 3"], wavelength: float, name: str, channels: int = 1
    ) -> Float[Tensor, "N K"]:
        """Band-limited noise of up to three channels; `wavelength` metres from bump to bump."""
        start = np.random.default_rng([self._seed, *name.encode()]).random(4)
        voxels = points * (GRAIN / wavelength) + torch.tensor(start[:3] * CELLS).float()
        first = int(start[3] * 3)
        used = [self._cubes[(first + k) % 3] for k in range(channels)]
        return torch.stack([_sample(cube, voxels) for cube in used], 1)

    def octaves(
        self,
        points: Float[Tensor, "N 3"],
        coarsest: float,
        finest: float,
        name: str,
        falloff: float = 0.5,
    ) -> Float[Tensor, " N"]:
        """Fractal noise, unit variance: wavelengths halve, amplitudes shrink by `falloff`."""
        total = torch.zeros(len(points))
        wavelength, weight, power, index = coarsest, 1.0, 0.0, 0
        while wavelength >= finest * 0.999:
            total += weight * self.smooth(points, wavelength, f"{name}{index}")[:, 0]
            power += weight**2
            # not exactly a half, so that the octaves' periods do not line up
            wavelength, weight, index = wavelength * 0.487, weight * falloff, index + 1
        return total / max(power, 1e-12) ** 0.5


def _band_passed(white: Float[Tensor, "D H W"]) -> Float[Tensor, "D H W"]:
    """White noise without what is finer than the grain or coarser than twice it; unit variance."""
    frequency = torch.fft.fftfreq(CELLS)
    radius = torch.sqrt(
        frequency[:, None, None] ** 2
        + frequency[None, :, None] ** 2
        + frequency[None, None, :] ** 2
    )
    octave = torch.log2((radius * GRAIN).clamp(min=1e-6))
    band = torch.exp(-((octave + 0.3) ** 2) / (2 * 0.35**2))
    field = torch.fft.ifftn(torch.fft.fftn(white) * band).real
    return field / field.std()


def _padded(cube: Float[Tensor, "D H W"]) -> Float[Tensor, "1 1 D1 H1 W1"]:
    """The periodic cube with its first layers repeated at the end, as `_sample` reads it."""
    return torch.nn.functional.pad(cube[None, None], (0, 1, 0, 1, 0, 1), mode="circular")


def _sample(
    padded: Float[Tensor, "1 1 D H W"], voxels: Float[Tensor, "N 3"], chunk: int = 1 << 20
) -> Float[Tensor, " N"]:
    """Periodic trilinear look-up."""
    size = padded.shape[-1] - 1
    out = torch.empty(len(voxels))
    for start in range(0, len(voxels), chunk):
        part = torch.remainder(voxels[start : start + chunk].float(), size)
        grid = (part * (2.0 / size) - 1.0)[None, None, None]
        values = torch.nn.functional.grid_sample(padded, grid, "bilinear", "border", True)
        out[start : start + chunk] = values[0, 0, 0, 0]
    return out
