"""What of a scan is finer than the control mesh: a displacement of the finer surface."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from topohead.core import HeadModel, Scan, ScanFit
from topohead.core.derived import derived
from topohead.geometry.sparse_rows import SparseRows
from topohead.solvers.scan_head import ScanHead, laplacian
from topohead.solvers.scan_matching import MatchConfig, match_all, on_skin
from topohead.solvers.scan_samples import ScanSamples, oriented, sample_scan

BENDING = 5e-5
"""Deviation of a vertex's displacement from its neighbours' mean, metres."""
ANCHOR = 1e-3
"""Deviation of the displacement itself: without a scan there is none."""
LEAST_NOISE = 1e-4
ROUNDS = 2
"""Times that the scan is looked up again from where the surface has come to."""
ITERATIONS, STEPS, TOLERANCE = 400, 20, 1e-9
"""Conjugate-gradient steps at most, those between two looks at how far they have come, and the
share of the right side's squared norm that is left."""


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
    found = sample_scan(scan, samples, seed).padded(samples)
    found = found.only(fit.inliers[found.source])
    displacement = torch.zeros_like(base[:, 0])
    recorded, smooth = surface.recordings, _smoothness(surface)
    skinned = recorded("skin", partial(_skinned, surface), base, normals, *found.parts)
    found = replace(found, normals=skinned[0]).only(skinned[1])
    work = partial(_wanted, surface, MatchConfig(reach))
    for _ in range(ROUNDS):
        inputs = base, normals, displacement, *found.parts
        weight, goal = recorded(("fine", reach), work, *inputs)
        displacement = _solved(surface, smooth, weight, weight * goal, displacement)
    vertices = base + displacement[:, None] * normals
    return FineFit(vertices.float(), displacement.float())


def _skinned(
    surface: ScanHead, base: Tensor, normals: Tensor, *parts: Tensor
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
    """Samples' normals turned outward, and which of them are skin."""
    samples = oriented(ScanSamples(*parts), base, normals)
    return samples.normals, on_skin(base, normals, surface.skin, samples)


def _wanted(
    surface: ScanHead,
    config: MatchConfig,
    base: Float[Tensor, "S 3"],
    normals: Float[Tensor, "S 3"],
    displacement: Float[Tensor, " S"],
    *parts: Tensor,
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """Weights 1/m² and the displacements that the scan asks for."""
    samples = ScanSamples(*parts)
    points = base + displacement[:, None] * normals
    matches = match_all(points, surface.normals(points), surface.skin_rows, samples, config)
    weight, goal = torch.zeros_like(displacement), displacement.clone()
    weight[matches.rows] = matches.weights / samples.noise.clamp(min=LEAST_NOISE) ** 2
    lean = (matches.normals * normals[matches.rows]).sum(1).clamp(min=0.5)
    goal[matches.rows] += matches.gap / lean
    return weight, goal


def _smoothness(surface: ScanHead) -> SparseRows:
    """Of a displacement: what it costs to bend and to be there, 1/m²."""
    return derived(surface, _made_smoothness)


def _made_smoothness(surface: ScanHead) -> SparseRows:
    matrix = laplacian(surface.fine)
    count = surface.fine.vertex_count
    smooth = matrix.T @ matrix / BENDING**2 + sparse.eye(count) / ANCHOR**2
    return SparseRows(smooth.tocsr(), surface.device)


def _solved(
    surface: ScanHead, smooth: SparseRows, weight: Tensor, right: Tensor, start: Tensor
) -> Float[Tensor, " S"]:
    """x of (smooth + weight) x = right by conjugate gradients from a start, Jacobi-conditioned."""
    inverse = 1 / (torch.from_numpy(smooth.matrix.diagonal()).to(weight) + weight)
    residual = right - (smooth @ start + weight * start)
    conditioned = inverse * residual
    state = start, residual, conditioned, (residual * conditioned).sum()
    least = TOLERANCE * (right * inverse * right).sum()
    for _ in range(ITERATIONS // STEPS):
        # to ask is to wait for a GPU: now and then is enough
        if not bool(state[3] > least):
            break
        state = surface.recordings("fine steps", partial(_stepped, smooth), weight, inverse, *state)
    return state[0]


def _stepped(
    smooth: SparseRows,
    weight: Tensor,
    inverse: Tensor,
    x: Tensor,
    residual: Tensor,
    direction: Tensor,
    norm: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A few of these steps."""
    for _ in range(STEPS):
        image = smooth @ direction + weight * direction
        length = norm / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        conditioned = inverse * residual
        last, norm = norm, (residual * conditioned).sum()
        direction = conditioned + (norm / last) * direction
    return x, residual, direction, norm
