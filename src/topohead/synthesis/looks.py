"""A pool of looks that made people share: complexions, the hair that goes with them, and teeth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import HeadModel
from topohead.geometry.head_field import HeadField
from topohead.rendering.portraits import TexturePool, moved
from topohead.rendering.threads import side_by_side
from topohead.synthesis.canvas import Canvas
from topohead.synthesis.complexions import SkinParameters, random_skin
from topohead.synthesis.grooms import BROWS_GREY, Groom, aged_color, random_groom
from topohead.synthesis.hair import scalp_cover
from topohead.synthesis.skin import SkinMaps, paint
from topohead.synthesis.stumps import neck_rim, rim_colors
from topohead.synthesis.teeth import Teeth, has_bands, make_teeth
from topohead.synthesis.whiskers import Whiskers, draw_beard
from topohead.synthesis.wigs import Wigs

SPECULAR_UNIT = 0.08
"""Reflectance at normal incidence of specular level 1."""
SCALP_COLOR, SCALP_COVER = 0.7, 0.85
"""How dark and how dense the roots of hair are on the skin below."""


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
class _Look:
    """One of a pool."""

    skin: SkinParameters
    groom: Groom
    maps: SkinMaps
    neck: Float[Tensor, "R 4"]
    teeth: Teeth | None
    wig: Wigs
    whiskers: Whiskers | None


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

    `told` hears how many are done: a look of 512 texels takes seconds on a core; as many are made
    at a time as PyTorch may use cores.
    """
    canvas, rim = Canvas(head, kept=True), neck_rim(head.topology)
    keys = [seed * 1_000_003 + number for number in range(count)]
    field = HeadField.of(head.topology, head.template)

    def made(key: int) -> _Look:
        skin, groom = matched(random_skin(key), random_groom(key))
        beard = None
        if rooted:
            beard, skin = draw_beard(key, skin, groom)
        maps = paint(head, replace(skin, hair=0.0), key, size, canvas=canvas)
        if rooted:
            maps = with_roots(maps, canvas, groom, key)
        return _Look(
            skin,
            groom,
            maps,
            rim_colors(maps.albedo, maps.roughness, head.topology, rim),
            make_teeth(head, skin, key) if has_bands(head) else None,
            Wigs.of([groom], field, [key], strands, points),
            Whiskers.of([skin], [groom], [beard], field, [key], strands, points) if beard else None,
        )

    looks: list[_Look] = []
    with side_by_side(count) as each:
        for look in each(made, keys):
            looks.append(look)
            told(len(looks))
    pool = texture_pool([look.maps for look in looks], canvas.texel(size))
    wigs = Wigs.several([look.wig for look in looks])
    whiskers = [look.whiskers for look in looks if look.whiskers is not None]
    rows = [look.teeth for look in looks if look.teeth is not None]
    return Looks(
        tuple(look.skin for look in looks), tuple(look.groom for look in looks), pool,
        wigs, Whiskers.several(whiskers) if whiskers else None,
        Teeth.several(rows) if rows else None, torch.stack([look.neck for look in looks]),
    )  # fmt: skip


def texture_pool(maps: Sequence[SkinMaps], texel: float) -> TexturePool:
    """Painted skins as portraits read them; `texel` is the side of one in metres."""
    return TexturePool.of(
        torch.stack([one.albedo for one in maps]),
        torch.stack([one.roughness for one in maps]),
        torch.stack([one.specular for one in maps]) / SPECULAR_UNIT,
        torch.stack([_normals(one.height, texel) for one in maps]),
    )


def matched(skin: SkinParameters, groom: Groom) -> tuple[SkinParameters, Groom]:
    """Hair as people of such skin and age have it, and brows of its colour."""
    dark = min(skin.melanin / 1.2, 1.0)
    if dark > 0.5:  # fair hair is as rare on dark skin as it is in life
        groom = replace(groom, eumelanin=max(groom.eumelanin, dark))
    groom = replace(groom, grey=groom.grey * min(max((skin.age - 0.2) / 0.4, 0.0), 1.0))
    red, green, blue = (0.85 * aged_color(groom, BROWS_GREY)).tolist()
    return replace(skin, hair_color=(red, green, blue)), groom


def with_roots(maps: SkinMaps, canvas: Canvas, groom: Groom, seed: int) -> SkinMaps:
    """The maps with the scalp darkened where the hair of this groom and seed stands."""
    size = len(maps.height)
    texels = canvas.tile(size, 0, 0, size, 1)
    color = SCALP_COLOR * aged_color(groom).to(maps.albedo)
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
