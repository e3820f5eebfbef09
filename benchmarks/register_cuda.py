"""Registering with the network on a GPU: seconds of each stage, and how far its heads are from a
CPU's.

    python benchmarks/register_cuda.py --out register_cuda.json --scans 20

Made people's scans, half clean, half with everything that training spoils scans with. Seconds are
of calls after one that warmed everything up, without reading files, from the scan in the host's
memory to the head there. `alike` is how far refined heads are from each other when both
devices draw the first one's network's head.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from measured_on import commit, hardware
from register_scans import Bench

from topohead.core import Scan, ScanFit
from topohead.synthesis.shapes import load_shapes
from topohead.synthesis.splits import check_split
from topohead.workflows.registering.methods import (
    STARTS,
    Means,
    fine_vertices,
    judge_fit,
    refine_fit,
)

Answer = TypeVar("Answer")
CELLS = ("clean", "everything")
OTHER = {"alike": "refined"}


def main() -> None:
    """Measure, and write after every scan."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("register_cuda.json"))
    parser.add_argument("--ict", help="ict_face_model.npz; without it, people of one family")
    parser.add_argument("--seed", type=int, default=770)
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument(
        "--devices", default="cpu,cuda", help="the first is what others differ from"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    check_split(args.seed, "test")
    torch.set_num_threads(args.threads)
    bench = Bench(load_shapes("cpu", args.ict), args.seed)
    people = bench.people(args.scans)
    devices = args.devices.split(",")
    facts = {"benchmark": "register_cuda", "seed": args.seed, "commit": args.commit or commit(),
             "threads": args.threads, "hardware": hardware(),
             "gpu": torch.cuda.get_device_name() if "cuda" in devices else None}  # fmt: skip
    rows: list[dict[str, Any]] = []
    for number, person in enumerate(people):
        cell = CELLS[number % len(CELLS)]
        (case,) = bench.cases(cell, [person])
        if number == 0:
            for device in devices:
                measured(bench, case.scan, device, None)
        row: dict[str, Any] = {"cell": cell, "number": person.number}
        first: dict[str, ScanFit] | None = None
        for device in devices:
            row[device], fits = measured(bench, case.scan, device, first)
            first = first or fits
            for name, fit in fits.items():
                off = 1e3 * (fit.vertices - first[OTHER.get(name, name)].vertices).norm(dim=1)
                off /= case.pose.scale
                row[device][f"{name}_off_mm"] = [float(off.mean()), float(off.max())]
        rows.append(row)
        args.out.write_text(json.dumps(facts | summed(rows, devices) | {"rows": rows}, indent=1))
        print(number, cell, {d: row[d]["seconds"] for d in devices}, flush=True)


def measured(
    bench: Bench, scan: Scan, device: str, first: dict[str, ScanFit] | None
) -> tuple[dict[str, Any], dict[str, ScanFit]]:
    """Seconds by stage; the network's head, the refined one, and that from the first network's."""
    head, means = bench.shapes.head, Means(0, device)
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Answer]) -> Answer:
        start = time.perf_counter()
        answer = work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
        return answer

    network, _ = timed("network", lambda: STARTS["network"](scan, head, means))
    refined = timed("refine", lambda: refine_fit(scan, network, head, device))
    timed("judge", lambda: judge_fit(scan, refined, head, device))
    timed("level 1", lambda: fine_vertices(scan, refined, head, "network+refine", 1, device))
    alike = refined if first is None else refine_fit(scan, first["network"], head, device)
    found = {"network": network, "refined": refined, "alike": alike}
    return {"seconds": seconds}, found


def summed(rows: list[dict[str, Any]], devices: list[str]) -> dict[str, Any]:
    """Medians of seconds, and the farthest that heads are from the first device's, by device."""
    found: dict[str, Any] = {}
    for device in devices:
        own = [row[device] for row in rows]
        stages = own[0]["seconds"]
        median = {s: statistics.median(r["seconds"][s] for r in own) for s in stages}
        found[device] = {
            "seconds": median,
            "without_level_1": statistics.median(
                sum(r["seconds"].values()) - r["seconds"]["level 1"] for r in own
            ),
        }
        for name in ("network", "refined", "alike"):
            found[device][f"{name}_off_mm"] = {
                "mean": statistics.mean(r[f"{name}_off_mm"][0] for r in own),
                "worst_vertex": max(r[f"{name}_off_mm"][1] for r in own),
            }
    return {"scans": len(rows), "summary": found}


if __name__ == "__main__":
    main()
