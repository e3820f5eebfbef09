"""Solvers as a capture runs them: frames in, answers out, and a state that can wait on disk."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, Mesh, TrackedFrame, Views
from topohead.solvers import published, tracking
from topohead.solvers.eyes import Gaze
from topohead.solvers.interiors import find_interiors, finish_frame
from topohead.workflows.background import ahead

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


@runtime_checkable
class Solver(Protocol):
    """Follows a head from its first frame on; states and answers are on the host."""

    def follow(
        self, frames: Iterable[Views], last: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[State, TrackedFrame]]:
        """Every frame's state and answer; `last` is the state before them (None: none)."""
        ...


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


class Newton:
    """Gauss–Newton on a device; states are the same whatever the device, so they may be mixed."""

    def __init__(self, start: Start, seed: int, device: str = "cpu") -> None:
        self._start, self._config, self._device = start, tracking.TrackConfig(), device
        self._reference = tracking.make_reference(
            start.views, start.mesh, start.basis, self._config, start.neutral, strides(), device
        )
        self._interiors = find_interiors(start.views, start.mesh, start.upright)

    def follow(
        self, frames: Iterable[Views], last: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[State, TrackedFrame]]:
        """Every frame's state and answer.

        On CUDA one frame's eyes, lids and lips are finished while the next is tracked.
        """
        gaze = Gaze.first()
        if last is not None and "gaze" in last:
            gaze = Gaze(last["gaze"], last["gaze_confidence"])

        def finished(
            tracked: tuple[Views, tracking.TrackState, TrackedFrame],
        ) -> tuple[State, TrackedFrame]:
            nonlocal gaze
            views, state, answer = tracked
            if views.frame != self._start.views.frame:
                answer, gaze = finish_frame(views, self._interiors, answer, gaze)
            tensors = _newton_tensors(state)
            if self._interiors.eyes is not None:
                tensors |= {"gaze": gaze.angles, "gaze_confidence": gaze.confidence}
            return tensors, answer

        return ahead(finished, self._tracked(frames, last), int(self._device != "cpu"))

    def _tracked(
        self, frames: Iterable[Views], last: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[Views, tracking.TrackState, TrackedFrame]]:
        """Every frame's surface as the pictures say; nothing else decides the next one's."""
        state = self._state(last)
        for views in frames:
            if views.frame == self._start.views.frame:
                answer = _given(views, self._start.mesh)
            else:
                state, answer = tracking.advance(views, self._reference, state, self._config)
            yield views, state, answer

    def outline(self, frames: Iterable[Views]) -> Iterator[State]:
        """A state after every frame from the first on, from coarse pictures: fast and rough."""
        state = self._state(None)
        for views in frames:
            if views.frame != self._start.views.frame:
                state = tracking.outline(views, self._reference, state, self._config)
            yield _newton_tensors(state)

    def _state(self, last: Mapping[str, Tensor] | None) -> tracking.TrackState:
        if last is None:
            count = self._start.mesh.topology.vertex_count
            return tracking.TrackState.first(count, len(self._start.basis))
        names = [field.name for field in fields(tracking.TrackState)]
        return tracking.TrackState(**{name: last[f"newton.{name}"] for name in names})


def _newton_tensors(state: tracking.TrackState) -> State:
    return {f"newton.{f.name}": getattr(state, f.name) for f in fields(state)}


class Published:
    """The published method; it knows no head model, so `basis` is not used."""

    def __init__(self, start: Start, seed: int, device: str = "cpu") -> None:
        self._start, self._device = start, device
        self._scene = published_scene(start.mesh, seed)

    def follow(
        self, frames: Iterable[Views], last: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[State, TrackedFrame]]:
        """Every frame's state and answer."""
        state = None if last is None else published_state(last)
        for stored in frames:
            views = stored.to(self._device)
            if state is None:
                started = time.perf_counter()
                state = published.learn_first_frame(views, self._scene)
                seconds = time.perf_counter() - started
                answer = _given(views, self._start.mesh, state.first_residual, seconds)
            else:
                state, answer = published.advance(views, self._scene, state)
            yield _published_tensors(state), answer


def published_scene(mesh: Mesh, seed: int) -> published.PublishedScene:
    """What the published method knows of a take that begins with this mesh."""
    return published.make_scene(mesh, replace(published.PublishedConfig(), seed=seed))


def _published_tensors(state: published.PublishedState) -> State:
    return {f"published.{f.name}": torch.as_tensor(getattr(state, f.name)) for f in fields(state)}


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


SOLVERS: dict[str, Callable[[Start, int, str], Solver]] = {"newton": Newton, "published": Published}
"""Made of a start, a seed and a device."""
