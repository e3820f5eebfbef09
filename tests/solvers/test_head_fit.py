"""Landmarks, evidence and head coefficients against finite differences and planted values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from egg_head import egg_head, marked, ring
from random_rig import make_rig
from topohead.core import InputError, Mesh
from topohead.geometry.cameras import project, project_through_lens, triangulate
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.evidence import Evidence, Normals, image_evidence, project_with_jacobian
from topohead.solvers.headfit import HeadArrays, HeadPriors, fit_head
from topohead.solvers.landmarks import (
    check_head_height,
    landmark_points,
    landmark_table,
    landmarks_in_views,
    triangulate_landmarks,
)


def test_projection_and_its_jacobian():
    cameras = ring(3)
    points = np.random.default_rng(0).normal(0, 0.05, (9, 3))
    expected = project(cameras, torch.from_numpy(points))[0][1].numpy()
    pixels, _, jacobian = project_with_jacobian(cameras, 1, points)
    np.testing.assert_allclose(pixels, expected, atol=1e-9)
    step = 1e-6
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        ahead = project_with_jacobian(cameras, 1, points + shift)[0]
        behind = project_with_jacobian(cameras, 1, points - shift)[0]
        np.testing.assert_allclose(jacobian[:, :, axis], (ahead - behind) / (2 * step), rtol=1e-5)


def test_normals_are_those_of_geometry():
    head = egg_head()
    vertices = head.template.double()
    ours = Normals(head.topology.triangles.numpy(), len(vertices))(vertices.numpy())
    theirs = vertex_normals(vertices, head.topology.triangles).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_planted_pose_and_coefficients_are_recovered():
    head = HeadArrays(egg_head())
    random = np.random.default_rng(3)
    truth = replace(
        head.neutral(
            Rotation.from_rotvec([0.25, -0.4, 0.3]).as_matrix(), np.array([0.02, -0.01, 0.03])
        ),
        identity=random.normal(0, 1, 8),
        expression=np.eye(52)[17] * 0.6 + np.eye(52)[46] * 0.3,
    )
    target = head.vertices(truth)
    corners = head.corners[::5]

    def gather(vertices: np.ndarray, _: int) -> Evidence:
        """Every fifth triangle's middle should lie where the truth has it, to 10 µm."""
        count = len(corners)
        weights = np.full((count, 3), 1 / 3)
        blocks = np.tile([1e10, 0, 0, 1e10, 0, 1e10], (count, 1))
        gap = vertices[corners].mean(1) - target[corners].mean(1)
        return Evidence(corners, weights, blocks, 1e10 * gap)

    found = fit_head(head, head.neutral(np.eye(3), np.zeros(3)), gather, 9)
    np.testing.assert_allclose(head.vertices(found), target, atol=2e-5)
    np.testing.assert_allclose(found.identity, truth.identity, atol=0.01)
    np.testing.assert_allclose(found.expression, truth.expression, atol=0.01)


def test_expression_stays_within_bounds():
    head = HeadArrays(egg_head())
    wild = replace(head.neutral(np.eye(3), np.zeros(3)), expression=-np.eye(52)[17])
    target = head.vertices(wild)

    def gather(vertices: np.ndarray, _: int) -> Evidence:
        count = len(head.corners)
        weights = np.full((count, 3), 1 / 3)
        blocks = np.tile([1e8, 0, 0, 1e8, 0, 1e8], (count, 1))
        gap = vertices[head.corners].mean(1) - target[head.corners].mean(1)
        return Evidence(head.corners, weights, blocks, 1e8 * gap)

    priors = HeadPriors(identity=0.0)
    found = fit_head(head, head.neutral(np.eye(3), np.zeros(3)), gather, 10, priors)
    assert found.expression.min() >= 0
    assert not found.identity.any()


def test_priors_bring_back_what_nothing_holds():
    head = HeadArrays(egg_head())
    strayed = replace(
        head.neutral(np.eye(3), np.zeros(3)),
        identity=np.full(8, 2.0),
        expression=np.eye(52)[17] * 0.8,
    )

    def gather(vertices: np.ndarray, _: int) -> Evidence:
        nothing = np.zeros((1, 3))
        return Evidence(head.corners[:1], np.full((1, 3), 1 / 3), np.zeros((1, 6)), nothing)

    found = fit_head(head, strayed, gather, 3)
    np.testing.assert_allclose(found.identity, 0, atol=1e-6)
    np.testing.assert_allclose(found.expression, 0, atol=1e-6)


def test_image_evidence_points_at_the_pixel():
    cameras = ring(1)
    corners = np.array([[0, 1, 2]])
    weights = np.full((1, 3), 1 / 3)
    spot = np.array([[0.01, 0.02, 0.05]])
    pixels, _, jacobian = project_with_jacobian(cameras, 0, spot)
    residual = np.array([[2.0, -1.0]])
    made = image_evidence(corners, weights, jacobian, residual, np.eye(2)[None])
    step = -np.linalg.lstsq(made.matrices[0], made.gradients[0], rcond=None)[0]
    moved = project_with_jacobian(cameras, 0, spot + step)[0]
    np.testing.assert_allclose(moved, pixels - residual, atol=0.01)


def test_one_wrong_detection_does_not_move_a_triangulated_landmark():
    head = egg_head()
    mesh = Mesh(head.topology, head.template)
    cameras = ring(5)
    marks = marked(mesh, cameras, noise=0.0)
    corners, weights = landmark_points(head.topology)
    expected = np.einsum("nk,nkd->nd", weights, mesh.vertices.double().numpy()[corners])
    victim = next(k for k in marks["cam02"] if sum(k in m for m in marks.values()) >= 4)
    x, y = marks["cam02"][victim]
    marks["cam02"][victim] = (x + 60, y - 25)
    world, views, _ = triangulate_landmarks(*landmark_table(marks, cameras), cameras)
    seen = views >= 2
    assert seen[victim]
    np.testing.assert_allclose(world[seen], expected[seen], atol=1e-6)
    assert views[victim] == sum(victim in m for m in marks.values()) - 1


def test_landmarks_of_stored_pictures_land_in_undistorted_views():
    rig = make_rig(3, seed=4)
    points = 0.05 * torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()
    stored, _ = project_through_lens(rig, points)
    names = rig.cameras.names
    marks = {
        name: {k: tuple(stored[c, k].tolist()) for k in range(6)} for c, name in enumerate(names)
    }
    halves = rig.cameras.select(names[1:]).resized(rig.cameras.sizes[1:] // 2)
    carried = landmarks_in_views(marks, rig, halves)
    assert set(carried) == set(names[1:])
    pixels = torch.tensor([[carried[n][k] for k in range(6)] for n in names[1:]])
    found = triangulate(pixels.double(), halves)
    np.testing.assert_allclose(found.numpy(), points.numpy(), atol=1e-5)


def test_landmark_numbers_are_checked():
    with pytest.raises(InputError, match="0 to 67, got 68"):
        landmark_table({"cam00": {68: (1.0, 2.0)}}, ring(2))


@pytest.mark.parametrize(
    ("height", "units", "said"),
    [(2.3, "cm", "--units mm"), (240.0, "m", "--units mm"), (0.024, "mm", "--units cm")],
)
def test_implausible_heads_name_the_unit(height, units, said):
    with pytest.raises(InputError, match=said):
        check_head_height(height, units)
    check_head_height(0.24, units)
