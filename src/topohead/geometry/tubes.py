"""Curves as thin tubes of triangles, for renderers that draw meshes alone."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from topohead.geometry.strands import tangents, transported

SIDES = 3
"""Corners of a ring."""


def tube_vertices(
    points: Float[Tensor, "S P 3"], widths: Float[Tensor, "S P"]
) -> Float[Tensor, "K 3"]:
    """`SIDES` corners around every point, half a width away, strand by strand and root first.

    Rings turn about a curve as little as they can. A strand of no width is a line without area.
    """
    along = tangents(points)
    slim = along.abs().min(-1).indices[..., :1, None]
    aside = torch.zeros_like(along[:, 0]).scatter_(-1, slim[:, 0], 1.0)
    first = transported(along, normalize(torch.linalg.cross(along[:, 0], aside), dim=-1))
    second = torch.linalg.cross(along, first)
    turn = 2 * torch.pi * torch.arange(SIDES, device=points.device) / SIDES
    ring = turn.cos()[:, None] * first[..., None, :] + turn.sin()[:, None] * second[..., None, :]
    return (points[..., None, :] + 0.5 * widths[..., None, None] * ring).flatten(0, 2)


def tube_triangles(strands: int, points: int) -> Int[Tensor, "T 3"]:
    """Triangles of that many tubes, counter-clockwise from outside; ends are open."""
    strand, k, side = torch.meshgrid(
        torch.arange(strands), torch.arange(points - 1), torch.arange(SIDES), indexing="ij"
    )
    low = (strand * points + k) * SIDES
    a, b = low + side, low + (side + 1) % SIDES
    c, d = a + SIDES, b + SIDES
    pairs = torch.stack([torch.stack([a, b, d], -1), torch.stack([a, d, c], -1)], -2)
    return pairs.reshape(-1, 3)
