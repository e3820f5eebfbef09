"""What of a scan is finer than the control mesh: a displacement of the finer surface."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from topohead.core import HeadModel, Scan, ScanFit
from topohead.core.derived import derived
from topohead.geometry.sparse_rows import SparseRows
from topohead.solvers.scan_head import ScanHead, laplacian
from topohead.solvers.scan_matching import MatchConfig, match, on_skin
from topohead.solvers.scan_samples import oriented, sample_scan

BENDING = 5e-5
"""Deviation of a vertex's displacement from its neighbours' mean, metres."""
ANCHOR = 1e-3
"""Deviation of the displacement itself: without a scan there is none."""
LEAST_NOISE = 1e-4
ROUNDS = 2
"""Times that the scan is looked up again from where the surface has come to."""
ITERATIONS, TOLERANCE = 400, 1e-9
"""Conjugate-gradient steps at most, and the share of the right side's squared norm that is left."""


@dataclass(frozen=True)
class FineFit:
    """A head one Catmull–Clark step finer than its `ScanFit`, in the scan's frame, metres.

    `displacement` is what each vertex moved along the unit normal of the subdivided fit, positive
    outward; zero where the scan shows nothing.
    """

    vertices: Float[Tensor, "S 3"]
    displacement: Float[Tensor, " S"]


def refine_level1(
    scan: Scan,
    fit: ScanFit,
    head: HeadModel,
    samples: int = 120_000,
    reach: float = 0.002,
    seed: int = 0,
) -> FineFit:
    """The subdivided fit moved along its normals onto the scan, by a few tenths of a millimetre.

    min Σ w (d − gap)² + |Ld|²/`BENDING`² + d²/`ANCHOR`² with the uniform Laplacian L; vertices keep
    their place on the skin. `fit` must have been refined: what is farther than `reach` (metres)
    does not count.
    """
    device = scan.points.device
    fit = fit.to(device)
    surface = ScanHead.of(head.topology, device)
    base = surface.surface(fit.vertices.double())
    normals = surface.normals(base)
    found = oriented(sample_scan(scan, samples, seed), base, normals)
    found = found.subset(fit.inliers[found.source])
    found = found.subset(on_skin(base, normals, surface.skin, found))
    smooth = _smoothness(surface)
    displacement = torch.zeros_like(base[:, 0])
    noise = max(LEAST_NOISE, found.noise)
    for _ in range(ROUNDS):
        points = base + displacement[:, None] * normals
        config = MatchConfig(reach)
        matches = match(points, surface.normals(points), surface.skin_rows, found, config)
        weight, goal = torch.zeros_like(displacement), displacement.clone()
        weight[matches.rows] = matches.weights / noise**2
        lean = (matches.normals * normals[matches.rows]).sum(1).clamp(min=0.5)
        goal[matches.rows] += matches.gap / lean
        displacement = _solved(smooth, weight, weight * goal, displacement)
    vertices = base + displacement[:, None] * normals
    return FineFit(vertices.float(), displacement.float())


def _smoothness(surface: ScanHead) -> SparseRows:
    """Of a displacement: what it costs to bend and to be there, 1/m²."""
    return derived(surface, _made_smoothness)


def _made_smoothness(surface: ScanHead) -> SparseRows:
    matrix = laplacian(surface.fine)
    count = surface.fine.vertex_count
    smooth = matrix.T @ matrix / BENDING**2 + sparse.eye(count) / ANCHOR**2
    return SparseRows(smooth.tocsr(), surface.device)


def _solved(
    smooth: SparseRows, weight: Tensor, right: Tensor, start: Tensor
) -> Float[Tensor, " S"]:
    """x of (smooth + weight) x = right by conjugate gradients from a start, Jacobi-conditioned."""
    inverse = 1 / (torch.from_numpy(smooth.matrix.diagonal()).to(weight) + weight)
    x = start
    residual = right - (smooth @ x + weight * x)
    conditioned = inverse * residual
    direction, norm = conditioned, (residual * conditioned).sum()
    least = TOLERANCE * (right * inverse * right).sum()
    for number in range(ITERATIONS):
        # to ask is to wait for a GPU: now and then is enough
        if number % 20 == 0 and not bool(norm > least):
            break
        image = smooth @ direction + weight * direction
        length = norm / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        conditioned = inverse * residual
        last, norm = norm, (residual * conditioned).sum()
        direction = conditioned + (norm / last) * direction
    return x
