"""One frame of tracking: pose and expression, then every vertex, by Gauss–Newton.

The reference's engine does the arithmetic where its tensors are; poses, expressions and decisions
are here, on the host.
"""

from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.engine import Noise, SampleTerms
from topohead.solvers.first_look import Reference
from topohead.solvers.surface import TrackConfig


@dataclass(frozen=True)
class Guess:
    """Where a frame's solution may begin; `tie` is the expression it should stay near, if any.

    `deviation` lies on the engine's device, the rest on the host.
    """

    pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " K"]
    deviation: Float[Tensor, "V 3"]
    tie: Float[Tensor, " K"] | None


class FrameSolve:
    """The work on one frame: its pictures, and what has been learnt of their noise so far."""

    def __init__(self, views: Views, reference: Reference, config: TrackConfig) -> None:
        self.views, self.reference, self.config = views, reference, config
        self.engine = reference.engine
        self.levels = self.engine.levels(views)
        self.noise: list[Noise] = [config.noise] * len(self.levels)
        self._last: Noise = 0.0

    @property
    def residual(self) -> float:
        """The noise that was learnt last."""
        return float(self._last)

    def better(self, *guesses: Guess) -> Guess:
        """The guess that explains most of the coarsest pictures."""
        coarsest = len(self.levels) - 1
        explained = []
        for guess in guesses:
            vertices = self._surface(guess, guess.deviation)
            depth = self._depth(vertices, coarsest)
            stats = self._evidence(vertices, coarsest, depth).stats.cpu().numpy()
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
        spread = config.expression_spread**-2
        pace = 0.0 if guess.tie is None else config.expression_step**-2
        tie = np.zeros(count) if guess.tie is None else guess.tie.numpy()
        surface, depth = reference.surface, carried  # depth is made in the first step
        for step in range(config.coarse_iterations[index]):
            vertices = surface.shaped(pose, expression, carried)
            if step % config.visibility_period == 0:
                depth = self._depth(vertices, index)
            evidence = self._evidence(vertices, index, depth, few=True)
            self._learn(index, evidence)
            matrix, vector = self.engine.reduced(evidence, index, vertices, pose)
            matrix *= config.evidence
            vector *= config.evidence
            matrix[6:, 6:] += np.eye(count) * (spread + pace)
            vector[6:] += spread * expression.numpy() + pace * (expression.numpy() - tie)
            matrix[range(6), range(6)] *= 1 + 1e-6
            delta = torch.from_numpy(-np.linalg.solve(matrix, vector))
            pose = _turn(pose, delta[:6])
            expression = (expression + delta[6:]).clamp(-1.0, 1.5)
        return replace(guess, pose=pose, expression=expression)

    def _carried(self, guess: Guess) -> Tensor:
        """The deviation that pose and expression are solved about.

        With expressions to choose from, last frame's error must not pose as this frame's shape.
        """
        return guess.deviation * (0.0 if len(guess.expression) else 1.0)

    def _surface(self, guess: Guess, deviation: Tensor) -> Tensor:
        return self.reference.surface.shaped(guess.pose, guess.expression, deviation)

    @property
    def _judged(self) -> int:
        """The level on which jumps are judged."""
        return max(len(self.levels) - 2, 0)

    def likeness(self, vertices: Float[Tensor, "V 3"]) -> dict[str, float]:
        """How well every watched region explains the coarse pictures, hidden parts included."""
        return self._regions(vertices, self._judged, self.config.noise, self.config.hidden)

    def free(self, rest: Float[Tensor, "V 3"], start: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Gauss–Newton on all vertices about a rest shape, coarse to fine."""
        config, engine, vertices = self.config, self.engine, start
        for index in reversed(range(len(self.levels))):
            depth = rotations = rest  # made in the first step
            for step in range(config.free_iterations[index]):
                if step % config.visibility_period == 0:
                    depth = self._depth(vertices, index)
                    rotations = engine.rotations(rest, vertices)
                evidence = self._evidence(vertices, index, depth)
                self._learn(index, evidence)
                move = engine.move(evidence, index, rest, vertices, rotations)
                vertices = vertices + _capped(move, 0.004 * 2**index)
        return vertices

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
        depth = self._depth(vertices, index)
        stats = self._evidence(vertices, index, depth, noise).stats.cpu().numpy()
        seen = stats[:, 2] >= 2
        value = np.where(seen, stats[:, 3], hidden or 0.0)
        surface = self.reference.surface
        samples, topology = surface.samples[index], surface.topology
        share = stats[:, 0] * seen if hidden is None else samples.areas
        share = share * (self.reference.looks[index].trust.cpu().numpy() > 0)
        found = {}
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

    def _evidence(
        self,
        vertices: Tensor,
        index: int,
        depth: Tensor,
        noise: float | None = None,
        few: bool = False,
    ) -> SampleTerms:
        """What the pictures of a level say, under the noise learnt so far or a given one."""
        return self.engine.evidence(
            self.levels[index],
            index,
            vertices,
            depth,
            self.reference.looks[index],
            self.noise[index] if noise is None else noise,
            few,
        )

    def _depth(self, vertices: Tensor, index: int) -> Tensor:
        return self.engine.depth(self.views, self.levels[index], index, vertices)

    def _learn(self, index: int, evidence: SampleTerms) -> None:
        """Learn the level's noise from the residuals of this step."""
        self.noise[index] = self._last = self.engine.learnt(self.noise[index], evidence)


def _capped(move: Tensor, limit: float) -> Tensor:
    """Moves no longer than a limit."""
    x, y, z = move.unbind(1)
    # the sum as it stands, on every device: a norm's may come in another order
    length = (x * x + y * y + z * z).sqrt().clamp(min=1e-12)
    return move * (torch.full_like(length, limit) / length).clamp(max=1)[:, None]


def _turn(pose: Tensor, delta: Tensor) -> Tensor:
    """The pose followed by a small rotation about the head's origin and a shift."""
    step = torch.eye(4, dtype=torch.float64)
    step[:3, :3] = roma.rotvec_to_rotmat(delta[:3])
    step[:3, 3] = delta[3:]
    return step @ pose
