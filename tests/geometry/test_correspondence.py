import numpy as np
import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry.correspondence import TriangleTree, closest_points, interpolate


def brute_force(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distances by quadratic programming over the simplex: dense sampling refined by projection."""
    best = np.full(len(points), np.inf)
    for triangle in corners:
        a, ab, ac = triangle[0], triangle[1] - triangle[0], triangle[2] - triangle[0]
        basis = np.stack([ab, ac], 1)
        inner = np.clip(np.linalg.lstsq(basis, (points - a).T, rcond=None)[0].T, 0, 1)
        candidates = [inner[inner.sum(1) <= 1]]
        where = [np.flatnonzero(inner.sum(1) <= 1)]
        for start, stop in ((0, 1), (1, 2), (2, 0)):
            d = triangle[stop] - triangle[start]
            t = np.clip((points - triangle[start]) @ d / max(d @ d, 1e-30), 0, 1)
            foot = triangle[start] + t[:, None] * d
            best = np.minimum(best, np.linalg.norm(points - foot, axis=1))
        foot = a + candidates[0] @ basis.T
        distance = np.linalg.norm(points[where[0]] - foot, axis=1)
        best[where[0]] = np.minimum(best[where[0]], distance)
    return best


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_agrees_with_brute_force_on_uneven_triangles(spread):
    """Sizes over three orders of magnitude, long slivers, one of no area, far queries."""
    random = np.random.default_rng(0)
    size = 10 ** random.uniform(-spread, 0, 400)
    corners = random.normal(size=(400, 1, 3)) + size[:, None, None] * random.normal(
        size=(400, 3, 3)
    )
    corners[7, 2] = corners[7, 1]
    corners[8] = corners[8, :1]
    points = np.concatenate([random.normal(size=(300, 3)), 20 * random.normal(size=(50, 3))])
    triangle, weights, distance = TriangleTree(corners).closest(points)
    assert distance == pytest.approx(brute_force(points, corners), abs=1e-9)
    assert weights.min() >= -1e-12
    assert weights.sum(1) == pytest.approx(np.ones(len(points)))
    foot = (weights[..., None] * corners[triangle]).sum(1)
    assert np.linalg.norm(foot - points, axis=1) == pytest.approx(distance, abs=1e-12)


def test_points_of_the_surface_find_themselves():
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(60, 3, generator=generator).double()
    faces = torch.arange(60).reshape(20, 3)[:, [0, 1, 2, 2]]
    mesh = Mesh(Topology(60, faces, torch.zeros(0, 2), 0 * faces), vertices)
    middle = vertices[mesh.topology.triangles].mean(1)
    found, distance = closest_points(middle, mesh)
    assert torch.equal(found.triangles, torch.arange(20))
    assert distance.max() < 1e-12
    assert torch.allclose(interpolate(found, mesh.topology.triangles, vertices), middle)
