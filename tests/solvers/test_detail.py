"""Relief planted on a smooth mesh comes back from its photographs, and none where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from planted_sphere import SHARED_YAWS, photograph, ring_of_cameras, skin_texture, sphere
from topohead.core import Mesh, Views
from topohead.geometry.tessellation import Tessellation, smooth_heights, tessellate
from topohead.solvers.detail import DetailConfig, Relief, ReliefSolver, halvings_for
from topohead.solvers.detail_grid import make_grid
from topohead.solvers.features import FeatureConfig
from topohead.solvers.kernels import heights as kernel

HALVINGS = 2
DEPTH = 1.2e-3
"""Metres of planted relief; a pixel is 0.9 mm."""

# bumps of more than a pixel: begin with smaller pictures, and let the surface rise further
CONFIG = DetailConfig(
    features=FeatureConfig(radius=2.5, levels=3), iterations=(6, 6, 6), spread=1e-3
)


def head() -> tuple[Mesh, Tessellation]:
    topology, points = sphere()
    return Mesh(topology, points), tessellate(topology, HALVINGS)


def bumps(fine: Tessellation, points: torch.Tensor) -> torch.Tensor:
    """Waves 30 mm long on the front, nothing behind."""
    x, y, z = fine.carry(points).double().unbind(1)
    front = torch.sigmoid((z - 0.03) / 0.008)
    return DEPTH * front * torch.cos(210 * x) * torch.cos(210 * y)


def filmed(mesh: Mesh, fine: Tessellation, heights: torch.Tensor, seed: int = 0) -> Views:
    cameras = ring_of_cameras(mesh.vertices, SHARED_YAWS)
    surface = fine.displaced(mesh.vertices.double(), heights).float()
    return photograph(cameras, fine.finer, surface, skin_texture(1024, seed))


def middle(fine: Tessellation, points: torch.Tensor) -> torch.Tensor:
    """Vertices that several cameras see well."""
    place = fine.carry(points)
    return (place[:, 2] > 0.055) & (place[:, 1].abs() < 0.05)


@pytest.fixture(scope="module")
def bumpy() -> tuple[Mesh, Tessellation, torch.Tensor, Views, Relief]:
    mesh, fine = head()
    heights = bumps(fine, mesh.vertices)
    views = filmed(mesh, fine, heights)
    return (
        mesh,
        fine,
        heights,
        views,
        ReliefSolver(mesh, HALVINGS, CONFIG).solve(views, mesh.vertices),
    )


def test_planted_bumps_come_back(bumpy) -> None:
    mesh, fine, heights, _, relief = bumpy
    seen = middle(fine, mesh.vertices)
    found = relief.heights.double()
    before, after = heights[seen].abs(), (found - heights)[seen].abs()
    assert before.mean() > 2e-4
    assert after.mean() < 0.5 * before.mean(), (before.mean(), after.mean())
    assert np.corrcoef(found[seen], heights[seen])[0, 1] > 0.85
    assert relief.confidence[seen].mean() > 0.8
    back = fine.carry(mesh.vertices)[:, 2] < -0.08
    assert relief.confidence[back].max() == 0, "no camera is behind"


def test_repeated_solves_give_the_same_bytes(bumpy) -> None:
    mesh, _, _, views, relief = bumpy
    again = ReliefSolver(mesh, HALVINGS, CONFIG).solve(views, mesh.vertices)
    assert torch.equal(again.heights, relief.heights)


def test_a_smooth_surface_stays_smooth() -> None:
    mesh, fine = head()
    smooth = smooth_heights(fine, mesh.vertices.double())
    relief = ReliefSolver(mesh, HALVINGS).solve(filmed(mesh, fine, smooth), mesh.vertices)
    seen = middle(fine, mesh.vertices)
    rise = relief.heights - smooth
    assert relief.confidence[seen].mean() > 0.8
    assert rise[seen].abs().mean() < 8e-5  # a tenth of a pixel
    assert rise[seen].abs().max() < 3e-4


def test_views_that_disagree_move_nothing() -> None:
    """Each camera shows another texture, as gloss would: nothing is to be learnt from that."""
    mesh, fine = head()
    smooth = smooth_heights(fine, mesh.vertices.double())
    takes = [filmed(mesh, fine, smooth, seed) for seed in range(len(SHARED_YAWS))]
    mixed = tuple(take.images[index] for index, take in enumerate(takes))
    relief = ReliefSolver(mesh, HALVINGS).solve(replace(takes[0], images=mixed), mesh.vertices)
    seen = middle(fine, mesh.vertices)
    assert (relief.heights - smooth)[seen].abs().mean() < 5e-5


def test_conjugate_gradients_agree_with_a_direct_solve() -> None:
    mesh, fine = head()
    grid = make_grid(fine, mesh, 100.0, 1e-3, 3e-3)
    random = np.random.default_rng(0)
    parts = (grid.stiffness.values(), grid.stiffness.col_indices(), grid.stiffness.crow_indices())
    stiffness = sparse.csr_matrix(tuple(part.numpy() for part in parts)).astype(np.float64)
    count = fine.finer.vertex_count
    diagonal = random.uniform(0, 3, count).astype(np.float32) * float(grid.own.median())
    rhs = random.standard_normal(count).astype(np.float32)
    exact = sparse.linalg.spsolve((stiffness + sparse.diags(diagonal)).tocsc(), rhs)
    arguments = torch.from_numpy(rhs), torch.from_numpy(diagonal), grid.stiffness, grid.own
    found = kernel.conjugate_gradient(*arguments, 500, 1e-12).numpy()
    assert np.abs(found - exact).max() < 1e-4 * np.abs(exact).max()
    inverse = 1 / (arguments[1] + grid.own)
    other = kernel._on_device(*arguments[:3], inverse, 500, 1e-12).numpy()
    assert np.abs(other - exact).max() < 1e-4 * np.abs(exact).max()
    # a plane of heights costs the pull to zero alone: bending is free of slopes
    ones = torch.ones(count)
    pulled = float(ones @ (grid.stiffness @ ones))
    assert pulled == pytest.approx(float(grid.areas.sum()) / (1e-3 * 3e-3) ** 2, rel=1e-3)


def test_halvings_follow_texels_and_stop_at_pixels() -> None:
    mesh, _ = head()
    cameras = ring_of_cameras(mesh.vertices, SHARED_YAWS)
    pixel = 0.85e-3
    side = float((mesh.vertices[mesh.topology.edges].diff(dim=1)).norm(dim=-1).median())
    assert halvings_for(mesh.topology, mesh.vertices, cameras, side) == 0
    assert halvings_for(mesh.topology, mesh.vertices, cameras, side / 4) == 2
    finest = halvings_for(mesh.topology, mesh.vertices, cameras, 1e-5)
    assert side / 2**finest > 0.8 * pixel
    assert side / 2**finest < 2.5 * pixel


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(bumpy) -> None:
    mesh, fine, heights, views, relief = bumpy
    found = ReliefSolver(mesh, HALVINGS, CONFIG, "cuda").solve(views, mesh.vertices)
    assert found.heights.is_cuda
    seen = middle(fine, mesh.vertices)
    apart = (found.heights.cpu() - relief.heights)[seen].abs()
    assert apart.median() < 1e-5
    assert apart.mean() < 0.05 * heights[seen].abs().mean()
    again = ReliefSolver(mesh, HALVINGS, CONFIG, "cuda").solve(views, mesh.vertices)
    assert torch.equal(again.heights, found.heights)
