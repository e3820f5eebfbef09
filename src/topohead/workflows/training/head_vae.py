"""The autoencoder of heads as a training task: data and loss."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topohead.core.shapes import ExpressionSource
from topohead.geometry.subdivision import Parents, catmull_clark
from topohead.losses.head_vae import head_vae_loss
from topohead.losses.registration import loss_surface
from topohead.models.head_queries import subdivided
from topohead.models.head_vae import VaeSize, head_vae
from topohead.models.linear import LinearHead
from topohead.models.scan_pose import rotation_from_6d
from topohead.solvers.training import Losses, Schedule, Task
from topohead.synthesis.attributes import ATTRIBUTES
from topohead.synthesis.datasets import (
    BentPeople,
    PosedPeople,
    pooled,
    sample_indices,
    smooth_fields,
)
from topohead.synthesis.device_draws import Draws, draws
from topohead.synthesis.shapes import Shapes
from topohead.synthesis.splits import check_split
from topohead.workflows.training.graphs import captured
from topohead.workflows.training.head_vae_scores import Scorer

NUDGED, DEGREES, MM, SIZE = 0.25, 5.0, 5.0, 0.05
"""Share of heads that are moved, and by at most how much about and along each axis and in size.

Registered heads lie in the head frame only about, and a region of one head that is put onto another
is moved there first.
"""

SHARES = 16
"""A step asks for one vertex in so many of level 1, each step for others."""


LABELS = len(ATTRIBUTES)


@dataclass(frozen=True)
class Preset:
    """Sizes of network and schedule.

    `pool` people are made before training; `tested` are held out; `fitted` of the pool are what
    the latent's statistics, its directions and the linear model beside it are fitted to.
    """

    size: VaeSize
    schedule: Schedule
    pool: int
    tested: int
    fitted: int


PRESETS: Mapping[str, Preset] = {
    "xs": Preset(
        VaeSize(64, 8, 24, 32, 1, 4, 8, 48, 8, LABELS),
        Schedule(steps=150, batch=8, rate=1e-2, warmup=10, average=0.98, told=10, validated=50),
        pool=64,
        tested=8,
        fitted=64,
    ),
    "s": Preset(
        VaeSize(labels=LABELS),
        Schedule(steps=24_000, batch=256, rate=2e-3, warmup=300, told=50, validated=1000),
        pool=49_000,  # no multiple of the batch, so heads meet others every time round
        tested=512,
        fitted=6144,
    ),
    "l": Preset(
        VaeSize(512, 32, 128, 256, 6, 10, 96, 512, 64, LABELS),
        Schedule(steps=100_000, batch=512, rate=1e-3, warmup=2000, average=0.9995, validated=5000),
        pool=262_000,
        tested=2048,
        fitted=32_768,
    ),
}
"""xs is for tests and takes seconds on a CPU, s is what ships, l is for several GPUs."""


@dataclass(frozen=True)
class Sample:
    """Heads, the noise of their tokens, and which vertices of level 1 are asked for."""

    vertices: Float[Tensor, "B V 3"]
    noise: Float[Tensor, "B N C"]
    rows: Int[Tensor, " Q"]


def head_vae_task(preset: str, seed: int, device: torch.device) -> Task:
    """The autoencoder on heads of the reference head's population, half of them in motion."""
    chosen = PRESETS[preset]
    check_split(seed, "train")
    if device.type == "cuda":
        # ten bits of mantissa are 0.01 mm of a displacement, and five times as quick
        torch.set_float32_matmul_precision("high")
    head, shapes, expressions = population(device)
    made_before = pooled(PosedPeople(shapes, expressions, seed), chosen.pool, device, 1024)
    people = BentPeople(made_before, smooth_fields(shapes.space), seed)
    torch.manual_seed(seed)
    network = head_vae(chosen.size, head).to(device)
    knows = loss_surface(head.topology, head.topology.landmarks["ibug68"]).to(device)
    _, matrix = catmull_clark(head.topology)
    asked = subdivided(network.queries.to("cpu"), matrix)
    parents, points = Parents.of(matrix).to(device), asked.to(device)
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))
    shares = order[: len(order) // SHARES * SHARES].view(SHARES, -1).to(device)

    def make(numbers: Tensor) -> Sample:
        random = draws(seed, numbers)
        vertices, _ = people.at(numbers)
        noise = random.normal("noise", chosen.size.nodes, chosen.size.channels)
        share = torch.div(numbers[:1], chosen.schedule.batch, rounding_mode="floor") % SHARES
        return Sample(nudged(vertices, random), noise, shares[share][0])

    made: dict[tuple[int, int], Callable[[int], Sample]] = {}

    def batch(step: int, part: int, parts: int) -> Sample:
        def numbers_of(step: int) -> Tensor:
            return sample_indices(step, chosen.schedule.batch, part, parts, device)

        if (part, parts) not in made:
            made[part, parts] = captured(make, numbers_of)
        return made[part, parts](step)

    def loss(network: nn.Module, sample: Sample) -> Losses:
        queries, finer = points[sample.rows], parents[sample.rows]
        posterior, found = network(sample.vertices, sample.noise, vars(queries))
        truth = finer.places(sample.vertices)
        return head_vae_loss(posterior, found, sample.vertices, truth, knows)

    fitted = made_before.vertices[: chosen.fitted]
    scorer = Scorer(shapes, expressions, seed, fitted, points, parents)
    return Task(
        network,
        chosen.schedule,
        batch,
        loss,
        lambda network: scorer.validate(network, min(256, chosen.tested)),
        lambda network: scorer.evaluate(network, chosen.tested),
        {"size": chosen.size.plain(), "labels": list(ATTRIBUTES)},
    )


def population(device: torch.device) -> tuple[LinearHead, Shapes, ExpressionSource]:
    """The reference head, its people on a device, and their expressions."""
    from topohead.io.assets import reference_head
    from topohead.synthesis.expressions import draw_expressions
    from topohead.synthesis.shapes import load_shapes

    return reference_head(0), load_shapes(device), draw_expressions


def nudged(vertices: Float[Tensor, "B V 3"], random: Draws) -> Float[Tensor, "B V 3"]:
    """`NUDGED` of the heads turned, sized and moved a little."""
    moved = random.chance("nudged", NUDGED, 1).to(vertices)
    turn = math.radians(DEGREES) * random.between("nudge turn", -1, 1, 6) * moved
    rotation = rotation_from_6d(turn + torch.eye(3, device=turn.device)[:2].flatten())
    scale = 1 + SIZE * random.between("nudge size", -1, 1, 1) * moved
    shift = MM / 1e3 * random.between("nudge shift", -1, 1, 3) * moved
    return scale[..., None] * (vertices @ rotation.transpose(1, 2)) + shift[:, None]
