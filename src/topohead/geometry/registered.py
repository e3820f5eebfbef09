"""How far a registered head is from the true one of the same topology; metres in, metres out.

A surface may lie on the truth while its vertices lie elsewhere on it: point-to-surface distance
cannot see that, so every distance here comes with the part of it along the skin.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Mesh
from topohead.geometry.correspondence import closest_points, interpolate
from topohead.geometry.meshes import vertex_normals

CHI_SQUARE = {50: 2.366, 90: 6.251}
"""What the sum of three squared standard normals stays under in so many per cent of cases."""


class ErrorParts(NamedTuple):
    """Of each vertex: how far it is off, how far along the true normal, how far along the skin."""

    distance: Float[Tensor, " V"]
    normal: Float[Tensor, " V"]
    slide: Float[Tensor, " V"]


def error_parts(
    found: Float[Tensor, "V 3"], truth: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]
) -> ErrorParts:
    """The errors of equal vertices, split by the true surface's normals."""
    error = found.double() - truth.double()
    normals = vertex_normals(truth.double(), triangles)
    along = (error * normals).sum(-1)
    return ErrorParts(
        error.norm(dim=-1), along.abs(), (error - along[:, None] * normals).norm(dim=-1)
    )


def f_score(
    there: Float[Tensor, " N"], back: Float[Tensor, " M"], within: float
) -> Float[Tensor, ""]:
    """Harmonic mean of the shares of distances below `within` both ways (Knapitsch et al. 2017)."""
    precision, recall = (there < within).double().mean(), (back < within).double().mean()
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def round_trip(found: Mesh, truth: Mesh, points: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """How far a texture baked from the true surface is displaced, at true vertices `points`.

    Each point goes to the nearest place on the registered surface, reads its texture coordinate
    there, and returns to the true surface by that coordinate.
    """
    if found.topology is not truth.topology:
        raise ValueError("expected both meshes to share one topology, and so one texture layout")
    places = truth.vertices[points].double()
    landed, _ = closest_points(places, Mesh(found.topology, found.vertices.double()))
    back = interpolate(landed, truth.topology.triangles, truth.vertices.double())
    return (back - places).norm(dim=-1)


def coverage(
    found: Float[Tensor, "V 3"],
    truth: Float[Tensor, "V 3"],
    sigma: Float[Tensor, " V"],
    per_cent: int,
) -> Float[Tensor, ""]:
    """Share of vertices within the ball that σ (per axis) says holds `per_cent` of them."""
    ratio = (found - truth).square().sum(-1) / sigma.square()
    return (ratio < CHI_SQUARE[per_cent]).double().mean()


def tangential(offset: Float[Tensor, "V 3"], normals: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    """The part of vectors along the surface."""
    return offset - (offset * normals).sum(-1, keepdim=True) * normals
