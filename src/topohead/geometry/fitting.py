"""Fitting a head model to a surface: pose, coefficients, then a smooth remainder."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import HeadModel, Mesh, SurfacePoints, Topology
from topohead.geometry import alignment
from topohead.geometry.correspondence import FacingSurface, interpolate
from topohead.geometry.filling import SmoothFill, turned_over
from topohead.geometry.meshes import (
    boundary_edges,
    neighbour_rings,
    outward_normals,
    vertex_normals,
)

SURFACE_NOISE = 0.001
"""Residuals of the surface are weighed by this standard deviation, metres."""
EXPRESSION_SPREAD = 0.15
"""Prior standard deviation of expression coefficients."""
REACHES = (0.03, 0.03, 0.02, 0.015, 0.01, 0.01, 0.01, 0.01)
"""Farthest hits while pose and coefficients are found, metres, step by step."""
STEPS = ((16, 0.03), (8, 0.03), (4, 0.02), (2, 0.015), (1, 0.01), (1, 0.01))
CLOSE_STEPS = ((0.3, 0.006), (0.1, 0.004))
"""How much stiffer than asked the free remainder is, and how far it reaches, step by step."""
UNFOLDINGS = 12
"""So often folds are looked for and bent anew."""
SCALE_SPREAD = 0.03
"""Prior standard deviation of the logarithm of scale around the start's."""


@dataclass(frozen=True)
class Trust:
    """What the surface and landmarks count for against the model's prior."""

    surface: float = 400.0
    """So many independent measurements the whole surface counts as."""
    landmarks: float = 0.002
    """Standard deviation of a landmark's place, metres."""


@dataclass(frozen=True)
class Fit:
    """The model in the mesh's place: `vertices` [V 3] in the mesh's frame and units.

    `model_to_mesh` is the similarity from the head frame; `residual` the median distance of the
    model's face to the mesh, in the mesh's units.
    """

    vertices: Float[Tensor, "V 3"]
    identity: Float[Tensor, " I"]
    expression: Float[Tensor, " 52"]
    model_to_mesh: Float[Tensor, "4 4"]
    residual: float


def fit_model(
    model: HeadModel,
    mesh: Mesh,
    landmarks: SurfacePoints | None,
    stiffness: float = 2.0,
    ties: tuple[SurfacePoints, SurfacePoints] | None = None,
    unfold: bool = False,
) -> Fit:
    """Non-rigid iterated closest points of a head model to a mesh of a head, any topology.

    Only hits that face alike count, not those on open edges or far away. Without landmarks (iBUG-68
    on the mesh) the mesh must be upright, y up. The free remainder is Laplacian-smooth; `ties` are
    points of the model and of the mesh that it brings together, as it does landmarks. With `unfold`
    skin that would fold is bent instead, as little as landmarks and ties allow.
    """
    problem = _Problem(model, mesh, landmarks, ties)
    pose = problem.start()
    identity_count = len(model.identity_basis)
    coefficients = torch.zeros(identity_count + len(model.expression_basis)).double()
    for reach in REACHES:
        pose, coefficients = problem.improve_coefficients(pose, coefficients, reach)
    start = shape = problem.shape(coefficients)
    for factor, reach in STEPS + (CLOSE_STEPS if unfold else ()):
        shape = problem.improve_shape(pose, shape, stiffness * factor, reach)
    if unfold:
        shape = problem.unfolded(pose, start, shape)
    vertices = alignment.apply(pose, shape)
    hits = problem.hits(vertices, problem.face, 0.01)
    return Fit(
        vertices,
        coefficients[:identity_count],
        coefficients[identity_count:],
        pose,
        float(hits.distance.median()),
    )


def explain(
    model: HeadModel, mesh: Mesh, landmarks: SurfacePoints, parts: tuple[str, ...], trust: Trust
) -> Float[Tensor, "V 3"]:
    """The mesh as the model alone explains it: its vertices in the mesh's frame, unprojected.

    `parts` are the model's regions that look for the surface. Nothing ties vertices to places along
    it but what the model knows of heads, and the landmarks (iBUG-68 on the mesh) as far as trusted.
    """
    problem = _Problem(model, mesh, landmarks, trust=trust)
    problem.face = _members(problem.topology, *parts)
    pose, coefficients = problem.start(), torch.zeros(len(problem.spread)).double()
    for reach in REACHES:
        pose, coefficients = problem.improve_coefficients(pose, coefficients, reach)
    return alignment.apply(pose, problem.shape(coefficients))


@dataclass(frozen=True)
class _Hits:
    """Where model vertices meet the mesh: their numbers, points, normals, weights, distances."""

    vertices: Int[Tensor, " N"]
    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    weights: Float[Tensor, " N"]
    distance: Float[Tensor, " N"]


class _Problem:
    """The two surfaces with what each iteration needs of them again, in float64."""

    def __init__(
        self,
        model: HeadModel,
        mesh: Mesh,
        landmarks: SurfacePoints | None,
        ties: tuple[SurfacePoints, SurfacePoints] | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.trust = trust or Trust()
        self.topology = model.topology
        self.template = model.template.double()
        basis = torch.cat([model.identity_basis, model.expression_basis])
        self.basis = basis.double().permute(1, 2, 0)
        spread = torch.ones(len(basis)).double()
        spread[len(model.identity_basis) :] = EXPRESSION_SPREAD
        self.spread = spread
        self.identity_count = len(model.identity_basis)
        self.vertices = mesh.vertices.double()
        self.triangles = mesh.topology.triangles
        self.normals = outward_normals(self.vertices, self.triangles)
        self.surface = FacingSurface(Mesh(mesh.topology, self.vertices), self.normals)
        self.rim = torch.zeros(len(self.vertices)).double()
        self.rim[boundary_edges(mesh.topology).flatten()] = 1
        self.face = _members(self.topology, "face")
        self.skin = _members(self.topology, "face", "ears", "scalp", "neck")
        self.own = self.topology.landmarks["ibug68"]
        self.start_size = 1.0
        self.marks = None
        if landmarks is not None:
            self.marks = interpolate(landmarks, self.triangles, self.vertices)
        self.ties = None
        self.unruly = torch.zeros(self.topology.vertex_count, dtype=torch.bool)
        if ties is not None:
            self.ties = ties[0], interpolate(ties[1], self.triangles, self.vertices)

    def shape(self, coefficients: Tensor) -> Float[Tensor, "V 3"]:
        """The model's vertices in the head frame."""
        return self.template + self.basis @ coefficients

    def hits(self, placed: Tensor, wanted: Tensor, reach: float) -> _Hits:
        """Robust correspondences of the wanted model vertices, `placed` in the mesh's frame."""
        normal = vertex_normals(placed, self.topology.triangles)[wanted]
        points, distance, facing = self.surface.closest(placed[wanted], normal)
        on_rim = interpolate(points, self.triangles, self.rim[:, None])[:, 0] > 0
        keep = facing & ~on_rim & (distance < reach)
        points = SurfacePoints(points.triangles[keep], points.barycentrics[keep])
        distance = distance[keep]
        where = interpolate(points, self.triangles, self.vertices)
        outward = interpolate(points, self.triangles, self.normals)
        # Geman–McClure: hits far beyond half the reach hardly count.
        weights = 1 / (1 + (2 * distance / reach) ** 2) ** 2
        outward = torch.nn.functional.normalize(outward, dim=-1)
        return _Hits(wanted[keep], where, outward, weights, distance)

    def start(self) -> Float[Tensor, "4 4"]:
        """Similarity by landmarks, or the best of rigid searches from eight directions."""
        own = interpolate(self.own, self.topology.triangles, self.template)
        if self.marks is not None:
            inner = slice(17, 68)  # the outline slides with the view and is left out
            pose = alignment.rigid(own[inner], self.marks[inner], scale=True)
        else:
            poses = [self._search(yaw * math.pi / 4) for yaw in range(8)]
            pose = min(poses, key=self._misfit)
        self.start_size = _scale(pose)
        return pose

    def _search(self, yaw: float) -> Float[Tensor, "4 4"]:
        sample = self.skin[:: max(1, len(self.skin) // 500)]
        pose = torch.eye(4).double()
        turn = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
        size = self._size()
        pose[:3, :3] = size * torch.tensor(turn).double()
        own, goal = self._anchors()
        pose[:3, 3] = goal - alignment.apply(pose, own[None])[0]
        for reach in (0.1,) * 6 + (0.05,) * 6 + (0.03,) * 4:
            pose = self._rigid_step(pose, sample, reach * size)
        return pose

    def _rigid_step(self, pose: Tensor, sample: Tensor, reach: float) -> Float[Tensor, "4 4"]:
        """One step of rotation and translation against the tangent planes of the hits.

        Point-to-plane: a head is so round that point-to-point creeps around it.
        """
        hits = self.hits(alignment.apply(pose, self.template), sample, reach)
        if len(hits.vertices) < 20:
            return pose
        back = torch.linalg.inv(pose)
        here = self.template[hits.vertices]
        gap = alignment.apply(back, hits.points) - here
        normals = torch.nn.functional.normalize(hits.normals @ back[:3, :3].T, dim=-1)
        rows = self._jacobian(here, here.new_zeros(len(here), 3, 0))[:, :, :6]
        weight = hits.weights.sqrt()
        matrix = weight[:, None] * (normals[:, :, None] * rows).sum(1)
        damping = 1e-3 * len(here) * torch.diag(torch.tensor([1e-2] * 3 + [1.0] * 3).double())
        right = matrix.T @ (weight * (normals * gap).sum(1))
        step = torch.linalg.solve(matrix.T @ matrix + damping, right)
        return pose @ _similarity(torch.cat([step, step.new_zeros(1)]))

    def _size(self) -> float:
        """1 for a mesh in metres; otherwise the ratio of heights, to bring other units near."""
        height = float((self.vertices.amax(0) - self.vertices.amin(0))[1])
        own = float((self.template.amax(0) - self.template.amin(0))[1])
        return 1.0 if 0.35 < height / own < 3 else height / own

    def _anchors(self) -> tuple[Tensor, Tensor]:
        """Points of the model and of the mesh to start from: crowns, or middles for a mere face."""
        size = self._size()
        height = float((self.vertices.amax(0) - self.vertices.amin(0))[1])
        if height > 0.2 * size:
            return _crown(self.template, 0.2), _crown(self.vertices, 0.2 * size)
        return _middle(self.template[self.face]), _middle(self.vertices)

    def _misfit(self, pose: Tensor) -> float:
        sample = self.face[:: max(1, len(self.face) // 1000)]
        hits = self.hits(alignment.apply(pose, self.template), sample, 0.03 * self._size())
        missing = 1 - len(hits.vertices) / len(sample)
        return float(hits.distance.mean()) / self._size() + 0.03 * missing

    def improve_coefficients(
        self, pose: Tensor, coefficients: Tensor, reach: float
    ) -> tuple[Tensor, Tensor]:
        """One Gauss–Newton step on similarity, identity and expression, in the head frame."""
        size = _scale(pose)
        back = torch.linalg.inv(pose)
        shape = self.shape(coefficients)
        sample = self.face[:: max(1, len(self.face) // 2500)]
        hits = self.hits(alignment.apply(pose, shape), sample, reach * size)
        normals = torch.nn.functional.normalize(hits.normals @ back[:3, :3].T, dim=-1)
        rows = self._jacobian(shape[hits.vertices], self.basis[hits.vertices])
        gap = alignment.apply(back, hits.points) - shape[hits.vertices]
        share = (self.trust.surface / max(len(gap), 1)) ** 0.5 / SURFACE_NOISE
        weight = share * hits.weights.sqrt()
        systems = [
            (weight[:, None] * (normals[:, :, None] * rows).sum(1), weight * (normals * gap).sum(1))
        ]
        if self.marks is not None:
            systems.append(self._landmark_rows(self.marks, back, shape))
        # Without it, a partial scan shrinks the head onto any smooth patch.
        drift = math.log(size / self.start_size)
        hold = torch.zeros(1, rows.shape[2]).double()
        hold[0, 6] = 1 / SCALE_SPREAD
        systems.append((hold, torch.tensor([-drift / SCALE_SPREAD]).double()))
        prior = torch.zeros(len(self.spread), rows.shape[2]).double()
        prior[:, 7:] = torch.diag(1 / self.spread)
        systems.append((prior, -coefficients / self.spread))
        matrix = torch.cat([a for a, _ in systems])
        right = torch.cat([b for _, b in systems])
        normal = matrix.T @ matrix + 1e-9 * torch.eye(matrix.shape[1]).double()
        step = torch.linalg.solve(normal, matrix.T @ right)
        coefficients = coefficients + step[7:]
        coefficients[self.identity_count :].clamp_(0, 1)
        return pose @ _similarity(step[:7]), coefficients

    def _landmark_rows(self, marks: Tensor, back: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
        inner = slice(17, 68)
        here = interpolate(self.own, self.topology.triangles, shape)[inner]
        flat = self.basis.reshape(len(shape), -1)
        basis = interpolate(self.own, self.topology.triangles, flat)[inner].reshape(51, 3, -1)
        gap = alignment.apply(back, marks)[inner] - here
        rows = self._jacobian(here, basis).reshape(153, -1)
        return rows / self.trust.landmarks, gap.reshape(-1) / self.trust.landmarks

    @staticmethod
    def _jacobian(points: Tensor, basis: Tensor) -> Float[Tensor, "N 3 K"]:
        """How points move with rotation (3), translation (3), log scale (1) and coefficients."""
        zero = torch.zeros(len(points)).double()
        x, y, z = points.unbind(1)
        rotation = torch.stack(
            [torch.stack(row, -1) for row in ((zero, z, -y), (-z, zero, x), (y, -x, zero))], 1
        )
        eye = torch.eye(3).double().expand(len(points), 3, 3)
        return torch.cat([rotation, eye, points[..., None], basis], 2)

    def improve_shape(self, pose: Tensor, shape: Tensor, stiffness: float, reach: float) -> Tensor:
        """The shape in the head frame moved towards the mesh by a smooth displacement."""
        size = _scale(pose)
        back = torch.linalg.inv(pose)
        ruly = self.skin[~self.unruly[self.skin]]
        hits = self.hits(alignment.apply(pose, shape), ruly, reach * size)
        weight = torch.zeros(len(shape)).double()
        pull = torch.zeros_like(shape)
        weight[hits.vertices] = hits.weights
        pull[hits.vertices] = alignment.apply(back, hits.points) - shape[hits.vertices]
        fill = SmoothFill(self.topology, weight, pull)
        self._tie(fill, back, shape)
        return shape + fill.solve(stiffness, shape)

    def _tie(self, fill: SmoothFill, back: Tensor, shape: Tensor) -> None:
        """Ask landmarks, and ties where there are some, to move from `shape` to their goals."""
        wanted = [] if self.ties is None else [self.ties]
        if self.marks is not None:
            chosen = slice(27, 68)  # brows are drawn in many ways, the outline slides
            points = SurfacePoints(self.own.triangles[chosen], self.own.barycentrics[chosen])
            wanted.append((points, self.marks[chosen]))
        for points, goal in wanted:
            here = interpolate(points, self.topology.triangles, shape)
            fill.tie(points, alignment.apply(back, goal) - here, 3.0)

    def unfolded(self, pose: Tensor, start: Tensor, shape: Tensor) -> Tensor:
        """The shape without the folds that its way from `start` made in the skin.

        Vertices of triangles that turn over are bent anew, with rings around them that widen every
        round; they are `unruly` from then on: the surface pulls them no more.
        """
        inside = self.topology.region_mask("skin")
        back = torch.linalg.inv(pose)
        for rings in range(1, UNFOLDINGS + 1):
            bad = turned_over(self.topology, start, shape, inside)
            if not bool(bad.any()):
                break
            fresh = torch.zeros_like(self.unruly)
            fresh[self.topology.triangles[bad]] = True
            self.unruly |= (neighbour_rings(self.topology, fresh, rings) <= rings) & inside
            fill = SmoothFill(self.topology, torch.zeros(len(start)).double(), 0 * start)
            self._tie(fill, back, start)
            shape = start + fill.continued(1.0, shape - start, self.unruly)
        return shape


def _members(topology: Topology, *names: str) -> Int[Tensor, " N"]:
    return topology.region_mask(*names).nonzero()[:, 0]


def _scale(pose: Tensor) -> float:
    return float(torch.linalg.det(pose[:3, :3]) ** (1 / 3))


def _crown(vertices: Tensor, depth: float) -> Float[Tensor, " 3"]:
    """Top of the head: middle of what lies within `depth` of the highest vertex, at full height."""
    top = vertices[:, 1].max()
    middle = _middle(vertices[vertices[:, 1] > top - depth])
    return torch.stack([middle[0], top, middle[2]])


def _middle(vertices: Tensor) -> Float[Tensor, " 3"]:
    return (vertices.amin(0) + vertices.amax(0)) / 2


def _similarity(step: Float[Tensor, " 7"]) -> Float[Tensor, "4 4"]:
    """The transform of a small rotation vector, a translation and a log scale."""
    x, y, z = step[:3].tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]).double()
    transform = torch.eye(4).double()
    transform[:3, :3] = torch.linalg.matrix_exp(skew) * step[6].exp()
    transform[:3, 3] = step[3:6]
    return transform
