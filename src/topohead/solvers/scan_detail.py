"""What of a scan is finer than the control mesh: a displacement of the finer surface."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from topohead.core import HeadModel, Scan, ScanFit, Topology
from topohead.core.derived import derived
from topohead.geometry.meshes import uniform_laplacian
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import MatchConfig, match, on_skin
from topohead.solvers.scan_samples import oriented, sample_scan

BENDING = 5e-5
"""Deviation of a vertex's displacement from its neighbours' mean, metres."""
ANCHOR = 1e-3
"""Deviation of the displacement itself: without a scan there is none."""
LEAST_NOISE = 1e-4
ROUNDS = 2
"""Times that the scan is looked up again from where the surface has come to."""


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
    surface = ScanHead.of(head.topology)
    base = surface.surface(fit.vertices.double().numpy())
    normals = surface.normals(base)
    found = oriented(sample_scan(scan, samples, seed), base, normals)
    found = found.subset(fit.inliers.numpy()[found.source])
    found = found.subset(on_skin(base, normals, surface.skin, found))
    smooth = derived(surface.fine, _smoothness)
    displacement = np.zeros(len(base))
    rows = np.flatnonzero(surface.skin)
    noise = max(LEAST_NOISE, found.noise)
    for _ in range(ROUNDS):
        points = base + displacement[:, None] * normals
        matches = match(points, surface.normals(points), rows, found, MatchConfig(reach))
        weight, goal = np.zeros(len(base)), np.zeros(len(base))
        weight[matches.rows] = matches.weights / noise**2
        lean = np.maximum((matches.normals * normals[matches.rows]).sum(1), 0.5)
        goal[matches.rows] = displacement[matches.rows] + matches.gap / lean
        displacement = splu((smooth + sparse.diags(weight)).tocsc()).solve(weight * goal)
    vertices = base + displacement[:, None] * normals
    return FineFit(torch.from_numpy(vertices).float(), torch.from_numpy(displacement).float())


def _smoothness(topology: Topology) -> sparse.csc_matrix:
    """Of a displacement: what it costs to bend and to be there, 1/m²."""
    laplacian = uniform_laplacian(topology)
    (row, column), value = laplacian.indices().numpy(), laplacian.values().double().numpy()
    matrix = sparse.csc_matrix((value, (row, column)), tuple(laplacian.shape))
    smooth = matrix.T @ matrix / BENDING**2 + sparse.eye(topology.vertex_count) / ANCHOR**2
    return smooth.tocsc()
