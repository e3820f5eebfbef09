"""The registration network as a training task: data, loss, and how well it registers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from topohead.core import HeadModel
from topohead.core.shapes import ExpressionSource
from topohead.geometry.meshes import edges_around
from topohead.geometry.subdivision import refine
from topohead.losses.registration import (
    Truth,
    loss_surface,
    registration_loss,
)
from topohead.models.learned_icp import IcpSize
from topohead.models.registration import (
    Registration,
    RegistrationSize,
    face_density,
    in_head,
    template_of,
)
from topohead.models.scan_perceiver import PerceiverSize
from topohead.models.scan_pose import PoseSize, normalised
from topohead.solvers.training import Losses, Schedule, Task
from topohead.synthesis.datasets import (
    BentPeople,
    People,
    PosedPeople,
    RippledPeople,
    Ripples,
    ScanBatch,
    ScanSource,
    pooled,
    sample_indices,
    smooth_fields,
)
from topohead.synthesis.device_draws import draws
from topohead.synthesis.mixture import OTHERS, Families
from topohead.synthesis.scan_poses import guessed_turn, near_pose
from topohead.synthesis.scan_surface import scan_surface
from topohead.synthesis.sights import seen_from_outside
from topohead.synthesis.splits import check_split
from topohead.workflows.training.graphs import captured
from topohead.workflows.training.register_scores import Scorer

if TYPE_CHECKING:
    from topohead.synthesis.shapes import Shapes


@dataclass(frozen=True)
class Preset:
    """Sizes of network, clouds and schedule.

    `pool` people are made before training and met again in ever new scans; 0 makes new ones. Scans
    of validation and test have `points` points, from which the network chooses. `seen`: most
    scans lack what no side of a person shows, which takes half a second each to find on a CPU.
    """

    size: RegistrationSize
    schedule: Schedule
    points: int
    tested: int
    pool: int = 0
    seen: bool = True


APART = ("pose", "icp")
"""Both stages learn in one run but share no weight, so neither shortens the other's steps."""

_XS = Schedule(
    steps=200, batch=8, rate=5e-3, warmup=20, average=0.99, apart=APART, told=10, validated=100
)
_S = Schedule(steps=20_000, batch=64, warmup=400, apart=APART, told=100, validated=5000)
_L = Schedule(
    steps=100_000, batch=256, rate=6e-4, warmup=2000, average=0.9995, apart=APART, validated=5000
)

PRESETS: Mapping[str, Preset] = {
    "xs": Preset(
        RegistrationSize(
            PoseSize(256, 8, 32, 2, 1), IcpSize(512, 96, 48, 3, 1, (2, 1), 8, 48, 8, 32)
        ),
        _XS,
        points=1024,
        tested=8,
        pool=64,
        seen=False,
    ),
    "s": Preset(
        RegistrationSize(icp=IcpSize(8192, strides=(8, 4, 2, 1), shared=False)),
        _S,
        points=16_384,
        tested=256,
        pool=16_384,
    ),
    "l": Preset(
        RegistrationSize(
            PoseSize(2048, 96, 256, 8, 3),
            IcpSize(8192, 1024, 384, 6, 6, (8, 4, 2, 1, 1), 16, 192, 64, 256, shared=False),
        ),
        _L,
        points=32_768,
        tested=1024,
        pool=65_536,
    ),
}
"""xs is for tests and takes seconds on a CPU, s is what ships, l is for several GPUs."""

PERCEIVERS: Mapping[str, PerceiverSize] = {
    "xs": PerceiverSize(512, 48, 48, 3, 1, 1, 8, 1, 24),
    "s": PerceiverSize(),
    "l": PerceiverSize(8192, 512, 512, 16, 3, 3, 32, 6, 256),
}
"""The second stage of `register-perceiver`; the rest is as in `PRESETS`."""

MILD = 0.5
"""Share of scans by good scanners; the others have every fault."""

_STRANGE = (
    Ripples("ripple", 0.8, 6.5e-3, (0.035, 0.3)),
    Ripples("fine ripple", 0.8, 3.0e-3, (0.006, 0.035), 0.5),
)

RIPPLES: Mapping[Families, tuple[Ripples, ...]] = {
    "all": (
        Ripples("ripple", 0.4, 2.5e-3, (0.035, 0.3)),
        Ripples("fine ripple", 0.4, 1.2e-3, (0.006, 0.035), 0.5),
    ),
    "anny": _STRANGE,
    "ict": _STRANGE,
}
"""Who is not of the known families differs from them by shapes as long as the head, and at nose,
lids and lips by some as short as 6 mm; by more where one family is all that is known."""

Network = Literal["register", "register-perceiver"]


def register_task(
    preset: str,
    seed: int,
    device: torch.device,
    families: Families = "all",
    name: Network = "register",
    tested: int | None = None,
    batch_size: int | None = None,
) -> Task:
    """A registration network on scans of the reference head's population, or a part of it.

    It is evaluated on `tested` scans of each kind and sees `batch_size` a step; by default the
    preset's numbers.
    """
    chosen = PRESETS[preset]
    schedule = replace(chosen.schedule, batch=batch_size or chosen.schedule.batch)
    size = chosen.size
    if name == "register-perceiver":
        size = replace(size, icp=PERCEIVERS[preset])
    check_split(seed, "train")
    head, shapes, expressions = population(device, families)
    surface = scan_surface(head.topology, head.template).to(device)
    people: People = PosedPeople(shapes, expressions, seed)
    seen = None
    if chosen.pool:
        pool = pooled(people, chosen.pool, device)
        if chosen.seen:
            seen = torch.stack([
                seen_from_outside(
                    refine(surface.refinement, person[None])[0], surface.triangles
                ).half()
                for person in pool.vertices
            ])  # fmt: skip
        fields = smooth_fields(shapes.space)
        edges = edges_around(head.topology, head.template.to(device))
        people = BentPeople(pool, fields, seed)
        people = RippledPeople(people, RIPPLES[families], edges, seed)
    source = ScanSource(people, surface, seed, size.icp.points, "mixed", True, MILD, seen)
    torch.manual_seed(seed)
    network = Registration(size, template_of(head, size.icp.nodes)).to(device)
    nodes, template = network.icp.nodes, network.icp.template
    knows = loss_surface(head.topology, head.topology.landmarks["ibug68"]).to(device)

    made: dict[tuple[int, int], Callable[[int], Prepared]] = {}

    def batch(step: int, part: int, parts: int) -> Prepared:
        def numbers_of(step: int) -> Tensor:
            return sample_indices(step, schedule.batch, part, parts, device)

        def make(numbers: Tensor) -> Prepared:
            return prepared(source, numbers, size.pose.points, nodes, template)

        if not chosen.pool:  # people made on the fly may come from the CPU, which no graph holds
            return make(numbers_of(step))
        if (part, parts) not in made:
            made[part, parts] = captured(make, numbers_of)
        return made[part, parts](step)

    def loss(network: nn.Module, batch: Prepared) -> Losses:
        guess, found = network(batch.guessed, batch.near)
        return registration_loss(guess, found, batch.truth, knows, nodes)

    strangers = None
    if families != "all" and "ict" in shapes.space.groups:
        strangers = replace(shapes, families=OTHERS[families])
    scorer = Scorer(head, shapes, strangers, expressions, surface, seed, chosen.points, device)
    return Task(
        network,
        schedule,
        batch,
        loss,
        lambda network: scorer.validate(network, min(64, chosen.tested)),
        lambda network: scorer.evaluate(network, tested or chosen.tested),
        {"size": size.plain(), "families": families},
    )


def population(
    device: torch.device, families: Families = "all"
) -> tuple[HeadModel, "Shapes", ExpressionSource]:
    """The reference head, its people on a device, and their expressions."""
    from topohead.io.assets import reference_head
    from topohead.synthesis.expressions import draw_expressions
    from topohead.synthesis.shapes import load_shapes

    return reference_head(0), load_shapes(device, families=families), draw_expressions


@dataclass(frozen=True)
class Prepared:
    """Inputs of both stages and what is true of them."""

    guessed: Mapping[str, Tensor]
    near: Mapping[str, Tensor]
    truth: Truth


def prepared(
    source: ScanSource, numbers: Tensor, looked: int, nodes: Tensor, template: Tensor
) -> Prepared:
    """Training inputs: for the pose stage `looked` points of scans turned by a wrong guess, for
    the learned ICP scans about as far from the head frame as it meets them.
    """
    scans = source.at(numbers)
    random = draws(source.seed, numbers)
    cloud, pose = scans.cloud, scans.pose
    upright = pose.inverse(cloud.points)
    normals = cloud.normals @ pose.rotation
    residual = near_pose(random, scans.vertices, template)
    points = residual.apply(upright)
    near = {
        "points": points,
        "normals": normals @ residual.rotation.transpose(1, 2),
        "valid": cloud.valid & in_head(points, 1.3),
    }
    guessed, turned, angle = _guessed(scans, random, looked, upright, nodes)
    truth = Truth(
        residual.apply(scans.vertices),
        cloud.inlier,
        near["valid"],
        scans.coefficients,
        angle,
        turned,
        scans.vertices[:, nodes],
    )
    return Prepared(guessed, near, truth)


def _guessed(
    scans: ScanBatch, random, count: int, upright: Tensor, nodes: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Clouds normalised and turned by a guess, the truth's nodes among them, the guess's error.

    Half of the clouds have lost what lies far from the head, as in the stage's later rounds. Points
    are as dense everywhere: the stage does not know where the face is.
    """
    cloud, pose = scans.cloud, scans.pose
    clock = -torch.log1p(-random.uniform("looked at", cloud.points.shape[1]))
    clock = torch.where(cloud.valid, clock * face_density(upright), torch.inf)
    looked = clock.topk(count, largest=False).indices
    points, normals, upright = (
        values.gather(1, looked[..., None].expand(-1, -1, 3))
        for values in (cloud.points, cloud.normals, upright)
    )
    valid = cloud.valid.gather(1, looked)
    trimmed = valid & in_head(upright, 1.05)
    trimmed = torch.where(trimmed.sum(1, keepdim=True) >= 100, trimmed, valid)
    valid = torch.where(random.chance("trimmed", 0.5, 1), trimmed, valid)
    off, angle = guessed_turn(random)
    turn = off @ pose.rotation.transpose(1, 2)
    small = normalised(points, valid)
    back = turn.transpose(1, 2)
    nodes_there = pose.apply(scans.vertices[:, nodes])
    turned = (nodes_there - small.center[:, None]) / small.radius[:, None, None] @ back
    guessed = {
        "points": small.points @ back,
        "normals": normals @ back,
        "valid": valid,
        "radius": small.radius,
    }
    return guessed, turned, angle
