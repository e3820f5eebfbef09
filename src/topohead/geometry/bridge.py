"""Carrying what one topology knows (shapes, regions, landmarks, fields) to any other."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import HeadModel, Mesh, SurfacePoints, Topology
from topohead.geometry.correspondence import FacingSurface, closest_points, interpolate
from topohead.geometry.fitting import Fit, fit_model
from topohead.geometry.meshes import boundary_edges, vertex_normals

REACH = 0.010
"""A target vertex this far (metres) from the source surface is bound, but belongs to no region."""


@dataclass(frozen=True)
class Bridge:
    """Every vertex of `target` bound to the surface of `source`: point, then a step outward.

    `points` are on the triangles of `source`, `offsets` are metres along its interpolated normals,
    `near` marks vertices that lie on the source surface (within `REACH`, facing the same way)
    rather than beside it, such as shoulders when the source ends at the neck.
    """

    source: Topology
    target: Topology
    points: SurfacePoints
    offsets: Float[Tensor, " V"]
    near: Bool[Tensor, " V"]

    def vertices(self, source_vertices: Float[Tensor, "V0 3"]) -> Float[Tensor, "V 3"]:
        """The target topology in the shape of the given source vertices, metres."""
        normals = vertex_normals(source_vertices, self.source.triangles)
        outward = torch.nn.functional.normalize(self.values(normals), dim=-1)
        return self.values(source_vertices) + self.offsets.to(outward)[:, None] * outward

    def values(self, source_values: Float[Tensor, "V0 K"]) -> Float[Tensor, "V K"]:
        """Vertex fields (stiffness, colours, deltas of one shape) at the target's vertices."""
        return interpolate(self.points, self.source.triangles, source_values)

    def basis(self, source_basis: Float[Tensor, "B V0 3"]) -> Float[Tensor, "B V 3"]:
        """Delta bases, row by row; the turning of offsets with the surface is left out."""
        return torch.stack([self.values(row) for row in source_basis])

    def region(self, name: str) -> Bool[Tensor, " V"]:
        """Target vertices on the source's region: where its interpolated mask is at least half."""
        mask = self.source.region_mask(name).float()[:, None]
        return (self.values(mask)[:, 0] >= 0.5) & self.near


def bind(source: Mesh, target: Mesh) -> Bridge:
    """Bind a mesh to a source of the same shape and place, by closest points that face alike.

    The returned target topology gains the source's regions, landmarks and mirror map where it has
    none of its own. Meshes that differ in shape need `fit_bridge`.
    """
    normals = vertex_normals(target.vertices, target.topology.triangles)
    own = vertex_normals(source.vertices, source.topology.triangles)
    points, distance, facing = FacingSurface(source, own).closest(target.vertices, normals)
    outward = interpolate(points, source.topology.triangles, own)
    outward = torch.nn.functional.normalize(outward, dim=-1)
    foot = interpolate(points, source.topology.triangles, source.vertices)
    offsets = ((target.vertices - foot) * outward).sum(-1)
    near = facing & (distance <= REACH)
    bridge = Bridge(source.topology, target.topology, points, offsets, near)
    return replace(bridge, target=_enriched(bridge, source, target))


def fit_bridge(
    model: HeadModel, mesh: Mesh, landmarks: SurfacePoints | None = None
) -> tuple[Bridge, Fit]:
    """Fit a head model to any mesh of a head and bind the mesh to it.

    `landmarks` are iBUG-68 points on the mesh (by default those its topology names); without them
    the head is searched from several directions, upright (y up). Pose and scale, then identity and
    expression, then a smooth remainder. The fit comes along, to see how well it went.
    """
    landmarks = landmarks or mesh.topology.landmarks.get("ibug68")
    fit = fit_model(model, mesh, landmarks)
    return bind(Mesh(model.topology, fit.vertices.to(mesh.vertices)), mesh), fit


def _enriched(bridge: Bridge, source: Mesh, target: Mesh) -> Topology:
    """The target topology with all that the source knows and it does not."""
    carried = {}
    for name in source.topology.regions:
        if name != "boundary":
            carried[name] = bridge.region(name).nonzero()[:, 0]
    rim = boundary_edges(target.topology).unique()
    carried["boundary"] = rim[~bridge.near[rim] | bridge.region("neck")[rim]] if len(rim) else rim
    landmarks = {}
    for name, points in source.topology.landmarks.items():
        places = interpolate(points, source.topology.triangles, source.vertices)
        landmarks[name] = closest_points(places, target)[0]
    mirror = target.topology.mirror
    return replace(
        target.topology,
        regions=carried | dict(target.topology.regions),
        landmarks=landmarks | dict(target.topology.landmarks),
        mirror=_mirror(bridge, source) if mirror is None else mirror,
    )


def _mirror(bridge: Bridge, source: Mesh) -> Tensor | None:
    """For each target vertex the one whose place on the source is nearest to the opposite place.

    Opposite places come from the source's own mirror map, so a lopsided shape does not matter. A
    topology that is not symmetric gets the nearest vertex, which then need not be mutual.
    """
    opposite = source.topology.mirror
    if opposite is None:
        return None
    here = bridge.values(source.vertices)
    there = bridge.values(source.vertices[opposite])
    # The normal step sideways tells sheets apart that lie close, as lips and lids do.
    normals = vertex_normals(source.vertices, source.topology.triangles)
    here = torch.cat([here, 0.01 * bridge.values(normals)], 1)
    there = torch.cat([there, 0.01 * bridge.values(normals[opposite])], 1)
    return torch.from_numpy(np.asarray(KDTree(here.numpy()).query(there.numpy())[1]))
