"""A bridge from a head model to any mesh of a head: fitted along its lines, bound without folds."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import HeadModel, Mesh, SurfacePoints
from topohead.geometry import alignment
from topohead.geometry.bridge import REACH, Bridge, bind, small_parts
from topohead.geometry.correspondence import FacingSurface, interpolate
from topohead.geometry.filling import turned_over
from topohead.geometry.fitting import Fit, fit_model
from topohead.geometry.following import BOUND, CONTINUED, kinds
from topohead.geometry.lines import landmark_lines, line_points
from topohead.geometry.meshes import neighbour_rings, outward_normals, vertex_normals

BODIES = ("eye_left", "eye_right", "teeth_upper", "teeth_lower")
"""Regions of the source whose counterparts keep their shape."""

THIN = 0.004
"""Shells lie within this distance (metres) of the skin that they follow."""

EVEN = 0.0002
"""A mesh whose vertices lie within this (metres) of their mirror image is bridged evenly."""

TRUST = 0.0013
"""Skin farther than this (metres) from the source beneath it is continued, not bound."""

PROBES = 16
"""Random heads on which folds are looked for."""

ROUNDS = 10
"""So often what folds is marked, with one more ring around it each time."""

FEW = 5e-4
"""Fewer triangles of a head's skin than this share may turn over, as extreme lips nearly do."""


def build_bridge(
    model: HeadModel, mesh: Mesh, start: Float[Tensor, "V 3"] | None = None
) -> tuple[Bridge, Fit]:
    """Fit a head model to any mesh of a head, its lines to the mesh's lines, and bind the mesh.

    With the landmarks "ibug68" the mesh may stand anyhow, and the rims of lids and lips meet along
    their whole length. `start`, the model as something else found it in the mesh, stands in for
    them. Without either the mesh must be upright, y up, and its shape alone is the guide. Where
    the bound mesh would fold on other heads its vertices are continued from around.
    """
    landmarks = mesh.topology.landmarks.get("ibug68")
    ties = None
    if landmarks is not None:
        ties = _ties(model, mesh)
    elif start is not None:
        landmarks, ties = _found_ties(model, mesh, start)
    fit = fit_model(model, mesh, landmarks, ties=ties, unfold=True)
    placed = _even(model, mesh, fit).to(mesh.vertices)
    size = float(torch.linalg.det(fit.model_to_mesh[:3, :3]) ** (1 / 3))
    bridge = bind(Mesh(model.topology, placed), mesh, REACH * size)
    bridge = replace(bridge, kind=_kinds(bridge, mesh, THIN * size, TRUST * size))
    return _without_folds(bridge, model), fit


def _even(model: HeadModel, mesh: Mesh, fit: Fit) -> Float[Tensor, "V 3"]:
    """The fitted vertices, the same on both sides of a mesh that is its own mirror image."""
    vertices, opposite = fit.vertices.double(), model.topology.mirror
    upright = torch.linalg.inv(fit.model_to_mesh.double())
    across = _reflection(alignment.apply(upright, mesh.vertices.double()))
    if opposite is None or across is None:
        return vertices
    there = torch.linalg.inv(upright) @ across @ upright
    return (vertices + alignment.apply(there, vertices[opposite])) / 2


def _reflection(points: Float[Tensor, "V 3"]) -> Float[Tensor, "4 4"] | None:
    """What takes a mesh about the head frame to itself, left for right; None if nothing does."""
    tree = KDTree(points.numpy())
    across = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])).double()
    distance = torch.full((len(points),), torch.inf)
    for reach in (0.01, 0.004, 0.002, 0.001):
        there = alignment.apply(across, points)
        found = tree.query(there.numpy(), distance_upper_bound=reach)
        distance = torch.from_numpy(np.asarray(found[0]))
        near = distance.isfinite()
        if 2 * int(near.sum()) < len(points):
            return None
        partner = points[torch.from_numpy(np.asarray(found[1]))[near]]
        across = alignment.rigid(there[near], partner) @ across
    return across if float(distance.median()) < EVEN else None


def _ties(model: HeadModel, mesh: Mesh) -> tuple[SurfacePoints, SurfacePoints]:
    both = ((model.topology, model.template), (mesh.topology, mesh.vertices))
    ours, theirs = (line_points(t, v, landmark_lines(t, v)) for t, v in both)
    return ours, theirs


def _found_ties(
    model: HeadModel, mesh: Mesh, start: Tensor
) -> tuple[SurfacePoints, tuple[SurfacePoints, SurfacePoints]]:
    """The mesh's points under the landmarks and lines of a head that lies about on it."""
    topology = model.topology
    lines = line_points(topology, model.template, landmark_lines(topology, model.template))
    normals = vertex_normals(start, topology.triangles)
    outward = outward_normals(mesh.vertices, mesh.topology.triangles)
    surface = FacingSurface(Mesh(mesh.topology, mesh.vertices), outward)

    def beneath(points: SurfacePoints) -> SurfacePoints:
        place, normal = (interpolate(points, topology.triangles, x) for x in (start, normals))
        return surface.closest(place.to(mesh.vertices), normal)[0]

    return beneath(topology.landmarks["ibug68"]), (lines, beneath(lines))


def _kinds(bridge: Bridge, mesh: Mesh, thin: float, trust: float) -> Tensor:
    named = mesh.topology.regions
    bodies = []
    for name in BODIES:
        if name in named:
            bodies.append(mesh.topology.region_mask(name))
        elif name in bridge.source.regions:
            bodies.append(bridge.region(name))
    small = small_parts(mesh)
    points = mesh.vertices.double().numpy()
    skin = KDTree(points[(~small).numpy()])
    reach = torch.from_numpy(skin.query(points)[0])
    bound = bridge.near & (bridge.offsets.norm(dim=1) <= trust)
    return kinds(mesh.topology, bound, small, tuple(bodies), reach, thin)


def _without_folds(bridge: Bridge, model: HeadModel) -> Bridge:
    """The bridge with vertices continued that fold the skin of the mean head or of random ones."""
    shapes = [model.template, *random_heads(model, PROBES, seed=0)]
    for rings in range(1, ROUNDS + 1):
        turned = [folds(bridge, shape) for shape in shapes]
        bad = torch.stack(turned).any(0)
        if float(torch.stack(turned).float().mean()) < FEW:
            break
        at = torch.zeros(bridge.target.vertex_count, dtype=torch.bool)
        at[bridge.target.triangles[bad]] = True
        around = neighbour_rings(bridge.target, at, rings) <= rings
        kind = torch.where(around & (bridge.kind == BOUND), CONTINUED, bridge.kind)
        bridge = replace(bridge, kind=kind)
    return bridge


def folds(bridge: Bridge, source_vertices: Float[Tensor, "V0 3"]) -> Bool[Tensor, " T"]:
    """Triangles of the target's skin that turn over when it takes the shape of a source head."""
    skin = bridge.kind <= CONTINUED
    moved = bridge.vertices(source_vertices)
    still = alignment.rigid(bridge.rest[skin], moved[skin], scale=True)
    rest = alignment.apply(still, bridge.rest)
    return turned_over(bridge.target, rest, moved, skin)


def random_heads(model: HeadModel, count: int, seed: int) -> list[Float[Tensor, "V 3"]]:
    """Heads of random people at rest; none whose own skin folds, as that of extreme lips does."""
    generator = torch.Generator().manual_seed(seed)
    skin, heads = model.topology.region_mask("skin"), []
    while len(heads) < count:
        identity = torch.randn(len(model.identity_basis), generator=generator)
        shape = model.template + torch.tensordot(identity, model.identity_basis, 1)
        if not bool(turned_over(model.topology, model.template, shape, skin).any()):
            heads.append(shape)
    return heads
