"""Procedural skin to 8K: the maps of one person, for any head with named regions.

Everything is a function of a texel's place on the template head, not of its UV, so seams do not
show and any layout or size gives the same skin. Maps are painted tile by tile where the template's
tensors are; what a tile holds depends neither on its size nor on the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import HeadModel
from topohead.rendering.fields import Fields
from topohead.synthesis import charts, folds, linings, pigments, relief
from topohead.synthesis.canvas import APRON, Canvas, Texels
from topohead.synthesis.complexions import SkinParameters, random_skin
from topohead.synthesis.facial_areas import Areas, template_landmarks
from topohead.synthesis.hair_marks import HairMarks
from topohead.synthesis.irises import paint_globe

__all__ = [
    "SkinMaps",
    "SkinParameters",
    "Tile",
    "bare_albedo",
    "paint",
    "paint_tiles",
    "random_skin",
]

TILE = {"cpu": 512, "cuda": 2048}
"""Side in samples of the squares that are painted at a time: caches here, many lanes there."""

FINE = 0.00030
"""Metres between samples that show a hair or a pore: coarser maps are means of 2×2 samples."""

CHANNELS = ("albedo", "roughness", "height", "specular")


@dataclass(frozen=True)
class SkinMaps:
    """Maps of one person in the topology's UVs, row 0 at v = 1.

    Linear albedo, perceptual roughness (GGX alpha is its square), height in metres over the smooth
    head, reflectance at normal incidence, and where texels lie on the surface; all continue beyond
    the charts' borders.
    """

    albedo: Float[Tensor, "S W 3"]
    roughness: Float[Tensor, "S W"]
    height: Float[Tensor, "S W"]
    covered: Bool[Tensor, "S W"]
    specular: Float[Tensor, "S W"]

    def to(self, device: torch.device | str) -> "SkinMaps":
        """The same maps on another device."""
        return SkinMaps(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Tile:
    """A square of the maps, its first row and column, and what is known in it (charts, margins)."""

    row: int
    column: int
    maps: SkinMaps
    known: Bool[Tensor, "S W"]


def paint(
    head: HeadModel,
    parameters: SkinParameters,
    seed: int,
    size: int,
    stars: tuple[charts.Chart, ...] = (),
    expression: Float[Tensor, " 52"] | None = None,
    canvas: Canvas | None = None,
) -> SkinMaps:
    """The maps of one person, `size` texels square, with resolution charts on top.

    An `expression` (ARKit-52) deepens the lines that its actions fold. On the template's device.
    Many skins may share the head's `canvas`.
    """
    device = head.template.device
    whole = SkinMaps(
        torch.zeros(size, size, 3, device=device),
        torch.zeros(size, size, device=device),
        torch.zeros(size, size, device=device),
        torch.zeros(size, size, dtype=torch.bool, device=device),
        torch.zeros(size, size, device=device),
    )
    known = torch.zeros(size, size, dtype=torch.bool, device=device)
    for tile in paint_tiles(head, parameters, seed, size, stars, expression, canvas=canvas):
        side = len(tile.known)
        place = (slice(tile.row, tile.row + side), slice(tile.column, tile.column + side))
        known[place] = tile.known
        for field in fields(SkinMaps):
            getattr(whole, field.name)[place] = getattr(tile.maps, field.name)
    for name in CHANNELS:
        _fill(getattr(whole, name), known)
    return whole


def paint_tiles(
    head: HeadModel,
    parameters: SkinParameters,
    seed: int,
    size: int,
    stars: tuple[charts.Chart, ...] = (),
    expression: Float[Tensor, " 52"] | None = None,
    side: int | None = None,
    part: tuple[range, range] | None = None,
    canvas: Canvas | None = None,
) -> Iterator[Tile]:
    """The maps tile by tile, so that a map of any size takes the memory of one tile.

    Tiles are at most `side` texels square; zero where nothing is known. Only those that reach into
    `part` (rows, columns) are painted.
    """
    canvas = canvas or Canvas(head)
    samples = 1 if canvas.texel(size) < FINE else 2
    side = TILE[head.template.device.type] // samples if side is None else side
    painter = _Painter(head, parameters, seed, canvas.texel(size * samples), stars, expression)
    for row in range(0, size, side):
        for column in range(0, size, side):
            if part and not _touches(part, row, column, side):
                continue
            # a border around the tile, so that margins do not end with it
            texels = canvas.tile(size, row - APRON, column - APRON, side + 2 * APRON, samples)
            values = _averaged(texels, painter.values(texels), samples)
            inner = slice(APRON, APRON + side)
            values = values[inner, inner][: size - row, : size - column]
            yield _tile(row, column, values)


def bare_albedo(head: HeadModel, parameters: SkinParameters, seed: int) -> Float[Tensor, "N 3"]:
    """Linear albedo at the vertices of the face without lips, lids, brows and hair."""
    topology = head.topology
    away = [name for name in ("lips", "eyelids", "brows") if name in topology.regions]
    chosen = topology.region_mask("face") & ~topology.region_mask(*away)
    p = head.template[chosen.to(head.template.device)].float()
    covered = torch.ones(1, len(p), dtype=torch.bool)
    texels = Texels(p, {}, torch.arange(len(p)), covered, 0.0)
    noise = Fields(seed)
    areas = Areas.of(texels, template_landmarks(head))
    depth = pigments.optical_depth(texels, areas, noise, parameters)
    return pigments.albedo_of(depth, parameters.scatter)


def _touches(part: tuple[range, range], row: int, column: int, side: int) -> bool:
    rows, columns = part
    down = row < rows.stop and row + side > rows.start
    return down and column < columns.stop and column + side > columns.start


def _tile(row: int, column: int, values: Float[Tensor, "S W 8"]) -> Tile:
    maps = SkinMaps(
        values[..., :3], values[..., 3], values[..., 4], values[..., 6] > 0, values[..., 5]
    )
    return Tile(row, column, maps, values[..., 7] > 0)


def _averaged(texels: Texels, values: Float[Tensor, "N 6"], samples: int) -> Tensor:
    """Pictures of the values, of what is covered and of what is known, means over the samples."""
    covered = texels.covered.flatten()[texels.index].float()[:, None]
    picture = texels.picture(torch.cat([values, covered, torch.ones_like(covered)], 1))
    height, width, channels = picture.shape
    picture = picture.reshape(height // samples, samples, width // samples, samples, channels)
    picture = picture.mean((1, 3))
    share = picture[..., 7:].clamp(min=1e-6)
    return torch.cat([picture[..., :6] / share * (share > 1e-5), picture[..., 6:]], -1)


class _Painter:
    """Everything of one person that does not depend on the tile."""

    def __init__(
        self,
        head: HeadModel,
        parameters: SkinParameters,
        seed: int,
        spacing: float,
        stars: tuple[charts.Chart, ...],
        expression: Float[Tensor, " 52"] | None,
    ) -> None:
        self.parameters, self.stars = parameters, stars
        self.device, self.spacing = head.template.device, spacing
        # the face has more texels than the mean of the surface
        self.fields = Fields(seed, 0.7 * spacing)
        self.marks = template_landmarks(head)
        self.hair = HairMarks(head, parameters, seed)
        self.folds = folds.fold_lines(head)
        self.depths = folds.fold_depths(self.folds, parameters, expression)
        members = head.topology.regions.get("eyes")
        self.globes = [] if members is None else [
            (side, head.template[members[head.template.cpu()[members, 0] * side > 0]])
            for side in (1.0, -1.0)
        ]  # fmt: skip
        self.tones = self._star_tones()

    def values(self, texels: Texels) -> Float[Tensor, "N 6"]:
        """Albedo, roughness, height and specular level at a tile's texels."""
        if not len(texels.points):
            return texels.points.new_zeros(0, 6)
        parameters, noise, p = self.parameters, self.fields, texels.points
        areas = Areas.of(texels, self.marks)
        depth = pigments.optical_depth(texels, areas, noise, parameters)
        albedo = pigments.albedo_of(depth, parameters.scatter)
        pores = relief.pore_depth(texels, areas, noise, parameters)
        height = relief.fine_height(texels, areas, noise, parameters, pores)
        height = height + folds.fold_height(p, self.folds, self.depths, noise)
        roughness, specular = relief.gloss(texels, areas, noise, parameters, pores)
        albedo = self.hair.over(albedo, texels, areas, noise)
        rough_hair = areas.scalp * parameters.hair
        roughness = torch.lerp(roughness, torch.full_like(roughness, 0.55), rough_hair)
        linings.line(albedo, roughness, height, texels, self.marks[62], noise, parameters)
        self._eyes(texels, albedo, roughness, height)
        albedo, height = charts.draw(self.stars, p, texels.texel, albedo, height, self.tones)
        columns = (roughness.clamp(0.03, 1.0), height, specular)
        return torch.cat([albedo.clamp(0.003, 0.95), torch.stack(columns, 1)], 1)

    def _eyes(self, texels: Texels, albedo: Tensor, roughness: Tensor, height: Tensor) -> None:
        """The eyeballs, written into the lists."""
        inside = texels.regions.get("eyes", texels.zero) > 0.5
        for side, globe in self.globes:
            chosen = inside & (texels.points[:, 0] * side > 0)
            own = self.parameters
            albedo[chosen] = paint_globe(
                texels.points[chosen], globe, own.iris, self.fields,
                own.sclera_yellow, own.sclera_veins,
            )  # fmt: skip
            roughness[chosen], height[chosen] = 0.06, 0.0

    def _star_tones(self) -> tuple[Float[Tensor, "3"], ...]:
        """The mean colour of the skin where each star is."""
        tones = []
        for star in self.stars:
            p = charts.disc(star).to(self.device)
            texels = Texels(p, {}, torch.arange(len(p)), torch.ones(1, len(p)) > 0, self.spacing)
            areas = Areas.of(texels, self.marks)
            depth = pigments.optical_depth(texels, areas, self.fields, self.parameters)
            tones.append(pigments.albedo_of(depth, self.parameters.scatter).mean(0))
        return tuple(tones)


def _fill(picture: Tensor, known: Bool[Tensor, "S S"]) -> None:
    """Unknown texels get the mean of what is known around them, in place: means of 2×2, 4×4, …"""
    values = picture if picture.ndim == 3 else picture[..., None]
    level = values.permute(2, 0, 1) * known
    weight = known[None].float()
    stack = []
    while level.shape[-1] % 2 == 0 and level.shape[-1] > 1 and not bool((weight > 0).all()):
        stack.append((level, weight))
        level = torch.nn.functional.avg_pool2d(level, 2)
        weight = torch.nn.functional.avg_pool2d(weight, 2)
    total = level / weight.clamp(min=1e-9)
    if not bool((weight > 0).all()):
        mean = level.sum((1, 2)) / weight.sum().clamp(min=1e-9)
        total = torch.where(weight > 0, total, mean[:, None, None])
    for level, weight in reversed(stack):
        above = total.repeat_interleave(2, 1).repeat_interleave(2, 2)
        total = torch.where(weight > 0, level / weight.clamp(min=1e-9), above)
    filled = total.permute(1, 2, 0)
    values[~known] = filled[~known]
