import math

import numpy as np
import pytest
import torch

from reference.mesh_ref import rasterize_ref
from topohead.core import Cameras, InputError
from topohead.rendering import mesh, mesh_cpu

IDENTITY = torch.eye(4, dtype=torch.float64)


def intrinsics(focal: float, width: int, height: int, skew: float = 0.0) -> torch.Tensor:
    return torch.tensor(
        [[focal, skew, width / 2 + 1.3], [0, focal * 1.1, height / 2 - 0.7], [0, 0, 1]],
        dtype=torch.float64,
    )


def sphere(rings: int, radius: float, center: tuple[float, float, float]):
    """A closed UV sphere, counter-clockwise from outside."""
    latitude = torch.linspace(0, math.pi, rings + 1, dtype=torch.float64)[1:-1]
    longitude = torch.arange(2 * rings, dtype=torch.float64) * math.pi / rings
    ring = torch.stack(
        [
            latitude.sin()[:, None] * longitude.cos(),
            latitude.cos()[:, None].expand(-1, len(longitude)),
            -latitude.sin()[:, None] * longitude.sin(),
        ],
        -1,
    ).reshape(-1, 3)
    poles = torch.tensor([[0.0, 1, 0], [0, -1, 0]], dtype=torch.float64)
    vertices = torch.cat([ring, poles]) * radius + torch.tensor(center, dtype=torch.float64)
    n, north = len(longitude), len(ring)
    triangles = []
    for j in range(n):
        k = (j + 1) % n
        triangles.append((north, j, k))
        triangles.append((north + 1, len(ring) - n + k, len(ring) - n + j))
        for i in range(rings - 2):
            a, b, c, d = i * n + j, (i + 1) * n + j, (i + 1) * n + k, i * n + k
            triangles += [(a, b, c), (a, c, d)]
    return vertices, torch.tensor(triangles)


def test_sphere_winding_is_outward():
    vertices, triangles = sphere(6, 1.0, (0, 0, 0))
    a, b, c = vertices[triangles].unbind(1)
    assert ((torch.cross(b - a, c - a, dim=1) * a).sum(1) > 0).all()


@pytest.mark.parametrize("cull", [True, False])
def test_matches_ray_casting(cull):
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(60, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [1.4, 1.0, 1.0], dtype=torch.float64
    ) + torch.tensor([-0.7, -0.5, 0.6], dtype=torch.float64)
    triangles = torch.randint(0, 60, (40, 3), generator=generator)
    camera = intrinsics(50, 67, 45, skew=2.0)
    raster = mesh.rasterize(vertices, triangles, IDENTITY, camera, (67, 45), cull=cull)
    index, weights, depth, margin = rasterize_ref(
        vertices.numpy(), triangles.numpy(), IDENTITY.numpy(), camera.numpy(), (67, 45), cull
    )
    # corners are rounded to 1/4096 pixel: decisions that close to a tie may differ
    sure = margin > 2e-3
    assert sure.mean() > 0.8 and (index >= 0).mean() > 0.3
    assert (raster.triangle.numpy()[sure] == index[sure]).all()
    seen = sure & (index >= 0)
    np.testing.assert_allclose(raster.barycentrics.numpy()[seen], weights[seen], atol=2e-6)
    np.testing.assert_allclose(raster.depth.numpy()[seen], depth[seen], rtol=1e-6)
    assert torch.isinf(raster.depth[~raster.covered]).all()


def test_depth_of_a_tilted_plane_in_closed_form():
    # z = 2 + 0.5 x: along a ray (x, y) z = 2 / (1 - 0.5 x)
    corners = torch.tensor([[-9.0, -9], [9, -9], [9, 9], [-9, 9]], dtype=torch.float64)
    depth = 2 + 0.05 * corners[:, :1]
    vertices = torch.cat([corners, depth], 1)
    triangles = torch.tensor([[0, 2, 1], [0, 3, 2]])
    camera = intrinsics(30, 40, 30)
    raster = mesh.rasterize(vertices, triangles, IDENTITY, camera, (40, 30))
    x = (torch.arange(40, dtype=torch.float64) + 0.5 - camera[0, 2]) / camera[0, 0]
    expected = (2 / (1 - 0.05 * x)).expand(30, 40)
    torch.testing.assert_close(raster.depth.double(), expected, rtol=1e-6, atol=0)
    position = mesh.interpolate(vertices, triangles, raster)
    torch.testing.assert_close(position[..., 2], expected, rtol=1e-5, atol=0)


def test_silhouette_of_a_sphere_in_closed_form():
    distance, radius, focal = 3.0, 1.0, 200.0
    vertices, triangles = sphere(90, radius, (0, 0, distance))
    camera = torch.tensor([[focal, 0, 100], [0, focal, 100], [0, 0, 1]], dtype=torch.float64)
    raster = mesh.rasterize(vertices, triangles, IDENTITY, camera, (200, 200))
    silhouette = focal * radius / math.sqrt(distance**2 - radius**2)
    assert raster.covered.sum().item() == pytest.approx(math.pi * silhouette**2, rel=2e-3)
    assert raster.depth.min().item() == pytest.approx(distance - radius, abs=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1 / 4096, 7.77])
def test_shared_edges_leave_no_crack_and_no_double_cover(scale):
    """A jittered fan-and-grid that fills the picture: each pixel is drawn exactly once."""
    generator = torch.Generator().manual_seed(0)
    size = 23
    grid = torch.stack(
        torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"), -1
    ).double()
    inner = grid[1:-1, 1:-1]
    inner += (torch.rand(inner.shape, generator=generator) - 0.5).double() * 0.2
    # half the corners sit exactly on pixel centres, where the top-left rule decides
    on_centers = torch.rand(grid.shape[:2], generator=generator) < 0.5
    grid[on_centers] = (grid[on_centers] * 4 - 0.5).round() / 4 + 0.125
    uv = torch.cat([grid.reshape(-1, 2) * 4, torch.ones(size * size, 1)], 1).float()
    a = (torch.arange(size - 1)[:, None] * size + torch.arange(size - 1)).reshape(-1)
    triangles = torch.cat(
        [torch.stack([a, a + size, a + size + 1], 1), torch.stack([a, a + size + 1, a + 1], 1)]
    )
    a, b, c = uv[triangles, :2].unbind(1)
    turn = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (turn < 0).all()  # a valid mesh: no triangle lies over another
    count = torch.zeros(80, 80, dtype=torch.long)
    projected = (uv * torch.tensor([1.0, 1.0, scale])).numpy()
    for triangle in triangles:
        one = triangle[None].numpy().astype(np.int32)
        _, drawn = mesh_cpu.rasterize_projected(projected, one, 80, 80, True, 1e-6)
        count += torch.from_numpy(drawn >= 0)
    assert (count[4:-4, 4:-4] == 1).all()


def test_top_left_rule_on_exact_borders():
    # two triangles of a square whose corners and diagonal lie on pixel centres
    projected = np.array([[0.5, 0.5, 1], [4.5, 0.5, 1], [4.5, 4.5, 1], [0.5, 4.5, 1]], np.float32)
    cover = np.zeros((6, 6), int)
    for corners in ([0, 3, 2], [0, 2, 1]):
        triangle = np.array([corners], np.int32)
        _, drawn = mesh_cpu.rasterize_projected(projected, triangle, 6, 6, True, 1e-6)
        cover += drawn >= 0
    expected = np.zeros((6, 6), int)
    expected[:4, :4] = 1  # left and top borders belong to the square, right and bottom do not
    np.testing.assert_array_equal(cover, expected)


def test_no_holes_in_a_dense_closed_mesh():
    vertices, triangles = sphere(64, 0.1, (0.01, -0.02, 0.9))
    camera = intrinsics(900, 256, 192)
    raster = mesh.rasterize(vertices, triangles, IDENTITY, camera, (256, 192))
    covered = raster.covered.numpy()
    for row in covered:  # a convex shape: every row is one run
        assert np.abs(np.diff(row.astype(int))).sum() in (0, 2)


def test_triangles_through_the_near_plane_are_clipped():
    # a floor that runs from behind the camera to the far distance, y down
    vertices = torch.tensor(
        [[-50.0, 1, -5], [50, 1, -5], [50, 1, 100], [-50, 1, 100]], dtype=torch.float64
    )
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    camera = torch.tensor([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]], dtype=torch.float64)
    raster = mesh.rasterize(vertices, triangles, IDENTITY, camera, (64, 48), cull=False)
    y = torch.arange(48, dtype=torch.float64) + 0.5 - 24
    expected = (40 / y)[:, None].expand(48, 64)
    below_horizon = (y > 0.5)[:, None].expand(48, 64)
    assert raster.covered[below_horizon].all() and not raster.covered[:24].any()
    torch.testing.assert_close(
        raster.depth[below_horizon].double(), expected[below_horizon], rtol=1e-5, atol=0
    )


def test_culling_shows_only_front_sides():
    vertices, triangles = sphere(12, 0.5, (0, 0, 2))
    camera = intrinsics(80, 64, 64)
    front = mesh.rasterize(vertices, triangles, IDENTITY, camera, (64, 64))
    back = mesh.rasterize(vertices, triangles.flip(1), IDENTITY, camera, (64, 64))
    both = mesh.rasterize(vertices, triangles, IDENTITY, camera, (64, 64), cull=False)
    torch.testing.assert_close(front.depth, both.depth)
    assert (back.depth[back.covered] > front.depth[back.covered]).all()


def test_uv_raster_has_v_one_at_the_top():
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    raster = mesh.rasterize_uv(uv, triangles, (16, 8))
    place = mesh.interpolate(uv, triangles, raster)
    x = (torch.arange(16) + 0.5) / 16
    y = 1 - (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(place[..., 0], x.expand(8, 16), atol=1e-6, rtol=0)
    torch.testing.assert_close(place[..., 1], y[:, None].expand(8, 16), atol=1e-6, rtol=0)


def test_depth_maps_equal_single_rasters():
    vertices, triangles = sphere(16, 0.2, (0, 0, 1))
    turned = IDENTITY.clone()
    turned[0, 3] = 0.1
    cameras = Cameras(
        ("a", "b"),
        torch.stack([IDENTITY, turned]),
        torch.stack([intrinsics(80, 64, 48), intrinsics(70, 40, 50)]),
        torch.tensor([[64, 48], [40, 50]]),
    )
    for index, depth in enumerate(mesh.depth_maps(vertices, triangles, cameras)):
        raster = mesh.rasterize(
            vertices,
            triangles,
            cameras.world_to_camera[index],
            cameras.intrinsics[index],
            cameras.size(index),
        )
        assert (torch.isinf(depth) == torch.isinf(raster.depth)).all()
        seen = raster.covered
        torch.testing.assert_close(depth[seen], raster.depth[seen], rtol=1e-4, atol=0)
    halves = mesh.depth_maps(vertices, triangles, cameras, cameras.sizes // 2)
    assert [tuple(depth.shape) for depth in halves] == [(24, 32), (25, 20)]


def test_result_does_not_depend_on_threads():
    import numba

    vertices, triangles = sphere(40, 0.3, (0, 0, 1))
    camera = intrinsics(150, 128, 96)
    many = mesh.rasterize(vertices, triangles, IDENTITY, camera, (128, 96))
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = mesh.rasterize(vertices, triangles, IDENTITY, camera, (128, 96))
    finally:
        numba.set_num_threads(before)
    assert torch.equal(many.triangle, one.triangle) and torch.equal(many.depth, one.depth)


def test_another_device_is_refused_in_one_line():
    vertices = torch.zeros(3, 3, device="meta")
    with pytest.raises(InputError, match="on the CPU or a CUDA device, got meta"):
        mesh.rasterize(vertices, torch.tensor([[0, 1, 2]]), IDENTITY, IDENTITY[:3, :3], (8, 8))
