"""The classical way to register a scan: a linear head model fitted by iterated closest points.

The row that learned registration stands beside: nearly perfect for heads of the model's own
population in a known pose, lost where the model has no shape or the scan is broken.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import HeadModel
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.neighbours import gather_rows, nearest

ROUNDS = 12
SAMPLES = 900
"""Vertices that look for scan points."""

REACH = 0.025, 0.004
"""Farthest scan point that counts, in the first and the last round, metres."""

ROTATION, SHIFT = 0.1, 0.01
"""Deviations of the pose's remainder, radians and metres."""

NOISE = 0.002
"""Deviation of a point from the plane it should lie on, metres."""

EXPRESSION = 0.3


@dataclass(frozen=True)
class LinearSurface:
    """A linear head on a device: `basis` rows are one deviation of the population each."""

    template: Float[Tensor, "V 3"]
    basis: Float[Tensor, "K V 3"]
    triangles: Int[Tensor, "T 3"]
    samples: Int[Tensor, " N"]


def linear_surface(head: HeadModel, device: torch.device) -> LinearSurface:
    """Identity modes and expressions, looked up from evenly drawn outer vertices."""
    hidden = [n for n in ("mouth_interior", "eye_sockets", "tongue", "teeth")
              if n in head.topology.regions]  # fmt: skip
    outer = (~head.topology.region_mask(*hidden)).nonzero()[:, 0]
    samples = outer[:: max(1, len(outer) // SAMPLES)]
    basis = torch.cat([head.identity_basis, EXPRESSION * head.expression_basis])
    parts = (head.template, basis, head.topology.triangles, samples)
    return LinearSurface(*(part.to(device) for part in parts))


def fit_linear(
    surface: LinearSurface, points: Float[Tensor, "B N 3"], valid: Bool[Tensor, "B N"]
) -> Float[Tensor, "B V 3"]:
    """Vertices of the fitted model for scans that lie about right in the head frame.

    Gauss–Newton on the distance along vertex normals to the nearest point, Gaussian prior on
    modes, expressions and a remainder of the pose; correspondences beyond a shrinking reach do not
    count. The whole state is solved for anew in each round.
    """
    batch = len(points)
    points = torch.where(valid[..., None], points, 1e3)
    base, rows = surface.template[surface.samples], surface.basis[:, surface.samples]
    axes = torch.eye(3, device=base.device)[:, None].expand(3, len(base), 3)
    turns = torch.linalg.cross(axes, base.expand_as(axes), dim=-1)
    rows = torch.cat([rows, SHIFT * axes, ROTATION * turns])
    state = torch.zeros(batch, len(rows), device=base.device)
    vertices = surface.template.expand(batch, -1, -1)
    prior = torch.eye(len(rows), device=base.device, dtype=torch.float64) * NOISE**2
    for turn in range(ROUNDS):
        reach = REACH[0] * (REACH[1] / REACH[0]) ** (turn / (ROUNDS - 1))
        here = vertices[:, surface.samples]
        normals = vertex_normals(vertices, surface.triangles)[:, surface.samples]
        distance, index = nearest(here, points, 1)
        goal = gather_rows(points, index[..., 0])
        weight = (distance[..., 0] < reach).double()[..., None]
        jacobian = torch.einsum("knc,bnc->bnk", rows, normals).double()
        step = ((goal - here) * normals).sum(-1).double()[..., None]
        target = step + jacobian @ state.double()[..., None]
        square = jacobian.transpose(1, 2) @ (weight * jacobian) + prior
        state = torch.linalg.solve(square, jacobian.transpose(1, 2) @ (weight * target))[..., 0]
        state = state.to(base.dtype)
        vertices = _vertices(surface, state)
    return vertices


def _vertices(surface: LinearSurface, state: Float[Tensor, "B K"]) -> Float[Tensor, "B V 3"]:
    modes, shift, turn = state[:, :-6], state[:, -6:-3], state[:, -3:]
    shape = surface.template + torch.tensordot(modes, surface.basis, dims=1)
    turned = torch.linalg.cross(ROTATION * turn[:, None], surface.template.expand_as(shape))
    return shape + SHIFT * shift[:, None] + turned
