"""What is no single head, and whether `register` would say so instead of handing over a head."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from register_methods import Weights, linear_head, methods
from register_scans import POINTS, Bench, clean
from torch import Tensor

from topohead.core import Scan
from topohead.solvers.scan_quality import judge
from topohead.synthesis.device_draws import draws
from topohead.synthesis.mixture import SOURCES


def strangers_section(args: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """By kind and method: the reasons of refusals and warnings, and the distance found."""
    head = linear_head(bench, SOURCES if args.ict else ("anny", "field"), args.work)
    chosen = methods(args.methods.split(","), head, Weights(args.network, args.perceiver))
    for kind, make in KINDS.items():
        scan = make(bench)
        found = {}
        for label, method in chosen.items():
            quality = judge(scan, method(scan, chosen), bench.shapes.head)
            found[label] = {
                "refused": [*quality.failures],
                "warned": [*quality.warnings],
                "judged_p2s": quality.face.median_mm,
            }
            print(f"{kind:12} {label:15} {found[label]}", flush=True)
        yield {kind: found}


def cube(bench: Bench) -> Scan:
    """As large as a head."""
    random = torch.Generator().manual_seed(bench.seed)
    side = torch.randint(0, 6, (POINTS,), generator=random)
    normals = torch.nn.functional.one_hot(side // 2, 3) * (2.0 * (side % 2) - 1)[:, None]
    flat = 2 * torch.rand(POINTS, 3, generator=random) - 1
    return _scan(0.11 * torch.where(normals != 0, normals, flat), normals)


def ball(bench: Bench) -> Scan:
    """As large as a head."""
    random = torch.Generator().manual_seed(bench.seed)
    normals = torch.nn.functional.normalize(torch.randn(POINTS, 3, generator=random), dim=1)
    return _scan(0.11 * normals, normals)


def wall(bench: Bench) -> Scan:
    """Half a metre of it, rough by a millimetre."""
    random = torch.Generator().manual_seed(bench.seed)
    points = torch.rand(POINTS, 3, generator=random) - 0.5
    points = points * torch.tensor([0.5, 0.5, 0.002])
    return _scan(points, torch.tensor([0.0, 0, 1]).expand(POINTS, 3))


def shoulders(bench: Bench) -> Scan:
    """A trunk without a head."""
    random = torch.Generator().manual_seed(bench.seed)
    normals = torch.nn.functional.normalize(torch.randn(POINTS, 3, generator=random), dim=1)
    normals = normals[normals[:, 1] > -0.2]
    return _scan(normals * torch.tensor([0.2, 0.25, 0.12]), normals)


def cloud(bench: Bench) -> Scan:
    """Points at random."""
    random = torch.Generator().manual_seed(bench.seed)
    return _scan(0.08 * torch.randn(POINTS, 3, generator=random), None)


def two_heads(bench: Bench) -> Scan:
    """Side by side, 24 cm apart."""
    cases = [clean(bench, p, draws(bench.seed, torch.tensor([p.number]))) for p in bench.people(2)]
    apart = torch.tensor([0.12, 0.0, 0.0])
    points = [c.in_head(c.scan.points) + k * apart for k, c in zip((-1, 1), cases, strict=True)]
    return _scan(torch.cat(points), None)


def one_head(bench: Bench) -> Scan:
    """To compare: the kind that is no stranger."""
    person = bench.people(1)[0]
    return clean(bench, person, draws(bench.seed, torch.tensor([person.number]))).scan


def _scan(points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"] | None) -> Scan:
    return Scan(points, torch.zeros(0, 3, dtype=torch.long), normals)


KINDS: dict[str, Callable[[Bench], Scan]] = {
    "cube": cube,
    "ball": ball,
    "wall": wall,
    "shoulders": shoulders,
    "random": cloud,
    "two heads": two_heads,
    "one head": one_head,
}
