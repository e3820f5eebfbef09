"""Made people: what is measured of them, section by section.

    python benchmarks/people.py --ict ict_face_model.npz --out people.json --sections shapes

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
from torch import Tensor

from topohead.geometry.anthropometry import SURVEY
from topohead.geometry.globes import gaze_rotation
from topohead.geometry.slits import Slit
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.io.assets import reference_head
from topohead.io.expressions import read_live_link
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
    parser.add_argument("--heads", type=int, default=2000, help="whose sizes are taken")
    parser.add_argument("--faces", type=int, default=600, help="in which crossings are counted")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    check_split(args.seed, "test")
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
    """Share of random expressions in which lips or lids cross, before and after the remedy.

    `finer`: the same of every fourth face's lips on the surface one level finer, whose vertices
    the remedy does not see.
    """
    recording = read_live_link(args.performance) if args.performance else None
    names = ("uncorrected", "posed")
    tables: dict[str, list[Tensor]] = {name: [] for name in names}
    finer: dict[str, list[Tensor]] = {name: [] for name in names}
    topology = reference_head(1).topology
    lips = Slit.of(topology, *(topology.region_mask(f"lips_{n}") for n in ("upper", "lower")))
    matrix = catmull_clark(replace(shapes.topology, mirror=None))[1]

    def on_finer(vertices: Tensor) -> Tensor:
        return torch.cat([lips.depth(refine(matrix, v)[None]) for v in vertices[::4]])

    for start in range(0, args.faces, 100):
        numbers = range(start, min(start + 100, args.faces))
        heads = shapes.draw(args.seed, numbers)
        coefficients, gaze = draw_expressions(args.seed, numbers, recording)
        plain = heads.rest + carried(shapes.head.expression_basis, heads.gradients, coefficients)
        rest = on_finer(heads.rest).clamp(min=0)
        for name, faces in zip(names, (plain, heads.posed(coefficients, gaze)), strict=True):
            tables[name].append(depths_mm(heads, faces, gaze))
            finer[name].append(1000 * (on_finer(faces) - rest).amax(1))
    result: dict[str, Any] = {"faces": args.faces, "deeper_than_mm": DEEP_MM}
    for name in names:
        table, fine = torch.cat(tables[name]), torch.cat(finer[name])
        share = (table > DEEP_MM).double().mean(0).tolist()
        row = dict(zip(("lips", "lids", "globes"), share, strict=True))
        row["any"] = float((table > DEEP_MM).any(1).double().mean())
        row["worst_mm"] = table.amax(0).tolist()
        row["finer_lips"] = float((fine > DEEP_MM).double().mean())
        row["finer_worst_mm"] = float(fine.amax())
        result[name] = _rounded(row)
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
