"""Made people: what is measured of them, section by section.

    python benchmarks/people.py --ict ict_face_model.npz --out people.json --sections shapes
    python benchmarks/people.py --sheet heads.png --ict ict_face_model.npz

`shapes`: sizes of rest shapes against published anthropometry, shares of sources, how often lips
and lids cross in random expressions, heads a second. `shapes_cuda`: heads a second on CUDA, and how
far they are from the CPU's.
Seeds are apart from those that numbers were tuned on.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import commit, hardware
from PIL import Image
from torch import Tensor

from topohead.geometry.globes import gaze_rotation
from topohead.geometry.slits import Slit
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.expressions import read_live_link
from topohead.rendering.shading import portrait_camera, render_mesh
from topohead.synthesis.anthropometry import SURVEY
from topohead.synthesis.expressions import draw_expressions
from topohead.synthesis.mixture import SOURCES, shares
from topohead.synthesis.shapes import Heads, Shapes, carried, load_shapes
from topohead.synthesis.splits import check_split

TEST_SEED = 760
"""Numbers of the mixture were tuned on training seeds and on 700–719."""
DEEP_MM = 0.5
"""Lips or lids cross when a vertex lies deeper than this in the other side, beyond rest."""


def main() -> None:
    """Run the chosen sections; the result file grows after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ict", type=Path, help="ict_face_model.npz; without it anny alone")
    parser.add_argument("--performance", type=Path, help="Live Link CSV for a fifth of the faces")
    parser.add_argument("--out", type=Path, default=Path("people.json"))
    parser.add_argument("--sections", default="shapes")
    parser.add_argument("--seed", type=int, default=TEST_SEED)
    parser.add_argument("--heads", type=int, default=4000, help="whose sizes are taken")
    parser.add_argument("--faces", type=int, default=1000, help="in which crossings are counted")
    parser.add_argument("--sheet", type=Path, help="only draw a contact sheet of 64 heads here")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    check_split(args.seed, "test")
    if args.sheet:
        contact_sheet(load_shapes("cpu", args.ict), args.seed, args.sheet)
        return
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {"benchmark": "people", "commit": args.commit or commit(), "seed": args.seed}
    for name in args.sections.split(","):
        result[name] = {"hardware": hardware()} | SECTIONS[name](args)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def shapes_section(args: argparse.Namespace) -> dict[str, Any]:
    """Everything about shapes, on the CPU and, where there is one, on the GPU."""
    shapes = load_shapes("cpu", args.ict)
    found = {"ict": args.ict is not None, "anthropometry_mm": anthropometry(shapes, args)}
    found |= sources(shapes, args)
    found["crossing"] = crossings(shapes, args)
    found["motion"] = motion(shapes, args.seed)
    found["heads_a_second"] = speed(shapes, args.seed, 32)
    return found


def cuda_section(args: argparse.Namespace) -> dict[str, Any]:
    """Shapes on CUDA: heads a second, and how far they are from the CPU's."""
    here, device = load_shapes("cpu", args.ict), load_shapes("cuda", args.ict)
    return {
        "heads_a_second": speed(device, args.seed, 2048),
        "against_cpu_um": agreement(here, device, args.seed),
    }


def anthropometry(shapes: Shapes, args: argparse.Namespace) -> dict[str, Any]:
    """Mean and deviation of each size, the survey's, and those of each source."""
    sizes, source = _sizes(shapes, args)
    table = {}
    for name, published in SURVEY.items():
        row = {"survey": [published.mean, published.deviation], "made": _moments(sizes[name])}
        row["off_deviations"] = (row["made"][0] - published.mean) / published.deviation
        row["spread_ratio"] = row["made"][1] / published.deviation
        for k, label in enumerate(SOURCES):
            if (source == k).any():
                row[label] = _moments(sizes[name][source == k])
        table[name] = _rounded(row)
    return table


def _sizes(shapes: Shapes, args: argparse.Namespace) -> tuple[dict[str, np.ndarray], np.ndarray]:
    parts, source = [], []
    for start in range(0, args.heads, 500):
        heads = shapes.draw(args.seed, range(start, min(start + 500, args.heads)))
        points = heads.rest[:, shapes.callipers.vertices].double().numpy()
        parts.append(shapes.callipers(points))
        source.append(heads.source.numpy())
    return {n: np.concatenate([p[n] for p in parts]) for n in SURVEY}, np.concatenate(source)


def sources(shapes: Shapes, args: argparse.Namespace) -> dict[str, Any]:
    """Shares of the mixture, and how many heads of each were drawn again."""
    parts = [shapes.people(args.seed, range(k, k + 500)) for k in range(0, args.heads, 500)]
    source = np.concatenate([part.source for part in parts])
    again = np.concatenate([part.attempts for part in parts]) > 0
    table = {"redrawn": float(again.mean()), "sources": {}}
    for k, (label, wanted) in enumerate(zip(SOURCES, shares(shapes.space), strict=True)):
        own = source == k
        redrawn = float(again[own].mean()) if own.any() else 0.0
        row = {"wanted": wanted, "share": float(own.mean()), "redrawn": redrawn}
        table["sources"][label] = _rounded(row)
    return table


def crossings(shapes: Shapes, args: argparse.Namespace) -> dict[str, Any]:
    """Share of random expressions in which lips or lids cross, before and after the remedy."""
    recording = read_live_link(args.performance) if args.performance else None
    before, after, pierced = [], [], []
    for start in range(0, args.faces, 100):
        numbers = range(start, min(start + 100, args.faces))
        heads = shapes.draw(args.seed, numbers)
        coefficients, gaze = draw_expressions(args.seed, numbers, recording)
        plain = heads.rest + carried(shapes.head.expression_basis, heads.gradients, coefficients)
        posed = heads.posed(coefficients, gaze)
        before.append(depths_mm(heads, plain, gaze))
        after.append(depths_mm(heads, posed, gaze))
        pierced += [[pierces_mm(shapes.lips, v) for v in (r, p)] for r, p in zip(heads.rest, posed, strict=True)]
    result: dict[str, Any] = {"faces": args.faces, "deeper_than_mm": DEEP_MM}
    for name, rows in (("uncorrected", before), ("posed", after)):
        table = torch.cat(rows)
        share = (table > DEEP_MM).double().mean(0).tolist()
        either = float((table > DEEP_MM).any(1).double().mean())
        worst = table.amax(0).tolist()
        result[name] = _rounded(
            dict(zip(("lips", "lids", "globes"), share, strict=True))
            | {"any": either, "worst_mm": worst}
        )
    rest, face = np.array(pierced).T
    result["lips_pierced_along_edges"] = _rounded(
        {"share": float((face > rest + DEEP_MM).mean()), "rest_share": float((rest > DEEP_MM).mean())}
    )
    return result


def depths_mm(heads: Heads, vertices: Tensor, gaze: Tensor) -> Tensor:
    """How much deeper than at rest lips, lids and globes' lids lie, greatest of each head [B 3]."""
    shapes = heads.shapes

    def beyond(slit: Slit) -> Tensor:
        return (slit.depth(vertices) - slit.depth(heads.rest).clamp(min=0)).amax(1)

    lids = torch.stack([beyond(slit) for slit in shapes.lids]).amax(0)
    still = torch.eye(3).expand(len(heads), 3, 3)
    inside = []
    for contact, turn in zip(shapes.globes, gaze_rotation(gaze).unbind(1), strict=True):
        placed = contact.placed(heads.rest)
        needed = torch.minimum(contact.clearance(heads.rest, *placed, still), contact.needed)
        inside.append((needed - contact.clearance(vertices, *placed, turn)).amax(1))
    return 1000 * torch.stack([beyond(shapes.lips), lids, torch.stack(inside).amax(0)], 1)


def pierces_mm(slit: Slit, vertices: Tensor) -> float:
    """How far edges of one lip reach through triangles of the other, farthest, millimetres.

    By crossing every edge with every triangle (Möller and Trumbore 1997): another way than the
    heights that the remedy works by.
    """
    points = vertices[slit.patch.vertices].double()
    worst = 0.0
    for own, other in ((slit.upper_sheet, slit.lower_sheet), (slit.lower_sheet, slit.upper_sheet)):
        pairs = torch.cat([own[:, [0, 1]], own[:, [1, 2]], own[:, [2, 0]]])
        start, way = points[pairs[:, 0]][:, None], (points[pairs[:, 1]] - points[pairs[:, 0]])[:, None]
        a, b, c = (points[other[:, k]][None] for k in range(3))
        normal = torch.linalg.cross(b - a, c - a)
        slope = (way * normal).sum(-1)
        t = ((a - start) * normal).sum(-1) / torch.where(slope == 0, 1.0, slope)
        hit = start + t[..., None] * way
        # both lips own the mouth's corners: edges that touch a triangle do not pierce it
        apart = (pairs[:, :, None, None] != other[None, None]).flatten(1, 1).all(1).all(-1)
        inside = (t > 0) & (t < 1) & (slope != 0) & apart
        for p, q in ((a, b), (b, c), (c, a)):
            inside &= (torch.linalg.cross((q - p).expand_as(hit), hit - p) * normal).sum(-1) >= 0
        # the end beyond the triangle's back, measured along its normal
        depth = -slope * (1 - t) / normal.norm(dim=-1)
        worst = max(worst, float(torch.where(inside & (slope < 0), depth, 0.0).amax()))
    return 1000 * worst


def motion(shapes: Shapes, seed: int) -> dict[str, Any]:
    """How actions vary between people: the trap that additive actions fall into."""
    heads = shapes.draw(seed, range(128))
    result = {}
    for name in ("jawOpen", "mouthSmileLeft", "browInnerUp"):
        coefficients = shapes.head.expressions(**{name: 1.0}).expand(len(heads), -1)
        moved = carried(shapes.head.expression_basis, heads.gradients, coefficients)
        largest = 1000 * moved.norm(dim=-1).amax(1)
        spread = (moved - moved.mean(0)).square().sum(-1).mean().sqrt()
        relative = float(spread / moved.mean(0).square().sum(-1).mean().sqrt())
        result[name] = _rounded(
            {"largest_mm": [float(largest.min()), float(largest.max())], "rms_variation": relative}
        )
    return result


def speed(shapes: Shapes, seed: int, count: int) -> dict[str, float]:
    """Heads a second: weights on the CPU, rest shapes, gradients, faces, and all of it."""
    device = shapes.space.rows.device

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    result: dict[str, float] = {}
    for repeat in range(3):  # the first one warms up
        numbers = range(repeat * count, (repeat + 1) * count)
        start = clock()
        shapes.people(seed, numbers)
        drawn = clock()
        heads = shapes.draw(seed, numbers)
        shaped = clock()
        _ = heads.gradients
        ready = clock()
        coefficients, gaze = draw_expressions(seed, numbers)
        composed = clock()
        heads.posed(coefficients, gaze, torch.zeros(count, 3))
        done = clock()
        result = {
            "weights": count / (drawn - start),
            "rest": count / (shaped - drawn),
            "gradients": count / (ready - shaped),
            "expressions": count / (composed - ready),
            "posed": count / (done - composed),
            "all": count / (done - drawn),
        }
    return _rounded(result, 0) | {"batch": count}


def agreement(shapes: Shapes, device: Shapes, seed: int) -> dict[str, float]:
    """How far vertices on CUDA are from the CPU's, micrometres: median and greatest."""
    numbers = range(64)
    coefficients, gaze = draw_expressions(seed, numbers)
    neck = torch.linspace(-0.2, 0.2, 64)[:, None].expand(-1, 3)
    result = {}
    here, there = shapes.draw(seed, numbers), device.draw(seed, numbers)
    posed = here.posed(coefficients, gaze, neck), there.posed(coefficients, gaze, neck)
    for name, (a, b) in {"rest": (here.rest, there.rest), "posed": posed}.items():
        gap = 1e6 * (a - b.cpu()).norm(dim=-1)
        result |= {f"{name}_median": float(gap.median()), f"{name}_worst": float(gap.max())}
        result[f"{name}_over_1um"] = float((gap > 1).double().mean())
    return _rounded(result, 5)


def contact_sheet(shapes: Shapes, seed: int, path: Path) -> None:
    """64 heads in clay at one scale, each from the front and from the side, finer by one level."""
    heads = shapes.draw(seed, range(64))
    fine, matrix = catmull_clark(replace(shapes.topology, mirror=None))
    size = (112, 140)
    every = heads.rest.reshape(-1, 3)
    tiles = []
    for rest in heads.rest:
        views = (portrait_camera(every, size, yaw) for yaw in (0.0, 0.65))
        surface = refine(matrix, rest)
        pictures = [render_mesh(surface, fine, None, *view, size) for view in views]
        tiles.append(torch.cat([picture[:, 14:-14] for picture in pictures], 1))
    rows = [torch.cat(tiles[k : k + 8], 1) for k in range(0, 64, 8)]
    picture = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(picture).save(path, quality=88)


def _moments(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.std())]


def _rounded(value: Any, digits: int = 4) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v, digits) for v in value]
    return round(value, digits) if isinstance(value, float) else value


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "shapes": shapes_section,
    "shapes_cuda": cuda_section,
}

if __name__ == "__main__":
    main()
