"""Gauss–Newton on a linear head's pose, identity and expression, whatever the evidence."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from topohead.core import ARKIT_52, HeadModel
from topohead.solvers.evidence import Evidence, surface_positions


@dataclass(frozen=True)
class HeadState:
    """A posed head: world = rotation · model(identity, expression) + translation, metres."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    identity: Float[np.ndarray, " I"]
    expression: Float[np.ndarray, " 52"]

    @property
    def pose(self) -> Float[np.ndarray, "4 4"]:
        """Model frame to world."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, self.translation
        return pose


@dataclass(frozen=True)
class HeadPriors:
    """How far coefficients stray, in their own units; infinity frees, zero holds."""

    identity: float = 1.0
    """Standard deviation of identity coefficients (1 is the population's)."""
    expression: float = 0.35
    """Standard deviation of expression coefficients around zero."""
    gaze: float = 0.1
    """Of the eyeLook shapes: outlines and landmarks say next to nothing about gaze."""
    asymmetry: float = 0.15
    """Of the difference between the left and right half of an expression."""


class HeadArrays:
    """A head model's arrays, in float64 NumPy, ready for repeated solves."""

    def __init__(self, model: HeadModel) -> None:
        self.topology = model.topology
        self.corners: Int[np.ndarray, "T 3"] = model.topology.triangles.numpy()
        self.template = model.template.double().numpy()
        basis = torch.cat([model.identity_basis, model.expression_basis]).float().numpy()
        self.identity_count = len(model.identity_basis)
        # [V 3 K]: a surface point gathers three rows, so coefficients lie last.
        self.basis: Float[np.ndarray, "V 3 K"] = np.ascontiguousarray(basis.transpose(1, 2, 0))
        reach = np.abs(self.basis).max((0, 1))
        self.live = reach > 1e-7

    def vertices(self, state: HeadState) -> Float[np.ndarray, "V 3"]:
        """World vertices."""
        return self.local_vertices(state) @ state.rotation.T + state.translation

    def local_vertices(self, state: HeadState) -> Float[np.ndarray, "V 3"]:
        """Vertices in the model's own frame."""
        coefficients = np.concatenate([state.identity, state.expression])
        return self.template + self.basis @ coefficients

    def neutral(self, rotation: np.ndarray, translation: np.ndarray) -> HeadState:
        """The mean head with no expression in this pose."""
        return HeadState(rotation, translation, np.zeros(self.identity_count), np.zeros(52))

    def point_basis(self, evidence: Evidence) -> Float[np.ndarray, "N 3 K"]:
        """How surface points move with the coefficients, model frame."""
        weights = evidence.weights.astype(np.float32)
        moves = weights[:, 0, None, None] * self.basis[evidence.corners[:, 0]]
        for corner in (1, 2):
            moves += weights[:, corner, None, None] * self.basis[evidence.corners[:, corner]]
        return moves


def prior_precision(head: HeadArrays, priors: HeadPriors) -> Float[np.ndarray, " K"]:
    """1/σ² of each coefficient; infinite for coefficients that must stay."""
    deviations = np.full(head.identity_count + 52, priors.identity)
    deviations[head.identity_count :] = priors.expression
    for index, name in enumerate(ARKIT_52):
        if name.startswith("eyeLook"):
            deviations[head.identity_count + index] = min(priors.gaze, priors.expression)
    deviations[~head.live] = 0
    with np.errstate(divide="ignore"):
        return 1 / deviations**2


_PAIRS = tuple(
    (index, ARKIT_52.index(name[: -len("Left")] + "Right"))
    for index, name in enumerate(ARKIT_52)
    if name.endswith("Left") and name not in ("jawLeft", "mouthLeft") and "eyeLook" not in name
)
"""Expressions that are the same on both sides of the face, by index."""


def symmetry_precision(head: HeadArrays, priors: HeadPriors) -> Float[np.ndarray, "K K"]:
    """Precision matrix of the differences between both sides' expressions."""
    matrix = np.zeros((head.identity_count + 52,) * 2)
    for pair in _PAIRS:
        left, right = (head.identity_count + index for index in pair)
        if head.live[left] and head.live[right]:
            own = np.ix_([left, right], [left, right])
            matrix[own] += np.array([[1, -1], [-1, 1]]) / priors.asymmetry**2
    return matrix


def fit_head(
    head: HeadArrays,
    state: HeadState,
    gather: Callable[[Float[np.ndarray, "V 3"], int], Evidence],
    iterations: int = 10,
    priors: HeadPriors = HeadPriors(),
) -> HeadState:
    """The head that fits evidence best: Gauss–Newton, the evidence gathered anew each iteration.

    `gather(vertices, iteration)` says what the pictures want at the current world vertices.
    Expression stays within [0, 1] (active set). Stops early when nothing moves by 10 µm.
    """
    for iteration in range(iterations):
        vertices = head.vertices(state)
        moved = _step(head, state, gather(vertices, iteration), priors)
        change = np.abs(head.vertices(moved) - vertices).max()
        state = moved
        if change < 1e-5:
            break
    return state


def _step(head: HeadArrays, state: HeadState, evidence: Evidence, priors: HeadPriors) -> HeadState:
    """One Gauss–Newton step on 6 pose unknowns (about the head's own centre) and coefficients."""
    center = head.vertices(state).mean(0)
    coefficients = np.concatenate([state.identity, state.expression])
    precision = prior_precision(head, priors)
    free = np.isfinite(precision)
    jacobian = _jacobian(head, state, evidence, center, free)
    count = 6 + int(free.sum())
    # single precision halves the one large product; the priors keep the system well posed
    weighted = (evidence.matrices.astype(np.float32) @ jacobian).reshape(-1, count)
    flat = jacobian.reshape(-1, count)
    normal = (flat.T @ weighted).astype(np.float64)
    gradient = (flat.T @ evidence.gradients.astype(np.float32).ravel()).astype(np.float64)
    normal[np.arange(6), np.arange(6)] += 1e-9 * max(1.0, float(np.trace(normal)) / count)
    normal[np.arange(6, count), np.arange(6, count)] += precision[free]
    gradient[6:] += precision[free] * coefficients[free]
    symmetry = symmetry_precision(head, priors)[np.ix_(free, free)]
    normal[6:, 6:] += symmetry
    gradient[6:] += symmetry @ coefficients[free]

    lower = np.full(count, -np.inf)
    upper = np.full(count, np.inf)
    is_expression = (np.arange(len(coefficients)) >= head.identity_count)[free]
    lower[6:][is_expression] = -coefficients[free][is_expression]
    upper[6:][is_expression] = 1 - coefficients[free][is_expression]
    step = bounded_minimum(normal, gradient, lower, upper)

    coefficients[free] += step[6:]
    turn = Rotation.from_rotvec(_limited(step[:3], 0.3)).as_matrix()
    return replace(
        state,
        rotation=turn @ state.rotation,
        translation=turn @ (state.translation - center) + center + step[3:6],
        identity=coefficients[: head.identity_count],
        expression=coefficients[head.identity_count :],
    )


def _jacobian(
    head: HeadArrays,
    state: HeadState,
    evidence: Evidence,
    center: Float[np.ndarray, "3"],
    free: np.ndarray,
) -> Float[np.ndarray, "N 3 P"]:
    """∂point/∂(turn, shift, free coefficients), world axes."""
    arm = surface_positions(head.vertices(state), evidence.corners, evidence.weights) - center
    jacobian = np.zeros((len(evidence), 3, 6 + int(free.sum())), np.float32)
    # δx = ω × arm
    jacobian[:, 0, 1], jacobian[:, 0, 2] = arm[:, 2], -arm[:, 1]
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -arm[:, 2], arm[:, 0]
    jacobian[:, 2, 0], jacobian[:, 2, 1] = arm[:, 1], -arm[:, 0]
    jacobian[:, :, 3:6] = np.eye(3)
    jacobian[:, :, 6:] = state.rotation.astype(np.float32) @ head.point_basis(evidence)[:, :, free]
    return jacobian


def bounded_minimum(
    normal: Float[np.ndarray, "P P"],
    gradient: Float[np.ndarray, " P"],
    lower: Float[np.ndarray, " P"],
    upper: Float[np.ndarray, " P"],
) -> Float[np.ndarray, " P"]:
    """argmin ½xᵀHx + gᵀx within bounds, by clamping what leaves them and solving the rest again.

    A clamped unknown is never freed again within a call: the next Gauss–Newton step does that.
    """
    step = np.zeros_like(gradient)
    active = np.zeros(len(gradient), dtype=bool)
    for _ in range(8):
        rest = ~active
        right = -gradient[rest] - normal[np.ix_(rest, active)] @ step[active]
        step[rest] = np.linalg.solve(normal[np.ix_(rest, rest)], right)
        outside = rest & ((step < lower - 1e-12) | (step > upper + 1e-12))
        if not outside.any():
            break
        step[outside] = np.clip(step[outside], lower[outside], upper[outside])
        active |= outside
    return np.clip(step, lower, upper)


def _limited(vector: Float[np.ndarray, "3"], longest: float) -> Float[np.ndarray, "3"]:
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)
