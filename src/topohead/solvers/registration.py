"""The first frame of a capture: a head mesh in the world, from pictures alone or a start mesh."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel, InputError, Mesh, Topology, Views
from topohead.solvers.agreement import Agreement, AgreementConfig
from topohead.solvers.evidence import Evidence, Normals, join
from topohead.solvers.freeform import FreeForm, FreeFormConfig, carry_loose_parts
from topohead.solvers.headfit import HeadArrays, HeadPriors, HeadState, fit_head
from topohead.solvers.landmarks import (
    LandmarkNoise,
    Landmarks,
    landmark_evidence,
    landmark_table,
)
from topohead.solvers.mouth_wall import mouth_wall, wall_behind
from topohead.solvers.outlines import OutlineConfig, Outlines
from topohead.solvers.placement import Table, place_by_landmarks, place_by_masks
from topohead.solvers.startmesh import align_start, check_start

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstFrameConfig:
    """How the first frame is found; iterations are per level of picture size, finest first."""

    refine: bool = True
    """Let the surface follow the pictures after it has been placed."""
    units: str | None = None
    """The unit that the calibration was read with, for advice in errors."""
    landmark_noise: LandmarkNoise = field(default_factory=LandmarkNoise)
    """What landmarks are worth."""
    outlines: OutlineConfig = field(default_factory=OutlineConfig)
    """What masks are worth."""
    priors: HeadPriors = field(default_factory=HeadPriors)
    """How far the head model's coefficients stray."""
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    """The photo-consistency term."""
    free: FreeFormConfig = field(default_factory=FreeFormConfig)
    """How the surface may leave the head model or the start mesh."""
    model_iterations: tuple[int, ...] = (0, 3, 4, 5)
    """Steps of head-model coefficients on pictures."""
    free_iterations: tuple[int, ...] = (6, 6, 4, 0)
    """Steps of all vertices on pictures."""
    model_samples: int = 4000
    """Surface samples in the steps of head-model coefficients."""


@dataclass(frozen=True)
class FirstFrame:
    """The first frame's answer.

    `mesh` is in world metres. `pose` moves the head model's frame, or the given start mesh, to the
    world. `identity` and `expression` are the model's; None for a start mesh. `residual` is the
    disagreement between views that is left, in units of local contrast; None without refinement.
    """

    mesh: Mesh
    pose: Float[Tensor, "4 4"]
    identity: Float[Tensor, " I"] | None = None
    expression: Float[Tensor, " 52"] | None = None
    residual: float | None = None


def first_frame(
    views: Views,
    model: HeadModel | None = None,
    landmarks: Landmarks | None = None,
    start: Mesh | None = None,
    config: FirstFrameConfig | None = None,
) -> FirstFrame:
    """The head of the first instant as a mesh.

    From a start mesh of any topology, else from the head model with landmarks, masks or both.
    `landmarks` are iBUG-68 pixels of the views given (`landmarks.landmarks_in_views` carries them
    there from stored pictures). InputError when there is nothing to find the head with, when
    lengths are not a head's, or when the start mesh is off the subject.
    """
    config = config or FirstFrameConfig()
    if start is not None:
        return _from_start(views, start, config)
    if model is None:
        raise InputError("expected a head model or a start mesh, got neither: give --start FILE")
    if not landmarks and views.masks is None:
        raise InputError(
            f"expected something to find the head with in frame {views.frame}, got pictures alone: "
            "give --landmarks FILE with points of that frame, --start FILE, or masks"
        )
    head = HeadArrays(model)
    table = landmark_table(landmarks, views.cameras) if landmarks else None
    clues = _Clues(views, head.topology, table, config)
    state = _place(head, clues)
    vertices, residual = head.vertices(state), None
    if config.refine:
        state, vertices = _refine_model(head, state, clues)
        residual = clues.look(vertices).residual
    return FirstFrame(
        Mesh(model.topology, torch.from_numpy(vertices).float()),
        torch.from_numpy(state.pose),
        torch.from_numpy(state.identity).float(),
        torch.from_numpy(state.expression).float(),
        residual,
    )


class _Clues:
    """All that is known of the instant: pictures, landmarks, masks."""

    def __init__(
        self, views: Views, topology: Topology, table: Table | None, config: FirstFrameConfig
    ) -> None:
        self.views, self.topology, self.table, self.config = views, topology, table, config
        self.outlines = None
        if views.masks is not None:
            self.outlines = Outlines(views, topology, config.outlines)
        self._agreement: Agreement | None = None
        self.normals = Normals(topology.triangles.numpy(), topology.vertex_count)

    def look(self, vertices: Float[np.ndarray, "V 3"]) -> Agreement:
        """The photo-consistency term, made when first needed, for a surface near `vertices`."""
        if self._agreement is None:
            surface = torch.from_numpy(vertices)
            self._agreement = Agreement(self.views, self.topology, surface, self.config.agreement)
        return self._agreement

    def shape(self, vertices: Float[np.ndarray, "V 3"], reach: float | None = None) -> Evidence:
        """What landmarks and outlines want; outlines up to `reach` of the picture's height off."""
        return join(self._shape_parts(vertices, self.normals(vertices), reach))

    def everything(
        self, vertices: Float[np.ndarray, "V 3"], level: int, limit: int | None = None
    ) -> Evidence:
        """Photo-consistency at a level as well, on at most `limit` samples."""
        normals = self.normals(vertices)
        found = self.look(vertices).evidence(vertices, normals, level, limit)
        return join([found, *self._shape_parts(vertices, normals, reach=0.03)])

    def _shape_parts(
        self, vertices: np.ndarray, normals: np.ndarray, reach: float | None
    ) -> list[Evidence]:
        parts = []
        if self.table is not None:
            noise, cameras = self.config.landmark_noise, self.views.cameras
            parts.append(
                landmark_evidence(self.topology, vertices, normals, self.table, cameras, noise)
            )
        if self.outlines is not None:
            parts.append(self.outlines.evidence(vertices, normals, reach))
        return parts


def _place(head: HeadArrays, clues: _Clues) -> HeadState:
    """The head model fitted to landmarks and outlines."""
    config = clues.config
    if clues.table is not None:
        state = place_by_landmarks(head, clues.table, clues.views.cameras, config.units)
        return _fit_shape(head, state, clues)
    assert clues.outlines is not None, "neither landmarks nor masks"
    best, best_score = None, -np.inf
    for candidate in place_by_masks(head, clues.outlines, config.units):
        state = _fit_mean_shape(head, candidate, clues)
        score = _likeness(head, state, clues)
        log.info("first frame: candidate pose scores %.3f", score)
        if score > best_score:
            best, best_score = state, score
    assert best is not None
    return _fit_shape(head, best, clues)


def _fit_mean_shape(head: HeadArrays, state: HeadState, clues: _Clues) -> HeadState:
    """Pose, and coefficients that hardly leave the mean head."""
    stiff = HeadPriors(identity=0.3, expression=0.1, gaze=0.0)
    return fit_head(head, state, lambda now, _: clues.shape(now), 5, stiff)


def _fit_shape(head: HeadArrays, state: HeadState, clues: _Clues) -> HeadState:
    """Coefficients from landmarks and outlines: first nearly the mean head, then any."""
    state = _fit_mean_shape(head, state, clues)
    return fit_head(
        head, state, lambda now, _: clues.shape(now, reach=0.06), 10, clues.config.priors
    )


def _likeness(head: HeadArrays, state: HeadState, clues: _Clues) -> float:
    """How well silhouettes and colours of all views agree on a pose; higher is better."""
    assert clues.outlines is not None
    vertices = head.vertices(state)
    look = Agreement(clues.views, head.topology, torch.from_numpy(vertices), clues.config.agreement)
    coarse = len(look.levels) - 1
    look.evidence(vertices, clues.normals(vertices), coarse, clues.config.model_samples)
    return clues.outlines.overlap(vertices) - look.noise[coarse]


def _refine_model(
    head: HeadArrays, state: HeadState, clues: _Clues
) -> tuple[HeadState, Float[np.ndarray, "V 3"]]:
    """Photo-consistent coefficients, then photo-consistent vertices about the model's shape."""
    config = clues.config
    levels = range(len(clues.look(head.vertices(state)).levels))
    for level in reversed(levels):
        state = fit_head(
            head,
            state,
            lambda now, _, level=level: clues.everything(now, level, config.model_samples),
            config.model_iterations[level],
            config.priors,
        )
    rest = head.vertices(state)
    form = FreeForm(head.topology, rest, config.free)
    vertices = rest
    for level in reversed(levels):
        vertices = form.follow(
            vertices,
            lambda now, level=level: clues.everything(now, level),
            config.free_iterations[level],
        )
    return state, _with_interior(head.topology, head.template, rest, vertices)


def _from_start(views: Views, start: Mesh, config: FirstFrameConfig) -> FirstFrame:
    """A given mesh, checked against the views and, unless forbidden, refined on them."""
    check_start(start, views)
    if not config.refine:
        return FirstFrame(start, torch.eye(4, dtype=torch.float64))
    topology = start.topology
    given = start.vertices.double().numpy()
    look = Agreement(views, topology, start.vertices, config.agreement)
    normals = Normals(topology.triangles.numpy(), topology.vertex_count)
    pose, rest = align_start(given, normals, look)
    form = FreeForm(topology, rest, config.free)
    vertices = rest
    for level in reversed(range(len(look.levels))):
        vertices = form.follow(
            vertices,
            lambda now, level=level: look.evidence(now, normals(now), level),
            config.free_iterations[level],
        )
    vertices = _with_interior(topology, given, rest, vertices)
    return FirstFrame(
        Mesh(topology, torch.from_numpy(vertices).float()),
        torch.from_numpy(pose),
        residual=look.residual,
    )


def _with_interior(
    topology: Topology,
    whole: Float[np.ndarray, "V 3"],
    rest: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "V 3"],
) -> Float[np.ndarray, "V 3"]:
    """The vertices with what no picture shows put right: globes and teeth, which `rest` has in
    place, and the mouth's wall behind the skin, as in the shape `whole`, any pose."""
    carried = torch.from_numpy(carry_loose_parts(topology, rest, vertices))
    wall = mouth_wall(topology, torch.from_numpy(whole))
    return (carried if wall is None else wall_behind(wall, carried)).numpy()
