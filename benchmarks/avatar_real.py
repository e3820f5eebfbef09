"""Avatars of real people, judged on pictures that the fit has not seen.

    python benchmarks/avatar_real.py --photos FOLDER --capture RUN --out results/avatar_real.json

FOLDER is what CAP4D's tracker leaves of a few photos: each is left out in turn. RUN is a finished
`topohead capture` with `--holdout CAMERA`: that camera is judged in every frame. Scores are of the
face alone (the mesh's own region, where that camera sees it): PSNR, SSIM, and how alike gradients
are over four scales. Beside the avatar stands the nearest view, reprojected: the same mesh, every
pixel in the colour that the most similar picture shows there. Both are brought to the judged
camera's colours by one affine map, since cameras and photos differ there. What has the judged
picture's outlines (its tracked mesh) is given to both alike.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from avatar import chosen, drawn, nearest_views
from measured_on import commit, hardware
from torch import Tensor
from torch.nn import functional

from topohead.core import PosedViews
from topohead.geometry.avatars import Avatar
from topohead.io.images import write_image
from topohead.io.results import open_run
from topohead.losses.similarity import affine_color_fit
from topohead.losses.texture import psnr, ssim
from topohead.rendering.mesh import rasterize
from topohead.workflows.avatar import FitConfig
from topohead.workflows.avatars.fitting import fitted, resolved
from topohead.workflows.avatars.inputs import Sitting, run_sitting
from topohead.workflows.avatars.photos import tracked_sitting

SCALES = 4

FACE = ("face", "lips", "eyes", "eyelids", "nose", "mouth_interior", "teeth", "tongue")
"""What is judged: also what shows between the lips, where tracking errs most."""


def main() -> None:
    """Fit, compare, write JSON; and pictures, for eyes on this machine alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("avatar_real.json"))
    parser.add_argument("--pictures", type=Path, help="folder of sheets: truth, avatar, nearest")
    parser.add_argument("--photos", type=Path, help="folder with fit.npz and alignment.npz")
    parser.add_argument("--leave-out", help="numbers of photos to judge (default: each in turn)")
    parser.add_argument("--capture", type=Path, help="run of `topohead capture --holdout CAMERA`")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--gaussians", type=int, default=15_000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--degree", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, help="folder of tracked heads, made once")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.photos:
            rows["photos"] = photos(args, Path(folder))
        if args.capture:
            rows["capture"] = capture(args, Path(folder))
    kept = ("leave_out", "height", "gaussians", "steps", "degree", "device")
    result = {
        "benchmark": "avatar_real",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "settings": {name: getattr(args, name) for name in kept},
        **rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def photos(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Each photo judged by a fit to the others; heads are tracked in all of them together."""
    whole = kept(args, "photos", lambda: tracked_sitting(args.photos, args.height))
    count = len(whole.posed.views)
    name = whole.posed.views[0].cameras.names[0]
    told = args.leave_out
    wanted = range(count) if told is None else [int(one) - 1 for one in told.split(",")]
    rows = []
    for held in wanted:
        seen = chosen(whole, [(t, name) for t in range(count) if t != held])
        row = judged(seen, chosen(whole, [(held, name)]), args, folder, f"photo{held + 1}")
        rows.append({"photo": held + 1, **row})
    return rows


def capture(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The camera that the run held out, in all frames."""
    run = open_run(args.capture)
    held = str(run.config["holdout"]).split(",")
    assert run.rig is not None
    names = list(run.rig.cameras.names)
    whole = kept(args, "capture", lambda: run_sitting(args.capture, args.height, cameras=names))
    return {"camera": ",".join(held), **judged(*split(whole, held), args, folder, "capture")}


def split(whole: Sitting, held: list[str]) -> tuple[Sitting, Sitting]:
    """What other cameras see, and what these do."""
    views = whole.posed.views
    parts = []
    for inside in (False, True):
        names = [n for n in views[0].cameras.names if (n in held) == inside]
        part = chosen(whole, [(t, name) for t in range(len(views)) for name in names])
        if whole.counted is not None:
            index = [views[0].cameras.names.index(name) for name in names]
            counted = tuple(tuple(row[c] for c in index) for row in whole.counted)
            part = replace(part, counted=counted)
        parts.append(part)
    return parts[0], parts[1]


def kept(args: argparse.Namespace, name: str, make: Callable[[], Sitting]) -> Sitting:
    """A sitting from `--keep`, or made and left there: tracking is not what is measured."""
    path = None if args.keep is None else args.keep / f"{name}{args.height}.pt"
    if path is not None and path.exists():
        return torch.load(path, weights_only=False)
    found = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    return found


def judged(
    seen: Sitting, test: Sitting, args: argparse.Namespace, folder: Path, name: str
) -> dict[str, Any]:
    """Means over the test's pictures, and each one's scores."""
    config = resolved(
        FitConfig(
            Path(name), folder / name, gaussians=args.gaussians, steps=args.steps,
            degree=args.degree, device=args.device, height=args.height,
            hull=seen.counted is None, refine="yes" if seen.counted is None else "no",
        )
    )  # fmt: skip
    shutil.rmtree(config.out, ignore_errors=True)
    avatar, facts = fitted(seen, config)
    ours, nearest = both(avatar.to(args.device), seen, test)
    scores: dict[str, list[dict[str, float]]] = {"avatar": [], "nearest": []}
    cells = []
    for k, (target, face) in enumerate(faces(test.posed)):
        shown = [target * face[..., None]]
        for label, made in (("avatar", ours[k]), ("nearest", nearest[k])):
            near = affine_color_fit(made, target, face)
            scores[label].append(face_scores(near, target, face))
            shown.append(near)
        cells.append(torch.cat([target, *shown[1:], shown[0]], 1))
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        high = max(len(cell) for cell in cells)
        wide = max(cell.shape[1] for cell in cells)
        same = [functional.pad(c, (0, 0, 0, wide - c.shape[1], 0, high - len(c))) for c in cells]
        write_image(args.pictures / f"{name}.png", torch.cat(same, 0))
    return {
        "pictures": facts["pictures"],
        "fitted_psnr": facts["psnr"],
        **{label: mean(rows) for label, rows in scores.items()},
        "each": scores,
    }


def both(avatar: Avatar, seen: Sitting, test: Sitting) -> tuple[list[Tensor], list[Tensor]]:
    """The avatar's pictures and the nearest views, these of the same instant where there is one."""
    ours, nearest = [], []
    instants = [view.frame for view in seen.posed.views]
    for t, view in enumerate(test.posed.views):
        near = seen
        if view.frame in instants:
            row = instants.index(view.frame)
            near = chosen(seen, [(row, name) for name in seen.posed.views[row].cameras.names])
        one = chosen(test, [(t, name) for name in view.cameras.names])
        ours += drawn(avatar, one)
        nearest += nearest_views(near, one)
    return ours, nearest


def faces(posed: PosedViews) -> list[tuple[Tensor, Tensor]]:
    """Every picture, and where it shows the face and what is between its lips, within the matte."""
    topology, found = posed.topology, []
    names = [name for name in FACE if name in topology.regions]
    inside = topology.triangle_mask(*names)
    for view, vertices in zip(posed.views, posed.vertices.float(), strict=True):
        for c, image in enumerate(view.images):
            raster = rasterize(
                vertices, topology.triangles, view.cameras.world_to_camera[c],
                view.cameras.intrinsics[c], view.cameras.size(c), cull=False,
            )  # fmt: skip
            mask = (raster.triangle >= 0) & inside[raster.triangle.clamp(min=0).long()]
            if view.masks is not None:
                mask &= view.masks[c] > 0.5
            found.append((image, mask))
    return found


def face_scores(picture: Tensor, target: Tensor, face: Tensor) -> dict[str, float]:
    """PSNR, SSIM and gradient similarity of one picture inside the face."""
    return {
        "psnr": float(psnr(picture, target, face)),
        "ssim": float(ssim(picture, target, face)),
        "gradients": gradient_similarity(picture, target, face),
    }


def gradient_similarity(picture: Tensor, target: Tensor, face: Tensor) -> float:
    """Mean over scales of (2ab + c) / (a² + b² + c) for gradient lengths a, b, luminance, c 0.0026.

    Each scale halves the last one. Stands in for learned perceptual scores: blur and lost edges
    cost, small shifts in colour do not (Xue et al. 2014 for the form).
    """
    weights = torch.tensor([0.299, 0.587, 0.114])
    light = torch.stack([picture @ weights, target @ weights])[:, None]
    inside, found = face.float()[None, None], []
    for _ in range(SCALES):
        right = light[..., 1:, 1:] - light[..., 1:, :-1]
        down = light[..., 1:, 1:] - light[..., :-1, 1:]
        a, b = (right.square() + down.square()).sqrt()[:, 0]
        alike = (2 * a * b + 0.0026) / (a.square() + b.square() + 0.0026)
        wanted = inside[0, 0, 1:, 1:] > 0.99
        if bool(wanted.any()):
            found.append(float(alike[wanted].mean()))
        light = functional.avg_pool2d(light, 2)
        inside = functional.avg_pool2d(inside, 2)
    return sum(found) / max(len(found), 1)


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


if __name__ == "__main__":
    main()
