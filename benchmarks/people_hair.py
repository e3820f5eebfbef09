"""Contact sheets of hair, and what every style measures: points inside the head, seconds.

    python benchmarks/people_hair.py --sheet docs/images/hair.jpg --faces docs/images/beards.jpg
    python benchmarks/people_hair.py --out benchmarks/results/hair.json

The sheets are drawn as portraits are: made people, painted, in a shirt, under a sky and two lamps.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from measured_on import commit, hardware
from torch.nn import functional

from topohead.core import Mesh, Strands
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import segment_lengths
from topohead.io.assets import reference_head
from topohead.io.images import write_image
from topohead.models.linear import LinearHead
from topohead.rendering.portraits import SceneBatch, moved
from topohead.rendering.shading import portrait_camera
from topohead.synthesis import skin, subjects
from topohead.synthesis.canvas import Canvas
from topohead.synthesis.facial_hair import BEARDS, Brows, grow_beard, grow_brows, grow_lashes
from topohead.synthesis.grooms import STYLES, Groom, root_color, style
from topohead.synthesis.hair import grow
from topohead.synthesis.looks import texture_pool, with_roots
from topohead.synthesis.occluders import draw_outfits
from topohead.synthesis.portraits import PortraitScenes
from topohead.synthesis.shapes import Shapes, load_shapes
from topohead.synthesis.stumps import neck_rim, rim_colors

SEED = 40
WALL = 0.15
FRAME = torch.tensor([[-0.13, -0.20, -0.22], [0.13, 0.155, 0.06]])
CLOSE = torch.tensor([[-0.085, -0.16, -0.10], [0.085, 0.10, 0.05]])
KEY, RIM = (-0.7, 0.5, 1.2, 0.25, 16.0, 15.0, 13.5), (1.1, 0.6, -0.6, 0.15, 16.0, 17.0, 18.0)
"""Lamps of a picture seen from the front: place, radius, radiance; they turn with the camera."""
SKY, DOWN, GAIN = 0.42, 0.15, 1.5
"""Radiance of an even sky, how much more of it is above, exposure."""
SHIRT = (0.035, 0.04, 0.05, 0.9)

BLACK, DARK, BROWN, LIGHT = (5.0, 0.2), (2.2, 0.3), (1.1, 0.4), (0.55, 0.3)
BLOND, PALE, RED, AUBURN = (0.18, 0.40), (0.07, 0.22), (0.13, 1.6), (0.6, 1.3)
MELANIN = (0.16, 0.30, 0.50, 0.85, 1.35, 0.22)
SHEET: tuple[tuple[str, int, tuple[float, float], dict[str, float]], ...] = (
    ("bald", 2, BROWN, {}), ("buzz", 4, BLACK, {}), ("crew cut", 0, BLOND, {}),
    ("pixie", 1, DARK, {}), ("side part", 0, BROWN, {}), ("slicked back", 3, BLACK, {}),
    ("fringe bob", 5, AUBURN, {}), ("long straight", 2, BLACK, {}), ("long wavy", 5, BLOND, {}),
    ("curly", 0, RED, {}), ("afro", 4, BLACK, {}), ("bun", 1, BROWN, {}),
    ("ponytail", 5, BLOND, {}), ("mohawk", 1, DARK, {"dye": 0.9, "dye_green": 0.25}),
    ("curly", 3, BLACK, {}), ("side part", 2, DARK, {"grey": 0.45, "recession": 0.5}),
    ("long wavy", 3, DARK, {}), ("fringe bob", 2, BLACK, {}), ("buzz", 0, LIGHT, {}),
    ("pixie", 5, PALE, {"grey": 0.3}), ("crew cut", 3, BLACK, {}),
    ("slicked back", 0, BROWN, {"grey": 0.85, "recession": 0.7}), ("bun", 4, BLACK, {}),
    ("long straight", 1, RED, {}),
)  # fmt: skip
"""Style, person, pigments, changes."""


@dataclass(frozen=True)
class Sitter:
    """A person ready to be drawn with any hair."""

    rest: torch.Tensor
    maps: skin.SkinMaps


def main() -> None:
    """Draw what is asked for, measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sheet", type=Path, help="24 heads from three sides")
    parser.add_argument("--faces", type=Path, help="brows, lashes and beards")
    parser.add_argument("--out", type=Path, help="measurements as JSON")
    parser.add_argument("--size", type=int, default=320, help="pixels across a picture")
    parser.add_argument("--tile", type=int, default=160, help="pixels across it on the sheet")
    parser.add_argument("--strands", type=int, default=8192, help="of a head of hair")
    parser.add_argument("--texture", type=int, default=512, help="texels of a skin")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    head = reference_head(0)
    field = HeadField.of(head.topology, head.template)
    studio = Studio(load_shapes(), field.to(args.device), args.strands, args.texture, args.device)
    if args.sheet:
        write_image(args.sheet, styles_sheet(studio, args.size, args.tile), quality=82)
    if args.faces:
        write_image(args.faces, faces_sheet(studio, round(1.25 * args.size)), quality=82)
    if args.out:
        result = {"benchmark": "people_hair", "commit": commit(), "hardware": hardware()}
        people = [subjects.make_subject(head, seed).rest for seed in (5, 6, 7)]
        names = [name for name in STYLES if name != "bald"]
        rows = []
        for name in names:  # written as they come: a busy machine takes minutes
            rows.append(measured(name, head, field, people))
            args.out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


@dataclass(frozen=True)
class Studio:
    """Where people are drawn: on `device`, with so many strands, skins of `texture` texels."""

    shapes: Shapes
    field: HeadField
    strands: int
    texture: int
    device: str

    @cached_property
    def canvas(self) -> Canvas:
        """Where hair darkens skin."""
        return Canvas(self.shapes.head, kept=True)

    @cached_property
    def painted(self) -> LinearHead:
        """The head that skin is painted for, on the device."""
        head = self.shapes.head
        bases = (head.template, head.identity_basis, head.expression_basis)
        return LinearHead(head.topology, *(part.to(self.device) for part in bases))

    def sit(self, number: int, melanin: float) -> Sitter:
        """A bald person of a skin colour, face at rest."""
        rest = self.shapes.draw(SEED, [number]).rest[0]
        person = replace(skin.random_skin(SEED + number), hair=0.0, stubble=0.0, melanin=melanin)
        maps = skin.paint(self.painted, person, SEED + number, self.texture)
        return Sitter(rest.to(self.device), moved(maps, "cpu"))

    def photographs(
        self,
        sitter: Sitter,
        groom: Groom,
        seed: int,
        strands: Strands,
        yaws: tuple[float, ...],
        size: tuple[int, int],
        frame: torch.Tensor,
    ) -> torch.Tensor:
        """Pictures [N H W 3] of a head with hair on and above its skin."""
        topology, count = self.shapes.topology, len(yaws)
        maps = with_roots(sitter.maps, self.canvas, groom, seed)
        scenes = PortraitScenes.of(topology, size, closed=True,
                                   backdrops=torch.full((1, 2, 2, 3), WALL))  # fmt: skip
        outfits = draw_outfits(SEED, [0] * count)
        outfits = replace(outfits, worn=torch.tensor([[True, False, False]]).expand(count, 3),
                          shirt=torch.tensor(SHIRT).expand(count, 4))  # fmt: skip
        colors = rim_colors(maps.albedo, maps.roughness, topology, neck_rim(topology))
        parts = (part.cpu()[None].expand(count, *part.shape).contiguous() for part in strands.parts)
        heads = scenes.dress(
            sitter.rest.cpu().expand(count, -1, -1).contiguous(), torch.zeros(count).long(),
            Strands(*parts), outfits, None, colors.expand(count, -1, -1),
        )  # fmt: skip
        pool = texture_pool([maps], self.canvas.texel(self.texture))
        there = (moved(x, self.device) for x in (scene(yaws, size, frame), heads, pool))
        return scenes.to(self.device).render(*there, supersampling=3).srgb.cpu()


def scene(yaws: tuple[float, ...], size: tuple[int, int], frame: torch.Tensor) -> SceneBatch:
    """A head from several sides, lit alike in every picture by a perfect camera."""
    count = len(yaws)
    cameras = [portrait_camera(frame, size, yaw, 0.05, field_of_view=0.25) for yaw in yaws]
    pose, intrinsics = (torch.stack(parts) for parts in zip(*cameras, strict=True))
    sky = torch.zeros(count, 16, 3)
    sky[:, 0], sky[:, 1] = SKY / 0.282095, DOWN / 0.488603
    lamps = torch.tensor([KEY, RIM]).repeat(count, 1, 1)
    for row, yaw in enumerate(yaws):
        turn = torch.tensor([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0],
                             [-math.sin(yaw), 0, math.cos(yaw)]])  # fmt: skip
        lamps[row, :, :3] = lamps[row, :, :3] @ turn.T
    return SceneBatch(
        pose, intrinsics, sky, lamps, torch.zeros(count).long(),
        torch.tensor([[0.0, 0, 1, 1]]).repeat(count, 1),
        torch.tensor([[GAIN, GAIN, GAIN, 0, 0, 0]]).repeat(count, 1), torch.full((count,), 0.3),
        torch.arange(count) + (1 << 62),
    )  # fmt: skip


def styles_sheet(studio: Studio, size: int, tile: int) -> torch.Tensor:
    """24 heads, four a row, each from the front, the side and the back."""
    sitters: dict[int, Sitter] = {}
    tiles = []
    for number, (name, person, (dark, red), changed) in enumerate(SHEET):
        groom = replace(style(name), eumelanin=dark, pheomelanin=red, **changed)
        if person not in sitters:
            sitters[person] = studio.sit(person, MELANIN[person])
        rest, color = sitters[person].rest, tuple((0.85 * root_color(groom)).tolist())
        strands = Strands.joined(
            grow(groom, studio.field, rest, number, studio.strands, 32),
            grow_brows(Brows(color=color), studio.field, rest, person, points=32),
            grow_lashes(tuple(0.3 * c for c in color), studio.field, rest, person, points=32),
        )
        views = studio.photographs(sitters[person], groom, number, strands,
                                   (0.12, math.pi / 2, math.pi), (size, int(1.25 * size)),
                                   FRAME)  # fmt: skip
        tiles.append(torch.cat(list(views), 1))
        print(number, name, flush=True)
    rows = [torch.cat(tiles[k : k + 4], 1) for k in range(0, len(tiles), 4)]
    picture = torch.cat(rows, 0)
    return functional.interpolate(
        picture.permute(2, 0, 1)[None], scale_factor=tile / size, mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)


def faces_sheet(studio: Studio, size: int) -> torch.Tensor:
    """Brows, lashes and the named beards, from the front and from aside."""
    rows = []
    for index, name in enumerate(BEARDS):
        sitter = studio.sit(10 + index, MELANIN[index])
        groom = replace(style("crew cut"), eumelanin=(1.0, 2.0, 0.5, 4.0, 5.0, 1.2)[index])
        color = tuple((0.85 * root_color(groom)).tolist())
        field, rest = studio.field, sitter.rest
        strands = Strands.joined(
            grow(groom, field, rest, index, studio.strands, 12),
            grow_brows(Brows(color=color), field, rest, index, points=12),
            grow_lashes(tuple(0.3 * c for c in color), field, rest, index, points=12),
            grow_beard(replace(BEARDS[name], color=color), field, rest, index, points=12),
        )
        views = studio.photographs(sitter, groom, index, strands, (0.1, 0.9), (size, size), CLOSE)
        rows.append(torch.cat(list(views), 1))
        print(name, flush=True)
    return torch.cat([torch.cat(rows[k : k + 3], 1) for k in (0, 3)], 0)


def measured(
    name: str, head: LinearHead, field: HeadField, people: list[torch.Tensor]
) -> dict[str, object]:
    """Exact share of points inside some people, lengths, and seconds of one full head."""
    inside, total, near = 0, 0, 0
    for seed, rest in enumerate(people):
        strands = grow(style(name), field, rest, seed, strands=1024).packed()
        points = strands.points[:, 1:].reshape(-1, 3)
        distance = field.distance(points[None], field.place(rest[None]))[0][0]
        close = points[(distance < 0.012) & (points[:, 1] > -0.085)]
        signed = signed_distance(close, head, rest)
        inside += int((signed < -1e-5).sum())
        near += len(close)
        total += len(points)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        strands = grow(style(name), field, head.template, 1)
        seconds.append(time.perf_counter() - start)
    packed = strands.packed()
    row = {
        "style": name,
        "inside_percent": round(100 * inside / total, 4),
        "points": total,
        "points_near_skin": near,
        "strands": len(packed.points),
        "mean_length_mm": round(1000 * float(segment_lengths(packed.points).sum(-1).mean()), 1),
        "seconds": round(min(seconds), 3),
    }
    print(row, flush=True)
    return row


def signed_distance(points: torch.Tensor, head: LinearHead, rest: torch.Tensor) -> torch.Tensor:
    """Exact distance to the skin, negative behind its triangles."""
    topology = head.topology
    solid = topology.region_mask("skin", "eyes") & ~topology.region_mask("mouth_interior")
    kept = solid[topology.faces].all(1)
    outer = replace(
        topology, faces=topology.faces[kept], face_uv=topology.face_uv[kept], mirror=None
    )
    found, distance = closest_points(points, Mesh(outer, rest))
    corner = rest[outer.triangles[found.triangles]]
    foot = (corner * found.barycentrics[..., None]).sum(1)
    across = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return torch.where(((points - foot) * across).sum(1) < 0, -distance, distance)


if __name__ == "__main__":
    main()
