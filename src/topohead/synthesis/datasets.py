"""Training samples for every consumer: what a step sees is a function of seed and step alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core.shapes import ShapeSource
from topohead.synthesis import scans
from topohead.synthesis.draws import draws
from topohead.synthesis.scans import Cloud, Pose, ScanSurface
from topohead.synthesis.splits import sample_indices

Faults = Literal["none", "mixed", "all"]


@dataclass(frozen=True)
class ScanBatch:
    """Scans and what is true of them.

    `cloud` is in the scan's own frame and unit, `pose` brings the head frame there; `vertices`
    (control mesh, metres) and `coefficients` (ARKit-52) are the head in its own frame.
    """

    cloud: Cloud
    pose: Pose
    vertices: Float[Tensor, "B V 3"]
    coefficients: Float[Tensor, "B 52"]


@dataclass(frozen=True)
class ScanSource:
    """Scans by number: heads of `shapes`, sampled into at most `points` points each.

    `faults`: none; all; or mixed, in which every fourth scan has none. `upright` leaves heads in
    their own frame.
    """

    shapes: ShapeSource
    surface: ScanSurface
    seed: int
    points: int = 4096
    faults: Faults = "mixed"

    def at(self, indices: Int[Tensor, " B"]) -> ScanBatch:
        """The scans with these numbers, on the device of the numbers."""
        random = draws(self.seed, indices)
        coefficients, gaze = self.shapes.draw_expressions(self.seed, indices)
        vertices = self.shapes.draw(self.seed, indices).posed(coefficients, gaze)
        cloud = self._cloud(vertices, random)
        pose = scans.random_pose(random)
        return ScanBatch(scans.placed(cloud, pose), pose, vertices, coefficients)

    def _cloud(self, vertices: Float[Tensor, "B V 3"], random) -> Cloud:
        if self.faults == "none":
            return scans.clean_cloud(self.surface, vertices, random, self.points)
        faulty = scans.faulty_cloud(self.surface, vertices, random, self.points)
        if self.faults == "all":
            return faulty
        clean = scans.clean_cloud(self.surface, vertices, random, self.points)
        return _chosen(random.chance("clean", 0.25), clean, faulty)

    def batches(
        self, split: str, batch: int, first: int = 0, part: int = 0, parts: int = 1
    ) -> Iterator[ScanBatch]:
        """Endless batches from step `first` on; see `sample_indices` for parts."""
        step = first
        device = self.surface.triangles.device
        while True:
            yield self.at(sample_indices(split, step, batch, part, parts).to(device))
            step += 1


def _chosen(choice: Bool[Tensor, " B"], yes: Cloud, no: Cloud) -> Cloud:
    fields = ("points", "normals", "valid", "inlier")

    def pick(name: str) -> Tensor:
        a, b = getattr(yes, name), getattr(no, name)
        return torch.where(choice.view(-1, *[1] * (a.dim() - 1)), a, b)

    return Cloud(*(pick(name) for name in fields))
