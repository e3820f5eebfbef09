"""Carrying what one topology knows (shapes, regions, landmarks, fields) to any other."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from topohead.core import HeadModel, Mesh, SurfacePoints, Topology
from topohead.geometry import alignment
from topohead.geometry.correspondence import FacingSurface, closest_points, interpolate
from topohead.geometry.fitting import Fit, fit_model
from topohead.geometry.following import BOUND, CONTINUED, Following
from topohead.geometry.meshes import (
    boundary_edges,
    connected_parts,
    outward_normals,
    triangle_areas,
    vertex_normals,
)

REACH = 0.010
"""A target vertex this far (metres) from the source surface is bound, but belongs to no region."""

SPAN = 0.33
"""About the largest extent of the source head, metres."""

SMALL_PART = 0.05
"""A connected part with less of the mesh's area than this is no skin."""
SKIN = ("skin", "face", "lips", "lips_upper", "lips_lower", "eyelids", "brows", "nose", "rigid")
"""Regions that separate shells never belong to."""


@dataclass(frozen=True)
class Bridge:
    """Every vertex of `target` bound to the surface of `source`: a point, then a small step.

    `points` are on the triangles of `source`. `offsets` are lengths in each point's own frame:
    along its triangle's first edge, across, and along the interpolated normal; so the shape that
    was bound comes back exactly, and offsets turn with the surface. `near` marks vertices that lie
    on the source surface (within `REACH`, facing the same way) rather than beside it, such as
    shoulders when the source ends at the neck. `placed` is the source in the shape, place and unit
    of the mesh that was bound. `kind` says what moves each vertex: see `geometry.following`.
    """

    source: Topology
    target: Topology
    points: SurfacePoints
    offsets: Float[Tensor, "V 3"]
    near: Bool[Tensor, " V"]
    placed: Float[Tensor, "V0 3"]
    kind: Int[Tensor, " V"]

    def vertices(self, source_vertices: Float[Tensor, "V0 3"]) -> Float[Tensor, "V 3"]:
        """The target topology in the shape of the given source vertices, in their frame and unit.

        Bound vertices keep their offsets, as much larger as the head is; all others follow.
        """
        similarity, size = self._similarity(source_vertices)
        bound = self._bound(source_vertices, size)
        if not bool((self.kind != BOUND).any()):
            return bound
        return self._following(bound, similarity)

    def deltas(
        self, neutral: Float[Tensor, "V0 3"], deltas: Float[Tensor, "B V0 3"]
    ) -> Float[Tensor, "B V 3"]:
        """Blendshapes of a source head as those of its counterpart, `vertices(neutral)`.

        Each is the difference of two carried shapes, so offsets turn with the skin, and whatever is
        not bound follows: shells the skin beneath, eyeballs and teeth as bodies.
        """
        size = self._similarity(neutral)[1]
        start, rest = self.vertices(neutral), self._bound(neutral, size)
        following = replace(self._following, rest=start)
        still = torch.eye(4)
        moved = [start + self._bound(neutral + delta, size) - rest for delta in deltas]
        return torch.stack([following(shape, still) - start for shape in moved])

    def _similarity(self, vertices: Float[Tensor, "V0 3"]) -> tuple[Float[Tensor, "4 4"], float]:
        """From the bound mesh to a head, by the skull, which no expression moves; and its scale."""
        skull = self.source.regions.get("rigid")
        rows = slice(None) if skull is None or len(skull) < 3 else skull
        similarity = alignment.rigid(self.placed[rows].to(vertices), vertices[rows], scale=True)
        return similarity, float(torch.linalg.det(similarity[:3, :3]) ** (1 / 3))

    @cached_property
    def rest(self) -> Float[Tensor, "V 3"]:
        """The mesh that was bound."""
        return self._bound(self.placed, 1.0)

    def carried(self, rows: Int[Tensor, " N"]) -> tuple[SurfacePoints, Bool[Tensor, " N"]]:
        """Where source vertices lie on the mesh, and whether its skin is near and faces alike."""
        normals = vertex_normals(self.placed, self.source.triangles)[rows]
        surface, triangles = self._skin
        points, distance, facing = surface.closest(self.placed[rows], normals)
        reach = REACH / SPAN * float((self.placed.amax(0) - self.placed.amin(0)).max())
        on_target = SurfacePoints(triangles[points.triangles], points.barycentrics)
        return on_target, facing & (distance < reach)

    @cached_property
    def _skin(self) -> tuple[FacingSurface, Int[Tensor, " T"]]:
        """The bound mesh without shells and bodies, and which triangles of the target these are."""
        skin = (self.kind <= CONTINUED)[self.target.faces].all(1)
        faces, face_uv = self.target.faces[skin], self.target.face_uv[skin]
        topology = Topology(self.target.vertex_count, faces, self.target.uv, face_uv)
        normals = outward_normals(self.rest, self.target.triangles)
        kept = skin[self.target.triangle_face].nonzero()[:, 0]
        return FacingSurface(Mesh(topology, self.rest), normals), kept

    @cached_property
    def _following(self) -> Following:
        return Following.of(self.target, self.rest, self.kind, self.near)

    def _bound(self, source_vertices: Tensor, size: float) -> Float[Tensor, "V 3"]:
        frames = _frames(self.source, self.points, source_vertices)
        step = (frames * self.offsets.to(frames)[:, None]).sum(-1)
        return self.values(source_vertices) + size * step

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


def bind(source: Mesh, target: Mesh, reach: float = REACH) -> Bridge:
    """Bind a mesh to a source of the same shape and place, by closest points that face alike.

    The returned target topology gains the source's regions, landmarks and mirror map where it has
    none of its own. Meshes that differ in shape need `fit_bridge`. `reach` is in the meshes' units.
    """
    normals = outward_normals(target.vertices, target.topology.triangles)
    own = vertex_normals(source.vertices, source.topology.triangles)
    points, distance, facing = FacingSurface(source, own).closest(target.vertices, normals)
    frames = _frames(source.topology, points, source.vertices)
    foot = interpolate(points, source.topology.triangles, source.vertices)
    offsets = (frames * (target.vertices - foot)[..., None]).sum(1)
    near = facing & (distance <= reach)
    kind = torch.full_like(points.triangles, BOUND)
    bridge = Bridge(source.topology, target.topology, points, offsets, near, source.vertices, kind)
    return replace(bridge, target=_enriched(bridge, source, target))


def _frames(
    topology: Topology, points: SurfacePoints, vertices: Float[Tensor, "V 3"]
) -> Float[Tensor, "N 3 3"]:
    """Orthonormal columns at surface points: along the first edge, across, outward."""
    corners = topology.triangles[points.triangles]
    normal = interpolate(points, topology.triangles, vertex_normals(vertices, topology.triangles))
    normal = torch.nn.functional.normalize(normal, dim=-1)
    edge = vertices[corners[:, 1]] - vertices[corners[:, 0]]
    along = edge - (edge * normal).sum(-1, keepdim=True) * normal
    along = torch.nn.functional.normalize(along, dim=-1)
    return torch.stack([along, torch.linalg.cross(normal, along), normal], -1)


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
    size = float(torch.linalg.det(fit.model_to_mesh[:3, :3]) ** (1 / 3))
    placed = Mesh(model.topology, fit.vertices.to(mesh.vertices))
    return bind(placed, mesh, REACH * size), fit


def _enriched(bridge: Bridge, source: Mesh, target: Mesh) -> Topology:
    """The target topology with all that the source knows and it does not."""
    carried = {}
    shells = small_parts(target)
    for name in source.topology.regions:
        if name != "boundary":
            inside = bridge.region(name)
            if name in SKIN:
                inside &= ~shells
            carried[name] = inside.nonzero()[:, 0]
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


def small_parts(mesh: Mesh) -> Bool[Tensor, " V"]:
    """Vertices of connected parts too small to be skin, like lashes and tear lines on a lid."""
    triangles = mesh.topology.triangles
    part = connected_parts(mesh.topology)
    area = torch.zeros(int(part.max()) + 1)
    area.index_add_(0, part[triangles[:, 0]], triangle_areas(mesh.vertices, triangles).float())
    return (area < SMALL_PART * area.sum())[part]


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
    span = 0.05 * float((source.vertices.amax(0) - source.vertices.amin(0)).max())
    here = torch.cat([here, span * bridge.values(normals)], 1)
    there = torch.cat([there, span * bridge.values(normals[opposite])], 1)
    return torch.from_numpy(np.asarray(KDTree(here.numpy()).query(there.numpy())[1]))
