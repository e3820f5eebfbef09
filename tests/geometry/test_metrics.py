"""Metrics give back exactly the error that was planted."""

import math

import pytest
import torch

from planted_run import ellipsoid, ellipsoid_normals, ellipsoid_topology, performance
from topohead.core import Mesh, SurfacePoints
from topohead.geometry import metrics
from topohead.geometry.correspondence import closest_points


def plane(size: int = 5) -> Mesh:
    """A square metre of quads in z = 0, facing +z."""
    topology = ellipsoid_topology(size, size)
    keep = torch.arange(len(topology.faces)) % size != size - 1  # cut where it would close
    flat = torch.cartesian_prod(torch.linspace(0, 1, size), torch.linspace(0, 1, size))
    vertices = torch.stack([flat[:, 1], flat[:, 0], torch.zeros(size * size)], 1).double()
    open_sheet = type(topology)(size * size, topology.faces[keep], topology.uv,
                                topology.face_uv[keep])  # fmt: skip
    return Mesh(open_sheet, vertices)


def test_summary_of_known_distances() -> None:
    result = metrics.summary(torch.arange(1, 101) / 1000 / 25)  # 0.04 … 4 mm
    assert result["median_mm"] == pytest.approx(2.02)
    assert result["p95_mm"] == pytest.approx(0.04 * (1 + 0.95 * 99))
    assert result["mean_mm"] == pytest.approx(2.02)
    assert result["max_mm"] == pytest.approx(4.0)
    # the border itself is not within
    assert [result[f"within_{s}_mm"] for s in ("0.2", "0.5", "1", "2", "3")] == pytest.approx(
        [0.04, 0.12, 0.24, 0.49, 0.74], abs=0.011
    )


def test_summary_refuses_an_empty_region() -> None:
    with pytest.raises(ValueError, match="no vertices"):
        metrics.summary(torch.zeros(0))


def test_offset_along_normals_is_surface_distance_and_no_slide() -> None:
    sheet = plane()
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).double()
    points[:, 2] = 0.0003
    assert metrics.surface_distance(points, sheet).allclose(torch.tensor(0.0003).double())
    bound, _ = closest_points(points, sheet)
    found = metrics.correspondence(points, bound, sheet)
    assert found.distance.allclose(torch.tensor(0.0003).double())
    assert found.slide.abs().max() < 1e-12


def test_slide_is_seen_by_correspondence_alone() -> None:
    """Vertices that move 0.4 mm along the skin stay on the surface but leave their points."""
    sheet = plane()
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)).double() * 0.9
    points[:, 2] = 0
    bound, _ = closest_points(points, sheet)
    moved = points + torch.tensor([0.0003, 0.0004, 0.0012])
    found = metrics.correspondence(moved, bound, sheet)
    assert found.slide.allclose(torch.tensor(0.0005).double())
    assert found.distance.allclose(torch.tensor(0.0013).double())
    assert metrics.surface_distance(moved, sheet).allclose(torch.tensor(0.0012).double())


def test_correspondence_follows_a_moving_surface() -> None:
    truth = performance(4)
    topology = ellipsoid_topology()
    face = topology.region_mask("face")
    bound, gap = closest_points(truth[0][face], Mesh(topology, truth[0]))
    assert gap.max() < 1e-9
    for vertices in truth:
        found = metrics.correspondence(vertices[face], bound, Mesh(topology, vertices))
        assert found.distance.max() < 1e-9


def test_closest_points_agrees_with_dense_samples() -> None:
    """The best of 200,000 random surface points is about as near as the exact answer."""
    mesh = Mesh(ellipsoid_topology(8, 10), ellipsoid(8, 10))
    generator = torch.Generator().manual_seed(2)
    queries = torch.randn(12, 3, generator=generator).double() * 0.1
    triangles = mesh.topology.triangles
    index = torch.randint(len(triangles), (200_000,), generator=generator)
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((200_000,))
    samples = (weights[..., None] * mesh.vertices[triangles[index]]).sum(1)
    dense = torch.cdist(queries, samples.double()).min(1).values
    exact = metrics.surface_distance(queries, mesh)
    assert (exact <= dense + 1e-9).all()
    assert (dense - exact).max() < 5e-4


def test_temporal_separates_trembling_from_motion() -> None:
    truth = performance(8)
    still = metrics.temporal(truth, truth)
    assert still is not None and still.step_error_mm == 0
    assert still.step_mm == still.true_step_mm > 0.1
    # alternate every vertex by ±0.1 mm: steps err by 0.2, third differences by 0.8
    sign = torch.tensor([1.0, -1.0]).repeat(4)[:, None, None]
    shaking = truth + sign * torch.tensor([0.0001, 0, 0])
    found = metrics.temporal(shaking, truth)
    assert found is not None and found.step_error_mm == pytest.approx(0.2, rel=1e-5)
    assert found.rest_jerk_mm == pytest.approx(0.8, rel=0.02)
    assert 0.3 < found.resting_share < 1
    frozen = metrics.temporal(truth[:1].expand(8, -1, -1), truth)
    assert frozen is not None and frozen.step_mm == 0
    assert frozen.step_error_mm == pytest.approx(still.true_step_mm)
    assert metrics.temporal(truth[:1], truth[:1]) is None


def test_temporal_without_rest_has_no_jerk() -> None:
    drift = torch.arange(5)[:, None, None] * torch.full((1, 10, 3), 0.001)
    found = metrics.temporal(drift, drift)
    assert found is not None and found.rest_jerk_mm is None and found.resting_share == 0


def test_pose_error_recovers_planted_motion() -> None:
    angle = math.radians(1.5)
    pose = torch.eye(4)
    pose[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    center = torch.tensor([0.1, 0.0, 0.0])
    found = metrics.pose_error(pose, torch.eye(4), center)
    assert found.rotation_degrees == pytest.approx(1.5, abs=1e-5)
    assert found.translation_mm == pytest.approx(2 * 100 * math.sin(angle / 2), rel=1e-4)
    assert metrics.pose_error(pose, pose, center).rotation_degrees < 1e-5


def test_regions_travel_to_another_density() -> None:
    coarse = Mesh(ellipsoid_topology(), ellipsoid())
    fine = Mesh(ellipsoid_topology(47, 64), ellipsoid(47, 64))
    moved = metrics.transferred_regions(coarse, fine)
    assert set(moved) == {"face", "lips", "rigid"}
    mine = torch.zeros(fine.topology.vertex_count, dtype=torch.bool)
    mine[moved["face"]] = True
    assert (mine == fine.topology.region_mask("face")).float().mean() > 0.96


def test_regions_respect_which_side_of_a_thin_gap_is_meant() -> None:
    """Two sheets 0.1 mm apart, facing away from each other: each keeps its own label."""
    sheet = plane()
    size = sheet.topology.vertex_count
    both = torch.cat([sheet.vertices, sheet.vertices + torch.tensor([0, 0, 0.0001])])
    faces = torch.cat([sheet.topology.faces.flip(1), sheet.topology.faces + size])
    uv = torch.cat([sheet.topology.face_uv] * 2)
    regions = {"upper": torch.arange(size, 2 * size)}
    topology = type(sheet.topology)(2 * size, faces, sheet.topology.uv, uv, regions=regions)
    shifted = both + torch.tensor([0, 0, 0.00008])
    moved = metrics.transferred_regions(Mesh(topology, both), Mesh(topology, shifted))
    assert torch.equal(moved["upper"], regions["upper"])


def test_restricted_keeps_numbers_and_drops_faces() -> None:
    mesh = Mesh(ellipsoid_topology(), ellipsoid())
    face = mesh.topology.region_mask("face")
    front = metrics.restricted(mesh, face)
    assert 0 < len(front.topology.faces) < len(mesh.topology.faces)
    assert face[front.topology.faces].all()
    points, _ = closest_points(mesh.vertices, front)
    assert isinstance(points, SurfacePoints)
    back = mesh.vertices[:, 2] < -0.05
    # from the back of the head the front is far away
    assert (metrics.surface_distance(mesh.vertices[back], front) > 0.05).all()
    assert ellipsoid_normals(mesh.vertices).norm(dim=-1).allclose(torch.ones(1).double())
