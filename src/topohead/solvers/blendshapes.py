"""A person's own blendshapes from a range of motion (after Li, Weise and Pauly 2010).

The head model's actions are a prior; where and as often as an action occurs in the take, the
tracked meshes say how this person does it. Shapes and weights are solved in turn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.meshes import uniform_laplacian
from topohead.geometry.skinning import blended, posed, unposed
from topohead.solvers.expressions import ExpressionTrack, solve_expressions


@dataclass(frozen=True)
class PersonalPriors:
    """How far a person may be from the model; metres and shares.

    A vertex's motion in an action deviates by `share` of the model's motion there (averaged over
    `reach` rings) plus `free`; a frame's tracking errs by `noise`. `smoothness` weighs the
    Laplacian of the deviation against one fully played frame.
    """

    share: float = 0.4
    free: float = 0.00005
    noise: float = 0.0004
    smoothness: float = 2.0
    reach: int = 8


@dataclass(frozen=True)
class PersonalBlendshapes:
    """The person's actions, the take's weights and poses in them, and how well each explains it.

    `before` and `after` are each frame's rms distance, metres over the vertices that count, with
    the model's actions and with the person's.
    """

    blendshapes: Float[Tensor, "52 V 3"]
    track: ExpressionTrack
    before: Float[Tensor, " T"]
    after: Float[Tensor, " T"]


def personal_blendshapes(
    vertices: Float[Tensor, "T V 3"],
    rest: Float[Tensor, "V 3"],
    basis: Float[Tensor, "52 V 3"],
    topology: Topology,
    importance: Float[Tensor, " V"],
    priors: PersonalPriors | None = None,
    rounds: int = 3,
) -> PersonalBlendshapes:
    """Alternates between the person's actions and the take's weights, from the model's actions.

    Actions that the take does not show stay the model's. Vertices of no importance follow their
    neighbours.
    """
    priors = priors or PersonalPriors()
    first = track = solve_expressions(vertices, rest, basis, importance)
    stiffness = _stiffness(basis, topology, priors)
    deviation = basis.new_zeros(len(rest), 3, len(basis))
    for _ in range(rounds):
        missing = unposed(vertices, track.poses) - blended(rest, basis, track.weights)
        deviation = _deviation(
            missing, track.weights, deviation, stiffness, importance > 0, topology,
            priors.smoothness,
        )  # fmt: skip
        shapes = basis + deviation.permute(2, 0, 1)
        track = solve_expressions(vertices, rest, shapes, importance)
    return PersonalBlendshapes(
        shapes,
        track,
        residuals(vertices, rest, basis, first, importance),
        residuals(vertices, rest, shapes, track, importance),
    )


def residuals(
    vertices: Float[Tensor, "T V 3"],
    rest: Float[Tensor, "V 3"],
    basis: Float[Tensor, "52 V 3"],
    track: ExpressionTrack,
    importance: Float[Tensor, " V"],
) -> Float[Tensor, " T"]:
    """Each frame's rms distance between meshes and model, weighed by importance, metres."""
    made = posed(rest, basis, track.weights, track.poses)
    squares = (vertices - made).double().square().sum(-1)
    return (squares @ importance / importance.sum()).sqrt()


def _stiffness(
    basis: Float[Tensor, "52 V 3"], topology: Topology, priors: PersonalPriors
) -> Float[Tensor, "V 1 52"]:
    """What holds actions to the model at each vertex: (noise / expected deviation)²."""
    motion = basis.norm(dim=-1).T
    laplacian = uniform_laplacian(topology).to(basis)
    for _ in range(priors.reach):
        motion = motion + laplacian @ motion
    return (priors.noise / (priors.share * motion + priors.free)).square()[:, None]


def _deviation(
    missing: Float[Tensor, "T V 3"],
    weights: Float[Tensor, "T 52"],
    start: Float[Tensor, "V 3 52"],
    stiffness: Float[Tensor, "V 1 52"],
    tracked: Bool[Tensor, " V"],
    topology: Topology,
    smoothness: float,
) -> Float[Tensor, "V 3 52"]:
    """What the person's actions add to the model's, by conjugate gradients over all vertices.

    min_E Σ_t ‖Σ_k c_tk E_k − missing_t‖² + Σ_k stiffness_k ‖E_k‖² + smoothness ‖L E_k‖².
    """
    seen = tracked.to(missing)[:, None, None]
    weights = weights.to(missing)
    occurrence = weights.T @ weights
    laplacian = uniform_laplacian(topology).to(missing)
    transposed = laplacian.T.coalesce()

    def apply(field: Tensor) -> Tensor:
        bent = transposed @ (laplacian @ field.reshape(len(field), -1))
        return (field @ occurrence) * seen + stiffness * field + smoothness * bent.view_as(field)

    right = torch.einsum("tk,tvi->vik", weights, missing) * seen
    # L has −1 on its diagonal and rows of about 1/4: LᵀL has about 1.25 on its own
    diagonal = occurrence.diagonal() * seen + stiffness + smoothness * 1.25
    return _conjugate_gradients(apply, right, start, diagonal)


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, diagonal: Tensor
) -> Tensor:
    """Solves apply(x) = right, preconditioned by the diagonal, to a thousandth or 60 steps."""
    x = start
    residual = right - apply(x)
    goal = 1e-6 * (right * right / diagonal).sum()
    ahead = residual / diagonal
    power = (residual * ahead).sum()
    direction = ahead
    for _ in range(60):
        if power <= goal:
            break
        image = apply(direction)
        step = power / (direction * image).sum()
        x = x + step * direction
        residual = residual - step * image
        ahead = residual / diagonal
        power, before = (residual * ahead).sum(), power
        direction = ahead + power / before * direction
    return x
