"""Avatars of staged people, whose new expressions from new sides are known exactly.

    python benchmarks/avatar.py --out results/avatar.json --pictures sheet.png

Stages a take, fits avatars to 1, 2, 4 and all of its references, and compares them with pictures of
held-out cameras in held-out frames: PSNR and SSIM, of the whole picture over black and inside the
head. Beside them the nearest view, reprojected: each pixel has the colour that the reference seen
from the most similar direction shows there. Heads, cameras and expressions are the true ones
throughout, so the numbers judge the Gaussians and not the tracking.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured_on import commit, hardware
from torch import Tensor

from topohead.core import PosedViews, SurfacePoints, Views
from topohead.geometry.avatars import Avatar
from topohead.geometry.correspondence import interpolate
from topohead.geometry.meshes import vertex_normals
from topohead.io.images import write_image
from topohead.losses.photometric import l1_dssim
from topohead.rendering.avatars import render_avatar
from topohead.rendering.mesh import depth_maps, rasterize
from topohead.rendering.shading import portrait_camera
from topohead.solvers.reprojection import picture_values, sight
from topohead.workflows.avatar import FitConfig
from topohead.workflows.avatars.fitting import fitted, resolved
from topohead.workflows.avatars.inputs import Sitting, staged_sitting
from topohead.workflows.stage import StageConfig, stage

TEST_SEED = 760
"""First seed of test takes; tuning used 180 to 189."""


def main() -> None:
    """Stage, fit, compare, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("avatar.json"))
    parser.add_argument("--pictures", type=Path, help="a sheet: truth, avatars, reprojection")
    parser.add_argument("--seeds", default=f"{TEST_SEED}")
    parser.add_argument("--frames", type=int, default=9, help="every third one is held out")
    parser.add_argument("--cameras", type=int, default=8, help="with two that are held out")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--references", default="1,2,4,0", help="numbers of pictures, 0 for all")
    parser.add_argument("--gaussians", type=int, default=12_000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--degree", type=int, default=1)
    parser.add_argument("--codes", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gloss", type=float, default=0.0)
    parser.add_argument("--speed", action="store_true", help="frames a second at 512 pixels")
    parser.add_argument("--keep", type=Path, help="folder of takes, staged once")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="topohead-benchmark-"))
    try:
        rows = [run_seed(int(seed), args, folder) for seed in args.seeds.split(",")]
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    told = {k: v for k, v in vars(args).items() if k not in ("out", "pictures", "keep", "commit")}
    result = {
        "benchmark": "avatar",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "settings": told,
        "runs": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def run_seed(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One person's numbers by number of references."""
    take = folder / f"take{seed}-{args.frames}-{args.cameras}-{args.height}"
    stage(
        StageConfig(
            take, preset="small", seed=seed, cameras=args.cameras, held_out=2, frames=args.frames,
            width=args.height * 4 // 3, height=args.height, fps=5.0, texture_size=1024,
            turned=0.0, color_error=0.0, gloss=args.gloss, device=args.device,
        )
    )  # fmt: skip
    whole = staged_sitting(take, args.height)
    frames = [view.frame for view in whole.posed.views]
    new = [t for t in range(len(frames)) if t % 3 == 2]
    old = [t for t in range(len(frames)) if t % 3 != 2]
    names = whole.posed.views[0].cameras.names
    held = [name for name in names if name.startswith("hold")]
    test = chosen(whole, [(t, name) for t in new for name in held])
    found: dict[str, Any] = {"seed": seed}
    columns = []
    for count in (int(number) for number in args.references.split(",")):
        pictures = references(whole.posed, old, [n for n in names if n not in held], count)
        sitting = chosen(whole, pictures)
        config = resolved(
            FitConfig(
                take, folder / f"avatar{seed}-{count}", gaussians=args.gaussians,
                steps=args.steps, degree=args.degree, codes=args.codes, device=args.device,
                height=args.height,
            )
        )  # fmt: skip
        shutil.rmtree(config.out, ignore_errors=True)  # what an interrupted fit left
        began = time.perf_counter()
        avatar, facts = fitted(sitting, config)
        seconds = time.perf_counter() - began
        ours, nearest = compared(avatar.to(args.device), sitting, test)
        label = str(len(pictures)) if count else "all"
        found[label] = {
            "pictures": len(pictures),
            "fit_s": seconds,
            "fitted_psnr": facts["psnr"],
            "avatar": judged(ours, test.posed.views),
            "nearest": judged(nearest, test.posed.views),
        }
        if args.speed:
            found[label]["frames_per_second"] = speed(avatar, args.device)
        columns.append((ours, nearest))
    if args.pictures:
        write_sheet(args.pictures.with_stem(f"{args.pictures.stem}{seed}"), columns, test)
    return found


def references(
    posed: PosedViews, frames: list[int], names: list[str], count: int
) -> list[tuple[int, str]]:
    """So many pictures: of the first frame, the most frontal camera and then far ones; or all."""
    if not count:
        return [(t, name) for t in frames for name in names]
    cameras = posed.views[0].cameras.select(names)
    ways = (
        cameras.centers.double() @ posed.upright[:3, :3].double().T + posed.upright[:3, 3].double()
    )
    ways = torch.nn.functional.normalize(ways, dim=1)
    order = [int(ways[:, 2].argmax())]
    while len(order) < min(count, len(names)):
        order.append(int((ways @ ways[order].T).amax(1).argmin()))
    return [(frames[0], names[index]) for index in order]


def chosen(sitting: Sitting, pictures: list[tuple[int, str]]) -> Sitting:
    """Some pictures of a sitting, each frame once."""
    posed = sitting.posed
    rows = sorted({t for t, _ in pictures})
    views = []
    for t in rows:
        view, names = posed.views[t], [name for u, name in pictures if u == t]
        index = [view.cameras.names.index(name) for name in names]
        assert view.masks is not None
        views.append(
            Views(
                view.frame, view.cameras.select(names), tuple(view.images[i] for i in index),
                tuple(view.masks[i] for i in index),
            )
        )  # fmt: skip
    part = replace(
        posed, views=tuple(views), vertices=posed.vertices[rows], weights=posed.weights[rows],
        gaze=posed.gaze[rows], poses=posed.poses[rows],
    )  # fmt: skip
    return replace(sitting, posed=part)


def compared(avatar: Avatar, sitting: Sitting, test: Sitting) -> tuple[list[Tensor], list[Tensor]]:
    """Each test picture by the avatar's own rig, and by the nearest references."""
    posed, ours, nearest = test.posed, [], []
    back = torch.linalg.inv(posed.upright.double())
    depths = [
        depth_maps(v.float(), posed.topology.triangles, view.cameras, cull=False)
        for v, view in zip(sitting.posed.vertices, sitting.posed.views, strict=True)
    ]
    for t, view in enumerate(posed.views):
        pose = posed.upright.double() @ posed.poses[t].double() @ back
        for c in range(len(view.images)):
            camera = view.cameras.world_to_camera[c].double(), view.cameras.intrinsics[c].double()
            size = view.cameras.size(c)
            image, _ = render_avatar(
                avatar, posed.weights[t], posed.gaze[t], pose.float(),
                (camera[0] @ back)[None].float(), camera[1][None].float(), size,
            )  # fmt: skip
            ours.append(image[0].clamp(0, 1).cpu())
            nearest.append(reprojected(sitting.posed, depths, posed, t, camera, size))
    return ours, nearest


def reprojected(
    references: PosedViews, depths: list[list[Tensor]], posed: PosedViews, t: int,
    camera: tuple[Tensor, Tensor], size: tuple[int, int],
) -> Tensor:  # fmt: skip
    """A picture of the true mesh whose pixels show what the most similar reference saw there."""
    triangles = posed.topology.triangles
    raster = rasterize(posed.vertices[t].float(), triangles, *camera, size)
    covered = raster.triangle >= 0
    points = SurfacePoints(raster.triangle[covered].long(), raster.barycentrics[covered])
    way = direction(camera[0], posed.poses[t])
    rows = []
    for r, (view, vertices) in enumerate(zip(references.views, references.vertices, strict=True)):
        places = interpolate(points, triangles, vertices.float())
        normals = interpolate(points, triangles, vertex_normals(vertices.float(), triangles))
        normals = torch.nn.functional.normalize(normals, dim=1)
        face = float((references.weights[r] - posed.weights[t]).norm())
        for c, image in enumerate(view.images):
            pose, lens = view.cameras.world_to_camera[c], view.cameras.intrinsics[c]
            pixels, weight = sight(places, normals, pose, lens, depths[r][c])
            turn = float(way @ direction(pose.double(), references.poses[r]))
            rows.append((-turn, face, weight > 0, picture_values(image, pixels)))
    colors = torch.full((len(points.triangles), 3), float("nan"))
    for _, _, seen, values in sorted(rows, key=lambda row: row[:2]):
        empty = colors[:, 0].isnan() & seen
        colors[empty] = values[empty]
    # what no reference shows is grey skin: the mean of what they do show
    unknown = colors[:, 0].isnan()
    colors[unknown] = colors[~unknown].mean(0) if bool((~unknown).any()) else 0.5
    picture = torch.zeros(size[1], size[0], 3)
    picture[covered] = colors
    return picture


def direction(world_to_camera: Tensor, pose: Tensor) -> Tensor:
    """Where a camera looks, in the frame of the head."""
    return pose[:3, :3].double().T @ world_to_camera[2, :3].double()


def judged(pictures: list[Tensor], views: tuple[Views, ...]) -> dict[str, float]:
    """Means over pictures: PSNR over black, PSNR inside the head, SSIM over black."""
    rows = []
    truths = [
        (image, mask)
        for view in views
        for image, mask in zip(view.images, view.masks or (), strict=True)
    ]
    for picture, (image, mask) in zip(pictures, truths, strict=True):
        target = image * mask[..., None]
        square = (picture - target).square().mean(-1)
        inside = mask > 0.5
        ssim = 1 - float(l1_dssim(picture, target, 1.0))
        rows.append([-10 * square.mean().log10(), -10 * square[inside].mean().log10(), ssim])
    whole, inner, ssim = torch.tensor(rows).mean(0).tolist()
    return {"psnr": whole, "psnr_inside": inner, "ssim": ssim}


def speed(avatar: Avatar, device: str) -> float:
    """Frames a second at 512×512, posing and drawing, after a warm-up."""
    moved = avatar.to(device)
    pose, lens = portrait_camera(avatar.rig.neutral, (512, 512))
    given = pose[None].float().to(device), lens[None].float().to(device), (512, 512)
    weights = torch.rand(40, 52, generator=torch.Generator().manual_seed(0)) * 0.3
    still = torch.eye(4).to(device)
    zero = torch.zeros(2, 2)
    for part in (weights[:8].to(device), weights[8:].to(device)):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for row in part:
            render_avatar(moved, row, zero, still, *given)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return len(part) / seconds


def write_sheet(
    path: Path, columns: list[tuple[list[Tensor], list[Tensor]]], test: Sitting
) -> None:
    """Rows: test pictures; columns: truth, then for each fit the avatar and the nearest view."""
    truths = [
        image * mask[..., None]
        for view in test.posed.views
        for image, mask in zip(view.images, view.masks or (), strict=True)
    ]
    rows = []
    for k, truth in enumerate(truths[:4]):
        cells = [truth, *(part[k] for pair in columns for part in pair)]
        rows.append(torch.cat(cells, 1))
    write_image(path, torch.cat(rows, 0))


if __name__ == "__main__":
    main()
