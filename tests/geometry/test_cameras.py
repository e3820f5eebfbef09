"""Projection, turns and triangulation, against closed forms and OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from random_rig import head_points, make_rig
from topohead.core import Cameras, Distortion, Rig
from topohead.geometry.cameras import (
    convergence,
    look_at,
    pixel_rays,
    project,
    project_through_lens,
    triangulate,
    turned,
    undistorted_pixels,
    unproject,
)


def test_project_agrees_with_opencv_after_the_half_pixel() -> None:
    rig, points = make_rig(), head_points()
    pixels, depth = project_through_lens(rig, points)
    for index, lens in enumerate(rig.distortion):
        k1, k2, k3, _, p1, p2 = lens.coefficients
        pose = rig.cameras.world_to_camera[index].numpy()
        matrix = rig.cameras.intrinsics[index].numpy().copy()
        matrix[:2, 2] -= 0.5
        # OpenCV has no k4 in this model: leave it out on both sides.
        bare = Rig(
            rig.cameras.select([rig.cameras.names[index]]),
            (Distortion("brown", (k1, k2, k3, 0.0, p1, p2)),),
        )
        ours = project_through_lens(bare, points)[0][0]
        rotation = cv2.Rodrigues(pose[:3, :3])[0]
        theirs = cv2.projectPoints(
            points.numpy(), rotation, pose[:3, 3], matrix, np.array([k1, k2, p1, p2, k3])
        )[0][:, 0]
        assert np.abs(ours.numpy() - 0.5 - theirs).max() < 1e-8
    assert (depth > 0.3).all() and torch.isfinite(pixels).all()


def test_unproject_inverts_project_with_skew() -> None:
    cameras, points = make_rig(skew=3.0).cameras, head_points()
    pixels, depth = project(cameras, points)
    assert (unproject(cameras, pixels, depth) - points).abs().max() < 1e-12
    origin, direction = pixel_rays(cameras, pixels)
    along = (points - origin[:, None]) / (points - origin[:, None]).norm(dim=-1, keepdim=True)
    assert (along - direction).abs().max() < 1e-12


def test_projection_differentiates_and_keeps_the_points_type() -> None:
    points = head_points(4).float().requires_grad_()
    pixels, _ = project(make_rig().cameras, points)
    pixels.sum().backward()
    assert pixels.dtype == torch.float32 and torch.isfinite(points.grad).all()


@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
@pytest.mark.parametrize("skew", [0.0, 4.0])
def test_turned_cameras_see_the_turned_picture(turns: int, skew: float) -> None:
    lenses = tuple(
        Distortion(*model)
        for model in (
            ("brown", (-0.1, 0.05, 0.01, 0.002, 0.003, -0.004)),
            ("rational", (-0.1, 0.05, 0.003, -0.004, 0.01, 0.02, 0.01, 0.003)),
            ("fisheye", (0.01, -0.02, 0.003, 0.001)),
            ("none", ()),
        )
    )
    rig, points = make_rig(4, skew=skew, lenses=lenses), head_points()
    pixels, depth = project_through_lens(rig, points)
    rolled, rolled_depth = project_through_lens(turned(rig, turns), points)
    u, v = pixels.unbind(-1)
    width, height = (rig.cameras.sizes[:, None, axis].double() for axis in (0, 1))
    expected = {0: (u, v), 1: (v, width - u), 2: (width - u, height - v), -1: (height - v, u)}
    assert (rolled - torch.stack(expected[turns], -1)).abs().max() < 1e-9
    assert torch.equal(depth, rolled_depth)
    intrinsics = turned(rig, turns).cameras.intrinsics
    assert (intrinsics[:, 1, 0] == 0).all() and (intrinsics[:, 0, 0] > 0).all()


def test_turned_pixels_follow_rot90() -> None:
    """The formula for points is what torch.rot90 does to pixels, centres at half-integers."""
    picture = torch.zeros(48, 64)
    picture[10, 20] = 1
    row, column = torch.nonzero(torch.rot90(picture, 1))[0].tolist()
    assert (column + 0.5, row + 0.5) == (10.5, 64 - 20.5)


def test_four_turns_are_none_and_each_camera_may_turn_its_own_way() -> None:
    rig = make_rig(4)
    again = turned(turned(rig, [1, 2, 3, 0]), [3, 2, 1, 4])
    assert torch.allclose(again.cameras.intrinsics, rig.cameras.intrinsics, atol=1e-10)
    assert torch.allclose(again.cameras.world_to_camera, rig.cameras.world_to_camera, atol=1e-12)
    assert torch.equal(again.cameras.sizes, rig.cameras.sizes)
    with pytest.raises(ValueError, match="4 cameras but 2 turns"):
        turned(rig, [1, 2])


def test_principal_point_of_the_spec() -> None:
    """Anticlockwise (cy, W − cx), clockwise (H − cy, cx)."""
    cameras = make_rig(3).cameras
    cx, cy = cameras.intrinsics[:, 0, 2], cameras.intrinsics[:, 1, 2]
    width, height = cameras.sizes.double().unbind(1)
    left, right = turned(cameras, 1).intrinsics, turned(cameras, -1).intrinsics
    assert torch.allclose(left[:, :2, 2], torch.stack([cy, width - cx], 1), atol=1e-10)
    assert torch.allclose(right[:, :2, 2], torch.stack([height - cy, cx], 1), atol=1e-10)


def test_look_at_is_upright_and_centred() -> None:
    eye, target = torch.tensor([0.3, 0.2, 1.0]), torch.tensor([0.0, 0.1, 0.0])
    pose = look_at(eye, target, torch.tensor([0.0, 1.0, 0.0]))
    local = pose[:3, :3] @ target + pose[:3, 3]
    assert torch.allclose(local, torch.tensor([0, 0, (target - eye).norm()]), atol=1e-6)
    assert pose[1, 1] < 0  # image y runs down where the world's runs up
    assert torch.linalg.det(pose[:3, :3]) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="parallel"):
        look_at(eye, eye + torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def test_triangulation_recovers_points_and_bears_missing_views() -> None:
    cameras, points = make_rig(6).cameras, head_points()
    pixels, _ = project(cameras, points)
    assert (triangulate(pixels, cameras) - points).abs().max() < 1e-11
    weights = torch.ones(6, len(points), dtype=torch.float64)
    weights[2], weights[0, ::2] = 0, 0
    weights[:, 7] = 0
    weights[1, 7] = 1  # one view is none
    broken = pixels.clone()
    broken[weights == 0] = torch.nan
    found = triangulate(broken, cameras, weights)
    assert torch.isnan(found[7]).all()
    rest = torch.arange(len(points)) != 7
    assert (found[rest] - points[rest]).abs().max() < 1e-10


def test_triangulation_minimises_the_pixel_error() -> None:
    """No small step from the answer lowers the squared reprojection error."""
    cameras, points = make_rig(4).cameras, head_points(20)
    random = torch.Generator().manual_seed(1)
    pixels, _ = project(cameras, points)
    pixels = pixels + torch.randn(pixels.shape, generator=random, dtype=torch.float64)

    def error(at: torch.Tensor) -> torch.Tensor:
        return (project(cameras, at)[0] - pixels).square().sum((0, 2))

    found = triangulate(pixels, cameras, polish=10)
    for axis in range(3):
        for sign in (-1, 1):
            step = torch.zeros(3, dtype=torch.float64)
            step[axis] = sign * 1e-6
            assert (error(found + step) >= error(found) - 1e-10).all()
    assert (error(found) < error(triangulate(pixels, cameras, polish=0)) + 1e-12).all()


def test_convergence_finds_what_all_cameras_look_at() -> None:
    point = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    eyes = torch.tensor([[1.0, 0, 1], [-1, 0.2, 1], [0, 0, 1.2]], dtype=torch.float64)
    poses = torch.stack([look_at(eye, point, up) for eye in eyes])
    cameras = Cameras(
        ("a", "b", "c"), poses, torch.eye(3).double().expand(3, 3, 3), torch.ones(3, 2).long()
    )
    found, depth = convergence(cameras)
    assert (found - point).norm() < 1e-12
    assert torch.allclose(depth, (eyes - point).norm(dim=1))
    parallel = Cameras(
        ("a", "b"), poses[:1].repeat(2, 1, 1), cameras.intrinsics[:2], cameras.sizes[:2]
    )
    assert torch.isnan(convergence(parallel)[1]).all()


def test_stored_pixels_move_to_pinhole_pixels() -> None:
    rig, points = make_rig(skew=2.0), head_points()
    stored, _ = project_through_lens(rig, points)
    half = rig.cameras.resized(rig.cameras.sizes // 2)
    expected, _ = project(half, points)
    assert (undistorted_pixels(rig, stored, half) - expected).abs().max() < 1e-9
