"""One frame of tracking: pose and expression, then every vertex, by Gauss–Newton."""

from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.elasticity import Elasticity
from topohead.solvers.features import FeatureLevel
from topohead.solvers.first_look import Reference, TrackConfig, geometry, visible_depth
from topohead.solvers.kernels import photometric, sparse
from topohead.solvers.samples import Samples


@dataclass(frozen=True)
class Guess:
    """Where a frame's solution may begin; `tie` is the expression it should stay near, if any."""

    pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " K"]
    deviation: Float[Tensor, "V 3"]
    tie: Float[Tensor, " K"] | None


class FrameSolve:
    """The work on one frame: its pictures, and what has been learnt of their noise so far."""

    def __init__(
        self, views: Views, levels: list[FeatureLevel], reference: Reference, config: TrackConfig
    ) -> None:
        self.views, self.levels, self.reference, self.config = views, levels, reference, config
        self.noise = [config.noise] * len(levels)
        self.residual = 0.0

    def better(self, *guesses: Guess) -> Guess:
        """The guess that explains most of the coarsest pictures."""
        coarsest = len(self.levels) - 1
        explained = []
        for guess in guesses:
            vertices = self._surface(guess, guess.deviation)
            _, _, stats = self._photometric(vertices, coarsest, self._depth(vertices, coarsest))
            # the sum, not the mean: one that hides the surface must not win by seeing less of it
            explained.append(stats[:, 0] @ stats[:, 3])
        return guesses[int(np.argmax(explained))]

    def pose_and_expression(self, near: Guess) -> Guess:
        """The nearest solution, or where a part of the face looks wrong there, after a jump."""
        config, reference = self.config, self.reference
        levels = [i for i in reversed(range(len(self.levels))) if config.coarse_iterations[i]]
        coarse = [index for index in levels if index >= self._judged] or levels[:1]
        best = self._solved(near, coarse)
        for region, strides in reference.strides.items():
            if region in self._fallen(best):
                before = best
                for stride in strides:
                    if best is before:
                        best = self._leap(best, best[0].expression + stride, coarse)
        if self._fallen(best):
            # ask the first frame's face and a face at rest as well
            for expression in (0 * near.expression, reference.neutral):
                best = self._leap(best, expression, coarse)
        found = best[0]
        for index in levels[len(coarse) :]:
            found = self._pose_and_expression(found, index)
        return found

    def _leap(
        self, best: tuple[Guess, dict[str, float]], expression: Tensor, coarse: list[int]
    ) -> tuple[Guess, dict[str, float]]:
        """The better of the best so far and what is found from another expression."""
        guess = replace(best[0], expression=expression.clamp(-1, 1.5), tie=None)
        other = self._solved(guess, coarse)
        gain = self._share(other[1]) - self._share(best[1])
        return other if gain > self.config.jump_margin else best

    def _solved(self, guess: Guess, coarse: list[int]) -> tuple[Guess, dict[str, float]]:
        """What coarse levels make of a guess, and how well each region then looks as it did."""
        for index in coarse:
            guess = self._pose_and_expression(guess, index)
        return guess, self.likeness(self._surface(guess, self._carried(guess)))

    def _fallen(self, best: tuple[Guess, dict[str, float]]) -> set[str]:
        """Regions that look wrong."""
        least, first = self.config.jump_below, self.reference.likeness
        return {k for k, v in first.items() if best[1].get(k, 0.0) < least * v}

    def _share(self, likeness: dict[str, float]) -> float:
        """Likeness over the first frame's, mean of the regions."""
        first = self.reference.likeness
        return float(np.mean([likeness.get(k, 0.0) / v for k, v in first.items()] or [0.0]))

    def _pose_and_expression(self, guess: Guess, index: int) -> Guess:
        """Gauss–Newton on six pose parameters and the expression at one level."""
        config, reference = self.config, self.reference
        pose, expression = guess.pose.clone(), guess.expression.clone()
        count = len(expression)
        carried = self._carried(guess)
        samples = reference.samples[index].subset(8000)
        rows = _sample_basis(reference.basis, samples)
        spread = config.expression_spread**-2
        pace = 0.0 if guess.tie is None else config.expression_step**-2
        tie = np.zeros(count) if guess.tie is None else guess.tie.numpy()
        depth = np.empty(0)  # made in the first step
        for step in range(config.coarse_iterations[index]):
            vertices = shape(reference, pose, expression, carried)
            if step % config.visibility_period == 0:
                depth = self._depth(vertices, index)
            blocks, gradients, stats = self._photometric(vertices, index, depth, samples)
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

    def _carried(self, guess: Guess) -> Tensor:
        """The deviation that pose and expression are solved about.

        With expressions to choose from, last frame's error must not pose as this frame's shape.
        """
        return guess.deviation * (0.0 if len(guess.expression) else 1.0)

    def _surface(self, guess: Guess, deviation: Tensor) -> Tensor:
        return shape(self.reference, guess.pose, guess.expression, deviation)

    @property
    def _judged(self) -> int:
        """The level on which jumps are judged."""
        return max(len(self.levels) - 2, 0)

    def likeness(self, vertices: Float[Tensor, "V 3"]) -> dict[str, float]:
        """How well every watched region explains the coarse pictures, hidden parts included."""
        return self._regions(vertices, self._judged, self.config.noise, self.config.hidden)

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
                blocks, gradients, stats = self._photometric(tensor, index, depth)
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
        """How well every watched region looks as in the first frame, on the finest level."""
        return self._regions(vertices, 0, self.config.agreement_noise, None)

    def _regions(
        self, vertices: Tensor, index: int, noise: float, hidden: float | None
    ) -> dict[str, float]:
        """Mean robust weight of each watched region's samples under this noise, 0 to 1.

        `hidden` is what a sample counts that the first frame showed and this one does not; None
        leaves it out.
        """
        measured, self.noise[index] = self.noise[index], noise
        _, _, stats = self._photometric(vertices, index, self._depth(vertices, index))
        self.noise[index] = measured
        seen = stats[:, 2] >= 2
        value = np.where(seen, stats[:, 3], hidden or 0.0)
        samples = self.reference.samples[index]
        share = stats[:, 0] * seen if hidden is None else samples.areas
        share = share * (self.reference.trust[index] > 0)
        topology, found = self.reference.topology, {}
        for name in self.config.watched:
            if name in topology.regions:
                own = topology.region_mask(name).numpy()[samples.corners].all(1)
                if share[own].sum() > 0:
                    found[name] = float(share[own] @ value[own] / share[own].sum())
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
        samples: Samples | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        config, reference, level = self.config, self.reference, self.levels[index]
        samples = reference.samples[index] if samples is None else samples
        return photometric.accumulate(
            *geometry(reference.topology, vertices, reference.origin),
            samples.corners,
            samples.weights,
            samples.areas,
            level.cameras,
            depth,
            level.features,
            reference.colors[index][: len(samples)],
            reference.trust[index][: len(samples)],
            np.float32(self.noise[index]),
            np.float32(config.cut),
            np.float32(config.min_cosine),
            np.float32(config.depth_tolerance),
        )

    def _depth(self, vertices: torch.Tensor, index: int) -> np.ndarray:
        return visible_depth(
            self.reference.topology, vertices, self.views, self.levels[index], index
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


def shape(
    reference: Reference, pose: torch.Tensor, expression: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """World vertices [V 3] of an expression and a deviation in a pose."""
    shape = reference.vertices + deviation
    if len(expression):
        shape = shape + torch.einsum("k,kvc->vc", expression, reference.basis)
    return (shape - reference.origin) @ pose[:3, :3].T + pose[:3, 3] + reference.origin


def unpose(vertices: torch.Tensor, pose: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    return (vertices - origin - pose[:3, 3]) @ pose[:3, :3] + origin


def world_motion(pose: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
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
