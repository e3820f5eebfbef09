"""Heads of hair a second, grown anew or worn as wigs, on CPU cores or a CUDA device.

    python benchmarks/hair_speed.py --out hair_speed.json [--device cuda]

Random people of the reference head, random grooms, all styles; without drawing.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from measured_on import commit, hardware

from topohead.geometry.head_field import HeadField
from topohead.io.assets import reference_head
from topohead.synthesis.grooms import random_groom
from topohead.synthesis.hair import grow
from topohead.synthesis.wigs import Wigs


def main() -> None:
    """Grow, time, write JSON, print a line a row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("hair_speed.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    head = reference_head(0)
    field = HeadField.of(head.topology, head.template).to(args.device)
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, 8192, 32), (4, 2048, 32))
    if args.device != "cpu":
        sizes = ((64, 8192, 32), (64, 4096, 16), (256, 2048, 12))
    rows = []
    for batch, strands, points in sizes:
        identity = 0.8 * torch.randn(batch, len(head.identity_basis), generator=generator)
        rest = head.vertices(identity, torch.zeros(batch, 52)).to(args.device)
        grooms = [random_groom(seed) for seed in range(batch)]
        seconds = []
        for turn in range(4):
            _wait(args.device)
            start = time.perf_counter()
            grow(grooms, field, rest, list(range(turn, turn + batch)), strands, points)
            _wait(args.device)
            seconds.append(time.perf_counter() - start)
        best = min(seconds[1:])
        wigs = Wigs.of(grooms[:4], field, range(4), strands, points)
        which = torch.arange(batch, device=args.device) % len(wigs)
        wearing = []
        for _ in range(4):
            _wait(args.device)
            start = time.perf_counter()
            wigs.worn(which, rest, rest)
            _wait(args.device)
            wearing.append(time.perf_counter() - start)
        row = {
            "heads": batch, "strands": strands, "points": points,
            "seconds": round(best, 4), "heads_a_second": round(batch / best, 1),
            "worn_a_second": round(batch / min(wearing[1:]), 1),
        }  # fmt: skip
        if args.device != "cpu":
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        rows.append(row)
        print(row, flush=True)
    result = {"benchmark": "hair_speed", "commit": args.commit or commit()}
    result |= {"hardware": hardware(), "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
