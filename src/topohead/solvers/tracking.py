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
from topohead.solvers.first_look import Reference, look
from topohead.solvers.frame_solve import FrameSolve, Guess
from topohead.solvers.surface import TrackConfig


@dataclass(frozen=True)
class TrackState:
    """All that one frame hands to the next; float64, on the host.

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
    device: torch.device | str = "cpu",
) -> Reference:
    """What the tracker compares every frame with; see `first_look.look` for the arguments.

    Frames are then solved on `device`, whatever device they come on.
    """
    reference = look(views, first, basis, config, neutral, strides, torch.device(device))
    solve = FrameSolve(views, reference, config)
    vertices = reference.surface.vertices
    return replace(
        reference, likeness=solve.likeness(vertices), agreement=solve.agreement(vertices)
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
    surface = reference.surface
    solve = FrameSolve(views, reference, config)
    found = solve.pose_and_expression(_predicted(solve, state))
    pose, expression = found.pose, found.expression
    rest = surface.shaped(pose, expression, config.memory * found.deviation)
    vertices = solve.free(rest, surface.shaped(pose, expression, found.deviation))
    deviation = surface.deviation(vertices, pose, expression).cpu()
    fresh = TrackState(pose.cpu(), state.pose, expression.cpu(), state.expression, deviation)
    return fresh, TrackedFrame(
        views.frame,
        vertices.float().cpu(),
        _world_motion(pose, surface.origin).cpu(),
        torch.ones(len(views.cameras), 3),
        solve.residual,
        solve.is_doubtful(vertices),
        time.perf_counter() - started,
    )


def outline(
    views: Views, reference: Reference, state: TrackState, config: TrackConfig
) -> TrackState:
    """The state after a frame of which only coarse levels are looked at, for pose and expression.

    It is what a frame may be tracked from when those before it have not been; `deviation` is zero.
    """
    solve = FrameSolve(views, reference, config)
    found = solve.pose_and_expression(_predicted(solve, state), fine=False)
    pose, expression = found.pose.cpu(), found.expression.cpu()
    return TrackState(pose, state.pose, expression, state.expression, 0 * state.deviation)


def _predicted(solve: FrameSolve, state: TrackState) -> Guess:
    """Where the frame after a state may be: moved on as in the frame before, or not moved."""
    where = solve.reference.surface.vertices.device
    moved = state.pose @ torch.linalg.inv(state.last_pose) @ state.pose
    onward = (2 * state.expression - state.last_expression).clamp(-1, 1.5)
    known = state.expression.to(where)
    last = Guess(state.pose.to(where), known, state.deviation.to(where), known)
    return solve.better(last, replace(last, pose=moved.to(where), expression=onward.to(where)))


def _world_motion(pose: Tensor, origin: Tensor) -> Tensor:
    """The same motion for points that are not taken about the head's origin."""
    motion = pose.clone()
    motion[:3, 3] += origin - pose[:3, :3] @ origin
    return motion
