"""A linear head's pose, identity and expression by iterated closest points on a scan."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial.transform import Rotation

from topohead.core import Topology
from topohead.core.derived import derived
from topohead.geometry.meshes import uniform_laplacian
from topohead.solvers.headfit import (
    HeadArrays,
    HeadPriors,
    bounded_minimum,
    prior_precision,
    symmetry_precision,
)
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import MatchConfig, Matches, match
from topohead.solvers.scan_samples import ScanSamples

ROWS = 3000
"""Points of the surface that look for the scan."""
SHARE = 400.0
"""So many independent measurements they count as: neighbours miss by the same amount."""
FINEST = 1.5e-4
"""The residuals' spread is not taken for less, metres."""
ELSEWHERE = 0.25
"""What a point of the surface outside the face counts: there are hair, collars and cut necks."""
HAIR = 0.003
"""Scan farther outside the scalp is hair, metres."""
EXPRESSION = 0.25
"""Deviation of expression coefficients."""
PLAYED, BROAD = 0.025, 0.5
"""Mean of an action's coefficient in a face that is looked at, and deviation of those played: most
actions rest, so what identity tells as well is not taken for many small ones (a Laplace prior)."""
SWEEPS, SETTLED = 100, 1e-5
"""Of coordinate descent, at most; and the greatest step after which it has ended."""
SMOOTHING = 10.0
HELD = 1e12
"""Precision of what must not change."""


@dataclass(frozen=True)
class Modes:
    """A posed linear head: vertices = pose(template + coefficients · basis + remainder).

    `pose` is a similarity, head frame to scan; `remainder` is in the head frame, metres.
    """

    pose: Float[np.ndarray, "4 4"]
    coefficients: Float[np.ndarray, " K"]
    remainder: Float[np.ndarray, "V 3"]

    def vertices(self, arrays: HeadArrays) -> Float[np.ndarray, "V 3"]:
        """In the scan's frame."""
        shape = arrays.template + arrays.basis @ self.coefficients + self.remainder
        return shape @ self.pose[:3, :3].T + self.pose[:3, 3]

    @property
    def size(self) -> float:
        """The similarity's scale."""
        return float(np.linalg.det(self.pose[:3, :3]) ** (1 / 3))


@dataclass(frozen=True)
class ModePrior:
    """Gaussian about `mean` coefficients with a precision matrix; and about the log of `size`."""

    mean: Float[np.ndarray, " K"]
    precision: Float[np.ndarray, "K K"]
    size: float = 1.0
    size_spread: float = 0.03


def held_prior(arrays: HeadArrays, size_spread: float) -> ModePrior:
    """Only pose and size may change."""
    count = arrays.basis.shape[2]
    return ModePrior(np.zeros(count), np.eye(count) * HELD, size_spread=size_spread)


def population_prior(arrays: HeadArrays, expression: float = EXPRESSION) -> ModePrior:
    """About the mean head at rest; `expression` is the deviation of its coefficients."""
    priors = HeadPriors(expression=expression)
    precision = np.diag(np.minimum(prior_precision(arrays, priors), HELD))
    precision += symmetry_precision(arrays, priors)
    return ModePrior(np.zeros(len(precision)), precision)


def fit_modes(
    arrays: HeadArrays,
    surface: ScanHead,
    samples: ScanSamples,
    start: Modes,
    prior: ModePrior,
    reaches: tuple[float, ...],
    seed: int = 0,
) -> Modes:
    """One Gauss–Newton step on similarity and coefficients for each reach (metres).

    Point-to-plane from surface to scan with robust weights; expressions stay within [0, 1].
    """
    random = np.random.default_rng(seed)
    skin = np.flatnonzero(surface.skin)
    rows = np.sort(random.permutation(skin)[:ROWS])
    count = len(arrays.template)
    basis = surface.matrix[rows] @ arrays.basis.reshape(count, -1)
    basis = basis.reshape(len(rows), 3, -1).astype(np.float64)
    modes = start
    for reach in reaches:
        points = surface.surface(modes.vertices(arrays))
        found = match(points, surface.normals(points), rows, samples, MatchConfig(reach))
        if len(found.rows) < 30:
            break
        moves = basis[np.searchsorted(rows, found.rows)]
        modes = _step(arrays, modes, prior, points, found, moves, surface)
    return modes


def _step(
    arrays: HeadArrays,
    modes: Modes,
    prior: ModePrior,
    points: Float[np.ndarray, "S 3"],
    found: Matches,
    basis: Float[np.ndarray, "M 3 K"],
    surface: ScanHead,
) -> Modes:
    here = points[found.rows]
    center = here.mean(0)
    arm, normal = here - center, found.normals
    along = np.einsum("mc,mck->mk", normal @ modes.pose[:3, :3], basis)
    jacobian = np.concatenate(
        [np.cross(arm, normal), normal, (arm * normal).sum(1, keepdims=True), along], 1
    )
    spread = max(1.4826 * float(np.median(np.abs(found.gap))), FINEST)
    weight = found.weights * np.where(surface.face[found.rows], 1.0, ELSEWHERE)
    weight[surface.scalp[found.rows] & (found.gap > HAIR)] = 0
    weight *= min(1.0, SHARE / weight.sum()) / spread**2
    system = (jacobian * weight[:, None]).T @ jacobian
    gradient = -(jacobian * weight[:, None]).T @ found.gap
    system[np.arange(6), np.arange(6)] += 1e-9 * np.trace(system[:6, :6])
    system[6, 6] += 1 / prior.size_spread**2
    gradient[6] += np.log(modes.size / prior.size) / prior.size_spread**2
    system[7:, 7:] += prior.precision
    gradient[7:] += prior.precision @ (modes.coefficients - prior.mean)
    lower, upper = np.full(len(gradient), -np.inf), np.full(len(gradient), np.inf)
    expression = slice(7 + arrays.identity_count, None)
    lower[expression] = -modes.coefficients[arrays.identity_count :]
    upper[expression] = 1 + lower[expression]
    step = bounded_minimum(system, gradient, lower, upper)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(step[:3]).as_matrix() * np.exp(step[6])
    turn[:3, 3] = center + step[3:6] - turn[:3, :3] @ center
    return replace(modes, pose=turn @ modes.pose, coefficients=modes.coefficients + step[7:])


def without_creases(modes: Modes, surface: ScanHead) -> Modes:
    """With the remainder's finest waves taken out: networks leave folds in lids and ears.

    (1 + `SMOOTHING` LᵀL) r' = r with the uniform Laplacian L: half is left of waves of nine edges.
    """
    smoother = derived(surface.topology, _smoother)
    return replace(modes, remainder=smoother.solve(modes.remainder))


def _smoother(topology: Topology) -> SuperLU:
    laplacian = uniform_laplacian(topology)
    (row, column), value = laplacian.indices().numpy(), laplacian.values().double().numpy()
    matrix = sparse.csc_matrix((value, (row, column)), tuple(laplacian.shape))
    return splu((sparse.eye(topology.vertex_count) + SMOOTHING * matrix.T @ matrix).tocsc())


def explained(
    arrays: HeadArrays,
    vertices: Float[np.ndarray, "V 3"],
    pose: Float[np.ndarray, "4 4"],
    expression: Float[np.ndarray, " 52"],
    rows: Int[np.ndarray, " R"],
    noise: float,
) -> Modes:
    """Any vertices as modes, the rest as remainder.

    Identity and expression together by regression on control vertices `rows` (deviation `noise`,
    metres), expression within [0, 1] and as sparse as `PLAYED` says, about what is given.
    """
    back = np.linalg.inv(pose)
    shape = vertices @ back[:3, :3].T + back[:3, 3]
    count = arrays.identity_count
    start = np.concatenate([np.zeros(count), expression])
    rows = rows[:: max(1, len(rows) // 600)]
    basis = arrays.basis[rows].reshape(3 * len(rows), -1).astype(np.float64)
    # neighbours err alike: all of them together count as `SHARE` measurements
    share = SHARE / (len(rows) * noise**2)
    precision = np.minimum(prior_precision(arrays, HeadPriors(expression=BROAD)), HELD)
    system = share * basis.T @ basis + np.diag(precision)
    bare = (shape - arrays.template)[rows].ravel() - basis @ start
    gradient = -share * basis.T @ bare
    gradient[count:] += 1 / PLAYED
    bounds = np.full(len(start), np.inf)
    lower, upper = -bounds, bounds
    lower[count:], upper[count:] = -expression, 1 - expression
    coefficients = start + _boxed_minimum(system, gradient, lower, upper)
    remainder = shape - arrays.template - arrays.basis @ coefficients
    return Modes(pose, coefficients, remainder)


def _boxed_minimum(
    system: Float[np.ndarray, "P P"],
    gradient: Float[np.ndarray, " P"],
    lower: Float[np.ndarray, " P"],
    upper: Float[np.ndarray, " P"],
) -> Float[np.ndarray, " P"]:
    """argmin ½xᵀHx + gᵀx within bounds: unbounded unknowns eliminated, the others one at a time."""
    boxed = np.isfinite(lower)
    free = ~boxed
    across = system[np.ix_(free, boxed)]
    solved = np.linalg.solve(system[np.ix_(free, free)], np.c_[across, gradient[free]])
    reduced = system[np.ix_(boxed, boxed)] - across.T @ solved[:, :-1]
    slope = gradient[boxed] - across.T @ solved[:, -1]
    low, high = lower[boxed], upper[boxed]
    x = np.clip(np.zeros(len(low)), low, high)
    for _ in range(SWEEPS):
        before = x.copy()
        for k in range(len(x)):
            x[k] -= (slope[k] + reduced[k] @ x) / reduced[k, k]
            x[k] = min(max(x[k], low[k]), high[k])
        if np.abs(x - before).max() < SETTLED:
            break
    found = np.empty(len(gradient))
    found[boxed], found[free] = x, -solved[:, :-1] @ x - solved[:, -1]
    return found
