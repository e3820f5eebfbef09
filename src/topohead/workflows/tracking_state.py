"""Solvers as a capture runs them: frames in, answers out, and a state that can wait on disk."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, Mesh, TrackedFrame, Views
from topohead.solvers import published, tracking
from topohead.solvers.eyes import Gaze
from topohead.solvers.interiors import find_interiors, finish_frame

State = dict[str, Tensor]


@dataclass(frozen=True)
class Start:
    """What a solver begins with: the first frame's mesh and pictures, and how the face may move.

    `neutral` are the coefficients of `basis` that bring the first frame's face to rest; `upright`
    moves the world to the head's y-up frame.
    """

    mesh: Mesh
    basis: Float[Tensor, "K V 3"]
    neutral: Float[Tensor, " K"]
    upright: Float[Tensor, "4 4"]
    views: Views


Follow = Callable[
    [Start, Iterable[Views], Mapping[str, Tensor] | None, int, str],
    Iterator[tuple[State, TrackedFrame]],
]
"""Start, frames, the state before the first of them (None: none), seed, device."""


def strides() -> dict[str, Float[Tensor, "J 52"]]:
    """What a face can do between two frames, as changes of ARKit-52 coefficients by region."""
    moves = {"lips": ({"jawOpen": 0.4},), "eyelids": ({"eyeBlinkLeft": 0.7, "eyeBlinkRight": 0.7},)}
    found = {}
    for region, steps in moves.items():
        there = torch.zeros(len(steps), len(ARKIT_52))
        for row, step in enumerate(steps):
            for name, value in step.items():
                there[row, ARKIT_52.index(name)] = value
        found[region] = torch.cat([there, -there])
    return found


def follow_newton(
    start: Start,
    frames: Iterable[Views],
    last: Mapping[str, Tensor] | None,
    seed: int,
    device: str = "cpu",
) -> Iterator[tuple[State, TrackedFrame]]:
    """Gauss–Newton on `device`; states and answers are on the host, so devices may be mixed."""
    config = tracking.TrackConfig()
    reference = tracking.make_reference(
        start.views, start.mesh, start.basis, config, start.neutral, strides(), device
    )
    interiors = find_interiors(start.views, start.mesh, start.upright)
    names = [field.name for field in fields(tracking.TrackState)]
    gaze = Gaze.first()
    if last is None:
        state = tracking.TrackState.first(start.mesh.topology.vertex_count, len(start.basis))
    else:
        state = tracking.TrackState(**{name: last[f"newton.{name}"] for name in names})
        if interiors.eyes is not None:
            gaze = Gaze(last["gaze"], last["gaze_confidence"])
    for views in frames:
        if views.frame == start.views.frame:
            answer = _given(views, start.mesh)
        else:
            state, answer = tracking.advance(views, reference, state, config)
            answer, gaze = finish_frame(views, interiors, answer, gaze)
        tensors = {f"newton.{name}": getattr(state, name) for name in names}
        if interiors.eyes is not None:
            tensors |= {"gaze": gaze.angles, "gaze_confidence": gaze.confidence}
        yield tensors, answer


def follow_published(
    start: Start,
    frames: Iterable[Views],
    last: Mapping[str, Tensor] | None,
    seed: int,
    device: str = "cpu",
) -> Iterator[tuple[State, TrackedFrame]]:
    """The published method; it knows no head model, so `basis` is not used."""
    scene = published_scene(start.mesh, seed)
    state = None if last is None else published_state(last)
    for views in frames:
        if state is None:
            started = time.perf_counter()
            state = published.learn_first_frame(views.to(device), scene)
            answer = _given(views, start.mesh, state.first_residual, time.perf_counter() - started)
        else:
            state, answer = published.advance(views.to(device), scene, state)
        yield _published_tensors(state), answer


def _published_tensors(state: published.PublishedState) -> State:
    return {f"published.{f.name}": torch.as_tensor(getattr(state, f.name)) for f in fields(state)}


def published_scene(mesh: Mesh, seed: int) -> published.PublishedScene:
    """What the published method knows of a take that begins with this mesh."""
    return published.make_scene(mesh, replace(published.PublishedConfig(), seed=seed))


def published_state(tensors: Mapping[str, Tensor]) -> published.PublishedState:
    """The Gaussians of a frame, from its state on disk."""
    values = {f.name: tensors[f"published.{f.name}"] for f in fields(published.PublishedState)}
    return published.PublishedState(
        **{k: v.numpy() if v.dim() else v.item() for k, v in values.items()}  # pyright: ignore
    )


def _given(views: Views, first: Mesh, residual: float = 0.0, seconds: float = 0.0) -> TrackedFrame:
    """The first frame's answer: the mesh that it began with."""
    eye = torch.eye(4, dtype=torch.float64)
    gains = torch.ones(len(views.cameras), 3)
    return TrackedFrame(views.frame, first.vertices.float(), eye, gains, residual, False, seconds)


SOLVERS: dict[str, Follow] = {"newton": follow_newton, "published": follow_published}
