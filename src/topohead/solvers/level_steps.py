"""Chains of steps on one picture level, as an engine can record them: tensors in, tensors out.

Everything else that they read is the reference's or the level's own, and nothing here depends on a
value, so that the same work serves every frame.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.solvers.engine import Engine, Looks, Noise, SampleTerms
from topohead.solvers.features import FeatureLevel
from topohead.solvers.first_look import Reference
from topohead.solvers.surface import TrackConfig


@dataclass(frozen=True)
class LevelSteps:
    """What can be asked of the pictures of one level; all tensors are on the engine's device."""

    reference: Reference
    config: TrackConfig
    level: FeatureLevel
    index: int

    def explained(
        self, pose: Tensor, expression: Tensor, deviation: Tensor, noise: Noise
    ) -> tuple[Float[Tensor, "1"]]:
        """How much of the pictures a shape explains, in robust pixels.

        The sum, not the mean: a shape that hides the surface must not win by seeing less of it.
        """
        vertices = self.reference.surface.shaped(pose, expression, deviation)
        stats = self._evidence(vertices, self._depth(vertices), noise).stats.double()
        return ((stats[:, 0] * stats[:, 3]).sum(0, keepdim=True),)

    def placed(
        self,
        pose: Tensor,
        expression: Tensor,
        deviation: Tensor,
        tie: Tensor,
        pace: Tensor,
        noise: Noise,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pose, expression and noise after Gauss–Newton on six pose parameters and the expression.

        `pace` holds the expression to `tie`; see `Engine.stepped`.
        """
        config, engine = self.config, self._engine
        depth = deviation  # made in the first step
        for step in range(config.coarse_iterations[self.index]):
            vertices = self.reference.surface.shaped(pose, expression, deviation)
            if step % config.visibility_period == 0:
                depth = self._depth(vertices)
            evidence = self._evidence(vertices, depth, noise, few=True)
            noise = engine.learnt(noise, evidence)
            system = engine.reduced(evidence, self.index, vertices, pose)
            pose, expression = engine.stepped(system, pose, expression, tie, pace)
        return pose, expression, noise

    def freed(
        self, rest: Float[Tensor, "V 3"], vertices: Float[Tensor, "V 3"], noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Vertices and noise after Gauss–Newton on all vertices about a rest shape."""
        config, engine = self.config, self._engine
        depth = rotations = rest  # made in the first step
        for step in range(config.free_iterations[self.index]):
            if step % config.visibility_period == 0:
                depth = self._depth(vertices)
                rotations = engine.rotations(rest, vertices)
            evidence = self._evidence(vertices, depth, noise)
            noise = engine.learnt(noise, evidence)
            move = engine.move(evidence, self.index, rest, vertices, rotations)
            vertices = vertices + _capped(move, 0.004 * 2**self.index)
        return vertices, noise

    def alike(
        self, vertices: Float[Tensor, "V 3"], noise: float, hidden: float | None
    ) -> tuple[Float[Tensor, "R 2"]]:
        """Robust weights of each watched region's samples under this noise, summed, and shares.

        Their quotient is the region's likeness, 0 to 1. A sample's share is its area, and `hidden`
        is what one counts that the first frame showed and this one does not; with None those are
        left out and the others' shares are the pixels that see them.
        """
        given = torch.full((), noise, device=vertices.device)
        stats = self._evidence(vertices, self._depth(vertices), given).stats.double()
        shares = self.reference.shares[self.index]
        seen = stats[:, 2] >= 2
        if hidden is None:
            shares, value = (shares > 0) * (stats[:, 0] * seen), stats[:, 3]
        else:
            value = torch.where(seen, stats[:, 3], hidden)
        return (torch.stack([(shares * value).sum(1), shares.sum(1)], 1),)

    @property
    def _engine(self) -> Engine:
        return self.reference.engine

    @property
    def _looks(self) -> Looks:
        return self.reference.looks[self.index]

    def _depth(self, vertices: Tensor) -> Tensor:
        return self._engine.depth(self.level, self.index, vertices)

    def _evidence(
        self, vertices: Tensor, depth: Tensor, noise: Noise, few: bool = False
    ) -> SampleTerms:
        return self._engine.evidence(
            self.level, self.index, vertices, depth, self._looks, noise, few
        )


def _capped(move: Tensor, limit: float) -> Tensor:
    """Moves no longer than a limit."""
    x, y, z = move.unbind(1)
    # the sum as it stands, on every device: a norm's may come in another order
    length = (x * x + y * y + z * z).sqrt().clamp(min=1e-12)
    return move * (torch.full_like(length, limit) / length).clamp(max=1)[:, None]
