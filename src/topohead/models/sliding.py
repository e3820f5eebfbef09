"""Where on another family's skin a vertex belongs, asked of both families' own shapes.

A bridge that was fitted to one head knows landmarks and lines; between them its correspondence is
what the free remainder of the fit made of it. Here the two families explain each other instead:
the reference's shapes the other's mean head, and the other's shapes, as the bridge has carried
them, the reference's. Vertices may slide along the skin, and how far they do in either direction is
how far the bridge is off: a point that was placed too high on the other's forehead is found lower
there by the reference's shapes, and higher on the reference's forehead by the other's. The mean of
both cancels what each family makes of strangers. The idea that correspondence is what explains the
shapes with the least is Kotcheff and Taylor's (1998) and Davies et al.'s (2002).
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, Mesh, SurfacePoints
from topohead.geometry.correspondence import FacingSurface, closest_points, interpolate
from topohead.geometry.filling import SmoothFill
from topohead.geometry.fitting import Trust, explain
from topohead.geometry.lines import INNER, landmark_lines, line_points, nearest_along
from topohead.geometry.meshes import outward_normals, vertex_normals
from topohead.geometry.registered import tangential
from topohead.geometry.spectrum import laplace_eigenvectors
from topohead.models.linear import LinearHead

BELIEF = 0.8
"""Share of the found slide that is made: what is estimated is larger than what it estimates."""

TRUST, TRUST_BACK = Trust(1000.0, 0.004), Trust(300.0, 0.004)
"""For the reference on the other's skin, and for the other on the reference's: landmarks are put
down by hand on both heads, surfaces are exact, and the carried shapes are not the other's all."""

PARTS = ("face", "ears", "scalp")
"""What looks for the surface. Necks end anywhere."""

FIELDS, FIELD_REACH = 64, 0.012
"""Smooth fields that each model may use besides, and skin that moves alike in them, metres."""

REFERENCE_FIELD, OTHER_FIELD = 0.006, 0.001
"""Their spread together, per axis, metres: each family must reach what is strange to it."""

LONG = 0.3
"""Fields of longer waves than this, metres, do not grow any more."""

FAR = 0.01
"""A vertex this far from the surface that it looks for, metres, does not slide."""


def common_slide(
    reference: LinearHead, other: LinearHead, others: Mesh, references: Mesh
) -> Float[Tensor, "V 3"]:
    """How far each vertex should slide along the other family's mean head, head frame, metres.

    `other` is that family on the reference's topology, by a bridge; `others` its mean head's skin
    in its own topology, `references` the reference's, both with the landmarks "ibug68".
    Symmetric where the topology has a mirror map.
    """
    fields = smooth_fields(reference)
    there = _slide(_with(reference, REFERENCE_FIELD * fields), others, other, TRUST)
    back = _slide(_with(other, OTHER_FIELD * fields), references, reference, TRUST_BACK)
    slide = BELIEF * (there - back) / 2
    opposite = reference.topology.mirror
    if opposite is None:
        return slide
    return (slide + slide[opposite] * torch.tensor([-1.0, 1.0, 1.0])) / 2


def smooth_fields(head: LinearHead) -> Float[Tensor, "K V 3"]:
    """Laplace eigenvectors along x, y, z, long waves more; together rms 1 over the skin."""
    topology, template = head.topology, head.template.double()
    waves, eigenvalues = laplace_eigenvectors(topology, template, FIELDS, FIELD_REACH)
    length = 2 * torch.pi / eigenvalues.sqrt()
    share = length / (1 + (length / LONG) ** 2)
    waves = waves * (share / share.square().sum().sqrt())[:, None] / 3**0.5
    return (waves[:, None, :, None] * torch.eye(3).double()[:, None]).reshape(-1, len(template), 3)


def _with(head: LinearHead, fields: Float[Tensor, "K V 3"]) -> LinearHead:
    """The family at rest, and fields besides."""
    basis = torch.cat([head.identity_basis, fields.float()])
    still = head.template.new_zeros(len(ARKIT_52), *head.template.shape)
    return replace(head, identity_basis=basis, expression_basis=still)


def _slide(model: LinearHead, mesh: Mesh, known: LinearHead, trust: Trust) -> Float[Tensor, "V 3"]:
    """From the known places on the mesh, along the skin, to those that the model finds there."""
    placed = explain(model, mesh, mesh.topology.landmarks["ibug68"], PARTS, trust)
    corners, vertices = mesh.topology.triangles, mesh.vertices.double()
    surface = FacingSurface(Mesh(mesh.topology, vertices), outward_normals(vertices, corners))
    normals = vertex_normals(placed, model.topology.triangles)
    points, distance, _ = surface.closest(placed, normals)
    step = interpolate(points, corners, vertices) - known.template.double()
    own = vertex_normals(known.template.double(), known.topology.triangles)
    return torch.where((distance < FAR)[:, None], tangential(step, own), 0.0)


def skin_mesh(head: LinearHead) -> Mesh:
    """The mean head's skin alone, with its landmarks: no shells, globes or teeth."""
    topology = head.topology
    inside = topology.region_mask("skin")[topology.faces].all(1)
    faces, face_uv = topology.faces[inside], topology.face_uv[inside]
    bare = replace(topology, faces=faces, face_uv=face_uv, regions={}, landmarks={}, mirror=None)
    mesh = Mesh(bare, head.template)
    marks = topology.landmarks["ibug68"]
    places = interpolate(marks, topology.triangles, head.template)
    named = replace(bare, landmarks={"ibug68": closest_points(places, mesh)[0]})
    return Mesh(named, head.template)


HOLD, LOOSE, STIFF = 3.0, 0.1, 1.0
"""Weight of what is held, of what may stay where it slid, and of bending."""


def held(
    places: Float[Tensor, "V 3"], reference: LinearHead, other: LinearHead
) -> Float[Tensor, "V 3"]:
    """Places on the other's mean head whose inner landmarks and lines (`geometry.lines`) are the
    other's.

    Points of a line may lie anywhere along it; what lies around them follows smoothly.
    """
    ours, theirs = reference.topology, other.topology
    fill = SmoothFill(ours, torch.full((len(places),), LOOSE).double(), torch.zeros_like(places))
    own, goal = shared_points(places, reference, other)
    there = interpolate(goal, theirs.triangles, other.template.double())
    fill.tie(own, there - interpolate(own, ours.triangles, places), HOLD)
    return places + fill.solve(STIFF, places)


def shared_points(
    places: Float[Tensor, "V 3"], reference: LinearHead, other: LinearHead
) -> tuple[SurfacePoints, SurfacePoints]:
    """Points of lines (`geometry.lines`) and the inner landmarks, on ours and on the other's head.

    A point of a line belongs to the place on the other's line that is nearest to it when the
    reference's vertices are at `places` on the other's mean head.
    """
    ours, theirs = reference.topology, other.topology
    lines = landmark_lines(theirs, other.template)
    own, goal = [], []
    for name, way in landmark_lines(ours, reference.template).items():
        own.append(line_points(ours, reference.template, {name: way}))
        here = interpolate(own[-1], ours.triangles, places)
        goal.append(nearest_along(theirs, other.template, lines[name], here))
    for topology, points in ((ours, own), (theirs, goal)):
        marks = topology.landmarks["ibug68"]
        points.append(SurfacePoints(marks.triangles[INNER], marks.barycentrics[INNER]))
    return _together(own), _together(goal)


def _together(points: list[SurfacePoints]) -> SurfacePoints:
    return SurfacePoints(
        torch.cat([p.triangles for p in points]), torch.cat([p.barycentrics for p in points])
    )
