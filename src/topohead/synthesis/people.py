"""Whole people by number, and portraits of them: shape, expression, skin, teeth, hair and clothes.

Everything is a function of (seed, index). Skin is too dear to paint for every picture, so people
share a pool of looks: a complexion, the hair that goes with it, and teeth. Shape, expression,
light, camera and clothes are drawn apart from the look and from each other.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import HeadModel
from topohead.core.shapes import ExpressionSource, ShapeSource
from topohead.geometry.head_field import HeadField
from topohead.io.shards import write_shards
from topohead.rendering.portraits import PortraitHeads, Portraits, SceneBatch, TexturePool, moved
from topohead.synthesis.canvas import Canvas
from topohead.synthesis.complexions import SkinParameters, random_skin
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.grooms import Groom, random_groom, root_color
from topohead.synthesis.hair import STRANDS, grow, scalp_cover
from topohead.synthesis.occluders import Outfits, draw_outfits
from topohead.synthesis.portraits import PortraitScenes, PortraitSettings
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.skin import SkinMaps, paint
from topohead.synthesis.teeth import Teeth, has_bands, make_teeth

SPECULAR_UNIT = 0.08
"""Reflectance at normal incidence of specular level 1."""
SMALL = 256
"""Pixels a side of pictures for which half of the strands do."""
SCALP_COLOR, SCALP_COVER = 0.7, 0.72
"""How dark and how dense the roots of hair are on the skin below."""


@dataclass(frozen=True)
class Looks:
    """Complexions with the hair and the teeth that go with them; maps lie on a device.

    `tint` is linear albedo and roughness at the vertices of the teeth; None without teeth.
    """

    skins: tuple[SkinParameters, ...]
    grooms: tuple[Groom, ...]
    maps: TexturePool
    teeth: tuple[Teeth, ...]
    tint: Float[Tensor, "N T 4"] | None

    def __len__(self) -> int:
        return len(self.skins)


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
    """Portraits by number, made where the shapes, looks, scenes and field are.

    `strands` of `points` points a head; fewer are drawn wider, and that does for small pictures.
    """

    shapes: ShapeSource
    expressions: ExpressionSource
    looks: Looks
    scenes: PortraitScenes
    field: HeadField
    seed: int
    strands: int
    points: int

    def at(self, indices: Int[Tensor, " B"]) -> PortraitBatch:
        """The portraits with these numbers; a batch is its samples one by one."""
        numbers = [int(index) for index in indices]
        heads = self.shapes.draw(self.seed, torch.tensor(numbers))
        coefficients, gaze = self.expressions(self.seed, torch.tensor(numbers))
        posed, device = heads.posed(coefficients, gaze), heads.rest.device
        look = [self._look(index) for index in numbers]
        keys = [self.seed * 1_000_003 + index for index in numbers]
        # on the head at rest: faces move the scalp by less than hair is off (in 64 of them a
        # tenth of a millimetre mostly, 1.15 at most)
        hair = grow([self.looks.grooms[k] for k in look], self.field, heads.rest, keys,
                    self.strands, self.points)  # fmt: skip
        hair = replace(hair, widths=hair.widths * math.sqrt(STRANDS / self.strands))  # same cover
        chosen = torch.tensor(look, device=device)
        teeth = self._teeth(look, heads.rest, posed)
        dressed = self.scenes.dress(posed, chosen, hair, self._outfits(numbers, device), teeth)
        scenes = moved(self.scenes.draw(self.seed, numbers), device)
        pictures = self.scenes.render(scenes, dressed, self.looks.maps)
        return PortraitBatch(pictures, dressed, scenes, heads.rest, coefficients, gaze, chosen)

    def _look(self, index: int) -> int:
        return int(np.random.default_rng([self.seed, 67, index]).integers(len(self.looks)))

    def _outfits(self, numbers: list[int], device: torch.device) -> Outfits | None:
        if self.scenes.wardrobe is None:
            return None
        return moved(draw_outfits(self.seed, numbers), device)

    def _teeth(
        self, look: list[int], rest: Float[Tensor, "B V 3"], posed: Float[Tensor, "B V 3"]
    ) -> tuple[Tensor, Tensor] | None:
        if self.looks.tint is None:
            return None
        rows = [
            self.looks.teeth[k].placed(rest[at].cpu(), posed[at].cpu()) for at, k in enumerate(look)
        ]
        return torch.stack(rows).to(rest), self.looks.tint[look]


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
    """
    shapes = load_shapes("cpu", ict)
    pool = make_looks(shapes.head, seed, looks, texture_size, told)
    rows = pool.teeth[0].topology if pool.teeth else None
    scenes = PortraitScenes.of(shapes.topology, size, settings, teeth=rows)
    field = HeadField.of(shapes.topology, shapes.head.template)
    if str(device) != "cpu":
        shapes = load_shapes(device, ict)
        tint = None if pool.tint is None else pool.tint.to(device)
        pool = replace(pool, maps=moved(pool.maps, device), tint=tint)
    hair = (2048, 12) if max(size) <= SMALL else (4096, 16)
    return PortraitPeople(
        shapes, draw_expressions, pool, scenes.to(device), field.to(device), seed, *hair
    )


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
    told: Callable[[int], None] = lambda done: None,
) -> Looks:
    """A pool of `count` looks with maps of `size` texels, painted where the head's template is.

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
    tint = None
    if teeth:
        rows = [torch.cat([one.colors, one.roughness[:, None]], 1) for one in teeth]
        tint = torch.stack(rows).to(head.template)
    return Looks(tuple(skins), tuple(grooms), pool, tuple(teeth), tint)


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
