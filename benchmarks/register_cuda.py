"""Registering with the network on a GPU: seconds of each stage, and how far its heads are from a
CPU's.

    python benchmarks/register_cuda.py --out register_cuda.json --scans 20

Made people's scans, half clean, half with everything that training spoils scans with. Seconds are
of calls after some that warmed everything up (both kinds of scans, with normals and without),
without reading files, from the scan in the host's memory to the head there. `load` is the host's
load average before each scan: it tells whether others were at work. `alike` is how far refined
heads are from each other when both devices draw the first one's network's head.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
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
    widen_fit,
)
from topohead.workflows.registering.network import load_people

Answer = TypeVar("Answer")
CELLS = ("clean", "everything")
OTHER = {"alike": "refined"}
QUANTILES = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "most": 1.0}


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
    for cell in CELLS:
        (case,) = bench.cases(cell, people[-1:])
        bare = replace(case.scan, normals=None)
        for device, scan in product(devices, (case.scan, bare)):
            measured(bench, scan, device, None)
    rows: list[dict[str, Any]] = []
    for number, person in enumerate(people):
        cell = CELLS[number % len(CELLS)]
        (case,) = bench.cases(cell, [person])
        scan, load = case.scan, os.getloadavg()[0]
        row: dict[str, Any] = {"cell": cell, "number": person.number, "points": len(scan.points),
                               "normals": scan.normals is not None, "load": load}  # fmt: skip
        first: dict[str, ScanFit] | None = None
        for device in devices:
            row[device], fits = measured(bench, scan, device, first)
            first = first or fits
            for name, fit in fits.items():
                off = 1e3 * (fit.vertices - first[OTHER.get(name, name)].vertices).norm(dim=1)
                off /= case.pose.scale
                row[device][f"{name}_off_mm"] = [float(off.mean()), float(off.max())]
        rows.append(row)
        if "cuda" in devices:
            facts["gpu_memory_mib"] = torch.cuda.max_memory_reserved() / 2**20
        args.out.write_text(json.dumps(facts | summed(rows, devices) | {"rows": rows}, indent=1))
        print(number, cell, {d: row[d]["seconds"] for d in devices}, flush=True)


def measured(
    bench: Bench, scan: Scan, device: str, first: dict[str, ScanFit] | None
) -> tuple[dict[str, Any], dict[str, ScanFit]]:
    """Seconds by stage; the network's head, the refined one, and that from the first network's."""
    head, people, means = bench.shapes.head, load_people(), Means(0, device)
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Answer]) -> Answer:
        start = time.perf_counter()
        answer = work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
        return answer

    network, _ = timed("network", lambda: STARTS["network"](scan, people, means))
    refined = timed(
        "refine", lambda: widen_fit(refine_fit(scan, network, people, device), network, people)
    )
    timed("judge", lambda: judge_fit(scan, refined, head, device))
    timed("level 1", lambda: fine_vertices(scan, refined, head, "network+refine", 1, device))
    alike = refined if first is None else refine_fit(scan, first["network"], people, device)
    found = {"network": network, "refined": refined, "alike": alike}
    return {"seconds": seconds}, found


def summed(rows: list[dict[str, Any]], devices: list[str]) -> dict[str, Any]:
    """Quantiles of seconds, and the farthest that heads are from the first device's, by device."""
    found: dict[str, Any] = {}
    for device in devices:
        own = [row[device] for row in rows]
        stages = {s: [r["seconds"][s] for r in own] for s in own[0]["seconds"]}
        judged = [sum(r["seconds"].values()) - r["seconds"]["level 1"] for r in own]
        found[device] = {
            "seconds": {name: statistics.median(values) for name, values in stages.items()},
            "without_level_1": statistics.median(judged),
            "quantiles": {
                name: dict(
                    zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True)
                )
                for name, values in {**stages, "without level 1": judged}.items()
            },
        }
        for name in ("network", "refined", "alike"):
            found[device][f"{name}_off_mm"] = {
                "mean": statistics.mean(r[f"{name}_off_mm"][0] for r in own),
                "worst_vertex": max(r[f"{name}_off_mm"][1] for r in own),
            }
    return {"scans": len(rows), "summary": found}


if __name__ == "__main__":
    main()
