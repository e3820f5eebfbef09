"""The first frame of a capture: a head mesh in the world, from pictures alone or a start mesh."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel, InputError, Mesh, Views
from topohead.solvers.agreement import Agreement, AgreementConfig
from topohead.solvers.evidence import Evidence, join, surface_positions
from topohead.solvers.freeform import FreeForm, FreeFormConfig, carry_loose_parts
from topohead.solvers.headfit import HeadArrays, HeadPriors, HeadState, fit_head
from topohead.solvers.landmarks import (
    LandmarkNoise,
    Landmarks,
    check_head_height,
    landmark_evidence,
    landmark_points,
    landmark_table,
    similarity_from_landmarks,
    triangulate_landmarks,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstFrameConfig:
    """How the first frame is found; iterations are per level of picture size, finest first."""

    refine: bool = True
    """Let the surface follow the pictures after landmarks (and outlines) have placed the head."""
    units: str | None = None
    """The unit that the calibration was read with, for advice in errors."""
    landmark_noise: LandmarkNoise = field(default_factory=LandmarkNoise)
    """What landmarks are worth."""
    priors: HeadPriors = field(default_factory=HeadPriors)
    """How far the head model's coefficients stray."""
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    """The photo-consistency term."""
    free: FreeFormConfig = field(default_factory=FreeFormConfig)
    """How the surface may leave the head model."""
    model_iterations: tuple[int, ...] = (0, 3, 4, 5)
    """Steps of head-model coefficients on pictures."""
    free_iterations: tuple[int, ...] = (6, 6, 4, 0)
    """Steps of all vertices on pictures."""
    model_samples: int = 6000
    """Surface samples in the steps of head-model coefficients."""


@dataclass(frozen=True)
class FirstFrame:
    """The first frame's answer.

    `mesh` is in world metres. `pose` moves the head model's frame (or the given start mesh) to the
    world. `identity` and `expression` are the model's, None for a start mesh of another topology.
    """

    mesh: Mesh
    pose: Float[Tensor, "4 4"]
    identity: Float[Tensor, " I"] | None = None
    expression: Float[Tensor, " 52"] | None = None


def first_frame(
    views: Views,
    model: HeadModel | None = None,
    landmarks: Landmarks | None = None,
    start: Mesh | None = None,
    config: FirstFrameConfig = FirstFrameConfig(),
) -> FirstFrame:
    """The head of the first instant as a mesh.

    `landmarks` are iBUG-68 pixels of the views given (`landmarks.landmarks_in_views` carries
    them there from stored pictures).
    """
    if not landmarks or model is None:
        raise InputError(
            "expected something to find the head with, got pictures alone: "
            "give --landmarks FILE, --start FILE, or masks"
        )
    head = HeadArrays(model)
    table = landmark_table(landmarks, views.cameras)
    state = fit_landmarks(head, views, table, config)
    vertices = head.vertices(state)
    if config.refine:
        state, vertices = _refine_model(head, state, views, table, config)
    return FirstFrame(
        Mesh(model.topology, torch.from_numpy(vertices).float()),
        torch.from_numpy(state.pose),
        torch.from_numpy(state.identity).float(),
        torch.from_numpy(state.expression).float(),
    )


def _refine_model(
    head: HeadArrays,
    state: HeadState,
    views: Views,
    table: tuple[np.ndarray, np.ndarray],
    config: FirstFrameConfig,
) -> tuple[HeadState, Float[np.ndarray, "V 3"]]:
    """Photo-consistent coefficients, then photo-consistent vertices about the model's shape."""
    start = torch.from_numpy(head.vertices(state))
    agreement = Agreement(views, head.topology, start, config.agreement)

    def gather(vertices: np.ndarray, level: int, limit: int | None) -> Evidence:
        found = agreement.evidence(vertices, level, limit)
        marks = landmark_evidence(
            head.topology, vertices, table, views.cameras, config.landmark_noise
        )
        return join([found, marks])

    for level in reversed(range(len(agreement.levels))):
        state = fit_head(
            head,
            state,
            lambda vertices, _, level=level: gather(vertices, level, config.model_samples),
            config.model_iterations[level],
            config.priors,
        )
    rest = head.vertices(state)
    form = FreeForm(head.topology, rest, config.free)
    vertices = rest
    for level in reversed(range(len(agreement.levels))):
        vertices = form.follow(
            vertices,
            lambda now, level=level: gather(now, level, None),
            config.free_iterations[level],
        )
    return state, carry_loose_parts(head.topology, rest, vertices)


def fit_landmarks(
    head: HeadArrays,
    views: Views,
    table: tuple[np.ndarray, np.ndarray],
    config: FirstFrameConfig,
) -> HeadState:
    """Pose, identity and expression from landmarks in one or more views."""
    state = _pose_from_landmarks(head, table, views, config)

    def gather(vertices: np.ndarray, iteration: int) -> Evidence:
        return landmark_evidence(
            head.topology, vertices, table, views.cameras, config.landmark_noise
        )

    stiff = HeadPriors(identity=0.3, expression=0.1, gaze=0.0)
    state = fit_head(head, state, gather, 5, stiff)
    return fit_head(head, state, gather, 12, config.priors)


def _pose_from_landmarks(
    head: HeadArrays,
    table: tuple[np.ndarray, np.ndarray],
    views: Views,
    config: FirstFrameConfig,
) -> HeadState:
    """The mean head where triangulated landmarks put it; checks that lengths are a head's."""
    world, count, _ = triangulate_landmarks(*table, views.cameras)
    inner = int((count[17:] >= 2).sum())
    if inner < 4:
        raise InputError(
            f"expected at least 4 landmarks (not of the outline) seen by two cameras, got {inner}: "
            "give landmarks for more cameras"
        )
    model_points = surface_positions(head.template, *landmark_points(head.topology))
    rotation, translation, scale = similarity_from_landmarks(model_points, world)
    crown, chin = head.template[:, 1].max(), model_points[8, 1]
    check_head_height(scale * float(crown - chin), config.units)
    # keep the head's own size: only turn it and put its landmarks' centre in place
    center = np.nanmean(model_points[17:], 0)
    anchor = scale * rotation @ center + translation
    return head.neutral(rotation, anchor - rotation @ center)
