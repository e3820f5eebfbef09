"""Where registration ends: scans spoilt until heads are lost, and whether that is told.

    python benchmarks/register_limits.py --out register_limits.json --heads 40 --jobs 2 --docs docs

Every cell spoils made people's scans by a strength drawn evenly between its two ends, from bearable
to hopeless. The network's head, and one drawn coarsely onto the scan, are compared with the truth
and with everything that `topohead register` would say. One scan's answer depends on (seed, cell,
number) alone.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import commit, hardware
from register import sized
from register_limits_page import write_page
from register_scans import Bench, Case, Forced, Person, clean, sampled, turned
from register_scores import Judge, area_under

from topohead.core import InputError, Scan
from topohead.geometry.anthropometry import SURVEY
from topohead.solvers.scan_free import FreeConfig, FreeStep
from topohead.solvers.scan_quality import judge
from topohead.solvers.scan_refine import RefineConfig, refine
from topohead.synthesis.device_draws import Draws, draws
from topohead.synthesis.remeshing import depth_view
from topohead.synthesis.scan_poses import Pose
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.splits import check_split
from topohead.workflows.registering.methods import STARTS, Lost, Means
from topohead.workflows.registering.units import find_unit, metres_in, units_of_head

COARSE = RefineConfig(
    samples=12_000,
    reaches=(0.008, 0.005),
    free=FreeConfig(steps=(FreeStep(0.006, 10.0), FreeStep(0.004, 2.0)), iterations=40),
)
"""A tenth of what refining costs, and enough to tell how far a head is from its scan."""

Spoiler = Callable[[Bench, Person, Draws, float], Case]
"""A scan of a person, spoilt by a strength from 0 to 1."""


def patch(bench: Bench, person: Person, random: Draws, strength: float) -> Case:
    """Only what lies within 9 down to 3 cm of a random point of the head."""
    case = clean(bench, person, random)
    points = case.scan.points
    middle = points[int(random.uniform("patch")[0] * (len(points) - 1))]
    return _cut(case, (points - middle).norm(dim=1) < 0.09 * (1 / 3) ** strength)


def moth_eaten(bench: Bench, person: Person, random: Draws, strength: float) -> Case:
    """50 to 97 % of the surface gone, in round holes."""
    case = clean(bench, person, random)
    points = case.scan.points
    left = torch.ones(len(points), dtype=torch.bool)
    order = random.uniform("holes", 400)[0]
    for place in (order * (len(points) - 1)).long():
        if float(left.float().mean()) < 0.5 - 0.47 * strength:
            break
        left &= (points - points[place]).norm(dim=1) > 0.025
    return _cut(case, left)


def turned_away(bench: Bench, person: Person, random: Draws, strength: float) -> Case:
    """One frame of a depth camera, from 45° aside to behind the head."""
    angle = float(np.radians(45 + 135 * strength)) * (1 if random.uniform("side")[0] < 0.5 else -1)
    towards = torch.tensor([np.sin(angle), 0.1, np.cos(angle)]).float()
    made = depth_view(bench.skin(person), towards, 240, 3e-4, person.number)
    pose = _upright(random)
    whole = torch.ones(len(made.vertices), dtype=torch.bool)
    return Case(person, Scan(pose.apply(made.vertices[None])[0], made.triangles), pose, whole)


def noisy(bench: Bench, person: Person, random: Draws, strength: float) -> Case:
    """Noise of 1.5 to 12 mm rms along each axis, without normals."""
    case = clean(bench, person, random)
    shaken = 1.5e-3 * 8**strength * random.normal("shaken", len(case.scan.points), 3)[0]
    points = case.scan.points + shaken * case.pose.scale
    return replace(case, scan=replace(case.scan, points=points, normals=None))


def sparse(bench: Bench, person: Person, random: Draws, strength: float) -> Case:
    """6000 down to 100 points, any way up, without normals."""
    case = clean(bench, person, random, turned(Forced(random.keys), 180 * strength))
    count = int(6000 * (1 / 60) ** strength)
    return replace(case, scan=replace(case.scan, points=case.scan.points[:count], normals=None),
                   inlier=case.inlier[:count])  # fmt: skip


def buried(bench: Bench, person: Person, random: Draws, strength: float) -> Case:
    """Hair, shoulders, strays, holes and a turn together, strays up to four points of five."""
    on = frozenset({"haired", "shouldered", "cluttered", "holed"})
    values = {"hair": 0.5 + 0.5 * strength, "shoulders": 1.0, "clutter": 1.0, "holes": strength}
    pose = turned(Forced(random.keys), 60 * strength)
    case = sampled(bench, person, Forced(random.keys, on, values), pose)
    count = max(1, int(len(case.scan.points) * 4 * strength**2))
    low, high = case.scan.points.aminmax(dim=0)
    strays = low + (high - low) * random.uniform("strays", count, 3)[0]
    points = torch.cat([case.scan.points, strays])
    inlier = torch.cat([case.inlier, torch.zeros(count, dtype=torch.bool)])
    return replace(case, scan=Scan(points, case.scan.triangles), inlier=inlier)


CELLS: dict[str, Spoiler] = {
    "a patch": patch,
    "moth-eaten": moth_eaten,
    "turned away": turned_away,
    "noisy": noisy,
    "sparse": sparse,
    "buried": buried,
}


def _upright(random: Draws) -> Pose:
    return turned(Forced(random.keys), 5.0)


def _cut(case: Case, kept: torch.Tensor) -> Case:
    scan = case.scan
    normals = None if scan.normals is None else scan.normals[kept]
    return replace(case, scan=replace(scan, points=scan.points[kept], normals=normals),
                   inlier=case.inlier[kept])  # fmt: skip


def one(task: tuple[int, str, int, int, str | None]) -> dict[str, Any]:
    """What became of one scan; `task` is seed, cell, which of the people, of how many, --ict."""
    seed, cell, number, count, ict = task
    bench, scores, people = _ready(seed, count, ict)
    person = people[number]
    random = draws(seed, torch.tensor([person.number]))
    strength = (number + float(random.uniform(f"strength {cell}")[0])) / count
    row: dict[str, Any] = {"cell": cell, "number": person.number, "strength": strength}
    began = time.process_time()
    try:
        case = CELLS[cell](bench, person, random, strength)
        unit, _ = find_unit(case.scan, "scan")
        case = sized(case, unit)
        if len(case.scan.points) < 500:
            raise InputError("fewer than 500 points")
    except InputError as error:
        return row | {"refused_unread": str(error)}
    head = bench.shapes.head
    network, notes = STARTS["network"](case.scan, head, Means(0))
    if not isinstance(unit, str):  # its head tells, as `register` has it
        case = sized(case, metres_in(units_of_head(network, unit)[0]) / metres_in(unit))
        network, notes = STARTS["network"](case.scan, head, Means(0))
    lost = any(isinstance(note, Lost) for note in notes)
    for name, fit in (("network", network), ("refined", refine(case.scan, network, head, COARSE))):
        quality = judge(case.scan, fit, head)
        row[name] = scores.failure(case, fit) | {
            "distance": quality.whole_to_scan.median_mm,
            "seen": quality.face_seen,
            "folded": quality.flipped,
            "remainder": quality.remainder_mm,
            "sizes": {n: v for n, v in quality.sizes_mm.items() if n in SURVEY},
            "refused": [*quality.failures, *(["lost"] if lost else [])],
            "warned": [*quality.warnings, *(["unsure"] if notes and not lost else [])],
        }
    return row | {"cpu_seconds": time.process_time() - began}


_KNOWN: dict[tuple[int, int, str | None], tuple[Bench, Judge, list[Person]]] = {}


def _ready(seed: int, count: int, ict: str | None) -> tuple[Bench, Judge, list[Person]]:
    """A process draws the people once."""
    key = (seed, count, ict)
    if key not in _KNOWN:
        torch.set_num_threads(1)
        bench = Bench(load_shapes("cpu", ict), seed)
        _KNOWN[key] = bench, Judge(bench), bench.people(count)
    return _KNOWN[key]


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By method: how many failed, what was said of them, and the curves of what is told."""
    found: dict[str, Any] = {}
    for name in ("network", "refined"):
        own = [row[name] for row in rows if name in row]
        failed = np.array([row["failed"] > 0 for row in own], bool)
        refused, warned = (np.array([bool(r[k]) for r in own], bool) for k in ("refused", "warned"))
        flagged = refused | warned
        curves = {}
        for measure, sign in (("sigma", 1), ("distance", 1), ("seen", -1)):
            values = sign * np.array([row[measure] for row in own], float)
            values = np.where(np.isfinite(values), values, np.inf)
            curves[measure] = {"area": area_under(values, failed), "curve": _curve(values, failed)}
        found[name] = {
            "scans": len(own),
            "failed": int(failed.sum()),
            "failed_refused": int((failed & refused).sum()),
            "failed_flagged": int((failed & flagged).sum()),
            "good_refused": int((~failed & refused).sum()),
            "good_flagged": int((~failed & flagged).sum()),
        } | curves
    return found


def _curve(values: np.ndarray, failed: np.ndarray) -> list[list[float]]:
    """Shares (good scans flagged, failed scans flagged), by falling threshold."""
    good, bad = np.sort(values[~failed]), np.sort(values[failed])
    if not len(good) or not len(bad):
        return []
    steps = np.unique(values)[::-1]
    shares = [[float((good >= t).mean()), float((bad >= t).mean())] for t in steps]
    return [[0.0, 0.0], *shares]


def main() -> None:
    """Run every cell; the result file grows as answers come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("register_limits.json"))
    parser.add_argument("--ict", help="ict_face_model.npz; without it, people of one family")
    parser.add_argument("--seed", type=int, default=771)
    parser.add_argument("--split", choices=("train", "test"), default="test", help="train: to tune")
    parser.add_argument("--heads", type=int, default=40, help="a cell")
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="stop handing out scans then")
    parser.add_argument("--commit", help="what to record when git is not there")
    parser.add_argument("--docs", type=Path, help="fill register-limits.md in this folder")
    parser.add_argument("--page-only", action="store_true", help="from the file that is there")
    args = parser.parse_args()
    if args.page_only:
        write_page(json.loads(args.out.read_text()), args.docs)
        return
    check_split(args.seed, args.split)
    began = time.monotonic()
    cells = args.cells.split(",")
    # hardest and mildest of all cells take turns: a run that is cut short has some of each
    order = np.random.default_rng(args.seed).permutation(args.heads)
    tasks = [(args.seed, cell, int(n), args.heads, args.ict) for n in order for cell in cells]
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"benchmark": "register_limits", "seed": args.seed, "split": args.split,
             "commit": args.commit or commit(), "hardware": hardware()}  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(args.jobs) as hands:
        for row in hands.imap_unordered(one, tasks):
            rows.append(row)
            late = time.monotonic() - began > args.seconds
            if len(rows) % 20 == 0 or len(rows) == len(tasks) or late:
                said = {"scans": len(rows), "asked": len(tasks)}
                result: dict[str, Any] = facts | said | summed(rows)
                result["rows"] = sorted(rows, key=lambda r: (r["cell"], r["strength"]))
                args.out.write_text(json.dumps(_rounded(result), indent=1) + "\n")
                told = {
                    n: (result[n]["failed"], result[n]["scans"]) for n in ("network", "refined")
                }
                print(
                    f"{time.monotonic() - began:5.0f} s  {len(rows)}/{len(tasks)}  {told}",
                    flush=True,
                )
            if late:
                break
        hands.terminate()
    if args.docs:
        write_page(json.loads(args.out.read_text()), args.docs)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


if __name__ == "__main__":
    main()
