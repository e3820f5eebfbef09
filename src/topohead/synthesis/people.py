"""Whole people by number, and portraits of them: shape, expression, skin, teeth, hair and clothes.

Everything is a function of (seed, index). Skin is too dear to paint for every picture, so people
share a pool of looks: a complexion, the hair that goes with it, and teeth. Shape, expression,
light, camera and clothes are drawn apart from the look and from each other.
"""

import itertools
import logging
import math
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

from topohead.core import HeadModel, Strands
from topohead.core.shapes import ExpressionSource
from topohead.geometry.head_field import HeadField
from topohead.rendering.portraits import (
    PortraitHeads,
    Portraits,
    SceneBatch,
    TexturePool,
    each_tensor,
    moved,
)
from topohead.synthesis.canvas import Canvas
from topohead.synthesis.complexions import SkinParameters, random_skin
from topohead.synthesis.datasets import sample_indices
from topohead.synthesis.draws import uniforms
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.grooms import Groom, random_groom, root_color
from topohead.synthesis.hair import STRANDS, scalp_cover
from topohead.synthesis.mixture import SOURCES, Draw
from topohead.synthesis.occluders import Outfits, draw_outfits
from topohead.synthesis.portraits import PortraitScenes, PortraitSettings
from topohead.synthesis.shapes import Shapes, load_shapes
from topohead.synthesis.skin import SkinMaps, paint
from topohead.synthesis.stumps import neck_rim, rim_colors
from topohead.synthesis.teeth import Teeth, has_bands, make_teeth
from topohead.synthesis.whiskers import Whiskers, draw_beard
from topohead.synthesis.wigs import Wigs

log = logging.getLogger(__name__)

SPECULAR_UNIT = 0.08
"""Reflectance at normal incidence of specular level 1."""
AHEAD = 2
"""Batches that are drawn, a thread each, while one is made: a GPU makes 256 in less time."""
SMALL = 256
"""Pixels a side of pictures for which half of the strands do."""
SCALP_COLOR, SCALP_COVER = 0.7, 0.85
"""How dark and how dense the roots of hair are on the skin below."""
MANLY, BEARDED = 0.45, 0.6
"""Share of a woman's shape below which a beard may grow; how many of those with a look that has one
wear it: the others shave."""


@dataclass(frozen=True)
class Looks:
    """Complexions with the hair and the teeth that go with them; all tensors lie on a device.

    `teeth` are as many sets; None without teeth. `whiskers` are brows, lashes and beards as
    strands; None where skin goes with anybody's hair. `necks` are albedo and roughness around the
    neck's rim.
    """

    skins: tuple[SkinParameters, ...]
    grooms: tuple[Groom, ...]
    maps: TexturePool
    wigs: Wigs
    whiskers: Whiskers | None
    teeth: Teeth | None
    necks: Float[Tensor, "N R 4"]

    def __len__(self) -> int:
        return len(self.skins)

    def to(self, device: torch.device | str) -> "Looks":
        """The same on a device."""
        teeth = None if self.teeth is None else self.teeth.to(device)
        whiskers = None if self.whiskers is None else self.whiskers.to(device)
        maps, wigs = moved(self.maps, device), self.wigs.to(device)
        necks = self.necks.to(device)
        return Looks(self.skins, self.grooms, maps, wigs, whiskers, teeth, necks)

    def suiting(
        self, look: Int[Tensor, " B"], man: Bool[Tensor, " B"], chance: Float[np.ndarray, " B"]
    ) -> Int[Tensor, " B"]:
        """The looks, but smooth ones, by chance, for women in whose look is a beard's shadow."""
        shadowed = torch.tensor([skin.stubble > 0 for skin in self.skins])
        smooth = (~shadowed).nonzero()[:, 0]
        if not len(smooth):
            return look
        other = smooth[torch.from_numpy((chance * len(smooth)).astype(np.int64))]
        return torch.where(man | ~shadowed[look], look, other)


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
        self, batch: int, first: int = 0, part: int = 0, parts: int = 1, graph: bool = False
    ) -> Iterator[PortraitBatch]:
        """Endless batches from step `first` on; see `datasets.sample_indices` for parts.

        Threads draw the next batches while this one is made. With `graph`, what a GPU does for a
        batch is recorded once and replayed: thousands of small launches become one.
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


def make_looks(
    head: HeadModel,
    seed: int,
    count: int,
    size: int,
    strands: int,
    points: int,
    rooted: bool = True,
    told: Callable[[int], None] = lambda done: None,
) -> Looks:
    """A pool of `count` looks with maps of `size` texels, painted where the head's template is.

    Hair is `strands` of `points` points a head; few are drawn wider, so that they hide as much.
    Skin that is not `rooted` goes with anybody's hair: it is not darkened where its own stands,
    and brows and lashes are in its picture alone.

    `told` hears how many are done: a look of 512 texels takes seconds on a core.
    """
    texel = Canvas(head).texel(size)
    rim = neck_rim(head.topology)
    skins, grooms, beards, teeth, painted = [], [], [], [], []
    for number in range(count):
        key = seed * 1_000_003 + number
        skin, groom = _matched(random_skin(key), random_groom(key))
        if rooted:
            beard, skin = draw_beard(key, skin, groom)
            beards.append(beard)
        maps = paint(head, replace(skin, hair=0.0), key, size)
        painted.append(with_roots(maps, head, groom, key) if rooted else maps)
        if has_bands(head):
            teeth.append(make_teeth(head, skin, key))
        skins.append(skin)
        grooms.append(groom)
        told(number + 1)
    pool = TexturePool.of(
        torch.stack([maps.albedo for maps in painted]),
        torch.stack([maps.roughness for maps in painted]),
        torch.stack([maps.specular for maps in painted]) / SPECULAR_UNIT,
        torch.stack([_normals(maps.height, texel) for maps in painted]),
    )
    keys = [seed * 1_000_003 + number for number in range(count)]
    field = HeadField.of(head.topology, head.template)
    wigs = Wigs.of(grooms, field, keys, strands, points)
    thick = replace(wigs.strands, widths=wigs.strands.widths * math.sqrt(STRANDS / strands))
    wigs, whiskers = replace(wigs, strands=thick), None
    if rooted:
        whiskers = Whiskers.of(skins, grooms, beards, field, keys, strands, points)
    rows = Teeth.several(teeth) if teeth else None
    necks = [rim_colors(maps.albedo, maps.roughness, head.topology, rim) for maps in painted]
    return Looks(tuple(skins), tuple(grooms), pool, wigs, whiskers, rows, torch.stack(necks))


def _matched(skin: SkinParameters, groom: Groom) -> tuple[SkinParameters, Groom]:
    """Hair as people of such skin and age have it, and brows of its colour."""
    dark = min(skin.melanin / 1.2, 1.0)
    if dark > 0.5:  # fair hair is as rare on dark skin as it is in life
        groom = replace(groom, eumelanin=max(groom.eumelanin, dark))
    groom = replace(groom, grey=groom.grey * min(max((skin.age - 0.2) / 0.4, 0.0), 1.0))
    red, green, blue = (0.85 * root_color(groom)).tolist()
    return replace(skin, hair_color=(red, green, blue)), groom


def with_roots(maps: SkinMaps, head: HeadModel, groom: Groom, seed: int) -> SkinMaps:
    """The maps with the scalp darkened where the hair of this groom and seed stands."""
    size = len(maps.height)
    texels = Canvas(head).tile(size, 0, 0, size, 1)
    color = SCALP_COLOR * root_color(groom).to(maps.albedo)
    scalp = texels.regions["scalp"].clamp(0, 1)
    cover = SCALP_COVER * scalp * scalp_cover(groom, texels.points, seed)
    albedo = maps.albedo.flatten(0, 1).clone()
    albedo[texels.index] = torch.lerp(albedo[texels.index], color.expand(len(cover), 3),
                                      cover[:, None])  # fmt: skip
    return replace(maps, albedo=albedo.view_as(maps.albedo))


def _normals(height: Float[Tensor, "S S"], texel: float) -> Float[Tensor, "S S 3"]:
    """Tangent-space normals of a height map in metres: x along u, y along v."""
    down, across = torch.gradient(height, spacing=texel)
    slope = torch.stack([-across, down, torch.ones_like(height)], -1)  # row 0 is v = 1
    return torch.nn.functional.normalize(slope, dim=-1)
