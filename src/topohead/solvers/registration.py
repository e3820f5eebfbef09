"""The first frame of a capture: a head mesh in the world, from pictures alone or a start mesh."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import HeadModel, InputError, Mesh, Views
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.evidence import Evidence, positions
from topohead.solvers.headfit import HeadPriors, HeadState, LinearHead, fit_head
from topohead.solvers.landmarks import (
    LandmarkNoise,
    Landmarks,
    check_head_height,
    landmark_evidence,
    landmark_table,
    similarity_from_landmarks,
    triangulate_landmarks,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstFrameConfig:
    """How the first frame is found."""

    refine: bool = True
    """Let the surface follow the pictures freely after the head model fits."""
    units: str | None = None
    """The unit that the calibration was read with, for advice in errors."""
    landmark_noise: LandmarkNoise = LandmarkNoise()
    """What landmarks are worth."""
    priors: HeadPriors = HeadPriors()
    """How far the head model's coefficients stray."""


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
    config: FirstFrameConfig = FirstFrameConfig(),  # noqa: B008 (frozen)
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
    head = LinearHead(model)
    state = fit_landmarks(head, views, landmarks, config)
    return FirstFrame(
        Mesh(model.topology, torch.from_numpy(head.vertices(state)).float()),
        torch.from_numpy(state.pose),
        torch.from_numpy(state.identity).float(),
        torch.from_numpy(state.expression).float(),
    )


def fit_landmarks(
    head: LinearHead, views: Views, landmarks: Landmarks, config: FirstFrameConfig
) -> HeadState:
    """Pose, identity and expression from landmarks in one or more views."""
    table = landmark_table(landmarks, views.cameras)
    points = head.topology.landmarks["ibug68"]
    state = _pose_from_landmarks(head, table, views, config)
    corners = head.corners
    triangles = torch.from_numpy(corners)

    def gather(vertices: np.ndarray, iteration: int) -> Evidence:
        normals = vertex_normals(torch.from_numpy(vertices), triangles).numpy()
        return landmark_evidence(
            vertices, corners, normals, points, table, views.cameras, config.landmark_noise
        )

    stiff = HeadPriors(identity=0.3, expression=0.1, gaze=0.0)
    state = fit_head(head, state, gather, 5, stiff)
    return fit_head(head, state, gather, 12, config.priors)


def _pose_from_landmarks(
    head: LinearHead,
    table: tuple[np.ndarray, np.ndarray],
    views: Views,
    config: FirstFrameConfig,
) -> HeadState:
    """The mean head where triangulated landmarks put it; checks that lengths are a head's."""
    points = head.topology.landmarks["ibug68"]
    world, count, _ = triangulate_landmarks(*table, views.cameras)
    inner = int((count[17:] >= 2).sum())
    if inner < 4:
        raise InputError(
            f"expected at least 4 landmarks (not of the outline) seen by two cameras, got {inner}: "
            "give landmarks for more cameras"
        )
    model_points = positions(
        head.template, head.corners, points.triangles.numpy(), points.barycentrics.numpy()
    )
    rotation, translation, scale = similarity_from_landmarks(model_points, world)
    crown, chin = head.template[:, 1].max(), model_points[8, 1]
    check_head_height(scale * float(crown - chin), config.units)
    # keep the head's own size: only turn it and put its landmarks' centre in place
    center = np.nanmean(model_points[17:], 0)
    anchor = scale * rotation @ center + translation
    return head.neutral(rotation, anchor - rotation @ center)
