"""Gaussians in space, as files and viewers exchange them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

SH_DC = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 √π): colour = 0.5 + SH_DC · first coefficient."""


@dataclass(frozen=True)
class Splats:
    """N anisotropic Gaussians (Kerbl et al. 2023).

    Quaternions are wxyz, `scales` standard deviations, opacities in [0, 1]; `harmonics` are K = 1,
    4, 9 or 16 coefficients of colour (sRGB) over viewing direction, the constant one first.
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    harmonics: Float[Tensor, "N K 3"]

    @classmethod
    def colored(
        cls,
        means: Float[Tensor, "N 3"],
        quats: Float[Tensor, "N 4"],
        scales: Float[Tensor, "N 3"],
        opacities: Float[Tensor, " N"],
        colors: Float[Tensor, "N 3"],
    ) -> "Splats":
        """Gaussians that look the same from everywhere, `colors` srgb in [0, 1]."""
        return cls(means, quats, scales, opacities, ((colors - 0.5) / SH_DC)[:, None])

    @property
    def colors(self) -> Float[Tensor, "N 3"]:
        """The constant part of the colours, srgb."""
        return 0.5 + SH_DC * self.harmonics[:, 0]


@dataclass(frozen=True)
class GaussianBinding:
    """Where N Gaussians sit on a mesh: a triangle each, and the rest in that triangle's own frame.

    Mean: Σ barycentric · corner + frame · offset; covariance: M Mᵀ with M = frame · R(quat) ·
    diag(scale). `geometry.binding` says what the frame is. All but the triangle are without unit:
    the frame carries size, so the numbers hold for every pose and every identity. Quats are wxyz.
    """

    triangles: Int[Tensor, " N"]
    """Rows of `Topology.triangles`."""
    barycentrics: Float[Tensor, "N 3"]
    offsets: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]


@dataclass(frozen=True)
class BoundSplats:
    """Gaussians that a mesh carries; opacities and harmonics as in `Splats`."""

    binding: GaussianBinding
    opacities: Float[Tensor, " N"]
    harmonics: Float[Tensor, "N K 3"]

    def __len__(self) -> int:
        return len(self.opacities)

    def to(self, device: torch.device | str) -> "BoundSplats":
        """The same on a device."""
        binding = GaussianBinding(*(t.to(device) for t in vars(self.binding).values()))
        return BoundSplats(binding, self.opacities.to(device), self.harmonics.to(device))
