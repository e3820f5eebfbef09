"""Colours over viewing direction, with the signs of 3D Gaussian splatting's files."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.splats import SH_DC
from topohead.rendering.portrait_light import harmonics

SIGNS = (1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1)
"""(−1)^m of each coefficient: 3DGS keeps the Condon–Shortley phase."""


def shaded(
    coefficients: Float[Tensor, "N K 3"],
    means: Float[Tensor, "N 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
    turn: Float[Tensor, "3 3"],
) -> Float[Tensor, "C N 3"]:
    """srgb colours of Gaussians towards cameras, not below 0: 0.5 + Σ basis(direction) · k.

    Directions run from the camera to the Gaussian; `turn` takes the world's to the frame that the
    coefficients are in (the head's). K is 1, 4, 9 or 16.
    """
    rows = coefficients.shape[1]
    if rows == 1:
        flat = (0.5 + SH_DC * coefficients[:, 0]).clamp(min=0)
        return flat.expand(len(world_to_camera), -1, -1)
    pose = world_to_camera.to(means)
    centers = -(pose[:, :3, :3].mT @ pose[:, :3, 3:])[..., 0]
    ways = torch.nn.functional.normalize(means - centers[:, None], dim=-1) @ turn.to(means).T
    basis = harmonics(ways)[..., :rows] * torch.tensor(SIGNS[:rows]).to(means)
    return (0.5 + torch.einsum("cnk,nkd->cnd", basis, coefficients)).clamp(min=0)
