"""Rigid and similarity transforms between corresponding points."""

import torch
from jaxtyping import Float
from torch import Tensor

SQUARINGS = 20
"""Of a matrix whose dominant eigenvector is wanted: it outgrows one that is 10⁻⁵ smaller."""


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


def rotations(products: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3 3"]:
    """The rotation R with the greatest Σ R ∘ M for each M = Σ target sourceᵀ about the means.

    It brings sources onto targets, least squares. Its quaternion is the dominant eigenvector of a
    symmetric 4×4 matrix (Horn 1987), which `SQUARINGS` squarings bring out: nothing waits for a
    device, which a decomposition there does.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in products.unbind(-2))
    rows = [
        xx + yy + zz, zy - yz, xz - zx, yx - xy,
        zy - yz, xx - yy - zz, xy + yx, xz + zx,
        xz - zx, xy + yx, yy - xx - zz, yz + zy,
        yx - xy, xz + zx, yz + zy, zz - xx - yy,
    ]  # fmt: skip
    matrix = torch.stack(rows, -1).unflatten(-1, (4, 4))
    matrix = matrix / matrix.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-300)
    matrix = matrix + torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    for _ in range(SQUARINGS):
        matrix = matrix @ matrix
        matrix = matrix / matrix.norm(dim=(-2, -1), keepdim=True)
    longest = matrix.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    quaternion = matrix.gather(-2, longest.expand(*longest.shape[:-1], 4))[..., 0, :]
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    turn = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(turn, -1).unflatten(-1, (3, 3))
