"""Carry a textured mesh through calibrated views: pose, expression, then every vertex.

Gauss–Newton on photometric residuals of fixed surface samples. What a sample looks like comes from
the first frame, in contrast-normalised pictures; its present colour may differ by what all views
agree on (see `kernels.photometric.accumulate`). Residuals always point to the first frame, so
errors do not accumulate.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, Topology, TrackedFrame, Views
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import depth_maps
from topohead.solvers.elasticity import ElasticConfig, Elasticity, block_slots, vertex_graph
from topohead.solvers.features import FeatureConfig, FeatureLevel, feature_pyramid
from topohead.solvers.kernels import photometric, sparse
from topohead.solvers.samples import Samples, surface_samples


@dataclass(frozen=True)
class TrackConfig:
    """Numbers of the tracker; lengths in metres, energies dimensionless."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    spacing: float = 0.0012
    """Distance between surface samples."""
    coarse_iterations: tuple[int, ...] = (0, 3, 4, 6)
    """Steps of pose and expression on each level, finest first."""
    free_iterations: tuple[int, ...] = (5, 4, 3, 0)
    """Steps of all vertices on each level, finest first."""
    trust: float = 3.0
    """How many views' worth the first frame's colour weighs against the present views."""
    cut: float = 2.5
    """Residuals this many times the noise count a quarter (Geman–McClure)."""
    evidence: float = 0.08
    """Share of the pixels that count as independent observations."""
    noise: float = 0.35
    """Feature noise assumed at a frame's start; adapted while iterating."""
    min_cosine: float = 0.25
    """Steeper views of a sample are ignored."""
    depth_tolerance: float = 0.004
    """A sample this far behind the visible surface is hidden."""
    expression_spread: float = 0.5
    """Prior standard deviation of expression coefficients."""
    expression_step: float = 0.25
    """Prior standard deviation of their change in a frame."""
    anchor: float = 0.02
    """Prior standard deviation of a vertex about the head model's prediction."""
    memory: float = 0.5
    """Share of the last frame's deviation from the head model that this frame's rest shape has."""
    visibility_period: int = 3
    """Steps between renewals of the depth maps."""
    solver_iterations: int = 40
    """Conjugate-gradient steps in a Gauss–Newton step."""
    jump_below: float = 0.93
    """Share of the first frame's agreement on a coarse level under which a jump is thought of."""
    jump_margin: float = 0.02
    """How much better (mean robust weight) the pictures must fit a face that has jumped."""
    watched: tuple[str, ...] = ("face", "lips", "eyelids", "nose", "brows")
    """Regions whose agreement with the first frame is watched."""
    agreement_noise: float = 0.12
    """Feature noise under which that agreement is judged."""
    least_agreement: float = 0.4
    """Share of a region's agreement in the first frame under which a frame is called doubtful."""
    untracked: tuple[str, ...] = ("eyes", "mouth_interior")
    """Regions that move on their own and are carried by the model and the surface around them."""


@dataclass(frozen=True)
class TrackState:
    """All that one frame hands to the next; float64.

    `pose` and `last_pose` move the first frame's head about the reference's origin; `expression`
    holds coefficients of the reference's basis relative to the first frame; `deviation` is the
    tracked shape less the model's in the first frame's axes.
    """

    pose: Float[Tensor, "4 4"]
    last_pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " K"]
    last_expression: Float[Tensor, " K"]
    deviation: Float[Tensor, "V 3"]

    @staticmethod
    def first(vertex_count: int, basis_count: int) -> "TrackState":
        """The state in the reference frame: nothing moved."""
        eye = torch.eye(4, dtype=torch.float64)
        zero = torch.zeros(basis_count, dtype=torch.float64)
        still = torch.zeros(vertex_count, 3, dtype=torch.float64)
        return TrackState(eye, eye, zero, zero, still)


@dataclass(frozen=True)
class Reference:
    """The first frame as the tracker remembers it."""

    topology: Topology
    vertices: Float[Tensor, "V 3"]
    basis: Float[Tensor, "K V 3"]
    neutral: Float[Tensor, " K"]
    origin: Float[Tensor, " 3"]
    samples: tuple[Samples, ...]
    colors: tuple[np.ndarray, ...]
    trust: tuple[np.ndarray, ...]
    slots: tuple[np.ndarray, ...]
    graph: tuple[np.ndarray, np.ndarray]
    elasticity: Elasticity
    likeness: float
    agreement: dict[str, float]


def make_reference(
    views: Views,
    first: Mesh,
    basis: Float[Tensor, "K V 3"],
    config: TrackConfig,
    neutral: Float[Tensor, " K"] | None = None,
) -> Reference:
    """Learn what every sample looks like in the first frame.

    `basis` holds expression displacements at the first frame's place and size (K may be 0);
    `neutral` are the coefficients that bring the first frame's face to rest (default: it is).
    """
    topology = first.topology
    vertices = first.vertices.double()
    origin = vertices.mean(0)
    excluded = torch.zeros(len(vertices), dtype=torch.bool)
    for region in config.untracked:
        if region in topology.regions:
            excluded[topology.regions[region]] = True
    samples = surface_samples(topology, vertices, config.spacing, excluded)
    graph = vertex_graph(topology.triangles.numpy(), len(vertices))
    levels = feature_pyramid(views, origin, config.features)
    subsets, colors, trusts, slots = [], [], [], []
    for index, level in enumerate(levels):
        subset = samples.subset(max(len(samples) // 3**index, 4000))
        values, seen = photometric.sample_features(
            *_geometry(topology, vertices, origin),
            subset.corners,
            subset.weights,
            level.cameras,
            _visible_depth(topology, vertices, views, level, index, config),
            level.features,
            np.float32(config.min_cosine),
            np.float32(config.depth_tolerance),
        )
        color, agreement = _robust_mean(values, seen)
        subsets.append(subset)
        colors.append(color)
        trusts.append(np.where(agreement > 0, config.trust, 0).astype(np.float32))
        slots.append(block_slots(subset.corners, *graph))
    reference = Reference(
        topology,
        vertices,
        basis.double(),
        torch.zeros(len(basis), dtype=torch.float64) if neutral is None else neutral.double(),
        origin,
        tuple(subsets),
        tuple(colors),
        tuple(trusts),
        tuple(slots),
        graph,
        Elasticity(topology, vertices, config.elastic),
        likeness=0.0,
        agreement={},
    )
    solve = _FrameSolve(views, levels, reference, config)
    still = TrackState.first(len(vertices), len(basis))
    here = _Guess(still.pose, still.expression, still.deviation, None)
    return replace(
        reference,
        likeness=solve.likeness(here, max(len(levels) - 2, 0)),
        agreement=solve.agreement(vertices),
    )


def track(
    frames: Iterable[Views], reference: Reference, state: TrackState, config: TrackConfig
) -> Iterator[tuple[TrackState, TrackedFrame]]:
    """Follow the reference through frames; start from the state before the first of them."""
    for views in frames:
        state, answer = advance(views, reference, state, config)
        yield state, answer


def advance(
    views: Views, reference: Reference, state: TrackState, config: TrackConfig
) -> tuple[TrackState, TrackedFrame]:
    """One frame: predict, solve pose and expression, free the vertices."""
    started = time.perf_counter()
    levels = feature_pyramid(views, reference.origin, config.features)
    solve = _FrameSolve(views, levels, reference, config)
    near = solve.best_of([state, _continued(state)])
    found = solve.best_pose_and_expression(
        [
            _Guess(near.pose, near.expression, state.deviation, state.expression),
            # the face may have jumped: ask the first frame's face and a face at rest as well
            _Guess(state.pose, 0 * state.expression, 0 * state.deviation, None),
            _Guess(state.pose, reference.neutral, 0 * state.deviation, None),
        ]
    )
    pose, expression = found.pose, found.expression
    rest = _shape(reference, pose, expression, config.memory * found.deviation)
    vertices = solve.free(rest, _shape(reference, pose, expression, found.deviation))
    deviation = _unpose(vertices, pose, reference.origin) - (
        reference.vertices + torch.einsum("k,kvc->vc", expression, reference.basis)
    )
    fresh = TrackState(pose, state.pose, expression, state.expression, deviation)
    return fresh, TrackedFrame(
        views.frame,
        vertices.float(),
        _world_motion(pose, reference.origin),
        torch.ones(len(views.cameras), 3),
        solve.residual,
        solve.is_doubtful(vertices),
        time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Guess:
    """Where a frame's solution may begin; `tie` is the expression it should stay near, if any."""

    pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " K"]
    deviation: Float[Tensor, "V 3"]
    tie: Float[Tensor, " K"] | None


class _FrameSolve:
    """The work on one frame: its pictures, and what has been learnt of their noise so far."""

    def __init__(
        self, views: Views, levels: list[FeatureLevel], reference: Reference, config: TrackConfig
    ) -> None:
        self.views, self.levels, self.reference, self.config = views, levels, reference, config
        self.noise = [config.noise] * len(levels)
        self.residual = 0.0

    def best_of(self, states: list[TrackState]) -> TrackState:
        """The prediction whose coarsest picture fits best."""
        coarsest = len(self.levels) - 1
        costs = []
        for state in states:
            vertices = _shape(self.reference, state.pose, state.expression, state.deviation)
            _, _, stats = self._photometric(vertices, coarsest, self._depth(vertices, coarsest), 1)
            weight = stats[:, 0] @ stats[:, 3]
            # a prediction that hides the surface must not win by seeing less of it
            costs.append(-weight)
        return states[int(np.argmin(costs))]

    def best_pose_and_expression(self, guesses: list["_Guess"]) -> "_Guess":
        """The guess that explains the pictures best once it has been solved on coarse levels."""
        levels = [i for i in reversed(range(len(self.levels))) if self.config.coarse_iterations[i]]
        coarse = [index for index in levels if index >= len(self.levels) - 2] or levels[:1]
        solved = []
        for guess in guesses:
            found = guess
            for index in coarse:
                found = self._pose_and_expression(found, index)
            solved.append((self.likeness(found, coarse[-1]), found))
            if solved[0][0] >= self.config.jump_below * self.reference.likeness:
                break
        best = max(solved, key=lambda pair: pair[0])
        stays = solved[0][0] + self.config.jump_margin >= best[0]
        found = solved[0][1] if stays else best[1]
        for index in levels[len(coarse) :]:
            found = self._pose_and_expression(found, index)
        return found

    def _pose_and_expression(self, guess: "_Guess", index: int) -> "_Guess":
        """Gauss–Newton on six pose parameters and the expression at one level."""
        config, reference = self.config, self.reference
        pose, expression = guess.pose.clone(), guess.expression.clone()
        count = len(expression)
        # with expressions to choose from, last frame's error must not pose as this frame's shape
        carried = guess.deviation * (0.0 if count else 1.0)
        samples = reference.samples[index].subset(8000)
        rows = _sample_basis(reference.basis, samples)
        spread = config.expression_spread**-2
        pace = 0.0 if guess.tie is None else config.expression_step**-2
        tie = np.zeros(count) if guess.tie is None else guess.tie.numpy()
        depth = np.empty(0)  # made in the first step
        for step in range(config.coarse_iterations[index]):
            vertices = _shape(reference, pose, expression, carried)
            if step % config.visibility_period == 0:
                depth = self._depth(vertices, index)
            blocks, gradients, stats = self._photometric(vertices, index, depth, 1.0, samples)
            self._adapt(index, stats)
            jacobian = _pose_jacobian(vertices - reference.origin, samples)
            if count:
                turned = np.einsum("ab,skb->ska", pose[:3, :3].numpy(), rows)
                jacobian = np.concatenate([jacobian, turned.transpose(0, 2, 1)], 2)
            matrix, vector = _reduce(blocks, gradients, jacobian)
            matrix *= config.evidence
            vector *= config.evidence
            matrix[6:, 6:] += np.eye(count) * (spread + pace)
            vector[6:] += spread * expression.numpy() + pace * (expression.numpy() - tie)
            matrix[range(6), range(6)] *= 1 + 1e-6
            delta = torch.from_numpy(-np.linalg.solve(matrix, vector))
            pose = _turn(pose, delta[:6], reference.origin)
            expression = (expression + delta[6:]).clamp(-1.0, 1.5)
        return replace(guess, pose=pose, expression=expression)

    def likeness(self, guess: "_Guess", index: int) -> float:
        """Mean robust weight of what is seen, under the noise assumed before any was measured."""
        measured, self.noise[index] = self.noise[index], self.config.noise
        carried = guess.deviation * (0.0 if len(guess.expression) else 1.0)
        vertices = _shape(self.reference, guess.pose, guess.expression, carried)
        _, _, stats = self._photometric(vertices, index, self._depth(vertices, index), 1.0)
        self.noise[index] = measured
        return float(stats[:, 0] @ stats[:, 3] / max(float(stats[:, 0].sum()), 1e-12))

    def free(self, rest: Float[Tensor, "V 3"], start: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Gauss–Newton on all vertices about a rest shape, coarse to fine."""
        config, reference = self.config, self.reference
        elasticity = reference.elasticity
        starts, columns = reference.graph
        resting = rest.numpy()
        vertices = start.numpy().copy()
        anchor = _anchor(elasticity, config)
        stiff = elasticity.matrix.copy()
        stiff.setdiag(stiff.diagonal() + anchor)
        stiffness = (
            stiff.indptr.astype(np.int32),
            stiff.indices.astype(np.int32),
            stiff.data.astype(np.float32),
        )
        for index in reversed(range(len(self.levels))):
            samples, slots = reference.samples[index], reference.slots[index]
            depth = rotations = np.empty(0)  # made in the first step
            for step in range(config.free_iterations[index]):
                tensor = torch.from_numpy(vertices)
                if step % config.visibility_period == 0:
                    depth = self._depth(tensor, index)
                    rotations = elasticity.rotations(resting, vertices)
                blocks, gradients, stats = self._photometric(tensor, index, depth, 1.0)
                self._adapt(index, stats)
                matrix, vector = sparse.scatter(
                    blocks,
                    gradients,
                    samples.corners,
                    samples.weights,
                    slots,
                    len(columns),
                    len(vertices),
                )
                pull = elasticity.gradient(resting, vertices, rotations)
                pull += anchor[:, None] * (vertices - resting)
                move = sparse.conjugate_gradient(
                    -(config.evidence * vector + pull).astype(np.float32),
                    starts,
                    columns,
                    np.float32(config.evidence) * matrix,
                    *stiffness,
                    config.solver_iterations,
                    1e-5,
                )
                limit = 0.004 * 2**index
                longest = np.linalg.norm(move, axis=1, keepdims=True)
                vertices = vertices + move * np.minimum(1, limit / np.maximum(longest, 1e-12))
        return torch.from_numpy(vertices)

    def agreement(self, vertices: Float[Tensor, "V 3"]) -> dict[str, float]:
        """How well every watched region looks as in the first frame: mean robust weight, 0 to 1."""
        config, reference = self.config, self.reference
        self.noise[0] = config.agreement_noise
        _, _, stats = self._photometric(vertices, 0, self._depth(vertices, 0), 1.0)
        corners, found = reference.samples[0].corners, {}
        for name in config.watched:
            if name in reference.topology.regions:
                own = reference.topology.region_mask(name).numpy()[corners].all(1)
                weight = stats[own & (stats[:, 2] >= 2)]
                if weight[:, 0].sum() > 0:
                    found[name] = float(weight[:, 0] @ weight[:, 3] / weight[:, 0].sum())
        return found

    def is_doubtful(self, vertices: Float[Tensor, "V 3"]) -> bool:
        """Whether a watched region no longer looks as it did, or is seen no more."""
        now, least = self.agreement(vertices), self.config.least_agreement
        return any(now.get(k, 0.0) < least * v for k, v in self.reference.agreement.items())

    def _photometric(
        self,
        vertices: torch.Tensor,
        index: int,
        depth: np.ndarray,
        trust: float,
        samples: Samples | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        config, reference, level = self.config, self.reference, self.levels[index]
        samples = reference.samples[index] if samples is None else samples
        return photometric.accumulate(
            *_geometry(reference.topology, vertices, reference.origin),
            samples.corners,
            samples.weights,
            samples.areas,
            level.cameras,
            depth,
            level.features,
            reference.colors[index][: len(samples)],
            reference.trust[index][: len(samples)] * np.float32(trust),
            np.float32(self.noise[index]),
            np.float32(config.cut),
            np.float32(config.min_cosine),
            np.float32(config.depth_tolerance),
        )

    def _depth(self, vertices: torch.Tensor, index: int) -> np.ndarray:
        return _visible_depth(
            self.reference.topology, vertices, self.views, self.levels[index], index, self.config
        )

    def _adapt(self, index: int, stats: np.ndarray) -> None:
        """Learn the level's noise from the residuals of this step."""
        seen = stats[:, 2] >= 2
        if not seen.any():
            return
        weight = np.maximum(3 * stats[seen, 0] * stats[seen, 3], 1e-12)
        spread = float(np.sqrt(np.median(stats[seen, 1] / weight)))
        self.noise[index] = float(np.clip(self.noise[index] * spread, 0.05, 1.0))
        self.residual = self.noise[index]


def _geometry(
    topology: Topology, vertices: torch.Tensor, origin: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices about the origin and their normals, float32 for the kernels."""
    normals = vertex_normals(vertices, topology.triangles)
    return (vertices - origin).float().numpy(), normals.float().numpy()


def _visible_depth(
    topology: Topology,
    vertices: torch.Tensor,
    views: Views,
    level: FeatureLevel,
    index: int,
    config: TrackConfig,
) -> np.ndarray:
    """Usable depth of every view at a level [C H W], padded like the features."""
    sizes = torch.tensor(level.sizes)
    scale = 0.5**index
    intrinsics = views.cameras.intrinsics.clone()
    intrinsics[:, :2] *= scale
    cameras = replace(views.cameras, intrinsics=intrinsics, sizes=sizes)
    maps = depth_maps(vertices, topology.triangles, cameras)
    out = np.full(level.features.shape[:3], np.float32(-1))
    for i, depth in enumerate(maps):
        # one pixel of a slanted surface: the neighbours may differ by a few pixels' widths
        pixel = float(depth.numpy()[np.isfinite(depth.numpy())].mean()) if len(maps) else 1.0
        step = np.float32(3 * pixel / level.cameras[i, 12] + 0.001)
        height, width = depth.shape
        reach = 2 if index == 0 else 1
        out[i, :height, :width] = photometric.usable_depth(depth.numpy(), reach, step)
    return out


def _robust_mean(values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over views [S 3], views far from it counting less, and the weight's sum [S]."""
    weight = seen
    for _ in range(3):
        total = weight.sum(1)
        mean = np.einsum("scv,sc->sv", values, weight) / np.maximum(total, 1e-9)[:, None]
        error = np.square(values - mean[:, None]).sum(2)
        scale = np.maximum(np.median(error[seen > 0]) if (seen > 0).any() else 1.0, 1e-6)
        weight = seen / np.square(1 + error / (6 * scale))
    return mean.astype(np.float32), total


def _shape(
    reference: Reference, pose: torch.Tensor, expression: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """World vertices [V 3] of an expression and a deviation in a pose."""
    shape = reference.vertices + deviation
    if len(expression):
        shape = shape + torch.einsum("k,kvc->vc", expression, reference.basis)
    return (shape - reference.origin) @ pose[:3, :3].T + pose[:3, 3] + reference.origin


def _unpose(vertices: torch.Tensor, pose: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    return (vertices - origin - pose[:3, 3]) @ pose[:3, :3] + origin


def _world_motion(pose: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """The same motion for points that are not taken about the head's origin."""
    motion = pose.clone()
    motion[:3, 3] += origin - pose[:3, :3] @ origin
    return motion


def _turn(pose: torch.Tensor, delta: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """The pose followed by a small rotation about the head's origin and a shift."""
    step = torch.eye(4, dtype=torch.float64)
    step[:3, :3] = roma.rotvec_to_rotmat(delta[:3])
    step[:3, 3] = delta[3:]
    return step @ pose


def _continued(state: TrackState) -> TrackState:
    """The state one frame on, at the last frame's velocity."""
    motion = state.pose @ torch.linalg.inv(state.last_pose)
    expression = 2 * state.expression - state.last_expression
    return replace(state, pose=motion @ state.pose, expression=expression.clamp(-1, 1.5))


def _sample_basis(basis: torch.Tensor, samples: Samples) -> np.ndarray:
    """Basis displacement at every sample, [S K 3]."""
    rows = basis.numpy()[:, samples.corners]
    return np.einsum("ksic,si->skc", rows, samples.weights)


def _pose_jacobian(vertices: torch.Tensor, samples: Samples) -> np.ndarray:
    """d position / d (rotation about the origin, translation) of every sample, [S 3 6]."""
    points = np.einsum("sic,si->sc", vertices.numpy()[samples.corners], samples.weights)
    jacobian = np.zeros((len(points), 3, 6))
    x, y, z = points.T
    jacobian[:, 0, 1], jacobian[:, 0, 2] = z, -y
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -z, x
    jacobian[:, 2, 0], jacobian[:, 2, 1] = y, -x
    jacobian[:, [0, 1, 2], [3, 4, 5]] = 1
    return jacobian


def _reduce(
    blocks: np.ndarray, gradients: np.ndarray, jacobian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations of few parameters from sample blocks and their Jacobian [S 3 P]."""
    full = blocks[:, [[0, 1, 2], [1, 3, 4], [2, 4, 5]]].astype(np.float64)
    count = jacobian.shape[2]
    weighted = (full @ jacobian).reshape(-1, count)
    flat = jacobian.reshape(-1, count)
    return flat.T @ weighted, flat.T @ gradients.astype(np.float64).ravel()


def _anchor(elasticity: Elasticity, config: TrackConfig) -> np.ndarray:
    """Stiffness of every vertex about the rest shape, area over anchor²."""
    patch = np.pi * (config.elastic.patch / 2) ** 2
    return elasticity.areas / patch / config.anchor**2
