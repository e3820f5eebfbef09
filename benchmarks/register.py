"""Registration: the protocol H1 to H5, every method side by side; the result file grows.

    python benchmarks/register.py --ict ict_face_model.npz --out register.json --work WORK

`H1`: people of the training's families. `H2`: one family never seen: networks trained and linear
heads fitted without it, both ways (`--held-out-ict`, `--held-out-anny`). `H3`: triangulations never
seen; `off skin`: how far the skin lies from these. `H4`: a fault at a time, failures, and whether
they are flagged. `H5`: real scans. `strangers`: what is no head. `cost`: seconds and memory by the
scan's size, bytes that repeat.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured_on import commit, hardware
from register_cost import cost_section, one_process
from register_methods import NAMES, Method, Weights, linear_head, methods
from register_real import real_section
from register_scans import Bench, Case
from register_scores import Judge, area_under, summary
from register_strangers import strangers_section

from topohead.core import ScanFit
from topohead.geometry.correspondence import TriangleTree
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.registered import tangential
from topohead.geometry.subdivision import refine
from topohead.solvers.scan_quality import judge
from topohead.synthesis.mixture import SOURCES
from topohead.synthesis.scan_poses import Pose
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.splits import check_split
from topohead.workflows.registering.units import Unit, find_unit, in_metres, metres_in

ANNY, ICT = ("anny", "field"), ("ict",)
"""Sources that hold nothing of the other family."""

CONVENTION_SEED = 650
"""Of the separate heads whose mean slide is a family's convention; a validation seed."""

REMESHED = ("fused", "scattered", "fused 1 mm", "scattered 50 k")
"""Triangulations of H3: voxels of 2 mm, 12,000 points, and what finer ones leave."""

H4 = ("pose 30°", "noise 1 mm", "holes 40 %", "one view", "outliers", "hair", "shoulders",
      "millimetres z-up", "everything")  # fmt: skip


def main() -> None:
    """Run the chosen sections; methods not chosen keep the numbers that the file has of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ict", type=Path, help="ict_face_model.npz; H2 needs it")
    parser.add_argument("--out", type=Path, default=Path("register.json"))
    parser.add_argument("--work", type=Path, default=Path("register-work"), help="not published")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--cells", help="only these of a section, comma separated")
    parser.add_argument("--seed", type=int, default=770)
    parser.add_argument("--split", choices=("train", "test"), default="test", help="train: to tune")
    parser.add_argument("--heads", type=int, default=6, help="a cell")
    parser.add_argument("--convention", type=int, default=16, help="heads for a family's slide")
    parser.add_argument("--network", type=Path, help="weights; by default the shipped ones")
    parser.add_argument("--perceiver", type=Path, help="weights of the published kind of network")
    parser.add_argument("--held-out-ict", type=Path, help="weights trained without ICT-FaceKit")
    parser.add_argument("--held-out-anny", type=Path, help="weights trained on ICT-FaceKit alone")
    parser.add_argument("--scans", type=Path, help="folder of real scans, for H5")
    parser.add_argument("--sizes", default="20000,200000,1000000", help="points, for cost")
    parser.add_argument("--commit", help="what to record when git is not there")
    parser.add_argument("--only-process", help=argparse.SUPPRESS)
    args = parser.parse_args()
    check_split(args.seed, args.split)
    logging.basicConfig(format="%(message)s")
    if args.only_process:
        one_process(args, _bench(args))
        return
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    result |= {"benchmark": "register", "seed": args.seed, "split": args.split}
    for name in args.sections.split(","):
        measured = {"commit": args.commit or commit(), "hardware": hardware()}
        for found in SECTIONS[name](args, _bench(args)):
            result[name] = merged(result.get(name, {}), found) | measured
            if name == "H4":
                result[name]["flags"] = flags(result[name])
            args.out.write_text(json.dumps(rounded(result), indent=1, ensure_ascii=False) + "\n")


def in_family(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """H1: people of every family, scanned cleanly."""
    return _table(args, bench, ("clean",), SOURCES, SOURCES)


def held_out(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """H2: people of one family by methods that know only the other; and less its convention."""
    ways = {
        "ICT unseen": (ANNY, ICT, args.held_out_ict),
        "anny unseen": (ICT, ANNY, args.held_out_anny),
    }
    for name, (family, tested, weights) in ways.items():
        if args.cells and name not in args.cells:
            continue
        chosen = methods(
            _names(args, weights is not None), _head(args, bench, family), Weights(weights)
        )
        scores = Judge(bench)
        separate = bench.people(args.convention, tested, CONVENTION_SEED)
        cases = [*map(read, bench.cases("clean", bench.people(args.heads, tested)))]
        held = [*map(read, bench.cases("clean", separate))]
        known_held, known_cases, conventions = {}, {}, {}
        for label in chosen:
            fits = _fits(label, chosen, held, known_held)
            slides = [scores.slide_of(case, fit) for case, fit, _ in fits]
            conventions[label] = torch.stack(slides).mean(0)
        for label in chosen:
            rows = []
            for case, fit, told in _fits(label, chosen, cases, known_cases):
                shifted = 1e3 * _less(conventions[label], case, fit, scores)
                rows.append(scores(case, fit) | told | {"face_less_convention": shifted})
            row = summary(rows) | {"commit": args.commit or commit()}
            _say(name, label, row)
            yield {name: {label: row}}


def remeshed(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """H3: triangulations that no network saw, of the people of H1, and points of what they show."""
    return _table(args, bench, ("seen", *REMESHED), SOURCES, SOURCES)


def off_skin(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """How far the true skin lies from the scans of H3, where its vertices are, millimetres."""
    scores = Judge(bench)
    for cell in REMESHED:
        rows = []
        for case in bench.cases(cell, bench.people(args.heads, SOURCES)):
            scan = case.in_head(case.scan.points).double().numpy()
            tree = TriangleTree(scan[case.scan.triangles.numpy()])
            skin = refine(scores.finer[1], case.person.vertices)[: scores.topology.vertex_count]
            far = 1e3 * torch.from_numpy(tree.closest(skin.double().numpy())[2])
            rows.append({name: float(far[there].mean()) for name, there in scores.regions.items()})
            face = far[scores.regions["face"]]
            rows[-1] |= {f"face_p{n}": float(face.quantile(n / 100)) for n in (50, 95)}
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        print(cell, rounded(means), flush=True)
        yield {cell: means | {"scans": len(rows)}}


def faulty(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """H4: one fault at a time; how many fail, and whether what is reported tells."""
    return _table(args, bench, H4, SOURCES, SOURCES, keep=True)


def flags(cells: Mapping[str, Any]) -> dict[str, Any]:
    """By method: how well σ and distances tell failed scans, and what the judge's words catch."""
    tables = [cells[name] for name in H4 if name in cells]
    return {
        label: _flags([row for table in tables for row in table.get(label, {}).get("each", ())])
        for label in dict.fromkeys(label for table in tables for label in table)
    }


def _flags(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    failed = torch.tensor([bool(row["failed"]) for row in rows]).numpy()
    told: dict[str, Any] = {"scans": len(rows), "failed": int(failed.sum())}
    for name in ("sigma", "judged_p2s"):
        values = torch.tensor([row[name] for row in rows]).double().numpy()
        told[f"area_{name}"] = area_under(values, failed)
    for name in ("refused", "warned"):
        said = torch.tensor([bool(row[name]) for row in rows]).numpy()
        told[f"failed_and_{name}"] = int((said & failed).sum())
        told[f"good_but_{name}"] = int((said & ~failed).sum())
    return told


def _table(
    args: argparse.Namespace,
    bench: Bench,
    cells: Sequence[str],
    family: Sequence[str],
    tested: Sequence[str],
    keep: bool = False,
) -> Iterator[dict[str, Any]]:
    weights = Weights(args.network, args.perceiver)
    chosen = methods(_names(args), _head(args, bench, family), weights)
    scores = Judge(bench)
    people = bench.people(args.heads, tested)
    for cell in cells:
        if args.cells and cell not in args.cells.split(","):
            continue
        cases = [*map(read, bench.cases(cell, people))]
        known: Known = {}
        for label in chosen:
            rows = []
            for case, fit, spent in _fits(label, chosen, cases, known):
                judged = _judged(case, fit, scores) if keep else {}
                rows.append(scores(case, fit) | spent | judged)
            told = summary(rows) | {"commit": args.commit or commit()}
            if keep:
                wanted = ("failed", "face", "sigma", "judged_p2s", "warned", "refused")
                told["each"] = [{n: row[n] for n in wanted} for row in rows]
            _say(cell, label, told)
            yield {cell: {label: told}}


Known = dict[tuple[int, str], tuple[ScanFit, dict[str, float]]]
"""Answers of a cell so far, with their times, by case and method: what refinement starts from."""


def _fits(
    label: str, chosen: Mapping[str, Method], cases: Sequence[Case], known: Known
) -> Iterator[tuple[Case, ScanFit, dict[str, float]]]:
    """A method's answers and their times; what it starts from is not computed again but counted."""
    method = chosen[label]
    for number, case in enumerate(cases):
        first, spent = None, {"seconds": 0.0, "cpu_seconds": 0.0}
        if method.start is not None:
            first, spent = known[number, method.start]
        start, worked = time.perf_counter(), time.process_time()
        fit = method.run(case.scan, first)
        told = {
            "seconds": spent["seconds"] + time.perf_counter() - start,
            "cpu_seconds": spent["cpu_seconds"] + time.process_time() - worked,
        }
        known[number, label] = (fit, told)
        yield case, fit, told


def _judged(case: Case, fit: ScanFit, scores: Judge) -> dict[str, float]:
    """What `register` would tell of a fit without knowing the truth."""
    quality = judge(case.scan, fit, scores.shapes.head)
    return {
        "judged_p2s": quality.face.median_mm,
        "refused": float(bool(quality.failures)),
        "warned": float(bool(quality.warnings or quality.failures)),
    }


def read(case: Case) -> Case:
    """The case as `topohead register` hands it on: in metres, by the size of what it shows."""
    return sized(case, find_unit(case.scan, "scan")[0])


def sized(case: Case, unit: Unit) -> Case:
    """The case in metres, if it was in a unit."""
    metres = metres_in(unit)
    pose = Pose(case.pose.scale * metres, case.pose.rotation, case.pose.translation * metres)
    return replace(case, scan=in_metres(case.scan, unit), pose=pose)


def _less(convention: torch.Tensor, case: Case, fit: ScanFit, scores: Judge) -> float:
    """Mean error on the face without the family's mean slide, metres."""
    truth = case.person.vertices
    normals = vertex_normals(truth, scores.topology.triangles)
    error = case.in_head(fit.vertices) - truth - tangential(convention, normals)
    return float(error[scores.regions["face"]].norm(dim=-1).mean())


def _names(args: argparse.Namespace, network: bool = True) -> list[str]:
    names = args.methods.split(",")
    return [name for name in names if network or not name.startswith("network")]


def _head(args: argparse.Namespace, bench: Bench, known: Sequence[str]):
    return linear_head(bench, known if args.ict else ANNY, args.work)


def _bench(args: argparse.Namespace) -> Bench:
    return Bench(load_shapes("cpu", args.ict), args.seed)


def _say(cell: str, label: str, row: Mapping[str, Any]) -> None:
    wanted = (
        "face",
        "p2s",
        "slide",
        "lips",
        "ears",
        "landmarks",
        "slits_crossed",
        "seconds",
        "cpu_seconds",
    )
    told = "  ".join(f"{name} {row[name]:.2f}" for name in wanted if name in row)
    print(f"{cell:18} {label:15} failed {row['failed']:.0f}/{row['scans']}  {told}", flush=True)


def merged(old: Any, new: Any) -> Any:
    """`new` over `old`, table by table."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def rounded(value: Any) -> Any:
    """Numbers to four digits behind the point."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


SECTIONS: dict[str, Callable[[argparse.Namespace, Bench], Iterable[dict[str, Any]]]] = {
    "H1": in_family,
    "H2": held_out,
    "H3": remeshed,
    "off skin": off_skin,
    "H4": faulty,
    "H5": real_section,
    "strangers": strangers_section,
    "cost": cost_section,
}

if __name__ == "__main__":
    main()
