"""Rigid and similarity transforms between corresponding points."""

import torch
from jaxtyping import Float
from torch import Tensor


def rigid(
    source: Float[Tensor, "N 3"],
    target: Float[Tensor, "N 3"],
    weights: Float[Tensor, " N"] | None = None,
    scale: bool = False,
) -> Float[Tensor, "4 4"]:
    """The rotation and translation (and scale) that bring `source` onto `target`, least squares.

    Closed form by singular value decomposition (Umeyama 1991); never a reflection. Computed in
    float64, returned in the dtype of `source`. Needs three points that are not on one line.
    """
    if len(source) < 3:
        raise ValueError(f"alignment needs at least 3 points, got {len(source)}")
    a, b = source.double(), target.double()
    w = torch.ones(len(a), dtype=a.dtype) if weights is None else weights.double()
    w = w / w.sum()
    mean_a, mean_b = w @ a, w @ b
    a, b = a - mean_a, b - mean_b
    u, singular, vt = torch.linalg.svd((w[:, None] * b).T @ a)
    flip = torch.ones(3, dtype=a.dtype)
    flip[2] = torch.sign(torch.linalg.det(u @ vt))
    linear = u @ torch.diag(flip) @ vt
    if scale:
        linear = linear * ((singular * flip).sum() / (w[:, None] * a * a).sum())
    transform = torch.eye(4, dtype=a.dtype)
    transform[:3, :3] = linear
    transform[:3, 3] = mean_b - linear @ mean_a
    return transform.to(source.dtype)


def apply(transform: Float[Tensor, "4 4"], points: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3"]:
    """Points after an affine transform (last row 0 0 0 1)."""
    return points @ transform[:3, :3].T + transform[:3, 3]
