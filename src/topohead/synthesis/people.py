"""Whole people by number, and portraits of them: shape, expression, skin, teeth, hair and clothes.

Everything is a function of (seed, index). Skin is too dear to paint for every picture, so people
share a pool of looks: a complexion, the hair that goes with it, and teeth. Shape, expression,
light, camera and clothes are drawn apart from the look and from each other.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Strands
from topohead.core.shapes import ExpressionSource
from topohead.rendering.portraits import (
    PortraitHeads,
    Portraits,
    SceneBatch,
    each_tensor,
    moved,
)
from topohead.synthesis.datasets import sample_indices
from topohead.synthesis.draws import uniforms
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.looks import Looks, make_looks
from topohead.synthesis.mixture import SOURCES, Draw
from topohead.synthesis.occluders import Outfits, draw_outfits
from topohead.synthesis.portraits import PortraitScenes, PortraitSettings
from topohead.synthesis.shapes import Shapes, load_shapes

log = logging.getLogger(__name__)

AHEAD = 2
"""Batches that are drawn, a thread each, while one is made: a GPU makes 256 in less time."""
SMALL = 256
"""Pixels a side of pictures for which half of the strands do."""
MANLY, BEARDED = 0.45, 0.6
"""Share of a woman's shape below which a beard may grow; how many of those with a look that has one
wear it: the others shave."""


@dataclass(frozen=True)
class PeopleDraw:
    """All that chance decides about portraits, a row each: drawn on the host, then sent ahead.

    `look` numbers skin and teeth, `wig` the hair; −1 is none. Who is `bearded` wears the beard of
    the skin, if it has one.
    """

    people: Draw
    weights: Float[Tensor, "B K"]
    coefficients: Float[Tensor, "B 52"]
    gaze: Float[Tensor, "B 2 2"]
    look: Int[Tensor, " B"]
    wig: Int[Tensor, " B"]
    bearded: Bool[Tensor, " B"]
    outfits: Outfits | None
    scenes: SceneBatch


@dataclass(frozen=True)
class PortraitBatch:
    """Portraits and all that is known of them; lengths in metres, the head frame is the world.

    `look` numbers the pool. `heads` and `scenes` are what `rendering.portraits.portrait_maps` and
    `portrait_points` take for depth, normals and places of vertices in the pictures.
    """

    pictures: Portraits
    heads: PortraitHeads
    scenes: SceneBatch
    rest: Float[Tensor, "B V 3"]
    coefficients: Float[Tensor, "B 52"]
    gaze: Float[Tensor, "B 2 2"]
    look: Int[Tensor, " B"]


@dataclass(frozen=True)
class PortraitPeople:
    """Portraits by number, made where the shapes, looks and scenes are."""

    shapes: Shapes
    expressions: ExpressionSource
    looks: Looks
    scenes: PortraitScenes
    seed: int

    def at(self, indices: Int[Tensor, " B"]) -> PortraitBatch:
        """The portraits with these numbers; a batch is its samples one by one."""
        return self.made(self.drawn(indices))

    def batches(
        self, batch: int, first: int = 0, part: int = 0, parts: int = 1, graph: bool = True
    ) -> Iterator[PortraitBatch]:
        """Endless batches from step `first` on; see `datasets.sample_indices` for parts.

        Threads draw the next batches while this one is made. With `graph`, what a GPU does for a
        batch is recorded once and replayed, the same bytes: hundreds of small launches become one.
        """
        make: Callable[[PeopleDraw], PortraitBatch] | None = None
        numbers = (sample_indices(step, batch, part, parts) for step in itertools.count(first))
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting = deque(pool.submit(self._drawn_ahead, next(numbers)) for _ in range(AHEAD))
            while True:
                drawn = waiting.popleft().result()
                waiting.append(pool.submit(self._drawn_ahead, next(numbers)))
                if make is None:
                    make = recorded(self, drawn) if graph else self.made
                yield make(drawn)

    def drawn(self, indices: Int[Tensor, " B"]) -> PeopleDraw:
        """What chance decides about the portraits with these numbers."""
        look = self.looks_of(indices)
        return self.composed(indices, indices, indices, look, look)

    def looks_of(self, person: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The looks of people, of the pool."""
        part = uniforms(self.seed, person.cpu().numpy(), "look", 1)[:, 0]
        return torch.from_numpy((part * len(self.looks)).astype(np.int64))

    def composed(
        self,
        person: Int[Tensor, " B"],
        face: Int[Tensor, " B"],
        scene: Int[Tensor, " B"],
        look: Int[Tensor, " B"],
        wig: Int[Tensor, " B"],
    ) -> PeopleDraw:
        """Rows of any people, expressions and scenes by number, in skin and hair of the pool.

        Clothes are the person's. Women do not get a look with a beard's shadow, nor a wig that
        goes with it.
        """
        numbers, row = person.cpu().unique(return_inverse=True)
        people = self.shapes.people(self.seed, numbers)
        people = Draw(*(part[row.numpy()] for part in vars(people).values()))
        part = uniforms(self.seed, person.cpu().numpy(), "whiskers", 3)
        man = torch.from_numpy(self._manly(people, part[:, 0]))
        if self.looks.whiskers is not None:
            own, look = wig == look, self.looks.suiting(look, man, part[:, 2])
            wig = torch.where(own, look, wig)
        bearded = man & torch.from_numpy(part[:, 1] < BEARDED)
        coefficients, gaze = self.expressions(self.seed, face.cpu())
        worn = None
        if self.scenes.wardrobe is not None:
            worn = draw_outfits(self.seed, person.tolist())
        weights = torch.from_numpy(people.weights).float()
        scenes = self.scenes.draw(self.seed, scene.tolist())
        return PeopleDraw(people, weights, coefficients, gaze, look, wig, bearded, worn, scenes)

    def made(self, drawn: PeopleDraw) -> PortraitBatch:
        """The portraits of a draw; nothing in it waits for a GPU."""
        drawn = moved(drawn, self._device)
        heads = self.shapes.made(drawn.people, drawn.weights)
        posed = heads.posed(drawn.coefficients, drawn.gaze)
        hair = self.looks.wigs.worn(drawn.wig.clamp(min=0), heads.rest, posed)
        hair = replace(hair, widths=hair.widths * (drawn.wig >= 0)[:, None, None])
        if self.looks.whiskers is not None:
            face = self.looks.whiskers.worn(drawn.look, drawn.bearded, posed)
            hair = Strands.joined(hair, face)
        teeth = self._teeth(drawn.look, heads.rest, posed)
        neck = self.looks.necks[drawn.look]
        dressed = self.scenes.dress(posed, drawn.look, hair, drawn.outfits, teeth, neck)
        pictures = self.scenes.render(drawn.scenes, dressed, self.looks.maps)
        return PortraitBatch(
            pictures, dressed, drawn.scenes, heads.rest, drawn.coefficients, drawn.gaze, drawn.look
        )

    def _drawn_ahead(self, indices: Int[Tensor, " B"]) -> PeopleDraw:
        drawn = self.drawn(indices)
        # from pinned memory tensors are sent without waiting for what runs on the GPU
        return each_tensor(drawn, Tensor.pin_memory) if self._device.type == "cuda" else drawn

    def _manly(self, people: Draw, chance: Float[np.ndarray, " B"]) -> Bool[np.ndarray, " B"]:
        """Whose shape is a man's; ICT-FaceKit does not tell, so `chance` does."""
        female = people.weights[:, self._female].sum(1)
        return np.where(people.source == SOURCES.index("ict"), chance < 0.5, female < MANLY)

    @cached_property
    def _female(self) -> Int[np.ndarray, " K"]:
        """Weights of a shape that say how much of a woman's it is."""
        space = self.shapes.space
        named = space.named("control")
        races = tuple(f"/{race}-female-" for race in ("african", "asian", "caucasian"))
        rows = [k for k, name in enumerate(named) if any(race in name for race in races)]
        return np.array(rows) + space.groups["control"].start

    @property
    def _device(self) -> torch.device:
        return self.shapes.space.rows.device

    def _teeth(
        self, look: Int[Tensor, " B"], rest: Float[Tensor, "B V 3"], posed: Float[Tensor, "B V 3"]
    ) -> tuple[Tensor, Tensor] | None:
        if self.looks.teeth is None:
            return None
        sets = self.looks.teeth.chosen(look)
        tint = torch.cat([sets.colors, sets.roughness[..., None]], -1)
        if rest.is_cuda:
            return sets.placed(rest, posed), tint
        # one by one: matrix products may round a head of a batch and a head alone differently
        ones = (slice(k, k + 1) for k in range(len(look)))
        alone = [self.looks.teeth.chosen(look[k]).placed(rest[k], posed[k]) for k in ones]
        return torch.cat(alone), tint


def recorded(people: PortraitPeople, example: PeopleDraw) -> Callable[[PeopleDraw], PortraitBatch]:
    """`people.made` for draws as large as the example, on CUDA as a graph; results are copies.

    What cannot be recorded is made call by call, with a warning.
    """
    device = people.shapes.space.rows.device
    if device.type != "cuda":
        return people.made
    static = each_tensor(moved(example, device), Tensor.clone)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):  # kernels are compiled, constants sent
            people.made(static)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # the thread that draws ahead pins memory meanwhile, which is none of the graph's business
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            made = people.made(static)
    except RuntimeError as error:
        log.warning("no CUDA graph (%s); people are made call by call", str(error).split("\n")[0])
        return people.made

    def replayed(drawn: PeopleDraw) -> PortraitBatch:
        for place, value in zip(_tensors(static), _tensors(drawn), strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return each_tensor(made, Tensor.clone)

    return replayed


def _tensors(data: PeopleDraw) -> list[Tensor]:
    found: list[Tensor] = []

    def kept(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each_tensor(data, kept)
    return found


def load_people(
    seed: int,
    size: tuple[int, int] = (256, 256),
    looks: int = 64,
    texture_size: int = 512,
    device: torch.device | str = "cpu",
    ict: Path | None = None,
    settings: PortraitSettings | None = None,
    rooted: bool = True,
    dressed: bool = True,
    hair: tuple[int, int] | None = None,
    told: Callable[[int], None] = lambda done: None,
) -> PortraitPeople:
    """The people of a seed on the reference head, ready to be portrayed on a device.

    Which seeds are whose: `synthesis.splits`. Looks are painted on the CPU first, seconds each.
    Small pictures have half of the strands, drawn wider. `rooted`: see `make_looks`; who is not
    `dressed` wears nothing; `hair` is another number of strands, and of points of each.
    """
    shapes = load_shapes("cpu", ict)
    strands, points = hair or ((2048, 12) if max(size) <= SMALL else (4096, 16))
    pool = make_looks(shapes.head, seed, looks, texture_size, strands, points, rooted, told)
    rows = None if pool.teeth is None else pool.teeth.topology
    scenes = PortraitScenes.of(
        shapes.topology, size, settings, dressed=dressed, teeth=rows, closed=True
    )
    if str(device) != "cpu":
        shapes = load_shapes(device, ict)
    return PortraitPeople(shapes, draw_expressions, pool.to(device), scenes.to(device), seed)
