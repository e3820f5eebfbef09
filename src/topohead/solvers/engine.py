"""What a frame's solve asks of the device that it runs on."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.features import FeatureLevel
from topohead.solvers.surface import Surface

FEW = 8000
"""Samples that suffice for pose and expression."""
SOLVED = 1e-5
"""Share of its squared preconditioned residual at which a linear system counts as solved."""

Noise = Float[Tensor, ""]
"""A level's feature noise, on the engine's device."""
Work = Callable[..., tuple[Tensor, ...]]
"""Tensors in, tensors out."""


@dataclass(frozen=True)
class SampleTerms:
    """What pictures say about every sample; see `kernels.photometric.accumulate`."""

    blocks: Float[Tensor, "S 6"]
    gradients: Float[Tensor, "S 3"]
    stats: Float[Tensor, "S 4"]


@dataclass(frozen=True)
class Looks:
    """What every sample of a level looked like in the first frame, and how far to trust it."""

    colors: Float[Tensor, "S 3"]
    trust: Float[Tensor, " S"]


@runtime_checkable
class Engine(Protocol):
    """The arithmetic of tracking one surface, on one device.

    All tensors live on that device: vertices, poses and expressions float64. `index` is the picture
    level. Nothing here decides: `frame_solve` does. It puts its steps together from these parts and
    hands each chain of them to `whole`.
    """

    surface: Surface

    def levels(self, views: Views) -> list[FeatureLevel]:
        """Pictures as features, finest first; the next call may overwrite them."""
        ...

    def whole(self, name: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `work` makes of the inputs, as one piece that waits for nothing.

        An engine may record the work under its name, once, and replay that: whatever else than its
        inputs the work reads has to be the same tensors each time (the reference's, and the levels
        of pictures of the same sizes), and no value may decide what is done.
        """
        ...

    def depth(
        self, level: FeatureLevel, index: int, vertices: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        ...

    def sampled(
        self, level: FeatureLevel, index: int, vertices: Tensor, depth: Tensor
    ) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
        """Features of every sample in every view and their weights."""
        ...

    def evidence(
        self,
        level: FeatureLevel,
        index: int,
        vertices: Tensor,
        depth: Tensor,
        looks: Looks,
        noise: Noise,
        few: bool = False,
    ) -> SampleTerms:
        """The pictures' part of the normal equations, of all samples or of the first `FEW`."""
        ...

    def learnt(self, noise: Noise, evidence: SampleTerms) -> Noise:
        """The noise that the residuals under `noise` speak of; unchanged when nothing is seen."""
        ...

    def reduced(
        self, evidence: SampleTerms, index: int, vertices: Tensor, pose: Float[Tensor, "4 4"]
    ) -> Float[Tensor, "P P+1"]:
        """Normal equations (float64) of pose and expression: matrix and gradient of few samples."""
        ...

    def stepped(
        self,
        system: Float[Tensor, "P P+1"],
        pose: Tensor,
        expression: Tensor,
        tie: Tensor,
        pace: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, "4 4"], Float[Tensor, " K"]]:
        """Pose and expression after the step that reduced evidence and the priors ask for.

        `pace` is the stiffness (float64, no dimensions) that holds the expression to `tie`.
        """
        ...

    def rotations(self, rest: Tensor, vertices: Tensor) -> Float[Tensor, "V 3 3"]:
        """Local rotations from the rest shape."""
        ...

    def move(
        self, evidence: SampleTerms, index: int, rest: Tensor, vertices: Tensor, rotations: Tensor
    ) -> Float[Tensor, "V 3"]:
        """The Gauss–Newton step of all vertices, float32; the next call may overwrite it."""
        ...
