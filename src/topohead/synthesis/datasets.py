"""Training samples for every consumer: what a step sees is a function of seed and step alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core.shapes import ExpressionSource, ShapeSource
from topohead.models.shape_space import ShapeSpace
from topohead.synthesis import scans
from topohead.synthesis.device_draws import Draws, draws
from topohead.synthesis.mixture import field_spectrum
from topohead.synthesis.scan_poses import Pose, random_pose
from topohead.synthesis.scan_surface import ScanSurface
from topohead.synthesis.scans import Cloud

Faults = Literal["none", "mixed", "all"]


def sample_indices(
    step: int, batch: int, part: int = 0, parts: int = 1, device: torch.device | str = "cpu"
) -> Int[Tensor, " N"]:
    """Numbers of the samples of a step, or of the `part`-th of `parts` equal shares of them.

    They follow the global step alone: any number of processes sees the same batches.
    """
    if batch % parts:
        raise ValueError(f"a batch of {batch} does not divide into {parts} equal shares")
    first = step * batch + part * (batch // parts)
    return torch.arange(first, first + batch // parts, device=device)


@runtime_checkable
class People(Protocol):
    """Heads in some expression by number: control vertices [B V 3] and coefficients [B 52]."""

    def at(self, indices: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class PosedPeople:
    """A new person in a new expression for every number; half of them are neutral.

    Half turn the neck, by up to 20° about each axis. Drawn on the CPU, made where the shapes are.
    """

    shapes: ShapeSource
    expressions: ExpressionSource
    seed: int

    def at(self, indices: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        numbers = indices.cpu()
        random = draws(self.seed, numbers)
        coefficients, gaze = self.expressions(self.seed, numbers)
        moved = random.chance("expressive", 0.5, 1).to(coefficients)
        coefficients, gaze = coefficients * moved, gaze * moved[..., None]
        neck = math.radians(20) * random.between("neck", -1, 1, 3)
        neck = neck * random.chance("neck turned", 0.5, 1)
        vertices = self.shapes.draw(self.seed, numbers).posed(coefficients, gaze, neck)
        return vertices.to(indices.device), coefficients.to(indices.device)


@dataclass(frozen=True)
class PooledPeople:
    """People made beforehand, met again and again: for sources slower than what they feed."""

    vertices: Float[Tensor, "P V 3"]
    coefficients: Float[Tensor, "P 52"]

    def at(self, indices: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        chosen = indices % len(self.vertices)
        return self.vertices[chosen], self.coefficients[chosen]


def pooled(people: People, count: int, device: torch.device, chunk: int = 256) -> PooledPeople:
    """The people with numbers 0 to `count` − 1."""
    numbers = torch.arange(count, device=device)
    vertices, coefficients = zip(*(people.at(part) for part in numbers.split(chunk)), strict=True)
    return PooledPeople(torch.cat(vertices), torch.cat(coefficients))


BENT_MM = (0.3, 1.5)
"""Least and greatest rms of a bend."""


@dataclass(frozen=True)
class BentPeople:
    """People of whom every other one is bent smoothly, so that nobody is met twice.

    `fields` are smooth displacements, metres, whose sum with standard normal weights has an rms of
    1. Eyes and teeth bend along.
    """

    people: People
    fields: Float[Tensor, "F V 3"]
    seed: int

    def at(self, indices: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        vertices, coefficients = self.people.at(indices)
        random = draws(self.seed, indices)
        size = random.between("bend size", BENT_MM[0], BENT_MM[1], 1) / 1e3
        weights = size * random.chance("bent", 0.5, 1) * random.normal("bend", len(self.fields))
        return vertices + torch.tensordot(weights, self.fields, dims=1), coefficients


WAVES = 24
"""Plane waves of a ripple."""
CARRIED = 2.0
"""So many edges of the mesh a wave must be longer than, for vertices there to take part in it."""


@dataclass(frozen=True)
class Ripples:
    """Whom ripples displace, and how; lengths in metres."""

    name: str
    """Of the random numbers."""
    share: float
    """Of the people."""
    most: float
    """Greatest rms of the displacement, between which and none all are as likely."""
    waves: tuple[float, float]
    """The shortest and the longest; every octave between them has as many."""
    slope: float = 1.0
    """Heights are as length^slope: at 1 all waves are as steep, below it the short ones more so."""


@dataclass(frozen=True)
class RippledPeople:
    """People displaced by sums of plane waves: faces that no family holds.

    Waves are in space, not along the skin, so what lies near moves alike and features stay where
    they seem. `edges` are the lengths of edges around each vertex, metres: foreheads and cheeks,
    whose mesh is coarse, keep out of waves that it cannot carry, which leaves these to features.
    """

    people: People
    ripples: Sequence[Ripples]
    edges: Float[Tensor, " V"]
    seed: int

    def at(self, indices: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        vertices, coefficients = self.people.at(indices)
        random = draws(self.seed, indices)
        moved = vertices
        for ripples in self.ripples:
            moved = moved + self._ripple(vertices, ripples, random)
        return moved, coefficients

    def _ripple(
        self, vertices: Float[Tensor, "B V 3"], ripples: Ripples, random: Draws
    ) -> Float[Tensor, "B V 3"]:
        name, (low, high) = ripples.name, ripples.waves
        length = low * (high / low) ** random.uniform(f"{name} length", WAVES, 1)
        axes = torch.nn.functional.normalize(random.normal(f"{name} axis", WAVES, 3), dim=-1)
        phase = 2 * math.pi * random.uniform(f"{name} phase", 1, WAVES)
        waves = torch.sin(vertices @ (2 * math.pi / length * axes).transpose(1, 2) + phase)
        waves = waves * torch.exp(-((CARRIED * self.edges[:, None] / length[:, None, :, 0]) ** 2))
        height = length**ripples.slope * random.normal(name, WAVES, 3)
        # the sum of sines of unit height has a square of a half each
        rms = (0.5 * height.square().sum((1, 2), keepdim=True)).sqrt()
        size = ripples.most * random.uniform(f"{name} size", 1, 1)
        size = size * random.chance(f"{name} there", ripples.share, 1, 1)
        return waves @ (height * (size / rms))


def smooth_fields(space: ShapeSpace) -> Float[Tensor, "F V 3"]:
    """The smooth displacements of a shape space, longer waves stronger; see `BentPeople`."""
    spectrum = torch.from_numpy(field_spectrum(space)).to(space.rows).reshape(-1)
    return space.rows[space.groups["field"]] * spectrum[:, None, None]


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
    """Scans by number, of at most `points` points each; a number always is the same scan.

    `faults`: none; all; or mixed, in which every fourth scan has none. `focused` scans have more
    of their points on the face, as the registration network chooses them. With `mild`, mixed scans
    are such as good scanners leave in that share of cases, in place of clean ones. `seen` tells of
    as many people as `pooled` made by what share of views each triangle of the surface is seen from
    outside (`sights`); 17 of 20 mild and damaged scans lack what is seen little.
    """

    people: People
    surface: ScanSurface
    seed: int
    points: int = 4096
    faults: Faults = "mixed"
    focused: bool = False
    mild: float | None = None
    seen: Float[Tensor, "P T"] | None = None

    def at(self, indices: Int[Tensor, " B"]) -> ScanBatch:
        """The scans with these numbers, on the device of the numbers."""
        vertices, coefficients = self.people.at(indices)
        random = draws(self.seed, indices)
        pose = random_pose(random)
        seen = None if self.seen is None else self.seen[indices % len(self.seen)]
        cloud = scans.placed(self._cloud(vertices, random, seen), pose)
        return ScanBatch(cloud, pose, vertices, coefficients)

    def _cloud(
        self, vertices: Float[Tensor, "B V 3"], random: Draws, seen: Float[Tensor, "B T"] | None
    ) -> Cloud:
        settings = self.surface, vertices, random, self.points, self.focused
        if self.faults == "none":
            return scans.clean_cloud(*settings)
        faulty = scans.faulty_cloud(*settings, seen=seen)
        if self.faults == "all":
            return faulty
        if self.mild is not None:
            mild = scans.mild_cloud(*settings, seen=seen)
            return _chosen(random.chance("clean", self.mild), mild, faulty)
        clean = scans.clean_cloud(*settings)
        return _chosen(random.chance("clean", 0.25), clean, faulty)


def _chosen(choice: Bool[Tensor, " B"], yes: Cloud, no: Cloud) -> Cloud:
    fields = ("points", "normals", "valid", "inlier")

    def pick(name: str) -> Tensor:
        a, b = getattr(yes, name), getattr(no, name)
        return torch.where(choice.view(-1, *[1] * (a.dim() - 1)), a, b)

    return Cloud(*(pick(name) for name in fields))
