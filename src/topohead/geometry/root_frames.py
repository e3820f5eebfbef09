"""Hair that goes with the skin it stands on: curves in the frames of their root triangles.

A frame is that of Gaussian avatars (Qian et al. 2024): x along the triangle's first edge, y its
normal, z across both, origin at the root, unit the mean of the triangle's base and height.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from topohead.core import Strands, Topology


def root_frames(
    vertices: Float[Tensor, "*B V 3"], topology: Topology, strands: Strands
) -> tuple[Float[Tensor, "*B S 3"], Float[Tensor, "*B S 3 3"], Float[Tensor, "*B S"]]:
    """Origin, axes (columns) and unit of every strand's frame on a head in any pose."""
    return triangle_frames(vertices, topology.triangles.to(vertices.device), strands)


def triangle_frames(
    vertices: Float[Tensor, "*B V 3"], triangles: Int[Tensor, "T 3"], strands: Strands
) -> tuple[Float[Tensor, "*B S 3"], Float[Tensor, "*B S 3 3"], Float[Tensor, "*B S"]]:
    """`root_frames` by triangles that lie where the vertices do."""
    corners = triangles[strands.root_triangle]
    a, b, c = (_picked(vertices, corners[..., k]) for k in range(3))
    weights = strands.root_barycentrics
    origin = weights[..., :1] * a + weights[..., 1:2] * b + weights[..., 2:] * c
    edge = b - a
    base = edge.norm(dim=-1)
    along = normalize(edge, dim=-1, eps=1e-12)
    across = normalize(torch.linalg.cross(edge, c - a), dim=-1, eps=1e-12)
    aside = -torch.linalg.cross(across, along)
    height = ((c - a) * aside).sum(-1).abs()
    return origin, torch.stack([along, across, aside], -1), (base + height) / 2


def to_local(
    strands: Strands, vertices: Float[Tensor, "*B V 3"], topology: Topology
) -> Float[Tensor, "*B S P 3"]:
    """The strands' points in their root frames; any head with the topology can carry them."""
    origin, axes, unit = root_frames(vertices, topology, strands)
    offset = strands.points - origin[..., None, :]
    return offset @ axes / unit[..., None, None]


def from_local(
    local: Float[Tensor, "*B S P 3"],
    strands: Strands,
    vertices: Float[Tensor, "*B V 3"],
    topology: Topology,
    keep_length: bool = True,
) -> Strands:
    """The strands on another head or pose; `keep_length` turns them without scaling.

    With `keep_length`, units are those of the local points' own head: pass what `carried` does.
    """
    origin, axes, unit = root_frames(vertices, topology, strands)
    size = torch.ones_like(unit) if keep_length else unit
    points = origin[..., None, :] + (local * size[..., None, None]) @ axes.mT
    return replace(strands, points=points)


def carried(
    strands: Strands,
    topology: Topology,
    rest: Float[Tensor, "*B V 3"],
    posed: Float[Tensor, "*B V 3"],
) -> Strands:
    """The strands of a head at rest on the same head posed: they turn and move with their roots."""
    _, _, unit = root_frames(rest, topology, strands)
    local = to_local(strands, rest, topology) * unit[..., None, None]
    return from_local(local, strands, posed, topology)


def _picked(
    vertices: Float[Tensor, "*B V 3"], index: Int[Tensor, "*B S"]
) -> Float[Tensor, "*B S 3"]:
    return vertices.gather(-2, index[..., None].expand(*index.shape, 3))
