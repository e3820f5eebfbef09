"""Carry a textured mesh through calibrated views: pose, expression, then every vertex.

Gauss–Newton on photometric residuals of fixed surface samples. What a sample looks like comes from
the first frame, in contrast-normalised pictures; its present colour may differ by what all views
agree on (see `kernels.photometric.accumulate`). Residuals always point to the first frame, so
errors do not accumulate.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, TrackedFrame, Views
from topohead.solvers.features import feature_pyramid
from topohead.solvers.first_look import Reference, TrackConfig, look
from topohead.solvers.frame_solve import FrameSolve, Guess, shape, unpose, world_motion


@dataclass(frozen=True)
class TrackState:
    """All that one frame hands to the next; float64.

    `pose` and `last_pose` move the first frame's head about the reference's origin; `expression`
    holds coefficients of the reference's basis relative to the first frame; `deviation` is the
    tracked shape less the model's in the first frame's axes.
    """

    pose: Float[Tensor, "4 4"]
    last_pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " K"]
    last_expression: Float[Tensor, " K"]
    deviation: Float[Tensor, "V 3"]

    @staticmethod
    def first(vertex_count: int, basis_count: int) -> "TrackState":
        """The state in the reference frame: nothing moved."""
        eye = torch.eye(4, dtype=torch.float64)
        zero = torch.zeros(basis_count, dtype=torch.float64)
        still = torch.zeros(vertex_count, 3, dtype=torch.float64)
        return TrackState(eye, eye, zero, zero, still)


def make_reference(
    views: Views,
    first: Mesh,
    basis: Float[Tensor, "K V 3"],
    config: TrackConfig,
    neutral: Float[Tensor, " K"] | None = None,
    strides: Mapping[str, Float[Tensor, "J K"]] | None = None,
) -> Reference:
    """What the tracker compares every frame with; see `first_look.look` for the arguments."""
    reference = look(views, first, basis, config, neutral, strides)
    levels = feature_pyramid(views, reference.origin, config.features)
    solve = FrameSolve(views, levels, reference, config)
    return replace(
        reference,
        likeness=solve.likeness(reference.vertices),
        agreement=solve.agreement(reference.vertices),
    )


def track(
    frames: Iterable[Views], reference: Reference, state: TrackState, config: TrackConfig
) -> Iterator[tuple[TrackState, TrackedFrame]]:
    """Follow the reference through frames; start from the state before the first of them."""
    for views in frames:
        state, answer = advance(views, reference, state, config)
        yield state, answer


def advance(
    views: Views, reference: Reference, state: TrackState, config: TrackConfig
) -> tuple[TrackState, TrackedFrame]:
    """One frame: predict, solve pose and expression, free the vertices."""
    started = time.perf_counter()
    levels = feature_pyramid(views, reference.origin, config.features)
    solve = FrameSolve(views, levels, reference, config)
    motion = state.pose @ torch.linalg.inv(state.last_pose)
    onward = (2 * state.expression - state.last_expression).clamp(-1, 1.5)
    last = Guess(state.pose, state.expression, state.deviation, state.expression)
    near = solve.better(last, replace(last, pose=motion @ state.pose, expression=onward))
    found = solve.pose_and_expression(near)
    pose, expression = found.pose, found.expression
    rest = shape(reference, pose, expression, config.memory * found.deviation)
    vertices = solve.free(rest, shape(reference, pose, expression, found.deviation))
    deviation = unpose(vertices, pose, reference.origin) - (
        reference.vertices + torch.einsum("k,kvc->vc", expression, reference.basis)
    )
    fresh = TrackState(pose, state.pose, expression, state.expression, deviation)
    return fresh, TrackedFrame(
        views.frame,
        vertices.float(),
        world_motion(pose, reference.origin),
        torch.ones(len(views.cameras), 3),
        solve.residual,
        solve.is_doubtful(vertices),
        time.perf_counter() - started,
    )
