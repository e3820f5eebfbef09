"""Is the rig where its calibration says? Notice when not, and put it right from the pictures."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from topohead.core import Cameras, InputError, Rig
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.cameras import triangulate
from topohead.solvers.evidence import project_with_jacobian
from topohead.solvers.feature_tracks import FeatureTracks


@dataclass(frozen=True)
class CalibrationConfig:
    """What may be wrong with a calibration, as standard deviations, and when to say so."""

    rotation: float = 0.01
    """Turn of a camera, radians."""
    center: float = 0.003
    """Shift of an optical centre over its distance from the subject."""
    principal_point: float = 0.001
    """Shift of a principal point over the picture's size."""
    focal: float = 0.0
    """Relative change of a focal length; 0 keeps it."""
    noise: float = 0.4
    """Places of features, pixels."""
    iterations: int = 25
    warn: float = 1.0
    """A camera whose features lie this many pixels off (median) has drifted."""
    gain: float = 1.5
    """So has one whose error falls by this factor when cameras are solved again,"""
    suspect: float = 0.5
    """if it was above this, px; below it there is nothing that tracking would feel."""


@dataclass(frozen=True)
class CalibrationReport:
    """Median reprojection error of tracks in each camera, px, as given and as solved again.

    Errors are those of tracks seen by three or more cameras where there are enough of them: two
    views hide what lies along their epipolar lines.
    """

    names: tuple[str, ...]
    before: Float[np.ndarray, " C"]
    after: Float[np.ndarray, " C"]
    turned: Float[np.ndarray, " C"]
    """Degrees by which each camera was turned."""
    moved: Float[np.ndarray, " C"]
    """Metres by which each centre was moved."""
    tracks: int
    drifted: tuple[str, ...]
    """Cameras whose calibration does not fit the pictures."""


def refine_cameras(
    cameras: Cameras, tracks: FeatureTracks, config: CalibrationConfig | None = None
) -> tuple[Cameras, CalibrationReport]:
    """Poses and principal points that fit the tracks; the subject stays where it was.

    Bundle adjustment: Gauss–Newton with points eliminated (Schur complement), Cauchy weights,
    Gaussian priors about the given calibration. Wrong tracks are dropped after a first round.
    """
    config = config or CalibrationConfig()
    if len(tracks) < 20:
        raise InputError(
            f"expected at least 20 points seen by several cameras to check the calibration, "
            f"got {len(tracks)}: use more frames, or leave --refine-cameras out"
        )
    start = triangulate_tracks(cameras, tracks)
    solved, points = _adjust(cameras, tracks, start, config)
    error = reprojection_errors(solved, tracks, points)
    fine = error < max(4.0 * config.noise, 4.0 * float(np.median(error)))
    kept = tracks.keep(fine)
    if len(kept) >= 20:
        solved, _ = _adjust(solved, kept, triangulate_tracks(solved, kept), config, cameras)
    else:
        kept = tracks
    solved = hold_gauge(solved, cameras, kept)
    return solved, _report(cameras, solved, kept, config)


def triangulate_tracks(cameras: Cameras, tracks: FeatureTracks) -> Float[np.ndarray, "N 3"]:
    """World points of tracks."""
    pixels = np.full((len(cameras), tracks.count, 2), np.nan)
    weights = np.zeros((len(cameras), tracks.count))
    pixels[tracks.camera, tracks.point] = tracks.pixels
    weights[tracks.camera, tracks.point] = 1
    return triangulate(torch.from_numpy(pixels), cameras, torch.from_numpy(weights)).numpy()


def reprojection_errors(
    cameras: Cameras, tracks: FeatureTracks, points: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, " M"]:
    """Distance of every observation from its point's projection, px."""
    error = np.full(len(tracks.point), np.inf)
    for camera in range(len(cameras)):
        own = tracks.camera == camera
        pixels, depth, _ = project_with_jacobian(cameras, camera, points[tracks.point[own]])
        distance = np.linalg.norm(pixels - tracks.pixels[own], axis=1)
        error[own] = np.where(depth > 0, distance, np.inf)
    return error


def hold_gauge(solved: Cameras, given: Cameras, tracks: FeatureTracks) -> Cameras:
    """Solved cameras moved as one so that the subject and the rig stay where they were.

    Pictures cannot tell where the world's origin lies, nor how large the world is. The tracks'
    points and the optical centres both remember it, each as well as it fits its old place: the
    points when cameras turned and shifted a little (which nearly cancels at the subject), the
    centres when they turned a lot. Robust similarity; whoever moved alone counts little.
    """
    new = torch.from_numpy(triangulate_tracks(solved, tracks))
    old = torch.from_numpy(triangulate_tracks(given, tracks))
    points = len(new)
    new = torch.cat([new, solved.centers.double()])
    old = torch.cat([old, given.centers.double()])
    weights = torch.ones(len(new), dtype=torch.float64)
    weights[points:] = points / len(given)
    transform = torch.eye(4, dtype=torch.float64)
    for _ in range(20):
        transform = rigid(new, old, weights, scale=True)
        gap = (apply(transform, new) - old).norm(dim=1)
        for own in (slice(0, points), slice(points, None)):
            knee = 2 * gap[own].median().clamp(min=1e-9)
            weights[own] = 1 / (1 + (gap[own] / knee) ** 2) ** 2 / len(gap[own]) / knee**2
    scale = torch.linalg.det(transform[:3, :3]) ** (1 / 3)
    turn = solved.world_to_camera[:, :3, :3].double() @ transform[:3, :3].T / scale
    poses = torch.eye(4, dtype=torch.float64).repeat(len(solved), 1, 1)
    poses[:, :3, :3] = turn
    poses[:, :3, 3] = -torch.einsum("cij,cj->ci", turn, apply(transform, new[points:]))
    return replace(solved, world_to_camera=poses.to(given.world_to_camera))


def refined_rig(rig: Rig, given: Cameras, solved: Cameras) -> Rig:
    """The rig with its cameras as solved in views (of any size) of them; lenses are kept.

    Cameras of the rig that `solved` does not hold stay as they are.
    """
    poses = rig.cameras.world_to_camera.clone()
    intrinsics = rig.cameras.intrinsics.clone()
    for view, name in enumerate(solved.names):
        index = rig.cameras.names.index(name)
        poses[index] = solved.world_to_camera[view].to(poses)
        factor = rig.cameras.sizes[index].double() / solved.sizes[view].double()
        change = solved.intrinsics[view].double() - given.intrinsics[view].double()
        intrinsics[index, :2] += (change[:2] * factor[:, None]).to(intrinsics)
    cameras = replace(rig.cameras, world_to_camera=poses, intrinsics=intrinsics)
    return Rig(cameras, rig.distortion)


def _report(
    given: Cameras, solved: Cameras, tracks: FeatureTracks, config: CalibrationConfig
) -> CalibrationReport:
    several = (tracks.views() >= 3)[tracks.point]
    judged = tracks.keep(several) if several.sum() >= 60 else tracks
    medians = []
    for cameras in (given, solved):
        error = reprojection_errors(cameras, judged, triangulate_tracks(cameras, judged))
        medians.append(
            np.array(
                [
                    np.median(error[judged.camera == camera])
                    if (judged.camera == camera).any()
                    else np.nan
                    for camera in range(len(cameras))
                ]
            )
        )
    before, after = medians
    turn = solved.world_to_camera[:, :3, :3] @ given.world_to_camera[:, :3, :3].transpose(1, 2)
    turned = np.degrees(Rotation.from_matrix(turn.double().numpy()).magnitude())
    moved = (solved.centers - given.centers).norm(dim=1).double().numpy()
    gained = (before > config.gain * after) & (before > config.suspect)
    drifted = np.flatnonzero((before > config.warn) | gained)
    return CalibrationReport(
        given.names, before, after, turned, moved, tracks.count,
        tuple(given.names[camera] for camera in drifted),
    )  # fmt: skip


# --- bundle adjustment -------------------------------------------------------------------------

_PARAMETERS = 9
"""Per camera: turn (3), shift of the camera in its own axes (3), principal point (2), focal (1)."""


def _adjust(
    cameras: Cameras,
    tracks: FeatureTracks,
    points: Float[np.ndarray, "N 3"],
    config: CalibrationConfig,
    given: Cameras | None = None,
) -> tuple[Cameras, Float[np.ndarray, "N 3"]]:
    """Levenberg–Marquardt on cameras and points; priors pull towards `given`."""
    given = given or cameras
    damping = 1e-3
    cost = _cost(cameras, tracks, points, given, config)
    for _ in range(config.iterations):
        change, shift = _solve(cameras, tracks, points, given, config, damping)
        moved = _moved(cameras, change)
        moved_points = points + shift
        fresh = _cost(moved, tracks, moved_points, given, config)
        if not fresh < cost:
            damping *= 10
            if damping > 1e3:
                break
            continue
        converged = cost - fresh < 1e-6 * cost
        cameras, points, cost = moved, moved_points, fresh
        damping = max(damping / 5, 1e-8)
        if converged:
            break
    return cameras, points


def _deviations(given: Cameras, config: CalibrationConfig) -> Float[np.ndarray, "C P"]:
    """Prior standard deviation of every camera parameter; zero holds it."""
    centers = given.centers.double().numpy()
    reach = np.linalg.norm(centers - _focus(given), axis=1)
    size = given.sizes.double().max(1).values.numpy()
    columns = [
        *[np.full(len(given), config.rotation)] * 3,
        *[config.center * reach] * 3,
        *[config.principal_point * size] * 2,
        np.full(len(given), config.focal),
    ]
    return np.stack(columns, 1)


def _focus(cameras: Cameras) -> Float[np.ndarray, "3"]:
    """The point nearest to all optical axes."""
    axes = cameras.world_to_camera[:, 2, :3].double().numpy()
    centers = cameras.centers.double().numpy()
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    # nearly parallel axes: do not run off to infinity
    whole = across.sum(0) + 1e-6 * np.eye(3)
    return np.linalg.solve(whole, np.einsum("cij,cj->i", across, centers) + 1e-6 * centers.mean(0))


def _strayed(cameras: Cameras, given: Cameras) -> Float[np.ndarray, "C P"]:
    """Camera parameters relative to the given calibration."""
    turn = cameras.world_to_camera[:, :3, :3] @ given.world_to_camera[:, :3, :3].transpose(1, 2)
    away = torch.einsum(
        "cij,cj->ci", cameras.world_to_camera[:, :3, :3], given.centers - cameras.centers
    )
    focal = cameras.intrinsics[:, 0, 0] / given.intrinsics[:, 0, 0] - 1
    center = cameras.intrinsics[:, :2, 2] - given.intrinsics[:, :2, 2]
    return np.concatenate(
        [
            Rotation.from_matrix(turn.double().numpy()).as_rotvec(),
            away.double().numpy(),
            center.double().numpy(),
            focal.double().numpy()[:, None],
        ],
        1,
    )


def _cost(
    cameras: Cameras,
    tracks: FeatureTracks,
    points: np.ndarray,
    given: Cameras,
    config: CalibrationConfig,
) -> float:
    error = reprojection_errors(cameras, tracks, points)
    knee = 3 * config.noise
    data = 0.5 * (knee / config.noise) ** 2 * np.log1p((error / knee) ** 2).sum()
    deviation = _deviations(given, config)
    free = deviation > 0
    prior = 0.5 * np.square(_strayed(cameras, given)[free] / deviation[free]).sum()
    return float(data + prior)


def _solve(
    cameras: Cameras,
    tracks: FeatureTracks,
    points: np.ndarray,
    given: Cameras,
    config: CalibrationConfig,
    damping: float,
) -> tuple[Float[np.ndarray, "C P"], Float[np.ndarray, "N 3"]]:
    """One damped step: camera parameters by the Schur complement, then points."""
    residual, to_camera, to_point = _observation_jacobians(cameras, tracks, points)
    knee = 3 * config.noise
    weight = 1 / (1 + np.square(residual).sum(1) / knee**2) / config.noise**2
    weighted = to_camera * weight[:, None, None]
    count, size = len(cameras), len(cameras) * _PARAMETERS
    camera_block = np.zeros((count, _PARAMETERS, _PARAMETERS))
    np.add.at(camera_block, tracks.camera, to_camera.transpose(0, 2, 1) @ weighted)
    right = np.zeros((count, _PARAMETERS))
    np.add.at(right, tracks.camera, np.einsum("mij,mi->mj", weighted, residual))
    point_block = np.zeros((tracks.count, 3, 3))
    np.add.at(
        point_block, tracks.point, to_point.transpose(0, 2, 1) @ (to_point * weight[:, None, None])
    )
    point_right = np.zeros((tracks.count, 3))
    np.add.at(point_right, tracks.point, np.einsum("mij,mi,m->mj", to_point, residual, weight))
    diagonal = np.arange(3)
    point_block[:, diagonal, diagonal] *= 1 + damping
    point_block[:, diagonal, diagonal] += 1e-9 * (1 + point_block[:, diagonal, diagonal])
    inverse = np.linalg.inv(point_block)

    # [N, C·P, 3] would be large: cross terms as one sparse-by-row matrix per point group
    from scipy import sparse  # noqa: PLC0415  (0.1 s to import)

    cross = weighted.transpose(0, 2, 1) @ to_point
    rows = (tracks.camera[:, None] * _PARAMETERS + np.arange(_PARAMETERS))[:, :, None]
    columns = (tracks.point[:, None] * 3 + np.arange(3))[:, None, :]
    rows, columns = np.broadcast_arrays(rows, columns)
    mixed = sparse.csr_matrix(
        (cross.ravel(), (rows.ravel(), columns.ravel())), shape=(size, 3 * tracks.count)
    )
    index = np.arange(tracks.count)
    eliminated = mixed @ sparse.bsr_matrix(
        (inverse, index, np.arange(tracks.count + 1)), shape=(3 * tracks.count, 3 * tracks.count)
    )
    normal = -(eliminated @ mixed.T).toarray()
    for camera in range(count):
        own = slice(camera * _PARAMETERS, (camera + 1) * _PARAMETERS)
        normal[own, own] += camera_block[camera]
    gradient = right.ravel() - eliminated @ point_right.ravel()

    deviation = _deviations(given, config).ravel()
    free = deviation > 0
    normal, gradient = normal[np.ix_(free, free)], gradient[free]
    precision = 1 / deviation[free] ** 2
    gradient += precision * _strayed(cameras, given).ravel()[free]
    normal[np.diag_indices_from(normal)] *= 1 + damping
    normal[np.diag_indices_from(normal)] += precision
    change = np.zeros(size)
    change[free] = -np.linalg.solve(normal, gradient)
    back = point_right + (mixed.T @ change).reshape(-1, 3)
    shift = -np.einsum("nij,nj->ni", inverse, back)
    return change.reshape(count, _PARAMETERS), shift


def _observation_jacobians(
    cameras: Cameras, tracks: FeatureTracks, points: np.ndarray
) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, "M 2 P"], Float[np.ndarray, "M 2 3"]]:
    """Residuals and their derivatives by the camera's parameters and by the point."""
    residual = np.zeros((len(tracks.point), 2))
    to_camera = np.zeros((len(tracks.point), 2, _PARAMETERS))
    to_point = np.zeros((len(tracks.point), 2, 3))
    for camera in range(len(cameras)):
        own = np.flatnonzero(tracks.camera == camera)
        spot = points[tracks.point[own]]
        pose = cameras.world_to_camera[camera].double().numpy()
        pixels, _, jacobian = project_with_jacobian(cameras, camera, spot)
        residual[own] = pixels - tracks.pixels[own]
        to_point[own] = jacobian
        local = spot @ pose[:3, :3].T + pose[:3, 3]
        by_local = jacobian @ pose[:3, :3].T
        # δlocal = ω × local + τ
        to_camera[own, :, :3] = np.cross(local[:, None], by_local)
        to_camera[own, :, 3:6] = by_local
        to_camera[own, 0, 6] = to_camera[own, 1, 7] = 1
        to_camera[own, :, 8] = pixels - cameras.intrinsics[camera, :2, 2].double().numpy()
    return residual, to_camera, to_point


def _moved(cameras: Cameras, change: Float[np.ndarray, "C P"]) -> Cameras:
    """Cameras after a step of their parameters."""
    poses = cameras.world_to_camera.double().numpy().copy()
    intrinsics = cameras.intrinsics.double().numpy().copy()
    turn = Rotation.from_rotvec(change[:, :3]).as_matrix()
    poses[:, :3] = turn @ poses[:, :3]
    poses[:, :3, 3] += change[:, 3:6]
    intrinsics[:, :2, 2] += change[:, 6:8]
    intrinsics[:, 0, :2] *= 1 + change[:, 8:]
    intrinsics[:, 1, 1] *= 1 + change[:, 8]
    return replace(
        cameras,
        world_to_camera=torch.from_numpy(poses).to(cameras.world_to_camera),
        intrinsics=torch.from_numpy(intrinsics).to(cameras.intrinsics),
    )
