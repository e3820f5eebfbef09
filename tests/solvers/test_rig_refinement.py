"""Calibration: planted faults are noticed and repaired; a good one is left in peace."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from egg_head import egg_head, filmed, ring
from topohead.core import Cameras, Distortion, InputError, Mesh, Rig
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.cameras import project, triangulate
from topohead.geometry.correspondence import closest_points
from topohead.solvers.calibration import (
    CalibrationConfig,
    hold_gauge,
    refine_cameras,
    refined_rig,
    reprojection_errors,
    triangulate_tracks,
)
from topohead.solvers.feature_tracks import (
    FeatureTracks,
    epipolar_distance,
    find_tracks,
    fundamental,
)


def turned(cameras: Cameras, degrees: float, seed: int = 0) -> Cameras:
    """Every camera turned about its own centre by up to this angle, every other way."""
    random = np.random.default_rng(seed)
    poses = cameras.world_to_camera.clone()
    for index in range(len(cameras)):
        turn = Rotation.from_rotvec(np.radians(degrees) * random.uniform(-1, 1, 3)).as_matrix()
        poses[index, :3] = torch.from_numpy(turn) @ poses[index, :3]
    return replace(cameras, world_to_camera=poses)


def planted_tracks(cameras: Cameras, noise: float = 0.1, wrong: float = 0.0) -> FeatureTracks:
    random = np.random.default_rng(1)
    points = torch.from_numpy(random.uniform(-0.1, 0.1, (400, 3)))
    pixels = project(cameras, points)[0].numpy() + random.normal(0, noise, (len(cameras), 400, 2))
    bad = random.random((len(cameras), 400)) < wrong
    pixels[bad] += random.uniform(-40, 40, (int(bad.sum()), 2))
    seen = random.random((len(cameras), 400)) < 0.6
    camera, point = np.nonzero(seen & (seen.sum(0) >= 2))
    return FeatureTracks(point, camera, pixels[camera, point], 400).keep(np.ones(len(point), bool))


def shape_error(solved: Cameras, true: Cameras) -> float:
    """How far the solved rig bends space about the head, mm (median, rigid motion apart)."""
    points = torch.from_numpy(np.random.default_rng(2).uniform(-0.1, 0.1, (200, 3)))
    found = triangulate(project(true, points)[0], solved)
    return 1000 * float((apply(rigid(found, points), found) - points).norm(dim=1).median())


def test_turned_cameras_are_put_right_in_spite_of_wrong_matches():
    true = ring(5)
    stale = turned(true, 0.6)
    solved, report = refine_cameras(stale, planted_tracks(true, wrong=0.05))
    assert set(report.drifted) == set(true.names)
    assert np.nanmedian(report.before) > 1.5
    assert np.nanmax(report.after) < 0.2
    assert shape_error(stale, true) > 0.4
    assert shape_error(solved, true) < 0.1


def test_a_good_calibration_is_not_accused():
    true = ring(5)
    solved, report = refine_cameras(true, planted_tracks(true, noise=0.3))
    assert report.drifted == ()
    assert shape_error(solved, true) < 0.1


def test_gauge_puts_a_rig_that_moved_as_one_back():
    given = ring(4)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.2, -0.1, 0.3]).as_matrix())
    motion[:3, 3] = torch.tensor([0.3, 0.1, -0.2])
    moved = given.world_to_camera @ motion
    moved[:, :3, 3] *= 1.7
    back = hold_gauge(replace(given, world_to_camera=moved), given, planted_tracks(given, noise=0))
    torch.testing.assert_close(back.world_to_camera, given.world_to_camera, atol=1e-9, rtol=0)


def test_the_subject_stays_where_it_was_when_cameras_are_solved_again():
    true = ring(8)
    tracks = planted_tracks(true, noise=0.2)
    solved, report = refine_cameras(turned(true, 0.05), tracks)
    assert report.moved.max() > 0.0005  # a camera's place is not well known, the subject's is
    points = torch.from_numpy(np.random.default_rng(2).uniform(-0.1, 0.1, (200, 3)))
    found = triangulate(project(true, points)[0], solved)
    assert 1000 * (found - points).norm(dim=1).median() < 0.3


def test_refined_views_carry_over_to_the_rig():
    cameras = ring(3)
    rig = Rig(cameras, (Distortion(),) * 3)
    views = cameras.select(cameras.names[1:]).resized(cameras.sizes[1:] // 2)
    center = views.intrinsics.clone()
    center[:, :2, 2] += torch.tensor([1.5, -0.5], dtype=torch.float64)
    solved = replace(turned(views, 0.3), intrinsics=center)
    fixed = refined_rig(rig, views, solved)
    torch.testing.assert_close(fixed.cameras.world_to_camera[0], cameras.world_to_camera[0])
    torch.testing.assert_close(fixed.cameras.world_to_camera[1:], solved.world_to_camera)
    shift = fixed.cameras.intrinsics[1:, :2, 2] - cameras.intrinsics[1:, :2, 2]
    torch.testing.assert_close(shift, torch.tensor([[3.0, -1.0]] * 2, dtype=torch.float64))


def test_epipolar_distance_vanishes_for_true_pairs():
    cameras = ring(2)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-0.1, 0.1, (20, 3)))
    pixels = project(cameras, points)[0].numpy()
    matrix = fundamental(cameras, 0, 1)
    assert epipolar_distance(matrix, *pixels).max() < 1e-8
    assert epipolar_distance(matrix, pixels[0], pixels[1] + [0, 3]).mean() > 1


def test_features_of_rendered_pictures_lie_on_the_surface():
    head = egg_head()
    views = filmed(Mesh(head.topology, head.template), ring(4, (256, 320), arc=25), noise=0.002)
    tracks = find_tracks([views])
    assert len(tracks) > 60
    assert (tracks.views() >= 3).sum() > 10
    points = triangulate_tracks(views.cameras, tracks)
    assert np.median(reprojection_errors(views.cameras, tracks, points)) < 0.3
    distance = closest_points(torch.from_numpy(points).float(), Mesh(head.topology, head.template))
    assert distance[1].median() < 0.0005


def test_too_few_tracks_say_what_to_do():
    empty = FeatureTracks(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)), 0)
    with pytest.raises(InputError, match="leave --refine-cameras out"):
        refine_cameras(ring(2), empty, CalibrationConfig())


@pytest.mark.slow
def test_the_stale_calibration_of_the_real_rig_is_noticed_and_repaired(shared_data):
    from topohead.io.captures import open_capture
    from topohead.io.undistortion import undistorted_views

    folder = shared_data / "captures" / "ipcv-subject-1"
    if not (folder / "cameras.json").is_file():
        pytest.skip("no three-camera capture in the shared data")
    stale = folder / "cameras_checkerboard_set2.json"
    assert json.loads(stale.read_text())["units"] == "mm"
    medians = {}
    for name in ("cameras.json", stale.name):
        capture = open_capture(folder, calibration=folder / name)
        frames = [undistorted_views(capture, frame) for frame in capture.frames[:3]]
        _, report = refine_cameras(frames[0].cameras, find_tracks(frames))
        medians[name] = report
    assert medians["cameras.json"].drifted == ()
    assert len(medians[stale.name].drifted) >= 2
    assert np.median(medians[stale.name].before) > 0.8
    assert np.median(medians[stale.name].after) < 0.4
