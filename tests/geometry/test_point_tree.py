"""Nearest points and triangles agree with plain searches, on both devices."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from topohead.geometry.correspondence import TriangleTree
from topohead.geometry.meshes import vertex_fan
from topohead.geometry.point_tree import PointTree
from topohead.geometry.triangle_feet import nearest_triangles, triangle_distances


def expected(points, queries, count, reach):
    """Distances and indices by SciPy's tree; −1 where there are fewer."""
    wanted: Any = range(1, count + 1)
    distance, index = KDTree(points.numpy()).query(
        queries.numpy(), wanted, distance_upper_bound=reach
    )
    return distance, np.where(np.isfinite(distance), index, -1)


def clouds(width, points, queries):
    random = torch.Generator().manual_seed(width)
    here = 0.1 * torch.randn(points, width, generator=random, dtype=torch.float64)
    return here + 5, 0.12 * torch.randn(queries, width, generator=random, dtype=torch.float64) + 5


@pytest.mark.parametrize("reach", [float("inf"), 0.05])
@pytest.mark.parametrize(
    ("width", "points", "queries", "count"), [(3, 200, 40, 6), (6, 90, 33, 1), (3, 5, 3, 6)]
)
def test_sorted_blocks_find_what_a_tree_finds(width, points, queries, count, reach):
    """The kernel, on the device or interpreted."""
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs Triton")
    from topohead.geometry.point_tree_triton import SortedPoints

    device = "cuda" if torch.cuda.is_available() else "cpu"
    here, asked = clouds(width, points, queries)
    found = SortedPoints(here.to(device)).nearest(asked.to(device), count, reach)
    assert np.array_equal(found.cpu().numpy(), expected(here, asked, count, reach)[1])
    # what is not finite is not there
    nowhere = here.new_full((7, width), torch.inf)
    more, lost = torch.cat([here, nowhere]), torch.cat([asked, nowhere])
    lost[-3:] = torch.nan
    again = SortedPoints(more.to(device)).nearest(lost.to(device), count, reach).cpu()
    assert torch.equal(again[:-7], found.cpu()) and bool((again[-7:] == -1).all())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("width", "count", "reach"), [(3, 6, 0.01), (3, 9, 1e9), (6, 1, 1e9)])
def test_point_tree_is_exact(device, width, count, reach):
    here, asked = clouds(width, 20_000, 3_000)
    distance, index = PointTree(here.to(device)).query(asked.to(device), count, reach)
    best, rows = expected(here, asked, count, reach)
    assert np.allclose(distance.cpu().numpy(), best, rtol=0, atol=1e-7)
    assert np.mean(index.cpu().numpy() != np.maximum(rows, 0)) < 1e-4


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_is_not_finite_is_not_there(device):
    here, asked = clouds(3, 9000, 400)
    hidden, lost = torch.arange(9000) % 3 > 0, torch.arange(400) % 5 == 0
    here[hidden], asked[lost] = torch.inf, torch.nan
    distance, index = PointTree(here.to(device)).query(asked.to(device), 6, 0.02)
    best, rows = expected(here[~hidden], asked[~lost], 6, 0.02)
    assert bool(distance[lost.to(device)].isinf().all())
    assert np.allclose(distance.cpu().numpy()[~lost], best, rtol=0, atol=1e-7)
    assert np.array_equal(index.cpu().numpy()[~lost][rows >= 0], 3 * rows[rows >= 0])


def test_triangles_around_the_nearest_vertices_hold_the_foot():
    """Of places around a wavy grid, against the exact search."""
    u, v = torch.meshgrid(*[torch.linspace(0, 1, 30).double()] * 2, indexing="ij")
    vertices = torch.stack([u, v, 0.1 * torch.sin(9 * u) * torch.cos(7 * v)], -1).reshape(-1, 3)
    corner = torch.arange(900).view(30, 30)
    a, b, c, d = (
        t.flatten() for t in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:])
    )
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    counts = triangles[:, 0] % 30 > 5
    random = torch.Generator().manual_seed(0)
    places = torch.rand(500, 3, generator=random, dtype=torch.float64) * torch.tensor([1, 1, 0.1])
    triangle, distance = nearest_triangles(
        places, vertices, triangles, vertex_fan(triangles, 900), counts
    )
    exact = torch.from_numpy(
        TriangleTree(vertices[triangles[counts]].numpy()).closest(places.numpy())[2]
    )
    assert bool(counts[triangle].all())
    assert float((distance - exact).min()) > -1e-12
    assert float(((distance - exact) < 1e-12).double().mean()) > 0.98
    own = triangle_distances(places, vertices[triangles[triangle]])
    assert torch.allclose(own, distance)
