"""Whole people by number, and portraits of them: shape, expression, skin, teeth, hair and clothes.

Everything is a function of (seed, index). Skin is too dear to paint for every picture, so people
share a pool of looks: a complexion, the hair that goes with it, and teeth. Shape, expression,
light, camera and clothes are drawn apart from the look and from each other.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import HeadModel
from topohead.core.shapes import ExpressionSource
from topohead.geometry.head_field import HeadField
from topohead.io.shards import write_shards
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
from topohead.synthesis.mixture import Draw
from topohead.synthesis.occluders import Outfits, draw_outfits
from topohead.synthesis.portraits import PortraitScenes, PortraitSettings
from topohead.synthesis.shapes import Shapes, load_shapes
from topohead.synthesis.skin import SkinMaps, paint
from topohead.synthesis.teeth import Teeth, has_bands, make_teeth
from topohead.synthesis.wigs import Wigs

SPECULAR_UNIT = 0.08
"""Reflectance at normal incidence of specular level 1."""
SMALL = 256
"""Pixels a side of pictures for which half of the strands do."""
SCALP_COLOR, SCALP_COVER = 0.7, 0.72
"""How dark and how dense the roots of hair are on the skin below."""


@dataclass(frozen=True)
class Looks:
    """Complexions with the hair and the teeth that go with them; all tensors lie on a device.

    `teeth` are as many sets; None without teeth.
    """

    skins: tuple[SkinParameters, ...]
    grooms: tuple[Groom, ...]
    maps: TexturePool
    wigs: Wigs
    teeth: Teeth | None

    def __len__(self) -> int:
        return len(self.skins)

    def to(self, device: torch.device | str) -> "Looks":
        """The same on a device."""
        teeth = None if self.teeth is None else self.teeth.to(device)
        maps, wigs = moved(self.maps, device), self.wigs.to(device)
        return replace(self, maps=maps, wigs=wigs, teeth=teeth)


@dataclass(frozen=True)
class PeopleDraw:
    """All that chance decides about numbered portraits: drawn on the host, then sent ahead."""

    people: Draw
    weights: Float[Tensor, "B K"]
    coefficients: Float[Tensor, "B 52"]
    gaze: Float[Tensor, "B 2 2"]
    look: Int[Tensor, " B"]
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
        self, batch: int, first: int = 0, part: int = 0, parts: int = 1
    ) -> Iterator[PortraitBatch]:
        """Endless batches from step `first` on; see `datasets.sample_indices` for parts.

        A thread draws the next batch while this one is made.
        """
        numbers = (sample_indices(step, batch, part, parts) for step in itertools.count(first))
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.drawn, next(numbers))
            while True:
                drawn, ahead = ahead.result(), pool.submit(self.drawn, next(numbers))
                yield self.made(drawn)

    def drawn(self, indices: Int[Tensor, " B"]) -> PeopleDraw:
        """What chance decides about the portraits with these numbers."""
        numbers = indices.cpu().numpy()
        people = self.shapes.people(self.seed, indices.cpu())
        coefficients, gaze = self.expressions(self.seed, torch.from_numpy(numbers))
        look = uniforms(self.seed, numbers, "look", 1)[:, 0] * len(self.looks)
        order = numbers.tolist()
        drawn = PeopleDraw(
            people,
            torch.from_numpy(people.weights).float(),
            coefficients,
            gaze,
            torch.from_numpy(look.astype(np.int64)),
            None if self.scenes.wardrobe is None else draw_outfits(self.seed, order),
            self.scenes.draw(self.seed, order),
        )
        return each_tensor(drawn, Tensor.pin_memory) if self._device.type == "cuda" else drawn

    def made(self, drawn: PeopleDraw) -> PortraitBatch:
        """The portraits of a draw; nothing in it waits for a GPU."""
        drawn = moved(drawn, self._device)
        heads = self.shapes.made(drawn.people, drawn.weights)
        posed = heads.posed(drawn.coefficients, drawn.gaze)
        hair = self.looks.wigs.worn(drawn.look, heads.rest, posed)
        dressed = self.scenes.dress(
            posed, drawn.look, hair, drawn.outfits, self._teeth(drawn.look, heads.rest, posed)
        )
        pictures = self.scenes.render(drawn.scenes, dressed, self.looks.maps)
        return PortraitBatch(
            pictures, dressed, drawn.scenes, heads.rest, drawn.coefficients, drawn.gaze, drawn.look
        )

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


def load_people(
    seed: int,
    size: tuple[int, int] = (256, 256),
    looks: int = 64,
    texture_size: int = 512,
    device: torch.device | str = "cpu",
    ict: Path | None = None,
    settings: PortraitSettings | None = None,
    told: Callable[[int], None] = lambda done: None,
) -> PortraitPeople:
    """The people of a seed on the reference head, ready to be portrayed on a device.

    Which seeds are whose: `synthesis.splits`. Looks are painted on the CPU first, seconds each.
    Small pictures have a quarter of the strands, drawn wider.
    """
    shapes = load_shapes("cpu", ict)
    hair = (2048, 12) if max(size) <= SMALL else (4096, 16)
    pool = make_looks(shapes.head, seed, looks, texture_size, *hair, told)
    rows = None if pool.teeth is None else pool.teeth.topology
    scenes = PortraitScenes.of(shapes.topology, size, settings, teeth=rows)
    if str(device) != "cpu":
        shapes = load_shapes(device, ict)
    return PortraitPeople(shapes, draw_expressions, pool.to(device), scenes.to(device), seed)


def write_portraits(
    folder: Path, people: PortraitPeople, count: int, size: int = 1024
) -> Iterator[Path]:
    """Portraits 0 to `count` − 1 as WebDataset shards, for training elsewhere; yields their paths.

    A sample is `portrait.png` with alpha, `label.png`, and as .npy the neutral vertices, ARKit-52
    coefficients, gaze, world_to_camera and intrinsics; `sample.json` says seed, number, look and
    the complexion's parameters.
    """

    def sample(index: int) -> dict[str, Any]:
        made = people.at(torch.tensor([index]))
        look = int(made.look[0])
        codes = made.pictures.codes[0].cpu().numpy()
        alpha = (made.pictures.alpha[0] * 255).round().to(torch.uint8).cpu().numpy()
        label = made.pictures.label[0].to(torch.uint8).cpu().numpy()
        arrays = {
            "vertices": made.rest[0],
            "coefficients": made.coefficients[0],
            "gaze": made.gaze[0],
            "world_to_camera": made.scenes.world_to_camera[0],
            "intrinsics": made.scenes.intrinsics[0],
        }
        stored = {name: value.cpu().numpy() for name, value in arrays.items()}
        told = {"seed": people.seed, "index": index, "look": look}
        skin = asdict(people.looks.skins[look])
        pictures = {
            "portrait.png": _png(np.dstack([codes[..., ::-1], alpha])),
            "label.png": _png(label),
        }
        return pictures | stored | {"sample": told | {"skin": skin}}

    return write_shards(folder, count, sample, size)


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def make_looks(
    head: HeadModel,
    seed: int,
    count: int,
    size: int,
    strands: int,
    points: int,
    told: Callable[[int], None] = lambda done: None,
) -> Looks:
    """A pool of `count` looks with maps of `size` texels, painted where the head's template is.

    Hair is `strands` of `points` points a head; few are drawn wider, so that they hide as much.

    `told` hears how many are done: a look of 512 texels takes seconds on a core.
    """
    texel = Canvas(head).texel(size)
    skins, grooms, teeth, painted = [], [], [], []
    for number in range(count):
        key = seed * 1_000_003 + number
        skin = random_skin(key)
        groom = random_groom(key)
        dark = min(skin.melanin / 1.2, 1.0)
        if dark > 0.5:  # fair hair is as rare on dark skin as it is in life
            groom = replace(groom, eumelanin=max(groom.eumelanin, dark))
        maps = paint(head, replace(skin, hair=0.0), key, size)
        painted.append(with_roots(maps, head, groom, key))
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
    wigs = Wigs.of(grooms, HeadField.of(head.topology, head.template), keys, strands, points)
    thick = replace(wigs.strands, widths=wigs.strands.widths * math.sqrt(STRANDS / strands))
    rows = Teeth.several(teeth) if teeth else None
    return Looks(tuple(skins), tuple(grooms), pool, replace(wigs, strands=thick), rows)


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
