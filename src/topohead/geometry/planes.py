"""Planes through small sets of points."""

from math import pi

import torch
from jaxtyping import Float
from torch import Tensor


def plane_normals(points: Float[Tensor, "*B K 3"]) -> Float[Tensor, "*B 3"]:
    """Unit normals, of either sign, of the least-squares planes through K points each.

    The axis along which points vary least, in closed form: the covariance's eigenvalues by cosines
    (Smith 1961), the axis across two of the rows that are left without the least. Where points lie
    on a line or at one place, any unit vector.
    """
    arms = points - points.mean(-2, keepdim=True)
    matrix = arms.mT @ arms
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    middle = diagonal.mean(-1)
    xx, yy, zz = (diagonal - middle[..., None]).unbind(-1)
    xy, xz, yz = matrix[..., 0, 1], matrix[..., 0, 2], matrix[..., 1, 2]
    size = ((xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)) / 6).sqrt()
    scale = size.clamp(min=1e-300)
    xx, yy, zz, xy, xz, yz = (part / scale for part in (xx, yy, zz, xy, xz, yz))
    half = (xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)) / 2
    least = 2 * torch.cos(torch.acos(half.clamp(-1, 1)) / 3 + 2 * pi / 3)
    xx, yy, zz = xx - least, yy - least, zz - least
    rows = (torch.stack(row, -1) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz)))
    first, second, third = rows
    pairs = ((first, second), (first, third), (second, third))
    axes = torch.stack([torch.linalg.cross(a, b) for a, b in pairs], -2)
    length = axes.norm(dim=-1)
    best = length.argmax(-1, keepdim=True)
    axis = axes.gather(-2, best[..., None].expand(*best.shape, 3))[..., 0, :]
    length = length.gather(-1, best)
    upward = torch.zeros_like(axis)
    upward[..., 2] = 1
    return torch.where(length > 1e-12, axis / length.clamp(min=1e-300), upward)
