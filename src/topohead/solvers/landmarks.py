"""iBUG-68 landmarks: triangulation, the first pose, and what they say about a surface."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from topohead.core import Cameras, InputError, Rig, Topology
from topohead.geometry.alignment import rigid
from topohead.geometry.cameras import triangulate, undistorted_pixels
from topohead.solvers.evidence import (
    Evidence,
    image_evidence,
    join,
    project_with_jacobian,
    surface_positions,
)

Landmarks = Mapping[str, Mapping[int, tuple[float, float]]]
"""Pixels by camera name and iBUG-68 index."""

OUTLINE = range(17)
"""iBUG-68 indices along the face's outline: fixed across it, free to slide along it."""

HEAD_HEIGHT = (0.18, 0.35)
"""Plausible chin-to-crown heights with a wide margin, metres."""

UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}


@dataclass(frozen=True)
class LandmarkNoise:
    """How far landmarks may lie from the model's own points."""

    pixels: float = 2.0
    """Detector noise, pixels of the views given."""
    meaning: float = 0.0015
    """Disagreement on what a landmark means, metres on the surface."""
    slide: float = 0.012
    """The same along the outline for points 0–16, metres."""


def landmarks_in_views(landmarks: Landmarks, rig: Rig, cameras: Cameras) -> Landmarks:
    """Landmarks of stored (distorted) pictures carried into undistorted views of the same rig.

    `cameras` are the views' pinhole cameras: some of the rig's, their pictures of any size.
    Landmarks of other cameras are left out.
    """
    carried = {}
    for name, points in landmarks.items():
        if name not in cameras.names:
            continue
        if name not in rig.cameras.names:
            known = ", ".join(rig.cameras.names)
            raise InputError(f"expected landmarks of the rig's cameras ({known}), got {name!r}")
        pixels = torch.tensor(list(points.values()), dtype=torch.float64)[None]
        moved = undistorted_pixels(rig.select([name]), pixels, cameras.select([name]))[0]
        rows = zip(points, moved.tolist(), strict=True)
        carried[name] = {int(index): (x, y) for index, (x, y) in rows}
    return carried


def landmark_table(
    landmarks: Landmarks, cameras: Cameras
) -> tuple[Float[np.ndarray, "C 68 2"], Float[np.ndarray, "C 68"]]:
    """Pixels as one array, and 1 where a landmark is given, 0 elsewhere."""
    pixels = np.zeros((len(cameras), 68, 2))
    given = np.zeros((len(cameras), 68))
    for name, points in landmarks.items():
        if name not in cameras.names:
            continue
        camera = cameras.names.index(name)
        for index, (x, y) in points.items():
            if not 0 <= int(index) < 68:
                raise InputError(
                    f"landmarks of camera {name!r}: expected iBUG-68 indices 0 to 67, got {index}"
                )
            pixels[camera, int(index)] = x, y
            given[camera, int(index)] = 1
    return pixels, given


def triangulate_landmarks(
    pixels: Float[np.ndarray, "C 68 2"],
    given: Float[np.ndarray, "C 68"],
    cameras: Cameras,
    tolerance: float = 8.0,
) -> tuple[Float[np.ndarray, "68 3"], Int[np.ndarray, " 68"], Float[np.ndarray, "C 68"]]:
    """World points, how many views agree on each (0: not triangulated), and which views agree.

    Every pair of views proposes a point; the one that most views support within `tolerance` px
    wins and is solved again from its supporters. Wrong detections in single views fall out.
    """
    count = len(cameras)
    best = np.zeros(68)
    supporters = np.zeros((count, 68))
    for first in range(count):
        for second in range(first + 1, count):
            pair = np.zeros_like(given)
            pair[[first, second]] = given[first] * given[second]
            if not pair.any():
                continue
            points = _triangulate(pixels, pair, cameras)
            error = _reprojection(points, pixels, cameras)
            agree = (error < tolerance) * given
            # Ties between proposals go to the one with the smaller error.
            score = (agree * (2 - np.minimum(error, tolerance) / tolerance)).sum(0) * (
                pair.sum(0) > 0
            )
            better = (score > best) & (agree.sum(0) >= 2)
            best[better] = score[better]
            supporters[:, better] = agree[:, better]
    views = supporters.sum(0).astype(int)
    points = _triangulate(pixels, supporters, cameras)
    points[views < 2] = np.nan
    return points, views, supporters


def _triangulate(pixels: np.ndarray, weights: np.ndarray, cameras: Cameras) -> np.ndarray:
    used = weights.sum(0) >= 2
    points = np.full((pixels.shape[1], 3), np.nan)
    if used.any():
        solved = triangulate(
            torch.from_numpy(pixels[:, used]).double(),
            cameras,
            torch.from_numpy(weights[:, used]).double(),
        )
        points[used] = solved.numpy()
    return points


def _reprojection(points: np.ndarray, pixels: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Pixel distances [C 68], infinite for points behind a camera or not triangulated."""
    error = np.full(pixels.shape[:2], np.inf)
    known = np.isfinite(points[:, 0])
    for camera in range(len(cameras)):
        projected, depth, _ = project_with_jacobian(cameras, camera, points[known])
        distance = np.linalg.norm(projected - pixels[camera, known], axis=1)
        error[camera, known] = np.where(depth > 0, distance, np.inf)
    return error


def similarity_from_landmarks(
    model_points: Float[np.ndarray, "68 3"], world_points: Float[np.ndarray, "68 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"], float]:
    """Rotation, translation and scale that carry model landmarks onto triangulated ones, robustly.

    Outline points take no part (they slide) except the chin. Reweighted least squares.
    """
    usable = np.isfinite(world_points[:, 0])
    usable[[index for index in OUTLINE if index != 8]] = False
    source = torch.from_numpy(model_points[usable])
    target = torch.from_numpy(world_points[usable])
    weights = torch.ones(len(source), dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    for _ in range(10):
        matrix = rigid(source, target, weights, scale=True).double()
        distance = (source @ matrix[:3, :3].T + matrix[:3, 3] - target).norm(dim=1)
        spread = distance.median().clamp_min(1e-9)
        weights = 1 / (1 + (distance / (2 * spread)) ** 2)
    scale = float(torch.linalg.det(matrix[:3, :3])) ** (1 / 3)
    return matrix[:3, :3].numpy() / scale, matrix[:3, 3].numpy(), scale


def check_head_height(height: float, units: str | None = None) -> None:
    """InputError when a head of this height (metres) is no head; names the unit that fits."""
    low, high = HEAD_HEIGHT
    if low <= height <= high:
        return
    current = UNITS.get(units or "m", 1.0)
    fitting = [name for name, unit in UNITS.items() if low <= height * unit / current <= high]
    read_as = f" with units {units}" if units else ""
    advice = (
        f"read the calibration with --units {fitting[0]}"
        if fitting
        else "check the scale of the calibration"
    )
    raise InputError(
        f"expected a head {low} to {high} m tall, got {height:.3g} m{read_as}: {advice}"
    )


def landmark_points(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """The 68 points of a topology as vertex triples [68 3] and barycentric weights [68 3]."""
    if "ibug68" not in topology.landmarks:
        raise InputError(
            f"expected a topology with the landmark set ibug68, got {topology.name!r} without it"
        )
    points = topology.landmarks["ibug68"]
    return (
        topology.triangles[points.triangles].numpy(),
        points.barycentrics.double().numpy(),
    )


def landmark_evidence(
    topology: Topology,
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    table: tuple[Float[np.ndarray, "C 68 2"], Float[np.ndarray, "C 68"]],
    cameras: Cameras,
    noise: LandmarkNoise,
) -> Evidence:
    """Landmarks' pull on the surface: Cauchy-weighted distances in every view that gives them.

    Outline points (0–16) pull across the outline only; where the model's own point is turned
    away from the camera, the nearest point of the visible outline answers for it.
    """
    corners, weights = landmark_points(topology)
    world = surface_positions(vertices, corners, weights)
    parts = []
    for camera in range(len(cameras)):
        pixels, given = table[0][camera], table[1][camera] > 0
        if not given.any():
            continue
        index = np.flatnonzero(given)
        place = _on_visible_outline(
            topology, vertices, normals, (corners, weights), index, pixels, cameras, camera
        )
        spot = surface_positions(vertices, *place)
        projected, depth, jacobian = project_with_jacobian(cameras, camera, spot)
        residual = projected - pixels[index]
        density = float(cameras.intrinsics[camera, 0, 0]) / depth
        tangent = _outline_tangents(world, cameras, camera)
        precision = _precision(index, residual, density, tangent, noise)
        parts.append(image_evidence(*place, jacobian, residual, precision))
    return join(parts)


def _outline_tangents(
    world: Float[np.ndarray, "68 3"], cameras: Cameras, camera: int
) -> Float[np.ndarray, "17 2"]:
    """Unit directions of the projected outline at points 0–16."""
    flat, _, _ = project_with_jacobian(cameras, camera, world[:17])
    tangent = np.gradient(flat, axis=0)
    return tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)


def _precision(
    index: Int[np.ndarray, " N"],
    residual: Float[np.ndarray, "N 2"],
    density: Float[np.ndarray, " N"],
    tangent: Float[np.ndarray, "17 2"],
    noise: LandmarkNoise,
) -> Float[np.ndarray, "N 2 2"]:
    """2×2 precision of each landmark (1/px²), robust weight included; `density` is in px/m."""
    across = noise.pixels**2 + (noise.meaning * density) ** 2
    along = np.where(index < 17, across + (noise.slide * density) ** 2, across)
    direction = np.where((index < 17)[:, None], tangent[np.minimum(index, 16)], 0.0)
    outer = direction[:, :, None] * direction[:, None, :]
    precision = np.eye(2) / across[:, None, None] + outer * (1 / along - 1 / across)[:, None, None]
    squared = np.einsum("ni,nij,nj->n", residual, precision, residual)
    # Cauchy with its knee at three standard deviations
    return precision / (1 + squared / 9)[:, None, None]


def _on_visible_outline(
    topology: Topology,
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    points: tuple[np.ndarray, np.ndarray],
    index: Int[np.ndarray, " N"],
    pixels: Float[np.ndarray, "68 2"],
    cameras: Cameras,
    camera: int,
) -> tuple[Int[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Landmarks `index` as surface points, hidden outline points moved to where they are seen.

    A hidden one goes to a triangle on which the surface turns from the camera, within 45 mm of
    the model's own point: the one nearest to the landmark's pixel.
    """
    corners, weights = points[0][index].copy(), points[1][index].copy()
    center = cameras.centers[camera].double().numpy()
    facing = np.einsum("vd,vd->v", normals, center - vertices) > 0
    triangles = topology.triangles.numpy()
    rim = triangles[facing[triangles].any(1) & ~facing[triangles].all(1)]
    middle = vertices[rim].mean(1)
    flat, _, _ = project_with_jacobian(cameras, camera, middle)
    own = surface_positions(vertices, corners, weights)
    for row, landmark in enumerate(index):
        if landmark >= 17 or facing[corners[row]].all():
            continue
        near = np.flatnonzero(np.linalg.norm(middle - own[row], axis=1) < 0.045)
        if len(near):
            distance = np.linalg.norm(flat[near] - pixels[landmark], axis=1)
            corners[row] = rim[near[distance.argmin()]]
            weights[row] = 1 / 3
    return corners, weights
