"""The scans of the protocol H1 to H4, by cell: made people scanned well or badly, and the truth.

A case is a function of (seed, number, cell). Faults of H4 come one at a time, at full strength,
from the generator that training uses too; `one view` and H3 do not: no network saw their like.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import Scan
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.synthesis import scans
from topohead.synthesis.device_draws import Draws, draws
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.mixture import SOURCES
from topohead.synthesis.performances import euler
from topohead.synthesis.remeshing import (
    Triangulated,
    depth_view,
    fused,
    halved,
    scattered,
    seen_part,
)
from topohead.synthesis.scan_poses import Pose, random_pose
from topohead.synthesis.scan_surface import ScanSurface, scan_surface
from topohead.synthesis.scans import Cloud
from topohead.synthesis.shapes import Shapes

POINTS = 20_000
SCANNER_MM = 0.15
"""Noise of every scan but those whose fault it is, rms along each axis."""

Maker = Callable[["Bench", "Person", Draws], "Case"]


@dataclass(frozen=True)
class Person:
    """One made head: its number, control vertices [V 3] and coefficients [52], head frame."""

    number: int
    vertices: Float[Tensor, "V 3"]
    coefficients: Float[Tensor, " 52"]


@dataclass(frozen=True)
class Case:
    """A scan and what is true of it; `pose` brings the head frame to the scan's, unit included."""

    person: Person
    scan: Scan
    pose: Pose
    inlier: Bool[Tensor, " N"]

    def in_head(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Points of the scan's frame in the true head frame, metres."""
        return self.pose.inverse(points[None])[0]


@dataclass(frozen=True)
class Forced(Draws):
    """Random numbers in which chances named in `on` always fall, others never, and numbers named in
    `values` are what is given."""

    on: frozenset[str] = frozenset()
    values: Mapping[str, float] = field(default_factory=dict)

    def chance(self, name: str, share: float, *shape: int) -> Bool[Tensor, "B *S"]:
        return torch.full((len(self.keys), *shape), name in self.on)

    def uniform(self, name: str, *shape: int) -> Float[Tensor, "B *S"]:
        drawn = super().uniform(name, *shape)
        return torch.full_like(drawn, self.values[name]) if name in self.values else drawn


@dataclass(frozen=True)
class Bench:
    """The population, and surfaces finer than its control mesh."""

    shapes: Shapes
    seed: int

    @cached_property
    def surface(self) -> ScanSurface:
        return scan_surface(self.shapes.topology, self.shapes.head.template)

    @cached_property
    def finest(self) -> tuple[list[Tensor], Tensor]:
        """Matrices of two Catmull–Clark steps, and the triangles after them."""
        once, first = catmull_clark(replace(self.shapes.topology, mirror=None))
        twice, second = catmull_clark(once)
        return [first, second], twice.triangles

    def people(
        self,
        count: int,
        sources: Sequence[str] = SOURCES,
        seed: int | None = None,
        moving: bool = True,
    ) -> list[Person]:
        """The first people of these sources; all with a still neck, every other one at rest.

        Without `moving`, all at rest.
        """
        seed = self.seed if seed is None else seed
        wanted = {SOURCES.index(name) for name in sources}
        numbers: list[int] = []
        start = 0
        while len(numbers) < count:
            found = self.shapes.people(seed, range(start, start + 64)).source
            numbers += [start + k for k, source in enumerate(found) if int(source) in wanted]
            start += 64
            if not numbers and start > 640:
                raise SystemExit(f"no people of {', '.join(sources)}: give --ict")
        chosen = torch.tensor(numbers[:count])
        heads = self.shapes.draw(seed, chosen)
        coefficients, gaze = draw_expressions(seed, chosen)
        moved = ((torch.arange(count) % 2 == 1) & moving).to(coefficients)[:, None]
        coefficients, gaze = moved * coefficients, moved[..., None] * gaze
        posed = heads.posed(coefficients, gaze) if moving else heads.rest
        rows = zip(chosen.tolist(), posed, coefficients.float(), strict=True)
        return [Person(*row) for row in rows]

    def cases(self, cell: str, people: Sequence[Person]) -> Iterator[Case]:
        """The people's scans of a cell."""
        for person in people:
            yield CELLS[cell](self, person, draws(self.seed, torch.tensor([person.number])))

    def skin(self, person: Person) -> Triangulated:
        """The finest surface of a head, inner parts too."""
        vertices, (steps, triangles) = person.vertices, self.finest
        for step in steps:
            vertices = refine(step, vertices)
        return Triangulated(vertices, triangles)


def clean(bench: Bench, person: Person, random: Draws, pose: Pose | None = None) -> Case:
    """Even points with normals, shaken by the scanner's noise, nearly upright."""
    return sampled(bench, person, Forced(random.keys), pose)


def sampled(
    bench: Bench,
    person: Person,
    random: Draws,
    pose: Pose | None = None,
    points: int = POINTS,
) -> Case:
    """Points as the training's generator leaves them; `Forced` numbers choose its faults."""
    if isinstance(random, Forced):
        plain = {"noise": SCANNER_MM / 1.5, "density": 0.0, "density strength": 0.0}
        plain |= {"normal noise": 0.1, "normals": 0.9}
        random = replace(random, values=plain | dict(random.values))
    pose = pose or upright(random)
    cloud = scans.faulty_cloud(bench.surface, person.vertices[None], random, points)
    order = torch.randperm(points, generator=torch.Generator().manual_seed(person.number))
    order = order[cloud.valid[0, order]]
    cloud = scans.placed(Cloud(*(getattr(cloud, name)[:, order] for name in CLOUD)), pose)
    none = torch.zeros(0, 3, dtype=torch.long)
    normals = cloud.normals[0] if bool(cloud.normals.any()) else None
    return Case(person, Scan(cloud.points[0], none, normals), pose, cloud.inlier[0])


CLOUD = ("points", "normals", "valid", "inlier")


def meshed(bench: Bench, person: Person, random: Draws, kind: str, size: float = 0.0) -> Case:
    """A triangle mesh without normals of its own: `fused` in voxels of `size` metres, `scattered`
    with `size` vertices, or one `depth` picture.
    """
    skin = bench.skin(person)
    if kind == "fused":
        made = fused(skin, size)
    elif kind == "scattered":
        generator = torch.Generator().manual_seed(person.number)
        seen = seen_part(skin)
        fine = seen if len(seen.vertices) > 4 * size else halved(seen)
        made = scattered(fine, int(size), generator)
    else:
        towards = random.normal("view", 3)[0] * torch.tensor([0.4, 0.2, 0.0])
        made = depth_view(skin, towards + torch.tensor([0.0, 0, 1]), 320, 3e-4, person.number)
    count = len(made.vertices)
    noise = 1e-3 * SCANNER_MM * random.normal("scanner", count, 3)[0]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(person.number))
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(count))
    pose = upright(random)
    points = pose.apply((made.vertices + noise)[None])[0][order]
    whole = torch.ones(count, dtype=torch.bool)
    return Case(person, Scan(points, rank[made.triangles]), pose, whole)


def shown(bench: Bench, person: Person, random: Draws) -> Case:
    """As `clean`, but of what is seen from outside: nothing that lies lip on lip, lid on eye."""
    vertices, triangles = seen_part(bench.skin(person))
    corner, second, third = vertices[triangles].unbind(1)
    facing = torch.linalg.cross(second - corner, third - corner)
    generator = torch.Generator().manual_seed(person.number)
    chosen = torch.multinomial(facing.norm(dim=1), POINTS, True, generator=generator)
    u, v = torch.rand(2, POINTS, 1, generator=generator).sort(0).values
    a, b, c = vertices[triangles[chosen]].unbind(1)
    points = u * a + (v - u) * b + (1 - v) * c
    points = points + 1e-3 * SCANNER_MM * torch.randn(POINTS, 3, generator=generator)
    shaken = 0.035 * torch.randn(POINTS, 3, generator=generator)
    normals = torch.nn.functional.normalize(facing[chosen], dim=1) + shaken
    normals = torch.nn.functional.normalize(normals, dim=1)
    pose = upright(random)
    scan = Scan(
        pose.apply(points[None])[0],
        torch.zeros(0, 3, dtype=torch.long),
        normals @ pose.rotation[0].T,
    )
    return Case(person, scan, pose, torch.ones(POINTS, dtype=torch.bool))


def upright(random: Draws) -> Pose:
    """Turned by up to 5° about each axis and moved by a few centimetres; true size."""
    angles = math.radians(5) * random.between("upright", -1, 1, 3)
    return Pose(torch.ones(1), euler(angles), 0.03 * random.normal("upright place", 3))


def turned(random: Draws, degrees: float) -> Pose:
    """Turned by so much about a random axis."""
    axis = torch.nn.functional.normalize(random.normal("turned axis", 3), dim=-1)
    rotation = torch.linalg.matrix_exp(
        math.radians(degrees)
        * torch.linalg.cross(axis[:, None].expand(-1, 3, 3), torch.eye(3)[None])
    ).transpose(1, 2)
    return Pose(torch.ones(1), rotation, 0.1 * random.normal("turned place", 3))


def anywhere(random: Draws, number: int) -> Pose:
    """As training has them, ±25° and ±15 % in size, every tenth at any yaw; in metres."""
    return random_pose(Forced(random.keys, frozenset({"any yaw"} if number % 10 == 9 else ())))


def foreign_file(random: Draws) -> Pose:
    """Millimetres, z up, facing anywhere: what another program wrote."""
    angles = math.pi * random.between("foreign yaw", -1, 1, 3) * torch.tensor([1.0, 0, 0])
    up = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return Pose(torch.full((1,), 1000.0), up @ euler(angles), 300 * random.normal("far", 3))


def _fault(on: Sequence[str] = (), **values: float) -> Maker:
    named = {name.replace("_", " "): value for name, value in values.items()}
    return lambda bench, person, random: sampled(
        bench, person, Forced(random.keys, frozenset(on), named)
    )


def _mesh(kind: str, size: float = 0.0) -> Maker:
    return lambda bench, person, random: meshed(bench, person, random, kind, size)


CELLS: dict[str, Maker] = {
    "clean": clean,
    "seen": shown,
    "fused": _mesh("fused", 0.002),
    "scattered": _mesh("scattered", 12_000),
    "fused 1 mm": _mesh("fused", 0.001),
    "scattered 50 k": _mesh("scattered", 50_000),
    "pose 30°": lambda b, p, r: clean(b, p, r, turned(Forced(r.keys), 30)),
    "noise 1 mm": _fault(noise=1 / 1.5),
    "holes 40 %": _fault(["holed"], holes=1.0),
    "one view": _mesh("depth"),
    "outliers": _fault(["cluttered"], clutter=1.0),
    "hair": _fault(["haired"], hair=0.7),
    "shoulders": _fault(["shouldered"], shoulders=1.0),
    "millimetres z-up": lambda b, p, r: clean(b, p, r, foreign_file(Forced(r.keys))),
    "everything": lambda b, p, r: sampled(b, p, r, anywhere(r, p.number)),
}
"""Who scans how, by the name of the cell."""
