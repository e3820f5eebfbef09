"""Batched portraits: how many a second, how well devices agree, how far from path tracing.

    python benchmarks/portraits.py throughput|agreement|pathtraced|people|sheets --out OUT

Heads are random shapes of the reference head with painted skin and plain strands on the scalp;
seeds are 700 and above.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import measured_on
import torch

from topohead.core import Strands
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import reference_head
from topohead.io.images import write_image
from topohead.rendering.portraits import (
    PortraitHeads,
    PortraitMesh,
    SceneBatch,
    TexturePool,
    moved,
    render_portraits,
)
from topohead.rendering.shading import linear_to_srgb, portrait_camera
from topohead.synthesis import skin
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.people import PortraitPeople, load_people
from topohead.synthesis.portrait_pathtrace import pathtraced_portrait
from topohead.synthesis.portraits import PortraitScenes, PortraitSettings
from topohead.synthesis.shapes import load_shapes

SEED = 700
LIT = 33
"""Who stands in six lights, seen as the first camera looks."""
ACTOR, DAYLIGHT = 20, 16
"""Who makes 52 faces, and the number of the scene whose light is on them."""


def mesh_of(level: int) -> PortraitMesh:
    """The reference head with its labels."""
    topology = reference_head(level).topology
    label = torch.ones(len(topology.triangles), dtype=torch.int64)
    for names, number in ((("mouth_interior", "teeth", "tongue"), 3), (("eyes",), 2)):
        mask = topology.region_mask(*names)
        label[mask[topology.triangles].all(1)] = number
    uv = topology.uv[topology.triangle_uv].float()
    return PortraitMesh.of(topology.triangles, uv, label, topology.vertex_count)


def strands_of(level: int, count: int, strands: int, points: int) -> Strands:
    """Straight hair that falls outward and down from random places of the scalp."""
    head = reference_head(level)
    generator = torch.Generator().manual_seed(SEED + 1)
    scalp = head.topology.triangle_mask("scalp")
    triangles = head.topology.triangles[scalp]
    pick = triangles[torch.randint(len(triangles), (count, strands), generator=generator)]
    weight = torch.rand(count, strands, 3, generator=generator)
    root = (head.template[pick] * (weight / weight.sum(-1, keepdim=True))[..., None]).sum(2)
    away = torch.nn.functional.normalize(root - torch.tensor([0, -0.02, -0.07]), dim=-1)
    along = torch.linspace(0, 1, points)[None, None, :, None]
    stray = 0.03 * torch.randn(count, strands, 1, 3, generator=generator)
    fall = torch.tensor([0, -0.8, 0]) * along**2
    path = away[:, :, None] * (0.02 + 0.35 * along) + fall + stray * along
    path = path + torch.tensor([0, 0, -0.25]) * along
    width = 6e-4 * (1 - 0.7 * along[..., 0]).expand(count, strands, points)
    shade = torch.exp(0.25 * torch.randn(count, strands, 1, 1, generator=generator))
    color = (torch.tensor([0.10, 0.055, 0.03]) * shade).expand(count, strands, points, 3)
    points_ = root[:, :, None] + 0.12 * path
    return Strands.loose(points_.contiguous(), width.contiguous(), color.contiguous())


def pool_of(count: int, size: int, dtype: torch.dtype = torch.float32) -> TexturePool:
    """Painted skins; flat, since pores are below a pixel here."""
    head = reference_head(0)
    maps = [skin.paint(head, skin.random_skin(SEED + i), SEED + i, size) for i in range(count)]
    albedo, rough = torch.stack([m.albedo for m in maps]), torch.stack([m.roughness for m in maps])
    return TexturePool.of(albedo, rough, torch.full_like(rough, 0.35), dtype=dtype)


def batch_of(level: int, count: int, size: int, strands: int, points: int, skins: int) -> Any:
    """Mesh, heads and scenes of a batch."""
    head = reference_head(level)
    generator = torch.Generator().manual_seed(SEED)
    identity = 0.7 * torch.randn(count, len(head.identity_basis), generator=generator)
    vertices = head.vertices(identity, torch.zeros(count, 52)).contiguous()
    yaws = (2 * torch.rand(count, generator=generator) - 1).tolist()
    cameras = [portrait_camera(v, (size, size), yaw=y) for v, y in zip(vertices, yaws, strict=True)]
    pose, intrinsics = (torch.stack(x) for x in zip(*cameras, strict=True))
    sky = 0.06 * torch.randn(count, 16, 3, generator=generator)
    sky[:, 0] += 1.0
    lamps = torch.tensor([[1.1, 0.8, 1.2, 0.25, 22, 20, 18], [-1.2, 0.3, 0.4, 0.1, 30, 36, 44]])
    scenes = SceneBatch(
        pose,
        intrinsics,
        sky,
        lamps.expand(count, 2, 7).contiguous(),
        torch.zeros(count, dtype=torch.int64),
        torch.tensor([[0.0, 0, 1, 1]]).expand(count, 4).contiguous(),
        torch.tensor([[1.0, 1, 1, 0.1, 0.002, 0.006]]).expand(count, 6).contiguous(),
        torch.full((count,), 0.6),
        torch.arange(count) + (1 << 62),
    )
    hair = strands_of(level, count, strands, points) if strands else None
    heads = PortraitHeads(vertices, torch.arange(count) % skins, torch.zeros(count, 0, 4), hair)
    return mesh_of(level), heads, scenes


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Portraits a second by size, level and hair."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device == "cuda"
    pool = moved(pool_of(4, 256, torch.float16 if cuda else torch.float32), device)
    rows = []
    plans = [(256, 0, 3000, 14), (512, 0, 4000, 16), (256, 0, 0, 2), (256, 1, 3000, 14)]
    for size, level, strands, points in plans:
        if level not in args.levels:
            continue
        count = args.batch if cuda else 4
        batch = batch_of(level, count, size, strands, points, 4)
        mesh, heads, scenes = (moved(x, device) for x in batch)
        inputs = (mesh, heads, pool, scenes, torch.rand(2, 16, 16, 3).to(device), (size, size))
        one = partial(render_portraits, *inputs)
        seconds = _seconds(one, 10 if cuda else 2)
        rate = round(count / seconds, 1)
        rows.append({"size": size, "level": level, "strands": strands, "points": points,
                     "batch": count, "portraits_per_second": rate})  # fmt: skip
        if cuda:
            rows[-1]["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            torch.cuda.reset_peak_memory_stats()
        if cuda and args.profile:
            rows[-1]["kernels_ms"] = _profile(one)
        print(rows[-1], flush=True)
    return {"device": device, "rows": rows}


def _seconds(one: Callable[[], object], repeats: int) -> float:
    """Best of three of the mean over some runs, after one that compiles."""
    one()
    best = float("inf")
    for _ in range(3):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            one()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def _profile(one: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of the busiest kernels."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        one()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in profile.events():
        times[event.name[:40]] = times.get(event.name[:40], 0.0) + event.device_time / 1000
    busiest = sorted(times.items(), key=lambda item: -item[1])[:12]
    return {name: round(value, 3) for name, value in busiest}


def agreement(_: argparse.Namespace) -> dict[str, Any]:
    """How far pictures made on CUDA are from those of the CPU."""
    mesh, heads, scenes = batch_of(0, 4, 256, 3000, 14, 4)
    pool, backdrops = pool_of(4, 256), torch.rand(2, 16, 16, 3)
    wanted = render_portraits(mesh, heads, pool, scenes, backdrops, (256, 256))
    there = [moved(x, "cuda") for x in (mesh, heads, pool, scenes)]
    found = render_portraits(*there, backdrops.cuda(), (256, 256))
    again = render_portraits(*there, backdrops.cuda(), (256, 256))
    difference = (found.srgb.cpu() - wanted.srgb).abs()
    return {
        "repeats_equal": bool(torch.equal(found.srgb, again.srgb)),
        "median": float(difference.median()),
        "mean": float(difference.mean()),
        "beyond_2_codes": float((difference > 2 / 255).float().mean()),
        "labels_differ": float((found.label.cpu() != wanted.label).float().mean()),
    }


def pathtraced(args: argparse.Namespace) -> dict[str, Any]:
    """PSNR of linear light, tone-mapped alike, against path tracing under the same light."""
    shapes = load_shapes(ict=args.ict)
    fine, matrix = catmull_clark(replace(shapes.topology, mirror=None))
    settings = PortraitSettings(shift=0.0, yaw=45, fill=(0.7, 0.8), field_of_view=(25, 30))
    source = PortraitScenes.of(fine, (256, 256), settings, dressed=False)
    indices = list(range(args.portraits))
    scenes = source.draw(SEED, indices)
    posed = shapes.draw(SEED, indices).posed(*draw_expressions(SEED, indices))
    vertices = torch.stack([refine(matrix, head) for head in posed])
    heads = source.dress(vertices, torch.zeros(len(indices)).long())
    maps = skin.paint(reference_head(0), skin.random_skin(SEED), SEED, 512)
    level = torch.full_like(maps.roughness, 0.35)
    pool = TexturePool.of(maps.albedo[None], maps.roughness[None], level[None])
    drawn = source.render(scenes, heads, pool).linear
    rows = []
    for index in indices:
        start = time.perf_counter()
        traced = pathtraced_portrait(
            source.mesh, heads, maps.albedo, maps.roughness, scenes, index, (256, 256), args.samples
        )
        # as the portrait's own sensor exposes it
        exposure = scenes.sensor[index, :3]
        ours, theirs = (
            linear_to_srgb((x * exposure).clamp(0, 1)) for x in (drawn[index], traced[..., :3])
        )
        inside = traced[..., 3] > 0.5
        error = (ours - theirs).square()
        rows.append({
            "psnr": round(float(-10 * error.mean().log10()), 2),
            "psnr_head": round(float(-10 * error[inside].mean().log10()), 2),
            "bias": [round(float(x), 4) for x in (ours - theirs)[inside].mean(0)],
            "seconds": round(time.perf_counter() - start, 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            difference = 0.5 + 2 * (ours - theirs)
            write_image(args.pictures / f"{index}.png", torch.cat([ours, theirs, difference], 1))
    return {"samples": args.samples, "portraits": rows}


def people(args: argparse.Namespace) -> dict[str, Any]:
    """Whole people as one stream: shape, expression, hair, clothes, light, picture, all new."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device == "cuda"
    rows = []
    for size in (256, 512):
        started, used = time.perf_counter(), time.process_time()
        made = load_people(SEED, (size, size), args.looks, 256, device, args.ict)
        looks = {"looks": args.looks, "looks_seconds": time.perf_counter() - started,
                 "looks_core_seconds": time.process_time() - used}  # fmt: skip
        # as many pixels in a batch of either size
        batch = args.batch * 256**2 // size**2 if cuda else 8
        for graph in (False, True) if cuda else (False,):
            row = {"size": size, "batch": batch, "graph": graph,
                   "strands": made.looks.wigs.strands.points.shape[1]}  # fmt: skip
            rows.append(row | looks | _streamed(made.batches(batch, graph=graph), batch, cuda))
            print(rows[-1], flush=True)
        draw = partial(made.drawn, torch.arange(batch))
        rows[-1]["drawn_ms"] = 1000 * _seconds(draw, 1)
        if args.profile and cuda:
            rows[-1]["made_ms"] = 1000 * _seconds(partial(made.made, draw()), 3)
            rows[-1]["kernels_ms"] = _profile(partial(made.made, draw()))
        print(rows[-1], flush=True)
    return {"device": device, "rows": rows}


def _streamed(stream: Iterator[Any], batch: int, cuda: bool) -> dict[str, float]:
    """Portraits a second of an endless iterator, as a consumer sees it."""
    rounds = 12 if cuda else 3
    for _ in range(2):  # compiles, and fills caches
        next(stream).pictures.srgb.mean().item()
    started, used, total = time.perf_counter(), time.process_time(), 0
    for _ in range(rounds):
        total = total + next(stream).pictures.srgb.mean()
    shown = float(total) / rounds  # waits for the device
    seconds, cores = time.perf_counter() - started, time.process_time() - used
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    row = {"portraits_per_second": rounds * batch / seconds, "mean": shown,
           "core_seconds_each": cores / (rounds * batch)}  # fmt: skip
    if cuda:
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def sheets(args: argparse.Namespace) -> dict[str, Any]:
    """The pictures of the docs: whole people as drawn, none chosen but `LIT` and `ACTOR`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made, size = load_people(SEED, (256, 256), args.looks, 256, device, args.ict), 256
    drawn = torch.cat([made.at(torch.arange(k, k + 8)).pictures.srgb for k in range(0, 64, 8)])
    sheet = drawn.reshape(8, 8, size, size, 3).transpose(1, 2).reshape(8 * size, 8 * size, 3)
    lights = _sat(made, torch.arange(6))
    acts = _acts(made)
    small = torch.stack([_half(one) for one in acts]).cpu().reshape(4, 13, size // 2, size // 2, 3)
    pictures = {"people": _half(sheet), "portraits": sheet[:1024, :1024],
                "portrait-lights": torch.cat([torch.cat(list(lights[k : k + 3]), 1)
                                              for k in (0, 3)]),
                "portrait-actions": small.transpose(1, 2).reshape(2 * size, -1, 3)}  # fmt: skip
    folder = args.pictures or Path("docs/images")
    for name, picture in pictures.items():
        write_image(folder / f"{name}.jpg", picture.cpu(), quality=82)
    return {"device": device, "pictures": list(pictures)}


def _sat(made: PortraitPeople, scene: torch.Tensor) -> torch.Tensor:
    """Pictures of who is `LIT` in the light of scenes by number."""
    one = torch.full_like(scene, LIT)
    look = made.looks_of(one)
    drawn, count = made.composed(one, one, scene, look, look), len(scene)
    camera, expected = drawn.scenes.world_to_camera[:1], drawn.scenes.intrinsics[:1]
    pose = {"world_to_camera": camera.expand(count, 4, 4),
            "intrinsics": expected.expand(count, 3, 3)}  # fmt: skip
    return made.made(replace(drawn, scenes=replace(drawn.scenes, **pose))).pictures.srgb


def _acts(made: PortraitPeople) -> torch.Tensor:
    """Pictures of who is `ACTOR` in the 52 faces, seen by a perfect camera, without glasses."""
    one, scene = torch.full((52,), ACTOR), torch.full((52,), DAYLIGHT)
    look = made.looks_of(one)
    drawn = made.composed(one, one, scene, look, look)
    frame = torch.tensor([[-0.085, -0.14, -0.12], [0.085, 0.12, 0.05]])
    camera, lens = portrait_camera(frame, made.scenes.size, 0.25, 0.05)
    clean = drawn.scenes.sensor * torch.tensor([1.0, 1, 1, 0, 0, 0])
    scenes = replace(
        drawn.scenes, world_to_camera=camera.expand(52, 4, 4), intrinsics=lens.expand(52, 3, 3),
        sensor=clean, blur=torch.full((52,), 0.35),
    )  # fmt: skip
    worn = drawn.outfits
    if worn is not None:
        worn = replace(worn, worn=worn.worn & torch.tensor([True, False, False]))
    drawn = replace(drawn, coefficients=torch.eye(52), gaze=torch.zeros_like(drawn.gaze),
                    scenes=scenes, outfits=worn)  # fmt: skip
    return made.made(drawn).pictures.srgb


def _half(picture: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)


SECTIONS = {
    "throughput": throughput, "agreement": agreement, "pathtraced": pathtraced, "people": people,
    "sheets": sheets,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="+", choices=list(SECTIONS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1], help="of the head")
    parser.add_argument("--portraits", type=int, default=6, help="of the path tracer")
    parser.add_argument("--samples", type=int, default=256, help="light paths a pixel")
    parser.add_argument("--pictures", type=Path, help="folder for pairs of the path tracer, sheets")
    parser.add_argument("--looks", type=int, default=24, help="skins that people share")
    parser.add_argument("--ict", type=Path, help="ICT-FaceKit's model; without it shapes vary less")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--commit", help="what to record when git is not there")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"commit": args.commit or measured_on.commit()}
    result["hardware"] = measured_on.hardware()
    result["seed"] = SEED
    for section in args.sections:
        result[section] = SECTIONS[section](args)
        print(section, json.dumps(result[section]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
