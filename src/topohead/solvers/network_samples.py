"""What the registration network is given of a scan: even points, with normals where it has any."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Scan
from topohead.geometry.planes import plane_normals
from topohead.geometry.point_tree import PointTree
from topohead.solvers.recording import filled
from topohead.solvers.scan_samples import median
from topohead.solvers.scan_triangles import skin_normals

SAMPLES = 24_576
"""Points drawn from a scan, from which the network chooses."""

CROWDED = 4
"""Times as many points of a bare cloud are drawn before crowded ones are left out."""


@dataclass(frozen=True)
class NetworkSamples:
    """Even samples of a scan in random order; normals are zero where unknown.

    Those that are not `valid` only fill up shapes.
    """

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    valid: Bool[Tensor, " N"]

    @staticmethod
    def of(points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]) -> "NetworkSamples":
        """All valid."""
        return NetworkSamples(points, normals, points.new_ones(len(points), dtype=torch.bool))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of which they are made, in order."""
        return self.points, self.normals, self.valid

    def padded(self) -> "NetworkSamples":
        """On CUDA, where work is recorded for `SAMPLES`, filled up; elsewhere as they are."""
        return NetworkSamples(*(filled(part, SAMPLES) for part in self.parts))

    def first(self, count: int) -> "NetworkSamples":
        """Some of them."""
        return NetworkSamples(*(part[:count] for part in self.parts))


def draw_samples(
    scan: Scan, kept: Bool[Tensor, " N"] | None, random: np.random.Generator, device: torch.device
) -> NetworkSamples:
    """Even samples of triangles by area, or of points by cells; `kept` points alone."""
    if not len(scan.triangles):
        points = scan.points.detach().to(device).double()
        numbers = _spread(points, kept, random)
        normals = torch.zeros_like(points) if scan.normals is None else scan.normals.detach()
        normals = normals.to(device)[numbers].double()
        normals = normals / normals.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return NetworkSamples.of(points[numbers].float(), normals.float())
    here = scan.to("cpu")
    triangles = here.triangles.numpy()
    if kept is not None:
        triangles = triangles[kept.cpu().numpy()[triangles].all(1)]
    parts = _on_triangles(here, triangles, random)
    return NetworkSamples.of(*(torch.from_numpy(part).float().to(device) for part in parts))


def _on_triangles(
    scan: Scan, triangles: Int[np.ndarray, "F 3"], random: np.random.Generator
) -> tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "M 3"]]:
    """Stratified points by area on some of a scan's triangles, and normals of the skin there."""
    points = scan.points.detach().double().numpy()
    a, b, c = (points[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    total = area.cumsum()
    place = (random.permutation(SAMPLES) + random.random(SAMPLES)) / SAMPLES * total[-1]
    face = np.minimum(np.searchsorted(total, place, side="right"), len(triangles) - 1)
    u, v = random.random((2, SAMPLES, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    chosen = a[face] + u * (b[face] - a[face]) + v * (c[face] - a[face])
    corners, weights = (
        torch.from_numpy(part) for part in (triangles[face], np.concatenate([1 - u - v, u, v], 1))
    )
    normals = skin_normals(scan, corners, weights, math.sqrt(total[-1] / 2 / SAMPLES))
    return chosen, normals.numpy()


def _spread(
    points: Float[Tensor, "N 3"], kept: Bool[Tensor, " N"] | None, random: np.random.Generator
) -> Int[Tensor, " M"]:
    """Numbers of at most `SAMPLES` points; of more that are crowded, one in a cell."""
    numbers = None if kept is None else kept.nonzero()[:, 0]
    many = len(points) if numbers is None else len(numbers)
    order = torch.from_numpy(random.permutation(many)[: CROWDED * SAMPLES]).to(points.device)
    numbers = order if numbers is None else numbers[order]
    if len(numbers) <= SAMPLES:
        return numbers
    here = points[numbers]
    here = here - torch.stack([median(part) for part in here.unbind(1)])
    x, y, z = here.unbind(1)
    # so that a sphere of the median radius meets about as many cells as samples are wanted
    side = median((x * x + y * y + z * z).sqrt()) * math.sqrt(6 * math.pi / SAMPLES)
    x, y, z = (here / side.clamp(min=1e-30)).floor().long().unbind(1)
    cells, place = (x + (y << 20) + (z << 40)).sort(stable=True)
    first = torch.cat([torch.ones_like(cells[:1], dtype=torch.bool), cells[1:] != cells[:-1]])
    return numbers[place[first].sort().values[:SAMPLES]]


def estimated_normals(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Normals of either sign: the direction in which a point's neighbours vary least."""
    _, near = PointTree(points.double()).query(points.double(), min(10, len(points)))
    return plane_normals(points.double()[near]).to(points)
