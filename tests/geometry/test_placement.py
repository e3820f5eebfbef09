"""A file's axes and unit: everything that is exported moves together."""

import pytest
import torch

from exporting import planted_performance, world
from planted_run import planted_rig
from topohead.core import Splats
from topohead.geometry.cameras import project
from topohead.geometry.placement import placement
from topohead.synthesis.performances import euler


def random_points(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_identity_changes_no_bit() -> None:
    points = random_points().float()
    assert placement(None).points(points) is points
    assert placement(torch.eye(4)).offsets(points) is points


def test_z_up_turns_the_face_to_minus_y() -> None:
    place = placement(None, "z-up", 0.01)
    up, face = torch.eye(3).double()[1], torch.eye(3).double()[2]
    assert torch.allclose(place.points(up), torch.tensor([0.0, 0, 100]).double())
    assert torch.allclose(place.points(face), torch.tensor([0.0, -100, 0]).double())
    assert torch.linalg.det(place.rotation) == pytest.approx(1), "right-handed stays so"


@pytest.mark.parametrize(("axis", "meters"), [("y-up", 1.0), ("z-up", 0.01), ("y-up", 0.001)])
def test_a_rig_moves_as_its_meshes_do(axis: str, meters: float) -> None:
    played = planted_performance()
    place = placement(torch.linalg.inv(world()), axis, meters)  # pyright: ignore
    there = place.performance(played).vertices()
    assert (there - place.points(played.vertices())).abs().max() * meters < 1e-6


def test_cameras_see_the_moved_points_where_they_saw_them() -> None:
    rig, points = planted_rig(), random_points() * 0.05
    place = placement(torch.linalg.inv(world()), "z-up", 0.01)
    moved = place.cameras(rig).cameras
    before, _ = project(rig.cameras, points)
    after, _ = project(moved, place.points(points) * 0.01)
    assert (before - after).abs().max() < 1e-6


def test_gaussians_turn_with_their_axes() -> None:
    """The covariance is R Σ Rᵀ, scaled."""
    generator = torch.Generator().manual_seed(1)
    count = 6
    splats = Splats.colored(
        torch.randn(count, 3, generator=generator).double(),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=generator).double(), dim=1),
        torch.rand(count, 3, generator=generator).double() + 0.1,
        torch.ones(count).double(),
        torch.rand(count, 3, generator=generator).double(),
    )
    upright = torch.eye(4, dtype=torch.float64)
    upright[:3, :3] = euler(torch.tensor([0.5, 0.3, -0.8], dtype=torch.float64))
    place = placement(upright, "z-up", 0.01)
    turn = place.rotation * 100
    expected = turn @ covariance(splats) @ turn.T
    assert torch.allclose(covariance(place.splats(splats)), expected)


def covariance(splats: Splats) -> torch.Tensor:
    w, x, y, z = splats.quats.unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return turn @ torch.diag_embed(splats.scales**2) @ turn.transpose(1, 2)
