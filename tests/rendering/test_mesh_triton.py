"""The Triton rasteriser against the CPU's: on the GPU, or interpreted where there is none."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from topohead.core import Cameras
from topohead.rendering import depth_triton, mesh, mesh_triton
from topohead.solvers.kernels import photometric

# the interpreter computes lanes that are masked out afterwards
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IDENTITY = torch.eye(4, dtype=torch.float64)
ID_SHARE = 1e-5
"""Share of pixels that may see another triangle: a corner's projection may round differently."""


def globe(rings: int, radius: float = 0.1, center: tuple[float, float, float] = (0.0, 0.0, 0.9)):
    """Closed bumpy sphere of 4 rings² triangles, outward, with UVs; seam and poles are doubled."""
    v, u = torch.meshgrid(
        torch.linspace(0, 1, rings + 1, dtype=torch.float64),
        torch.linspace(0, 1, 2 * rings + 1, dtype=torch.float64),
        indexing="ij",
    )
    latitude, longitude = v * math.pi, (u % 1.0) * 2 * math.pi
    reach = radius * (1 + 0.1 * (5 * latitude).sin() * (3 * longitude).sin() * latitude.sin())
    vertices = torch.stack(
        [
            reach * latitude.sin() * longitude.cos(),
            reach * latitude.cos(),
            -reach * latitude.sin() * longitude.sin(),
        ],
        -1,
    ).reshape(-1, 3) + torch.tensor(center, dtype=torch.float64)
    row = 2 * rings + 1
    a = (torch.arange(rings)[:, None] * row + torch.arange(2 * rings)).reshape(-1)
    b, c, d = a + row, a + row + 1, a + 1
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    return vertices, triangles, torch.stack([u, 1 - v], -1).reshape(-1, 2).float()


def rig(count: int, width: int, height: int, focal: float) -> Cameras:
    """Cameras on an arc of 200° around (0, 0, 0.9); every other picture is a little smaller."""
    poses = []
    for angle in torch.linspace(-1.75, 1.75, count, dtype=torch.float64):
        cosine, sine = angle.cos().item(), angle.sin().item()
        turn = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).double()
        pose = IDENTITY.clone()
        pose[:3, :3] = turn
        pose[:3, 3] = torch.tensor([0, 0, 0.9]).double() - turn @ torch.tensor([0, 0, 0.9]).double()
        poses.append(pose)
    matrix = torch.tensor(
        [[focal, 0.5, width / 2 + 1.3], [0, focal * 1.1, height / 2 - 0.7], [0, 0, 1]]
    ).double()
    sizes = torch.tensor([[width - 5 * (i % 2), height - 3 * (i % 2)] for i in range(count)])
    names = tuple(f"view{i}" for i in range(count))
    return Cameras(names, torch.stack(poses), matrix.expand(count, 3, 3).clone(), sizes)


def rasterized(places, triangles, size, cull=True, near=1e-3) -> mesh.Raster:
    """The Triton kernels' raster of homogeneous corners, brought back to the CPU."""
    parts = mesh_triton.rasterize_homogeneous(
        places.to(DEVICE), triangles.int().to(DEVICE), size, cull, near, mesh.CLIP_PIXELS
    )
    return mesh.Raster(*(part.cpu() for part in parts))


def homogeneous(vertices: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(u z, v z, z) of vertices that are in camera axes."""
    return vertices @ matrix.T


def assert_same(ours: mesh.Raster, expected: mesh.Raster, share: float = 0.0) -> None:
    """Equal ids but for a share of the pixels; elsewhere depth to 1e-6, barycentrics to 1e-5."""
    ours = mesh.Raster(ours.triangle.cpu(), ours.barycentrics.cpu(), ours.depth.cpu())
    same = ours.triangle == expected.triangle
    assert expected.covered.sum() > 0.05 * expected.covered.numel()
    assert (~same).sum() <= share * same.numel()
    torch.testing.assert_close(ours.depth[same], expected.depth[same], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        ours.barycentrics[same], expected.barycentrics[same], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("cull", [True, False])
@pytest.mark.parametrize("focal", [60.0, 300.0])
def test_closed_mesh_equals_the_cpu(cull, focal):
    vertices, triangles, _ = globe(7)
    matrix = torch.tensor([[focal, 2.0, 31.2], [0, 1.1 * focal, 24.4], [0, 0, 1]]).double()
    expected = mesh.rasterize(vertices, triangles, IDENTITY, matrix, (61, 47), cull)
    assert_same(rasterized(homogeneous(vertices, matrix), triangles, (61, 47), cull), expected)


def test_triangle_soup_with_equal_depths_equals_the_cpu():
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(60, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [1.4, 1.0, 1.0], dtype=torch.float64
    ) + torch.tensor([-0.7, -0.5, 0.6], dtype=torch.float64)
    triangles = torch.randint(0, 60, (30, 3), generator=generator)
    # the same triangles again: equal depths, which the first must win
    triangles = torch.cat([triangles, triangles])
    matrix = torch.tensor([[50.0, 2.0, 30], [0, 55, 22], [0, 0, 1]]).double()
    expected = mesh.rasterize(vertices, triangles, IDENTITY, matrix, (61, 45), cull=False)
    ours = rasterized(homogeneous(vertices, matrix), triangles, (61, 45), cull=False)
    assert_same(ours, expected)
    assert ours.triangle.max() < 30


def test_clipping_at_the_near_plane_and_the_guard_band_equals_the_cpu():
    # a floor from behind the camera to afar, and a wall that reaches far out of the picture
    vertices = torch.tensor(
        [
            *([-50.0, 1, -5], [50, 1, -5], [50, 1, 100], [-50, 1, 100]),
            *([-9e4, -2, 40], [9e4, -2, 40], [0, 1, 40]),
        ],
        dtype=torch.float64,
    )
    triangles = torch.tensor([[0, 1, 2], [4, 5, 6], [0, 2, 3]])
    matrix = torch.tensor([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]).double()
    expected = mesh.rasterize(vertices, triangles, IDENTITY, matrix, (64, 48), cull=False)
    ours = rasterized(homogeneous(vertices, matrix), triangles, (64, 48), cull=False)
    assert expected.triangle.unique().tolist() == [-1, 0, 1, 2]
    assert_same(ours, expected)


def jittered_grid(size: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A grid over the picture, half of whose corners lie exactly on pixel centres."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(size, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    grid[1:-1, 1:-1] += (torch.rand(size - 2, size - 2, 2, generator=generator) - 0.5) * 0.2
    on_centers = torch.rand(size, size, generator=generator) < 0.5
    grid[on_centers] = ((grid[on_centers] * scale - 0.5).round() + 0.5) / scale
    corners = torch.cat([grid.reshape(-1, 2) * scale, torch.ones(size * size, 1).double()], 1)
    a = (torch.arange(size - 1)[:, None] * size + torch.arange(size - 1)).reshape(-1)
    b, c, d = a + size, a + size + 1, a + 1
    return corners, torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])


def coverage(corners: torch.Tensor, triangles: torch.Tensor, side: int) -> torch.Tensor:
    """How many triangles [T 3] cover every pixel: each is drawn by itself, as a view."""
    count = len(triangles)
    alone = corners.float().expand(count, -1, -1).clone()
    hidden = torch.ones(count, len(corners), dtype=torch.bool)
    hidden.scatter_(1, triangles, False)
    alone[..., 2][hidden] = 0  # nearer than `near`: its triangles are left out
    keys = mesh_triton.draw(
        alone.to(DEVICE),
        triangles.int().to(DEVICE),
        torch.arange(count, dtype=torch.int32, device=DEVICE),
        torch.full((count, 2), side, dtype=torch.int32, device=DEVICE),
        (side, side),
        True,
        1e-3,
    )
    return (keys > 0).sum(0).cpu()


@pytest.mark.parametrize(("cells", "scale"), [(6, 4), (3, 12)])  # walked by one thread; tiled
def test_shared_edges_leave_no_crack_and_no_double_cover(cells, scale):
    corners, triangles = jittered_grid(cells + 1, scale)
    count = coverage(corners, triangles, cells * scale)
    assert (count[1:-1, 1:-1] == 1).all() and count.max() == 1


def test_a_closed_convex_mesh_covers_every_pixel_once():
    generator = torch.Generator().manual_seed(1)
    vertices, triangles, _ = globe(4, radius=1.0, center=(0.0, 0.0, 0.0))
    vertices = torch.nn.functional.normalize(vertices, dim=1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    vertices = vertices @ (turn * turn.det().sign()).T
    corners = vertices * torch.tensor([11.0, 11, 0.1]) + torch.tensor([14.0, 14, 1])
    count = coverage(corners, triangles, 28)
    assert count.max() == 1 and count.sum() > 250
    for row in count:  # convex: every row is one run
        assert row.diff().abs().sum() in (0, 2)


def test_depth_stack_equals_the_cpu():
    vertices, triangles, _ = globe(6)
    cameras = rig(3, 40, 30, 110.0)
    expected = mesh.depth_stack(vertices, triangles, cameras)
    assert expected.shape == (3, 30, 40) and torch.isinf(expected[1, :, 35:]).all()
    ours = mesh_triton.depth_stack(
        vertices.to(DEVICE),
        triangles.int().to(DEVICE),
        (cameras.intrinsics @ cameras.world_to_camera[:, :3]).to(DEVICE),
        cameras.sizes.int().to(DEVICE),
        (40, 30),
    ).cpu()
    assert torch.isfinite(expected).float().mean() > 0.2
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


def test_every_call_of_the_interface_reaches_the_kernels(monkeypatch):
    vertices, triangles, uv = globe(4)
    cameras = rig(2, 24, 18, 70.0)
    camera = (cameras.world_to_camera[1], cameras.intrinsics[1], (20, 17))

    def calls(device: str) -> list[torch.Tensor]:
        raster = mesh.rasterize(vertices.to(device), triangles.to(device), *camera)
        chart = mesh.rasterize_uv(uv.to(device), triangles.to(device), (16, 8))
        place = mesh.interpolate(uv.to(device), triangles.to(device), chart)
        maps = mesh.depth_maps(
            vertices.float().to(device), triangles.to(device), cameras, cameras.sizes // 2
        )
        return [raster.triangle, raster.barycentrics, raster.depth, chart.triangle, place, *maps]

    expected = calls("cpu")
    monkeypatch.setattr(mesh, "_on_cuda", lambda tensor: True)
    for ours, theirs in zip(calls(DEVICE), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=1e-6)


def test_nothing_to_draw_is_an_empty_picture():
    raster = rasterized(torch.zeros(3, 3).double(), torch.zeros(0, 3), (5, 4))
    assert not raster.covered.any() and torch.isinf(raster.depth).all()
    behind = rasterized(-torch.rand(3, 3).double(), torch.tensor([[0, 1, 2]]), (5, 4), cull=False)
    assert not behind.covered.any()


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (20, torch.float64)])
def test_interpolation_equals_the_cpu(channels, dtype):
    vertices, triangles, uv = globe(4)
    values = torch.rand(len(vertices), channels, dtype=dtype)
    raster = mesh.rasterize_uv(uv, triangles, (24, 16))
    ours = mesh_triton.interpolate_corners(
        values.to(DEVICE),
        triangles.int().to(DEVICE),
        raster.triangle.to(DEVICE),
        raster.barycentrics.to(DEVICE),
    ).cpu()
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, mesh.interpolate(values, triangles, raster))


@pytest.mark.parametrize("reach", [1, 2])
def test_usable_depth_equals_the_cpu(reach):
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(3, 17, 22, generator=generator) * 0.05 + 1
    depth[0, 4:7, 3:5] = math.inf
    depth[1, :, 18:] = math.inf
    depth[2] = math.inf
    tolerance = torch.tensor([0.04, 0.03, math.nan])
    ours = depth_triton.usable_depth(depth.to(DEVICE), reach, tolerance.to(DEVICE)).cpu()
    for view in range(3):
        expected = photometric.usable_depth(depth[view].numpy(), reach, tolerance[view].numpy()[()])
        np.testing.assert_array_equal(ours[view].numpy(), expected)
    assert (ours[:2] > 0).any() and (ours[:2] < 0).any()


def test_mean_depth_leaves_out_what_is_empty():
    depth = torch.full((2, 4, 5), math.inf)
    depth[0, 1, 1:4] = torch.tensor([1.0, 2, 6])
    mean = depth_triton.mean_depth(depth.to(DEVICE)).cpu()
    assert mean[0] == 3 and mean[1].isnan()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("rings", "size"), [(96, (4096, 3000)), (612, (512, 375))]
)  # 37 k and 1.5 M triangles
def test_pictures_at_real_sizes_equal_the_cpu(rings, size):
    vertices, triangles, _ = globe(rings)
    focal = 3.5 * size[1]
    matrix = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]).double()
    expected = mesh.rasterize(vertices, triangles, IDENTITY, matrix, size)
    on_gpu = (vertices.cuda(), triangles.cuda(), IDENTITY, matrix, size)
    ours, again = mesh.rasterize(*on_gpu), mesh.rasterize(*on_gpu)
    assert ours.triangle.is_cuda
    assert_same(ours, expected, ID_SHARE)
    assert torch.equal(ours.triangle, again.triangle) and torch.equal(ours.depth, again.depth)


@pytest.mark.gpu
def test_uv_map_at_real_size_equals_the_cpu():
    _, triangles, uv = globe(96)
    expected = mesh.rasterize_uv(uv, triangles, (4096, 4096))
    ours = mesh.rasterize_uv(uv.cuda(), triangles.cuda(), (4096, 4096))
    assert ours.covered.all()
    assert_same(ours, expected, ID_SHARE)
    place = mesh.interpolate(uv.cuda(), triangles.cuda(), ours)
    column = (torch.arange(4096, device="cuda") + 0.5) / 4096
    torch.testing.assert_close(place[..., 0], column.expand(4096, 4096), atol=1e-5, rtol=0)


@pytest.mark.gpu
def test_the_largest_uv_map_is_full():
    _, triangles, uv = globe(96)
    raster = mesh.rasterize_uv(uv.cuda(), triangles.cuda(), (16384, 16384))
    assert raster.covered.all() and (raster.depth == 1).all()


@pytest.mark.gpu
def test_a_rig_at_real_size_equals_the_cpu_inside_a_graph():
    vertices, triangles, _ = globe(96)
    cameras = rig(24, 512, 375, 1300.0)
    expected = mesh.depth_stack(vertices, triangles, cameras)
    maps = mesh.depth_maps(vertices.cuda(), triangles.cuda(), cameras)
    assert [tuple(part.shape) for part in maps] == [(h, w) for w, h in cameras.sizes.tolist()]
    arguments = (
        vertices.cuda(),
        triangles.int().cuda(),
        (cameras.intrinsics @ cameras.world_to_camera[:, :3]).cuda(),
        cameras.sizes.int().cuda(),
        (512, 375),
    )
    mesh_triton.depth_stack(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stack = mesh_triton.depth_stack(*arguments)
    for _ in range(2):
        stack.zero_()
        graph.replay()
        far = (stack.cpu() - expected).abs() > 1e-5 * expected
        assert (stack.cpu().isinf() != expected.isinf()).sum() <= ID_SHARE * expected.numel()
        assert far.sum() <= ID_SHARE * expected.numel()
    assert torch.equal(maps[0], stack[0, :375, :512])


@pytest.mark.gpu
def test_usable_depth_at_real_size_equals_the_cpu():
    vertices, triangles, _ = globe(96)
    depth = mesh.depth_stack(vertices.cuda(), triangles.cuda(), rig(24, 512, 375, 1300.0))
    tolerance = 3 * depth_triton.mean_depth(depth) / 1300 + 0.001
    ours = depth_triton.usable_depth(depth, 2, tolerance).cpu()
    for view in range(24):
        picture, step = depth[view].cpu().numpy(), tolerance[view].cpu().numpy()[()]
        np.testing.assert_array_equal(
            ours[view].numpy(), photometric.usable_depth(picture, 2, step)
        )
    assert (ours > 0).float().mean() > 0.1
