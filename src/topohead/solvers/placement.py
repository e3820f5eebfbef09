"""Where a head stands before anything is known of its shape: from landmarks, or from masks."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from topohead.core import Cameras, InputError
from topohead.solvers.evidence import Evidence, Normals, project_with_jacobian, surface_positions
from topohead.solvers.headfit import HeadArrays, HeadPriors, HeadState, fit_head
from topohead.solvers.landmarks import (
    check_head_height,
    landmark_points,
    similarity_from_landmarks,
    triangulate_landmarks,
)
from topohead.solvers.outlines import Outlines

STILL = HeadPriors(identity=0.0, expression=0.0, gaze=0.0)
"""Pose alone."""

Table = tuple[Float[np.ndarray, "C 68 2"], Float[np.ndarray, "C 68"]]
"""Landmark pixels, and 1 where one is given (`landmarks.landmark_table`)."""


def place_by_landmarks(
    head: HeadArrays, table: Table, cameras: Cameras, units: str | None = None
) -> HeadState:
    """The mean head, in its own size, where triangulated landmarks put it.

    InputError when lengths are not those of a head, or when too few landmarks have two views.
    """
    world, count, _ = triangulate_landmarks(*table, cameras)
    inner = int((count[17:] >= 2).sum())
    if inner < 4:
        raise InputError(
            f"expected at least 4 landmarks (not of the outline) seen by two cameras, got {inner}: "
            "give landmarks for more cameras"
        )
    model_points = surface_positions(head.template, *landmark_points(head.topology))
    rotation, translation, scale = similarity_from_landmarks(model_points, world)
    check_head_height(scale * head_height(head), units)
    known = (count >= 2) & (np.arange(68) >= 17)
    center = model_points[known].mean(0)
    anchor = scale * rotation @ center + translation
    return head.neutral(rotation, anchor - rotation @ center)


def head_height(head: HeadArrays) -> float:
    """Chin to crown of the mean head, metres."""
    chin = surface_positions(head.template, *landmark_points(head.topology))[8]
    return float(head.template[:, 1].max() - chin[1])


def place_by_masks(
    head: HeadArrays, outlines: Outlines, units: str | None = None, candidates: int = 4
) -> list[HeadState]:
    """The likeliest poses of the mean head by its silhouettes, best first.

    Silhouettes barely tell a face from the back of a head, so several are handed on: pictures
    decide. Turns are tried about every plausible upward direction; pose alone is fitted.
    """
    center, height = _mask_extent(outlines)
    check_head_height(height * head_height(head) / _whole_height(head), units)
    middle = 0.5 * (head.template.max(0) + head.template.min(0))
    tried = []
    for rotation in _orientations(outlines.cameras, center):
        state = head.neutral(rotation, center - rotation @ middle)
        state = _fit_pose(head, state, outlines, 3)
        tried.append((outlines.overlap(head.vertices(state)), state))
    tried.sort(key=lambda pair: -pair[0])
    # only what is not hopeless after a few steps gets the rest of them
    tried = [(score, _fit_pose(head, state, outlines, 4)) for score, state in tried[:8]]
    tried = [(outlines.overlap(head.vertices(state)), state) for _, state in tried]
    tried.sort(key=lambda pair: -pair[0])
    return [state for _, state in _distinct(tried, candidates)]


def _fit_pose(head: HeadArrays, state: HeadState, outlines: Outlines, steps: int) -> HeadState:
    normals = Normals(head.corners, len(head.template))

    def gather(vertices: np.ndarray, step: int) -> Evidence:
        return outlines.evidence(vertices, normals(vertices), reach=0.25 * 0.75**step)

    return fit_head(head, state, gather, steps, STILL)


def _whole_height(head: HeadArrays) -> float:
    return float(np.ptp(head.template[:, 1]))


def _mask_extent(outlines: Outlines) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre of the masks' bounding boxes in space, and the subject's largest extent, metres."""
    rows, right, sizes = [], [], []
    poses = outlines.cameras.world_to_camera.double().numpy()
    intrinsics = outlines.cameras.intrinsics.double().numpy()
    for field in outlines.fields:
        y, x = np.nonzero(outlines.masks[field.camera])
        low = np.array([x.min(), y.min()], float)
        high = np.array([x.max(), y.max()], float) + 1
        pixel = np.array([*(0.5 * (low + high)), 1.0])
        ray = poses[field.camera, :3, :3].T @ np.linalg.solve(intrinsics[field.camera], pixel)
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)
        rows.append(across)
        right.append(across @ outlines.cameras.centers[field.camera].double().numpy())
        sizes.append((high - low).max() / intrinsics[field.camera, 0, 0])
    center = np.linalg.lstsq(np.sum(rows, 0), np.sum(right, 0), rcond=None)[0]
    distances = [
        project_with_jacobian(outlines.cameras, field.camera, center[None])[1][0]
        for field in outlines.fields
    ]
    return center, float(np.median(np.array(sizes) * np.array(distances)))


def _orientations(
    cameras: Cameras, center: Float[np.ndarray, "3"], turns: int = 8
) -> list[Float[np.ndarray, "3 3"]]:
    """Rotations of a head to try: upright by the cameras or by world axes, facing all around."""
    poses = cameras.world_to_camera.double().numpy()
    ups = [-poses[:, 1, :3].mean(0), np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])]
    toward = (cameras.centers.double().numpy() - center).mean(0)
    found: list[np.ndarray] = []
    for up in ups:
        if np.linalg.norm(up) < 0.3:
            continue
        y = up / np.linalg.norm(up)
        forward = toward - (toward @ y) * y
        if np.linalg.norm(forward) < 1e-6:
            forward = np.cross(y, [1.0, 0.3, 0.2])
        z = forward / np.linalg.norm(forward)
        base = np.stack([np.cross(y, z), y, z], 1)
        for turn in range(turns):
            rotation = base @ Rotation.from_rotvec([0, 2 * np.pi * turn / turns, 0]).as_matrix()
            near = [np.trace(rotation.T @ other) > 1 + 2 * np.cos(0.4) for other in found]
            if not any(near):
                found.append(rotation)
    return found


def _distinct(
    tried: Sequence[tuple[float, HeadState]], count: int
) -> list[tuple[float, HeadState]]:
    """The first `count` poses that differ by 20° or more."""
    kept: list[tuple[float, HeadState]] = []
    for score, state in tried:
        near = [
            np.trace(state.rotation.T @ other.rotation) > 1 + 2 * np.cos(0.35) for _, other in kept
        ]
        if not any(near):
            kept.append((score, state))
    return kept[:count]
