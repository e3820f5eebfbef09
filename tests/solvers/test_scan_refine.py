"""Planted heads are found again in scans of them, whole, cropped, holed, noisy and with hair."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from topohead.core import Scan, ScanFit
from topohead.geometry.alignment import apply
from topohead.geometry.metrics import surface_distance
from topohead.io.assets import reference_head
from topohead.solvers.scan_baselines import pca_fit, template_fit
from topohead.solvers.scan_head import ScanHead, fitted_surface
from topohead.solvers.scan_quality import judge
from topohead.solvers.scan_refine import refine
from topohead.synthesis.shapes import load_shapes

SEED, PERSON = 3, 0


@pytest.fixture(scope="module")
def head():
    return reference_head(0)


@pytest.fixture(scope="module")
def pose():
    """Somewhere else than the head frame, metres."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.3, 0.9, -0.2]).as_matrix())
    pose[:3, 3] = torch.tensor([0.2, -0.1, 0.4])
    return pose


@pytest.fixture(scope="module")
def truth(head, pose):
    """A made head in the pose [V 3]."""
    return apply(pose, load_shapes(ict=None).draw(SEED, [PERSON]).rest[0].double())


@pytest.fixture(scope="module")
def scan(head, truth):
    """Its outside as a mesh with 0.15 mm of noise."""
    surface = ScanHead.of(head.topology)
    points = surface.surface(truth.numpy())
    triangles = surface.fine.triangles
    triangles = triangles[~torch.from_numpy(surface.inner)[triangles].all(1)]
    used, corners = torch.unique(triangles, return_inverse=True)
    noise = np.random.default_rng(0).normal(0, 1.5e-4, (len(used), 3))
    return Scan(torch.from_numpy(points[used] + noise).float(), corners)


@pytest.fixture(scope="module")
def start(head, pose, truth, scan):
    """The truth with 3 mm of smooth error and 3° of pose."""
    random = np.random.default_rng(1)
    upright = apply(torch.linalg.inv(pose), truth)
    waves = torch.from_numpy(random.normal(0, 1 / 0.06, (6, 3)))
    axes = torch.from_numpy(random.normal(0, 1, (6, 3)))
    error = torch.sin(upright @ waves.T + torch.arange(6)) @ axes
    error *= 3e-3 / error.square().sum(1).mean().sqrt()
    tilt = torch.eye(4, dtype=torch.float64)
    tilt[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.03, 0.04, -0.02]).as_matrix())
    off = pose @ tilt
    return ScanFit(
        apply(off, upright + error).float(),
        torch.full((len(truth),), 0.003 / 3**0.5),
        off.float(),
        torch.zeros(52),
        torch.ones(len(scan.points), dtype=torch.bool),
    )


def face_error(head, fit, truth):
    """Mean distance of the face's vertices from where they belong, mm."""
    face = head.topology.regions["face"]
    return 1000 * float((fit.vertices.double() - truth).norm(dim=1)[face].mean())


def face_gap(head, fit, scan):
    """Median distance of the scan's points near the face from the fitted surface, mm."""
    near = torch.cdist(scan.points, fit.vertices[head.topology.regions["face"]]).amin(1) < 0.004
    points = scan.points[near][::7]
    return 1000 * float(
        surface_distance(points, fitted_surface(head.topology, fit.vertices)).median()
    )


def cut(scan, keep):
    """The triangles whose corners are all kept."""
    used, corners = torch.unique(scan.triangles[keep[scan.triangles].all(1)], return_inverse=True)
    return Scan(scan.points[used], corners), used


def test_refine_finds_a_disturbed_head_again(head, truth, scan, start):
    found = refine(scan, start, head)
    assert face_error(head, start, truth) > 3
    assert face_error(head, found, truth) < 0.8
    assert face_gap(head, found, scan) < 0.15
    assert float(found.inliers.float().mean()) > 0.95


def test_refine_is_deterministic(head, scan, start):
    first, second = (refine(scan, start, head) for _ in range(2))
    assert torch.equal(first.vertices, second.vertices)


def test_baselines_find_a_head_in_any_pose(head, truth, scan):
    rough, fitted = template_fit(scan, head), pca_fit(scan, head)
    assert face_error(head, rough, truth) < 9
    assert face_error(head, fitted, truth) < 1.5
    assert face_gap(head, fitted, scan) < 0.3
    assert not judge(scan, fitted, head).failures
