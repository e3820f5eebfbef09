"""One frame of tracking: pose and expression, then every vertex, by Gauss–Newton.

All steps of a level are one piece of work for the reference's engine (`level_steps`); decisions are
made between them, on the host.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.engine import Noise
from topohead.solvers.first_look import Reference
from topohead.solvers.level_steps import LevelSteps
from topohead.solvers.surface import TrackConfig


@dataclass(frozen=True)
class Guess:
    """Where a frame's solution may begin; float64, on the engine's device.

    `tie` is the expression it should stay near, if any.
    """

    pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " K"]
    deviation: Float[Tensor, "V 3"]
    tie: Float[Tensor, " K"] | None


class FrameSolve:
    """The work on one frame: its pictures, and what has been learnt of their noise so far."""

    def __init__(self, views: Views, reference: Reference, config: TrackConfig) -> None:
        self.reference, self.config = reference, config
        levels = reference.engine.levels(views)
        self.steps = [
            LevelSteps(reference, config, level, index) for index, level in enumerate(levels)
        ]
        fresh = torch.full((), config.noise, device=reference.surface.vertices.device)
        self.noise: list[Noise] = [fresh] * len(levels)
        self._last = 0 * fresh

    @property
    def residual(self) -> float:
        """The noise that was learnt last."""
        return float(self._last)

    def better(self, *guesses: Guess) -> Guess:
        """The guess that explains most of the coarsest pictures."""
        index = len(self.steps) - 1
        explained = [
            self._whole(
                "explained", index, guess.pose, guess.expression, guess.deviation, self.noise[index]
            )[0]
            for guess in guesses
        ]
        return guesses[int(torch.cat(explained).argmax())]

    def pose_and_expression(self, near: Guess, fine: bool = True) -> Guess:
        """The nearest solution, or where a part of the face looks wrong there, after a jump.

        Jumps are judged on coarse levels; without `fine` the others are not looked at.
        """
        config, reference = self.config, self.reference
        levels = [i for i in reversed(range(len(self.steps))) if config.coarse_iterations[i]]
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
        for index in levels[len(coarse) :] if fine else []:
            found = self._placed(found, index)
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
            guess = self._placed(guess, index)
        surface, carried = self.reference.surface, self._carried(guess)
        return guess, self.likeness(surface.shaped(guess.pose, guess.expression, carried))

    def _fallen(self, best: tuple[Guess, dict[str, float]]) -> set[str]:
        """Regions that look wrong."""
        least, first = self.config.jump_below, self.reference.likeness
        return {k for k, v in first.items() if best[1].get(k, 0.0) < least * v}

    def _share(self, likeness: dict[str, float]) -> float:
        """Likeness over the first frame's, mean of the regions."""
        first = self.reference.likeness
        return float(np.mean([likeness.get(k, 0.0) / v for k, v in first.items()] or [0.0]))

    def _placed(self, guess: Guess, index: int) -> Guess:
        """The guess after the steps of pose and expression at one level."""
        tie = guess.expression if guess.tie is None else guess.tie
        stiffness = 0.0 if guess.tie is None else self.config.expression_step**-2
        pace = torch.full((), stiffness, dtype=tie.dtype, device=tie.device)
        pose, expression, self._last = self._whole(
            "placed", index, guess.pose, guess.expression, self._carried(guess), tie, pace,
            self.noise[index],
        )  # fmt: skip
        self.noise[index] = self._last
        return replace(guess, pose=pose, expression=expression)

    def _carried(self, guess: Guess) -> Tensor:
        """The deviation that pose and expression are solved about.

        With expressions to choose from, last frame's error must not pose as this frame's shape.
        """
        return guess.deviation * (0.0 if len(guess.expression) else 1.0)

    @property
    def _judged(self) -> int:
        """The level on which jumps are judged."""
        return max(len(self.steps) - 2, 0)

    def free(self, rest: Float[Tensor, "V 3"], start: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Gauss–Newton on all vertices about a rest shape, coarse to fine."""
        vertices = start
        for index in reversed(range(len(self.steps))):
            if self.config.free_iterations[index]:
                vertices, self._last = self._whole(
                    "freed", index, rest, vertices, self.noise[index]
                )
                self.noise[index] = self._last
        return vertices

    def likeness(self, vertices: Float[Tensor, "V 3"]) -> dict[str, float]:
        """How well every watched region explains the coarse pictures, hidden parts included."""
        config = self.config
        return self._alike("likeness", self._judged, vertices, config.noise, config.hidden)

    def agreement(self, vertices: Float[Tensor, "V 3"]) -> dict[str, float]:
        """How well every watched region looks as in the first frame, on the finest level."""
        return self._alike("agreement", 0, vertices, self.config.agreement_noise, None)

    def is_doubtful(self, vertices: Float[Tensor, "V 3"]) -> bool:
        """Whether a watched region no longer looks as it did, or is seen no more."""
        now, least = self.agreement(vertices), self.config.least_agreement
        return any(now.get(k, 0.0) < least * v for k, v in self.reference.agreement.items())

    def _alike(
        self, name: str, index: int, vertices: Tensor, noise: float, hidden: float | None
    ) -> dict[str, float]:
        """Mean robust weight of each watched region that has a share in it."""
        work = partial(self.steps[index].alike, noise=noise, hidden=hidden)
        (sums,) = self.reference.engine.whole((name, index, self.config), work, vertices)
        pairs = zip(self.reference.watched, sums.tolist(), strict=True)
        return {region: value / share for region, (value, share) in pairs if share > 0}

    def _whole(self, name: str, index: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One chain of a level's steps, as one piece."""
        work = getattr(self.steps[index], name)
        return self.reference.engine.whole((name, index, self.config), work, *inputs)
