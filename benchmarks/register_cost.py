"""What registering costs: seconds, memory, and whether bytes repeat; a process for each fit."""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from register_methods import Weights, linear_head, methods
from register_scans import Bench, Forced, sampled
from register_scores import digest

from topohead.core import Scan
from topohead.synthesis.device_draws import draws
from topohead.synthesis.mixture import SOURCES


def cost_section(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """By method and number of points: seconds of the first and the best of two more calls, memory
    that a process takes beyond what it had with the scan read, bytes of two processes."""
    person = bench.people(1)[0]
    random = Forced(draws(bench.seed, torch.tensor([person.number])).keys)
    sizes = [int(size) for size in args.sizes.split(",")]
    for size in sizes:
        case = sampled(bench, person, random, points=size)
        args.work.mkdir(parents=True, exist_ok=True)
        file = args.work / f"cost-{size}.npz"
        np.savez(file, points=case.scan.points.numpy(), normals=case.scan.normals.numpy())
        for label in args.methods.split(","):
            told = _run(f"{label}:{file}")
            if told is None:
                continue
            if size == sizes[0]:
                again = _run(f"{label}:{file}")
                told["repeats"] = again is not None and again["digest"] == told["digest"]
            print(f"{label:15} {size:8}: {told}", flush=True)
            yield {label: {str(size): told}}


def _run(what: str) -> dict[str, Any] | None:
    """This benchmark again with the same flags, for one fit; None where the method is not there."""
    command = [sys.executable, str(Path(__file__).with_name("register.py")), *sys.argv[1:]]
    done = subprocess.run(
        [*command, "--only-process", what], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def one_process(args: argparse.Namespace, bench: Bench) -> None:
    """Print the cost of one method on one stored scan as JSON; null where it is not there."""
    label, file = args.only_process.split(":", 1)
    head = linear_head(bench, SOURCES if args.ict else ("anny", "field"), args.work)
    found = methods([label], head, Weights(args.network, args.perceiver))
    if label not in found:
        print("null")
        return
    stored = np.load(file)
    points, normals = (torch.from_numpy(stored[name]) for name in ("points", "normals"))
    scan = Scan(points, torch.zeros(0, 3, dtype=torch.long), normals)
    before = _peak()
    seconds, worked, told = [], [], []
    for _ in range(3):
        start, busy = time.perf_counter(), time.process_time()
        told.append(digest(found[label](scan, found)))
        seconds.append(time.perf_counter() - start)
        worked.append(time.process_time() - busy)
    print(json.dumps({
        "first_seconds": seconds[0],
        "seconds": min(seconds[1:]),
        "cpu_seconds": min(worked[1:]),
        "memory_mib": _peak() - before,
        "process_mib": _peak(),
        "digest": told[0],
        "same_again": len(set(told)) == 1,
    }))  # fmt: skip


def _peak() -> float:
    """Greatest memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
