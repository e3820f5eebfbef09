"""Procedural skin: seconds to paint, agreement of sizes and devices, and measured reflectance.

    python benchmarks/people_skin.py --out results.json --sizes 1024,4096
    python benchmarks/people_skin.py --out results.json --device cuda --sizes 1024,4096,8192

Reflectance is that of the bare face of `--people` random people, as CIELAB under D65, against the
limits of measured skin that `docs/skin.md` names. Seeds are apart from those that were looked at.
"""

import argparse
import json
import resource
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measured_on import commit, hardware

from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.rendering.colorimetry import cielab, typology_angle
from topohead.synthesis.skin import SkinMaps, bare_albedo, paint, random_skin

TEST_SEED = 700
LIMITS = {"L": (25.0, 76.0), "a": (3.0, 22.0), "b": (6.0, 26.0)}
"""CIELAB of facial skin over all people, see docs/skin.md."""

CLASSES = ((55, "very light"), (41, "light"), (28, "intermediate"), (10, "tan"), (-30, "brown"),
           (-91, "dark"))  # fmt: skip


def main() -> None:
    """Measure, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("people_skin.json"))
    parser.add_argument("--sizes", default="1024")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--commit", help="what to record when git is not there")
    args = parser.parse_args()
    head = reference_head(level=0)
    there = replace(head, template=head.template.to(args.device))
    sizes = [int(size) for size in args.sizes.split(",")]
    result: dict[str, Any] = {
        "benchmark": "people_skin",
        "commit": args.commit or commit(),
        "hardware": hardware(),
        "device": args.device,
        "first_seed": TEST_SEED,
        "reflectance": reflectance(head, args.people),
    }
    painted, result["paint"] = {}, {}
    for size in sizes:
        painted[size], result["paint"][size] = timed_paint(there, size)
    small, large = sizes[0], sizes[-1]
    if large > small:
        result["size_agreement"] = size_agreement(painted[small], painted[large])
    if args.device != "cpu":
        result["device_agreement"] = device_agreement(head, painted[small], small)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def timed_paint(head: LinearHead, size: int) -> tuple[SkinMaps, dict[str, float]]:
    """The maps of the first test seed, and what a second painting takes.

    Seconds by the clock and summed over cores (which counts on a busy machine), memory in MiB.
    """
    parameters = random_skin(TEST_SEED)
    device = head.template.device
    paint(head, parameters, TEST_SEED, 256)  # compiles
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start, cpu = time.perf_counter(), time.process_time()
    maps = paint(head, parameters, TEST_SEED, size)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    own = sum(x.nbytes for x in vars(maps).values()) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return maps, {
        "seconds": round(seconds, 3),
        "core_seconds": round(cpu, 3),
        "maps_mib": round(own),
        "peak_mib": round(peak),
    }


def size_agreement(small: SkinMaps, large: SkinMaps) -> dict[str, float]:
    """Albedo of the small map against the large one's means over its texels, in units of 1/255."""
    factor, side = len(large.height) // len(small.height), len(small.height)
    shape = (side, factor, side, factor)
    mean = large.albedo.reshape(*shape, 3).mean((1, 3))
    inside = large.covered.reshape(shape).all(3).all(1) & small.covered
    return differences((mean - small.albedo)[inside])


def device_agreement(head: LinearHead, there: SkinMaps, size: int) -> dict[str, Any]:
    """The device's maps against the CPU's."""
    here = paint(head, random_skin(TEST_SEED), TEST_SEED, size)
    inside = here.covered & there.covered.cpu()
    off = differences((there.albedo.cpu() - here.albedo)[inside])
    height = (there.height.cpu() - here.height)[inside].abs() * 1e6
    return {"albedo": off, "height_um_p99": round(float(_quantile(height, 0.99)), 4)}


def differences(off: torch.Tensor) -> dict[str, float]:
    """Mean, 99th percentile and largest absolute difference in units of 1/255."""
    size = off.abs().flatten() * 255
    numbers = {"mean": size.mean(), "p99": _quantile(size, 0.99), "p99.9": _quantile(size, 0.999),
               "max": size.max(), "within_one": (size <= 1).float().mean()}  # fmt: skip
    return {name: round(float(value), 4) for name, value in numbers.items()}


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """`torch.quantile` refuses more than 2²⁴ values."""
    return values.flatten().kthvalue(max(1, int(share * values.numel()))).values


def reflectance(head: LinearHead, people: int) -> dict[str, Any]:
    """CIELAB of bare faces: range of their means, texels within the limits, skin classes."""
    means, within, classes = [], [], Counter()
    for seed in range(TEST_SEED, TEST_SEED + people):
        lab = cielab(bare_albedo(head, random_skin(seed), seed).double())
        inside = torch.ones(len(lab), dtype=torch.bool)
        for channel, (low, high) in enumerate(LIMITS.values()):
            inside &= (lab[:, channel] >= low) & (lab[:, channel] <= high)
        within.append(float(inside.float().mean()))
        mean = lab.mean(0)
        angle = float(typology_angle(mean))
        classes[next(name for least, name in CLASSES if angle > least)] += 1
        means.append(mean)
    table = torch.stack(means)
    return {
        "people": people,
        "mean_range": {
            name: [round(float(table[:, i].min()), 2), round(float(table[:, i].max()), 2)]
            for i, name in enumerate(LIMITS)
        },
        "people_within": sum(
            bool(all(low <= float(x) <= high
                     for x, (low, high) in zip(row, LIMITS.values(), strict=True)))
            for row in table
        ) / people,
        "places_within": round(sum(within) / people, 4),
        "classes": {name: classes[name] for _, name in CLASSES},
    }  # fmt: skip


if __name__ == "__main__":
    main()
