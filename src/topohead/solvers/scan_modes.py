"""A linear head's pose, identity and expression by iterated closest points on a scan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial.transform import Rotation
from torch import Tensor

from topohead.core import HeadModel, Topology
from topohead.core.derived import derived
from topohead.geometry.sparse_rows import SparseRows
from topohead.solvers.headfit import (
    HeadArrays,
    HeadPriors,
    bounded_minimum,
    prior_precision,
    symmetry_precision,
)
from topohead.solvers.kernels.boxed import boxed_minimum
from topohead.solvers.scan_head import ScanHead, laplacian
from topohead.solvers.scan_matching import MatchConfig, match_all, within
from topohead.solvers.scan_samples import ScanSamples

ROWS = 3000
"""Points of the surface that look for the scan."""
SHARE = 800.0
"""So many independent measurements they count as: neighbours miss by the same amount. With 400
tuning people (seed 150) come out a little worse, with 1600 their lips do; strangers do not mind."""
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
SMOOTHING, KEPT = 10.0, 100.0
"""Of a remainder; and how many times as much as elsewhere it is kept in ears, whose own form is as
fine as folds are."""
HELD = 1e12
"""Precision of what must not change."""


@dataclass(frozen=True)
class HeadModes:
    """A linear head's shapes, float64 on a device; `arrays` has them on the CPU."""

    arrays: HeadArrays
    surface: ScanHead
    template: Float[Tensor, "V 3"]
    basis: Float[Tensor, "V 3 K"]
    asked: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By seed: vertices of the finer surface that look for the scan, and how they move [R 3 K]."""

    @staticmethod
    def of(head: HeadModel, device: torch.device | str = "cpu") -> "HeadModes":
        """Made once for each head and device."""
        known = derived(head, _by_device)
        name = str(device)
        if name not in known:
            arrays = derived(head, HeadArrays)
            template, basis = (
                torch.from_numpy(part).to(device).double()
                for part in (arrays.template, arrays.basis)
            )
            known[name] = HeadModes(arrays, ScanHead.of(head.topology, device), template, basis)
        return known[name]

    def askers(self, seed: int) -> tuple[Int[Tensor, " R"], Float[Tensor, "R 3 K"]]:
        """`ROWS` vertices of the finer skin, sorted, and how coefficients move them."""
        if seed not in self.asked:
            skin = self.surface.skin_rows.cpu().numpy()
            rows = np.sort(np.random.default_rng(seed).permutation(skin)[:ROWS])
            matrix = SparseRows(self.surface.matrix.matrix[rows], self.basis.device)
            moves = (matrix @ self.basis.flatten(1)).unflatten(1, (3, -1))
            self.asked[seed] = torch.from_numpy(rows).to(self.basis.device), moves
        return self.asked[seed]


def _by_device(head: HeadModel) -> dict[str, HeadModes]:
    """Filled as devices are met."""
    return {}


@dataclass(frozen=True)
class Modes:
    """A posed linear head: vertices = pose(template + coefficients · basis + remainder).

    `pose` is a similarity, head frame to scan; `remainder` is in the head frame, metres. All on the
    CPU.
    """

    pose: Float[np.ndarray, "4 4"]
    coefficients: Float[np.ndarray, " K"]
    remainder: Float[np.ndarray, "V 3"]

    def vertices(self, head: HeadModes) -> Float[Tensor, "V 3"]:
        """In the scan's frame, on the device of the head's shapes."""
        pose, coefficients, remainder = (
            torch.from_numpy(part).to(head.basis)
            for part in (self.pose, self.coefficients, self.remainder)
        )
        return _posed(head, pose, coefficients, remainder)

    @property
    def size(self) -> float:
        """The similarity's scale."""
        return float(np.linalg.det(self.pose[:3, :3]) ** (1 / 3))


def _posed(
    head: HeadModes,
    pose: Float[Tensor, "4 4"],
    coefficients: Float[Tensor, " K"],
    remainder: Float[Tensor, "V 3"],
) -> Float[Tensor, "V 3"]:
    shape = head.template + head.basis @ coefficients + remainder
    return shape @ pose[:3, :3].T + pose[:3, 3]


@contextmanager
def one_core() -> Iterator[None]:
    """PyTorch's dense products on one core: several add in an order that hangs on their number."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


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


@one_core()
def fit_modes(
    head: HeadModes,
    samples: ScanSamples,
    start: Modes,
    prior: ModePrior,
    reaches: tuple[float, ...],
    seed: int = 0,
) -> Modes:
    """One Gauss–Newton step on similarity and coefficients for each reach (metres).

    Point-to-plane from surface to scan with robust weights; expressions stay within [0, 1].
    """
    rows, moves = head.askers(seed)
    remainder = torch.from_numpy(start.remainder).to(head.basis)
    unknowns = 7 + len(start.coefficients)
    modes = start
    for reach in reaches:
        work = partial(_looked, head, rows, moves, reach)
        given = (torch.from_numpy(part).to(head.basis) for part in (modes.pose, modes.coefficients))
        inputs = (*given, remainder, *samples.parts)
        told = head.surface.recordings(("modes", seed, reach), work, *inputs)[0].cpu().numpy()
        count, middle, normals = told[0], told[1:4], told[4:].reshape(unknowns, -1)
        if count < 30:
            break
        modes = _step(head, modes, prior, normals, middle)
    return modes


def _looked(
    head: HeadModes,
    rows: Int[Tensor, " R"],
    moves: Float[Tensor, "R 3 K"],
    reach: float,
    pose: Float[Tensor, "4 4"],
    coefficients: Float[Tensor, " K"],
    remainder: Float[Tensor, "V 3"],
    *samples: Tensor,
) -> tuple[Float[Tensor, " M"]]:
    """What the samples say of pose and coefficients, in one piece for the host: how many matches
    there are, the middle that the surface turns about, and P normal equations [P P + 1]."""
    surface = head.surface
    points = surface.surface(_posed(head, pose, coefficients, remainder))
    near = ScanSamples(*samples)
    found = match_all(points, surface.normals(points), rows, near, MatchConfig(reach))
    if len(found.rows) < len(rows):
        moves = moves[torch.searchsorted(rows, found.rows)]
    rows = found.rows
    here, normal = points[rows], found.normals
    count = found.found.sum()
    center = here.masked_fill(~found.found[:, None], 0).sum(0) / count.clamp(min=1)
    arm = here - center
    along = ((normal @ pose[:3, :3])[:, None] @ moves)[:, 0]
    jacobian = torch.cat(
        [torch.linalg.cross(arm, normal), normal, (arm * normal).sum(1, keepdim=True), along], 1
    )
    weight = found.weights * torch.where(surface.face[rows], 1.0, ELSEWHERE)
    weight = weight * torch.where(surface.scalp[rows], within(found.gap, HAIR), 1.0)
    weight = weight * (SHARE / weight.sum()).clamp(max=1) / found.spread.clamp(min=FINEST) ** 2
    both = torch.cat([jacobian, -found.gap[:, None]], 1)
    normals = (jacobian * weight[:, None]).T @ both
    return (torch.cat([count[None], center, normals.flatten()]),)


def _step(
    head: HeadModes,
    modes: Modes,
    prior: ModePrior,
    normals: Float[np.ndarray, "P Q"],
    middle: Float[np.ndarray, "3"],
) -> Modes:
    """The step that normal equations about a middle and the prior ask for."""
    identities = head.arrays.identity_count
    system, gradient = normals[:, :-1].copy(), normals[:, -1].copy()
    system[np.arange(6), np.arange(6)] += 1e-9 * np.trace(system[:6, :6])
    system[6, 6] += 1 / prior.size_spread**2
    gradient[6] += np.log(modes.size / prior.size) / prior.size_spread**2
    system[7:, 7:] += prior.precision
    gradient[7:] += _product(prior.precision, modes.coefficients - prior.mean)
    lower, upper = np.full(len(gradient), -np.inf), np.full(len(gradient), np.inf)
    expression = slice(7 + identities, None)
    lower[expression] = -modes.coefficients[identities:]
    upper[expression] = 1 + lower[expression]
    step = _eliminated(system, gradient, lower, upper, bounded_minimum)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(step[:3]).as_matrix() * np.exp(step[6])
    turn[:3, 3] = middle + step[3:6] - turn[:3, :3] @ middle
    return replace(modes, pose=turn @ modes.pose, coefficients=modes.coefficients + step[7:])


def without_creases(modes: Modes, topology: Topology) -> Modes:
    """With the remainder's finest waves taken out, but in ears: networks leave folds in lids.

    (W + `SMOOTHING` LᵀL) r' = W r with the uniform Laplacian L and W = 1, in ears `KEPT`: half is
    left of waves of nine edges.
    """
    smoother, kept = derived(topology, _smoother)
    return replace(modes, remainder=smoother.solve(kept[:, None] * modes.remainder))


def _smoother(topology: Topology) -> tuple[SuperLU, Float[np.ndarray, " V"]]:
    matrix = laplacian(topology)
    kept = np.where(topology.region_mask("ears").numpy(), KEPT, 1.0)
    return splu((sparse.diags(kept) + SMOOTHING * matrix.T @ matrix).tocsc()), kept


@one_core()
def explained(
    arrays: HeadArrays,
    vertices: Float[np.ndarray, "V 3"],
    pose: Float[np.ndarray, "4 4"],
    expression: Float[np.ndarray, " 52"],
    noise: float,
) -> Modes:
    """Any vertices as modes, the rest as remainder.

    Identity and expression together by regression on the face's control vertices (deviation
    `noise`, metres), expression within [0, 1] and as sparse as `PLAYED` says, about what is given.
    """
    back = np.linalg.inv(pose)
    shape = vertices @ back[:3, :3].T + back[:3, 3]
    count = arrays.identity_count
    start = np.concatenate([np.zeros(count), expression])
    rows, basis, squares = derived(arrays, _face_regression)
    # neighbours err alike: all of them together count as `SHARE` measurements
    share = SHARE / (len(rows) * noise**2)
    precision = np.minimum(prior_precision(arrays, HeadPriors(expression=BROAD)), HELD)
    system = share * squares + np.diag(precision)
    bare = (shape - arrays.template)[rows].ravel() - _product(basis, start)
    gradient = -share * _product(basis.T, bare)
    gradient[count:] += 1 / PLAYED
    bounds = np.full(len(start), np.inf)
    lower, upper = -bounds, bounds
    lower[count:], upper[count:] = -expression, 1 - expression
    coefficients = start + _boxed_minimum(system, gradient, lower, upper)
    # float32 halves the work and is good to 10⁻⁸ m
    remainder = shape - arrays.template - _product(arrays.basis, coefficients.astype(np.float32))
    return Modes(pose, coefficients, remainder)


def _face_regression(arrays: HeadArrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some vertices of the face, how coefficients move them [3R K], and that matrix's square."""
    rows = np.flatnonzero(arrays.topology.region_mask("face").numpy())
    rows = rows[:: max(1, len(rows) // 600)]
    basis = arrays.basis[rows].reshape(3 * len(rows), -1).astype(np.float64)
    return rows, basis, _product(basis.T, basis)


def _boxed_minimum(
    system: Float[np.ndarray, "P P"],
    gradient: Float[np.ndarray, " P"],
    lower: Float[np.ndarray, " P"],
    upper: Float[np.ndarray, " P"],
) -> Float[np.ndarray, " P"]:
    """argmin ½xᵀHx + gᵀx within bounds, one unknown after the other."""
    minimum = partial(boxed_minimum, sweeps=SWEEPS, settled=SETTLED)
    return _eliminated(system, gradient, lower, upper, minimum)


def _eliminated(
    system: Float[np.ndarray, "P P"],
    gradient: Float[np.ndarray, " P"],
    lower: Float[np.ndarray, " P"],
    upper: Float[np.ndarray, " P"],
    minimum: Callable[..., Float[np.ndarray, " B"]],
) -> Float[np.ndarray, " P"]:
    """argmin ½xᵀHx + gᵀx: unbounded unknowns follow from the B others, which `minimum` finds."""
    boxed = np.isfinite(lower)
    free = ~boxed
    across = system[np.ix_(free, boxed)]
    wanted = torch.from_numpy(np.c_[across, gradient[free]])
    solved = torch.linalg.solve(torch.from_numpy(system[np.ix_(free, free)]), wanted).numpy()
    both = _product(across.T, solved)
    reduced, slope = system[np.ix_(boxed, boxed)] - both[:, :-1], gradient[boxed] - both[:, -1]
    x = minimum(reduced, slope, lower[boxed], upper[boxed])
    found = np.empty(len(gradient))
    found[boxed], found[free] = x, -_product(solved[:, :-1], x) - solved[:, -1]
    return found


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`left @ right` by PyTorch, whose number of cores can be told (`one_core`)."""
    return (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()
