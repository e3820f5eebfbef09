"""Contact sheets of hair, and what every style measures: points inside the head, seconds.

    python benchmarks/people_hair.py --sheet docs/images/hair.jpg --faces docs/images/beards.jpg
    python benchmarks/people_hair.py --out benchmarks/results/hair.json

Heads are painted and lit by the stage's renderer; hair is drawn as Gaussians over them, those left
out that lie behind the head. Cloth below the neck is a plain loft of ellipses.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from measured_on import commit, hardware
from torch.nn import functional

from topohead.core import Distortion, Mesh, Strands
from topohead.geometry.correspondence import closest_points
from topohead.geometry.head_field import HeadField
from topohead.geometry.strands import gaussians, segment_lengths
from topohead.io.assets import reference_head
from topohead.io.images import write_image
from topohead.models.linear import LinearHead
from topohead.rendering import splats
from topohead.rendering.hair import HairLight, shade
from topohead.rendering.mesh import rasterize
from topohead.rendering.shading import linear_to_srgb, portrait_camera
from topohead.synthesis import lights, render, skin, subjects
from topohead.synthesis.canvas import Canvas
from topohead.synthesis.facial_hair import BEARDS, Brows, grow_beard, grow_brows, grow_lashes
from topohead.synthesis.grooms import STYLES, root_color, style
from topohead.synthesis.hair import grow
from topohead.synthesis.looks import with_roots
from topohead.synthesis.props import Props, neck_plug

SUN = functional.normalize(torch.tensor([-1.0, 1.0, 1.6]), dim=0)
LAMPS = (
    HairLight(tuple(SUN.tolist()), (2.6, 2.45, 2.3)),
    HairLight((0.77, 0.30, -0.55), (0.9, 0.95, 1.0)),
)
AMBIENT = (0.55, 0.58, 0.62)
STUDIO = lights.Lighting(
    (0.10, 0.10, 0.11), (0.42, 0.45, 0.50),
    (lights.Lamp((-1.0, 1.0, 1.6), 0.35, (14.0, 13.0, 12.0)),),
)  # fmt: skip
WALL = 0.42
FRAME = torch.tensor([[-0.13, -0.20, -0.22], [0.13, 0.155, 0.06]])
CLOSE = torch.tensor([[-0.085, -0.16, -0.10], [0.085, 0.10, 0.05]])
CLOTH = (
    (-0.118, 0.046, 0.046, -0.088), (-0.170, 0.054, 0.056, -0.095), (-0.185, 0.075, 0.060, -0.100),
    (-0.203, 0.120, 0.064, -0.105), (-0.223, 0.165, 0.068, -0.105), (-0.245, 0.192, 0.075, -0.105),
    (-0.280, 0.205, 0.090, -0.100), (-0.340, 0.205, 0.100, -0.095), (-0.450, 0.190, 0.110, -0.090),
)  # fmt: skip
"""Height, half width, half depth and middle of each ring."""

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
    lit: render.LitHead
    maps: skin.SkinMaps


def main() -> None:
    """Draw what is asked for, measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sheet", type=Path, help="24 heads from three sides")
    parser.add_argument("--faces", type=Path, help="brows, lashes and beards")
    parser.add_argument("--out", type=Path, help="measurements as JSON")
    parser.add_argument("--size", type=int, default=256, help="pixels across a picture")
    parser.add_argument("--tile", type=int, default=160, help="pixels across it on the sheet")
    args = parser.parse_args()
    head = reference_head(0)
    field = HeadField.of(head.topology, head.template)
    if args.sheet:
        write_image(args.sheet, styles_sheet(head, field, args.size, args.tile), quality=82)
    if args.faces:
        write_image(args.faces, faces_sheet(head, field), quality=82)
    if args.out:
        result = {"benchmark": "people_hair", "commit": commit(), "hardware": hardware()}
        people = [subjects.make_subject(head, seed).rest for seed in (5, 6, 7)]
        names = [name for name in STYLES if name != "bald"]
        rows = []
        for name in names:  # written as they come: a busy machine takes minutes
            rows.append(measured(name, head, field, people))
            args.out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


def styles_sheet(head: LinearHead, field: HeadField, size: int, tile: int) -> torch.Tensor:
    """24 heads, four a row, each from the front, the side and the back."""
    sitters: dict[int, Sitter] = {}
    tiles = []
    for number, (name, person, (dark, red), changed) in enumerate(SHEET):
        groom = replace(style(name), eumelanin=dark, pheomelanin=red, **changed)
        if person not in sitters:
            sitters[person] = sit(head, 40 + person, MELANIN[person])
        sitter = sitters[person]
        color = tuple((0.6 * root_color(groom)).tolist())
        strands = Strands.joined(
            grow(groom, field, sitter.rest, number, points=32),
            grow_brows(Brows(color=color), field, sitter.rest, person, points=32),
            grow_lashes(tuple(0.6 * c for c in color), field, sitter.rest, person, points=32),
        )
        painted = render.Materials.of(with_roots(sitter.maps, Canvas(head), groom, number))
        views = [
            photograph(sitter, painted, strands, yaw, size, int(1.25 * size), FRAME)
            for yaw in (0.12, math.pi / 2, math.pi)
        ]
        tiles.append(torch.cat(views, 1))
        print(number, name, flush=True)
    rows = [torch.cat(tiles[k : k + 4], 1) for k in range(0, len(tiles), 4)]
    picture = torch.cat(rows, 0)
    factor = tile / size
    return functional.interpolate(
        picture.permute(2, 0, 1)[None], scale_factor=factor, mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)


def faces_sheet(head: LinearHead, field: HeadField) -> torch.Tensor:
    """Brows, lashes and the named beards, from the front and from aside."""
    rows = []
    for index, name in enumerate(BEARDS):
        sitter = sit(head, 40 + index, (0.16, 0.3, 0.45, 0.9, 1.3, 0.22)[index])
        groom = replace(style("crew cut"), eumelanin=(1.0, 2.0, 0.5, 4.0, 5.0, 1.2)[index])
        color = tuple((0.7 * root_color(groom)).tolist())
        strands = Strands.joined(
            grow(groom, field, sitter.rest, index, points=12),
            grow_brows(Brows(color=color), field, sitter.rest, index, points=12),
            grow_lashes(tuple(0.5 * c for c in color), field, sitter.rest, index, points=12),
            grow_beard(replace(BEARDS[name], color=color), field, sitter.rest, index, points=12),
        )
        painted = render.Materials.of(with_roots(sitter.maps, Canvas(head), groom, index))
        views = [photograph(sitter, painted, strands, y, 320, 320, CLOSE) for y in (0.1, 0.9)]
        rows.append(torch.cat(views, 1))
        print(name, flush=True)
    return torch.cat([torch.cat(rows[k : k + 3], 1) for k in (0, 3)], 0)


def sit(head: LinearHead, seed: int, melanin: float, texture: int = 1024) -> Sitter:
    """A bald person in a dark pullover, lit."""
    person = subjects.make_subject(head, seed)
    person = replace(person, place=torch.eye(4, dtype=torch.float64))
    parameters = replace(skin.random_skin(seed), hair=0.0, stubble=0.0, melanin=melanin)
    maps = skin.paint(head, parameters, seed, texture)
    surfaces = person.at(subjects.neutral_motion(), 0)
    plug, cloth = neck_plug(person, surfaces), pullover()
    props = Props(
        torch.cat([plug.vertices, cloth.vertices]),
        torch.cat([plug.triangles, cloth.triangles + len(plug.vertices)]),
        torch.cat([plug.colors, cloth.colors]),
        torch.cat([plug.roughness, cloth.roughness]),
    )
    blockers = (surfaces.vertices, person.blockers)
    lit = render.light_head(person.finer, surfaces.surface, blockers, props, STUDIO)
    return Sitter(person.rest, lit, maps)


def pullover() -> Props:
    """Neck, shoulders and chest in dark cloth; its collar is higher behind."""
    turn = torch.linspace(0, 2 * math.pi, 65)[:-1]
    rings = []
    for height, wide, deep, middle in CLOTH:
        tilt = 0.018 if height > -0.18 else 0.010 if height > -0.19 else 0.0
        rings.append(
            torch.stack(
                [wide * turn.cos(), height - tilt * turn.sin(), middle + deep * turn.sin()], -1
            )
        )
    first = torch.arange(64)
    second = (first + 1) % 64
    once = torch.stack([first, second, first + 64, second, second + 64, first + 64], 1)
    triangles = torch.cat([(once + 64 * k).reshape(-1, 3) for k in range(len(CLOTH) - 1)])
    vertices = torch.cat(rings)
    count = len(vertices)
    color = torch.tensor([0.035, 0.04, 0.05]).expand(count, 3)
    return Props(vertices, triangles, color, torch.full((count,), 0.9))


def photograph(
    sitter: Sitter,
    materials: render.Materials,
    strands: Strands,
    yaw: float,
    width: int,
    height: int,
    frame: torch.Tensor,
) -> torch.Tensor:
    """An srgb picture of a head with hair, supersampled twofold."""
    camera, lens = portrait_camera(frame, (width, height), yaw, 0.05, field_of_view=0.25)
    color, cover = render.render_view(
        sitter.lit, materials, camera, lens, Distortion(), (width, height), supersampling=2
    )
    picture = color + (1 - cover[..., None]) * WALL
    fine = lens.clone()
    fine[:2] *= 2
    size = (2 * width, 2 * height)
    eye = (-camera[:3, :3].T @ camera[:3, 3]).float()
    strands = strands.packed()
    hair = gaussians(replace(strands, colors=shade(strands, LAMPS, AMBIENT, eye)))
    local = hair.means.double() @ camera[:3, :3].T + camera[:3, 3]
    seen = rasterize(sitter.lit.vertices.double(), sitter.lit.triangles, camera, fine, size)
    spot = (local @ fine.T)[:, :2] / local[:, 2:]
    column, row = spot.long().unbind(1)
    within = (spot >= 0).all(1) & (column < size[0]) & (row < size[1])
    depth = seen.depth[row.clamp(0, size[1] - 1), column.clamp(0, size[0] - 1)]
    shown = within & (local[:, 2] < depth + 0.0008)
    # the renderer widens what is thinner than a pixel; it must not hide more for that
    across = hair.scales[:, 1] * float(fine[0, 0]) / local[:, 2].float()
    opacity = hair.opacities * across / (across.square() + 0.3).sqrt()
    drawn, alpha = splats.render(
        hair.means[shown], hair.quats[shown], hair.scales[shown], opacity[shown],
        hair.colors[shown], camera, fine, size,
    )  # fmt: skip
    drawn = functional.avg_pool2d(drawn.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)
    alpha = functional.avg_pool2d(alpha[None, None], 2)[0, 0, ..., None]
    return linear_to_srgb((picture * (1 - alpha) + drawn).clamp(min=0)).clamp(0, 1)


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
