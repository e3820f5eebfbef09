"""Bound Gaussians against closed forms, and the flat ones that cover a surface."""

import math

import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from planted_run import ellipsoid, ellipsoid_topology
from topohead.core import BoundSplats, GaussianBinding, InputError, Splats, SurfacePoints
from topohead.geometry.binding import (
    bind,
    check_bound,
    decomposed,
    posed_gaussians,
    posed_splats,
    similarity_frames,
    triangle_frames,
)
from topohead.geometry.correspondence import TriangleTree
from topohead.geometry.surface_cells import SPREAD, cell_gaussians, surface_cells

TOPOLOGY = ellipsoid_topology()
TRIANGLES = TOPOLOGY.triangles
REST = ellipsoid()


def cloud(count: int = 200) -> Splats:
    """Turned, stretched Gaussians around the ellipsoid, float64."""
    draw = torch.Generator().manual_seed(1)
    owners = torch.randint(len(REST), (count,), generator=draw)
    normal = torch.randn(count, 3, generator=draw, dtype=torch.float64)
    return Splats(
        REST[owners] * 1.02 + 0.002 * normal,
        torch.nn.functional.normalize(torch.randn(count, 4, generator=draw).double(), dim=1),
        0.001 + 0.004 * torch.rand(count, 3, generator=draw).double(),
        torch.rand(count, generator=draw).double(),
        torch.randn(count, 4, 3, generator=draw).double(),
    )


def nearest(splats: Splats) -> SurfacePoints:
    found = TriangleTree(REST[TRIANGLES].numpy()).closest(splats.means.numpy())
    return SurfacePoints(torch.from_numpy(found[0]), torch.from_numpy(found[1]))


def covariances(splats: Splats) -> torch.Tensor:
    turn = Rotation.from_quat(splats.quats.numpy(), scalar_first=True).as_matrix()
    factor = torch.from_numpy(turn) * splats.scales[:, None]
    return factor @ factor.mT


def bound(frames=triangle_frames) -> tuple[Splats, BoundSplats]:
    splats = cloud()
    points = nearest(splats)
    return splats, bind(splats, points.triangles, points.barycentrics, TRIANGLES, REST, frames)


@pytest.mark.parametrize("frames", [triangle_frames, similarity_frames])
def test_posing_undoes_binding(frames) -> None:
    splats, carried = bound(frames)
    back = posed_splats(carried, TRIANGLES, REST, frames)
    assert (back.means - splats.means).abs().max() < 1e-12
    assert (covariances(back) - covariances(splats)).abs().max() < 1e-12
    assert torch.equal(back.harmonics, splats.harmonics)


@pytest.mark.parametrize("frames", [triangle_frames, similarity_frames])
def test_rigid_motion_and_scale_carry_over(frames) -> None:
    """x → 1.7 R x + t takes means with it and covariances Σ to 1.7² R Σ Rᵀ."""
    splats, carried = bound(frames)
    turn = torch.from_numpy(Rotation.from_euler("xyz", [0.4, -1.1, 2.0]).as_matrix())
    shift = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    moved = 1.7 * REST @ turn.T + shift
    means, spread = posed_gaussians(carried.binding, TRIANGLES, moved, frames)
    assert (means - (1.7 * splats.means @ turn.T + shift)).abs().max() < 1e-12
    expected = 1.7**2 * turn @ covariances(splats) @ turn.T
    assert (spread - expected).abs().max() < 1e-13


def test_a_stretched_triangle_stretches() -> None:
    """In-plane stretch A takes a disc's covariance to A Σ Aᵀ, its thickness goes with area."""
    flat = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    triangles = torch.tensor([[0, 1, 2]])
    disc = Splats(
        flat.mean(0)[None], torch.tensor([[1.0, 0, 0, 0]]).double(),
        torch.tensor([[0.3, 0.2, 0.01]], dtype=torch.float64), torch.ones(1).double(),
        torch.zeros(1, 1, 3).double(),
    )  # fmt: skip
    middle = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    carried = bind(disc, torch.tensor([0]), middle, triangles, flat)
    stretch = torch.tensor([[3.0, 0.5, 0], [0, 1.0, 0], [0, 0, 1]], dtype=torch.float64)
    means, spread = posed_gaussians(carried.binding, triangles, flat @ stretch.T)
    assert torch.allclose(means[0], stretch @ disc.means[0])
    expected = (
        stretch @ torch.diag(torch.tensor([0.09, 0.04, 0.0], dtype=torch.float64)) @ stretch.T
    )
    expected[2, 2] = 0.01**2 * 3  # the area trebled
    assert (spread[0] - expected).abs().max() < 1e-12
    _, rigid = posed_gaussians(carried.binding, triangles, flat @ stretch.T, similarity_frames)
    assert (rigid[0] - expected).abs().max() > 0.05  # which a similarity cannot follow


def test_batches_and_gradients() -> None:
    _, carried = bound()
    batch = torch.stack([REST, 1.1 * REST, REST + 0.1])[None].requires_grad_()
    means, spread = posed_gaussians(carried.binding, TRIANGLES, batch)
    assert means.shape == (1, 3, 200, 3) and spread.shape == (1, 3, 200, 3, 3)
    alone, _ = posed_gaussians(carried.binding, TRIANGLES, batch[0, 1])
    assert torch.allclose(means[0, 1], alone, atol=1e-14)
    (means.sum() + 1e3 * spread.sum()).backward()
    assert batch.grad is not None and bool(torch.isfinite(batch.grad).all())


def test_decomposed_has_a_right_hand() -> None:
    splats = cloud()
    quats, scales = decomposed(covariances(splats))
    assert torch.allclose(scales, splats.scales.sort(descending=True).values, atol=1e-9)
    again = Splats(splats.means, quats, scales, splats.opacities, splats.harmonics)
    assert (covariances(again) - covariances(splats)).abs().max() < 1e-12


def test_cells_tile_the_surface() -> None:
    """So many as asked for, whose areas add up to the mesh's, alike in size."""
    for count in (4000, 4001, 10):
        cells = surface_cells(REST, TRIANGLES, count)
        assert len(cells.triangles) == max(count, len(TRIANGLES))
    cells = surface_cells(REST, TRIANGLES, 4001)
    assert torch.equal(cells.corners, surface_cells(REST, TRIANGLES, 4001).corners)
    corners = cells.corners @ REST[TRIANGLES[cells.triangles]]
    areas = _areas(corners)
    whole = torch.zeros(len(TRIANGLES)).double().index_add(0, cells.triangles, areas)
    assert torch.allclose(whole, _areas(REST[TRIANGLES]))
    edges = (corners - corners.roll(1, 1)).norm(dim=-1).max(1).values
    assert edges.max() < 1.5 * edges.median()
    # points drawn at random: the nearest neighbour is at half the mean spacing, give or take 52 %
    centers = (cells.centers[:, None] @ REST[TRIANGLES[cells.triangles]])[:, 0].numpy()
    nearest = cKDTree(centers).query(centers, 2)[0][:, 1]
    assert nearest.mean() > 0.6 * math.sqrt(float(areas.sum()) / 4001)
    assert nearest.std() < 0.4 * nearest.mean()


def test_cells_can_be_finer_in_places() -> None:
    """Edges three times shorter there, and still the number that was asked for."""
    left = REST[TRIANGLES].mean(1)[:, 0] > 0
    cells = surface_cells(REST, TRIANGLES, 20_000, 1 + 2 * left.float())
    assert len(cells.triangles) == 20_000
    corners = cells.corners @ REST[TRIANGLES[cells.triangles]]
    edges = (corners - corners.roll(1, 1)).norm(dim=-1).max(1).values
    fine = left[cells.triangles]
    assert 2.3 < float(edges[~fine].median() / edges[fine].median()) < 3.7


def _areas(corners: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cross(
        corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    ).norm(dim=1) / 2  # fmt: skip


def test_a_gaussian_has_its_cells_shape() -> None:
    """Its covariance in the plane is SPREAD² times that of points drawn evenly from the cell."""
    cells = surface_cells(REST, TRIANGLES, 3000)
    _, spread = posed_gaussians(cell_gaussians(cells), TRIANGLES, REST)
    corners = cells.corners @ REST[TRIANGLES[cells.triangles]]
    draw = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root = draw[0].sqrt()
    inside = torch.stack([1 - root, root * (1 - draw[1]), root * draw[1]], 1)
    for at in (0, 1234, 2999):
        points = inside @ corners[at]
        drawn = torch.cov(points.T)
        normal = torch.linalg.cross(
            corners[at, 1] - corners[at, 0], corners[at, 2] - corners[at, 0]
        )
        normal = normal / normal.norm()
        plane = torch.eye(3).double() - torch.outer(normal, normal)
        found = plane @ spread[at] @ plane / SPREAD**2
        assert (found - drawn).norm() < 0.03 * drawn.norm()
        assert normal @ spread[at] @ normal < 0.05 * torch.linalg.eigvalsh(spread[at])[2]


def test_broken_ones_are_refused() -> None:
    from dataclasses import replace

    _, carried = bound()
    check_bound(carried, len(TRIANGLES), "file")
    with pytest.raises(InputError, match=r"file: Gaussian \d+ is bound to triangle \d+ of a mesh"):
        check_bound(carried, 100, "file")
    binding = carried.binding
    broken = {
        "offsets that are no numbers": replace(binding, offsets=binding.offsets * torch.nan),
        "scales that are not above zero": replace(binding, scales=-binding.scales),
    }
    for told, wrong in broken.items():
        with pytest.raises(InputError, match=told):
            check_bound(replace(carried, binding=wrong), len(TRIANGLES), "file")
    sliver = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], dtype=torch.float64)
    one = cloud(1)
    with pytest.raises(InputError, match="triangle 0 has no area"):
        bind(one, torch.tensor([0]), torch.full((1, 3), 1 / 3).double(),
             torch.tensor([[0, 1, 2]]), sliver)  # fmt: skip
    with pytest.raises(InputError, match="no area"):
        surface_cells(sliver, torch.tensor([[0, 1, 2]]), 5)


@pytest.mark.gpu
def test_the_device_follows_the_input() -> None:
    """float32 on CUDA against float64 here: a micrometre, and 1e-5 of a covariance."""
    cells = surface_cells(REST, TRIANGLES, 100_000)
    binding = cell_gaussians(cells)
    means, spread = posed_gaussians(binding, TRIANGLES, REST)
    there = GaussianBinding(
        binding.triangles.cuda(), binding.barycentrics.float().cuda(),
        binding.offsets.float().cuda(), binding.quats.float().cuda(), binding.scales.float().cuda(),
    )  # fmt: skip
    found, wide = posed_gaussians(there, TRIANGLES.cuda(), REST.float().cuda().expand(4, -1, -1))
    assert (found.cpu() - means).abs().max() < 1e-6
    error = (wide[2].cpu() - spread).flatten(1).norm(dim=1) / spread.flatten(1).norm(dim=1)
    assert error.max() < 1e-5
