"""Seamless noise in space: the same point has the same value, whatever texture asks for it.

A field is a periodic cube of smooth random values, sampled trilinearly. Its period is far larger
than its grain, and octaves use periods that share no common multiple, so repeats do not show.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

CELLS = 64
"""Voxels on a side of a noise cube."""

DOTS = 14
"""Scattered dots along a side of the periodic cube of `Noise.cells`."""

GRAIN = 6.0
"""Voxels from one bump of the noise to the next: enough for trilinear sampling to look smooth."""


class Noise:
    """Fields of one seed; unit variance, zero mean. `name` keeps fields of one seed apart."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._cubes: dict[tuple[str, int], Tensor] = {}

    def smooth(
        self, points: Float[Tensor, "N 3"], wavelength: float, name: str, channels: int = 1
    ) -> Float[Tensor, "N K"]:
        """Band-limited noise; `wavelength` metres from bump to bump."""
        cube = self._cube(name, channels)
        return _sample(cube, points * (GRAIN / wavelength))

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

    def cells(
        self, points: Float[Tensor, "N 3"], size: float, name: str, jitter: float = 0.3
    ) -> Float[Tensor, " N"]:
        """Distance to the nearest of scattered dots, in dot spacings (Worley 1996).

        `size` is the mean spacing in metres; positions are warped so that no pattern shows.
        """
        warp = self.smooth(points, size * 5, f"{name}-warp", 3)
        place = points / size + jitter * warp
        if ("dots", 0) not in self._cubes:
            self._cubes["dots", 0] = _dot_distance(self._seed)
        voxels = len(self._cubes["dots", 0][0]) / DOTS
        return _sample(self._cubes["dots", 0], place * voxels)[:, 0]

    def _cube(self, name: str, channels: int) -> Float[Tensor, "K D H W"]:
        key = (name, channels)
        if key not in self._cubes:
            random = np.random.default_rng([self._seed, *name.encode()])
            white = random.standard_normal((channels, CELLS, CELLS, CELLS)).astype(np.float32)
            self._cubes[key] = _band_passed(torch.from_numpy(white))
        return self._cubes[key]


def _band_passed(white: Float[Tensor, "K D H W"]) -> Float[Tensor, "K D H W"]:
    """White noise without what is finer than the grain or coarser than twice it; unit variance."""
    frequency = torch.fft.fftfreq(CELLS)
    radius = torch.sqrt(
        frequency[:, None, None] ** 2
        + frequency[None, :, None] ** 2
        + frequency[None, None, :] ** 2
    )
    octave = torch.log2((radius * GRAIN).clamp(min=1e-6))
    band = torch.exp(-((octave + 0.3) ** 2) / (2 * 0.35**2))
    field = torch.fft.ifftn(torch.fft.fftn(white, dim=(1, 2, 3)) * band, dim=(1, 2, 3)).real
    return (field / field.std(dim=(1, 2, 3), keepdim=True)).contiguous()


def _sample(
    cube: Float[Tensor, "K D H W"], voxels: Float[Tensor, "N 3"], chunk: int = 1 << 20
) -> Float[Tensor, "N K"]:
    """Periodic trilinear look-up."""
    padded = torch.nn.functional.pad(cube[None], (0, 1, 0, 1, 0, 1), mode="circular")
    size = cube.shape[-1]
    out = torch.empty(len(voxels), len(cube))
    for start in range(0, len(voxels), chunk):
        part = torch.remainder(voxels[start : start + chunk].float(), size)
        grid = (part * (2.0 / size) - 1.0)[None, None, None]
        values = torch.nn.functional.grid_sample(padded, grid, "bilinear", "border", True)
        out[start : start + chunk] = values[0, :, 0, 0].T
    return out


def _dot_distance(seed: int, voxels_a_dot: int = 6) -> Float[Tensor, "1 D D D"]:
    """Distance to the nearest dot, one jittered dot a cell, on a periodic lattice of voxels."""
    random = np.random.default_rng([seed, 77])
    corner = np.stack(np.meshgrid(*[np.arange(DOTS)] * 3, indexing="ij"), -1).reshape(-1, 3)
    # z varies fastest in grid_sample's x; the lattice is isotropic, so the order does not matter
    dots = (corner + random.random(corner.shape)) % DOTS
    size = DOTS * voxels_a_dot
    axis = np.arange(size) / voxels_a_dot
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    distance, _ = cKDTree(dots, boxsize=DOTS).query(grid)
    return torch.from_numpy(distance.astype(np.float32)).reshape(1, size, size, size)
