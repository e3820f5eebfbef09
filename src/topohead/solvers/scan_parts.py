"""Parts of a scan in which a head may be that the whole does not show."""

import numpy as np
import torch

from topohead.core import Scan
from topohead.solvers.network_samples import NetworkSamples, draw_samples

PARTS = (0.3, 10), (0.15, 20)
"""Radius of a part in the scan's longest sides, and how many there are: of busts, then of whole
bodies or what else stands around."""

FINER = 4
"""A part may have so many times fewer triangles than points are wanted of it."""


def parts_of(
    scan: Scan,
    samples: NetworkSamples,
    share: float,
    count: int,
    fewest: int,
    generator: np.random.Generator,
) -> list[NetworkSamples]:
    """What lies within a `share` of the scan's longest side of `count` places as far from each
    other as can be, strays left out.

    `samples` are of the whole scan; parts of which these hold fewer than `fewest` are drawn anew,
    or left out where the scan has no more.
    """
    points, device = samples.points, samples.points.device
    low, high = (points.sort(0).values[k] for k in (len(points) // 100, -1 - len(points) // 100))
    radius = share * float((high - low).max())
    place = points[((points - low).clamp(max=0) + (high - points).clamp(max=0)).sum(1) == 0]
    away, far = (place - place.mean(0)).norm(dim=1), torch.full_like(place[:, 0], torch.inf)
    every = scan.points.detach().to(device, torch.float32)
    parts = []
    for _ in range(count if len(place) else 0):
        # the first is at the rim; later ones may well lie in the middle
        center = place[torch.where(far.isinf(), away, far).argmax()]
        far = torch.minimum(far, (place - center).norm(dim=1))
        near = (points - center).norm(dim=1) < radius
        part = NetworkSamples.of(points[near], samples.normals[near])
        if len(part.points) < fewest:
            inside = (every - center).norm(dim=1) < radius
            triangles = scan.triangles.to(device)
            whole = inside[triangles].all(1) if len(triangles) else inside
            if int(whole.sum()) < fewest // FINER:
                continue
            part = draw_samples(scan, inside, generator, device)
        if len(part.points) >= fewest:
            parts.append(part)
    return parts
