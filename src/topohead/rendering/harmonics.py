"""Colours over viewing direction, with the signs of 3D Gaussian splatting's files."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.splats import SH_DC
from topohead.rendering.portrait_light import harmonics, sphere

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
    basis = view_basis(ways, rows)
    return (0.5 + torch.einsum("cnk,nkd->cnd", basis, coefficients)).clamp(min=0)


def view_basis(ways: Float[Tensor, "*B 3"], rows: int) -> Float[Tensor, "*B K"]:
    """What the first `rows` coefficients are multiplied by in unit directions of view."""
    return harmonics(ways, rows) * _signs(rows, ways.device)


@cache
def _signs(rows: int, device: torch.device) -> Float[Tensor, " K"]:
    return torch.tensor(SIGNS[:rows], dtype=torch.float32, device=device)


def turned_harmonics(
    coefficients: Float[Tensor, "N K 3"], rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "N K 3"]:
    """Coefficients of the same colours after everything was turned by `rotation`.

    Each degree is carried into itself; its matrix is solved from values in many directions, which
    is exact (Green 2003 has closed forms).
    """
    rows = coefficients.shape[1]
    if rows == 1:
        return coefficients
    ways = sphere(64)
    back = ways @ rotation.double()  # a turned function's value is the old one's, turned back
    signs = _signs(rows, torch.device("cpu"))
    there, here = (harmonics(x, rows).double() * signs for x in (ways, back))
    matrix = torch.linalg.pinv(there) @ here
    return torch.einsum("jk,nkd->njd", matrix.to(coefficients), coefficients)
