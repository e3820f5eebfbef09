"""Colours and relief of a planted scan arrive at the right texels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from planted_scan import Planted, colors_at, planted, surface_of
from topohead.core import Mesh, Topology
from topohead.core.scans import Scan
from topohead.geometry.correspondence import closest_points
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.subdivision import catmull_clark, refine
from topohead.rendering.uv import bake, texel_map
from topohead.solvers.kernels.nearest_faces import nearest_facing
from topohead.solvers.scan_texture import bake_color, bake_heights, is_finer, look_up

SIZE = 256


@pytest.fixture(scope="module")
def person() -> Planted:
    return planted(seed=5)


@pytest.fixture(scope="module")
def mesh(person: Planted) -> Mesh:
    return surface_of(person)


def expected(person: Planted, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The true colour of every texel, and which texels the skin covers."""
    local = (mesh.vertices - person.pose[:3, 3]) @ person.pose[:3, :3]
    colors = bake(colors_at(local), mesh.topology, SIZE, dilation=False).numpy()
    skin = mesh.topology.region_mask("skin") & ~mesh.topology.region_mask("mouth_interior")
    inside = bake(skin.float()[:, None], mesh.topology, SIZE, dilation=False)[..., 0].numpy()
    return colors, inside > 0.999


def test_nearest_triangle_is_the_nearest() -> None:
    random = np.random.default_rng(0)
    corners = random.normal(size=(40, 3, 3))
    points = random.normal(size=(300, 3))
    triangles = torch.arange(120).reshape(40, 3)
    faces = torch.cat([triangles, triangles[:, 2:]], 1)
    topology = Topology(120, faces, torch.zeros(0, 2), torch.zeros_like(faces))
    soup = Mesh(topology, torch.from_numpy(corners.reshape(-1, 3)))
    exact, far = closest_points(torch.from_numpy(points), soup)
    everything = np.tile(np.arange(40), (300, 1))
    up = np.tile([0.0, 0.0, 1.0], (300, 1)), np.tile([0.0, 0.0, 1.0], (40, 1))
    triangle, weights, distance = nearest_facing(points, up[0], everything, corners, up[1], 0.5)
    assert np.allclose(distance, far.numpy(), atol=1e-9)
    assert (triangle == exact.triangles.numpy()).all()
    assert np.allclose(weights, exact.barycentrics.numpy(), atol=1e-6)
    away = nearest_facing(points, -up[0], everything, corners, up[1], 0.5)[0]
    assert (away == -1).all()


def test_colours_of_points(person: Planted, mesh: Mesh) -> None:
    color, seen = bake_color(person.scan, None, mesh, SIZE)
    wanted, skin = expected(person, mesh)
    assert float(np.abs(color.numpy() - wanted)[skin].mean()) < 2e-3
    assert float(np.quantile(np.abs(color.numpy() - wanted)[skin], 0.99)) < 0.02
    assert 0.5 < seen < 1  # the mouth's inside is nowhere in the scan


def test_colours_of_a_picture(person: Planted, mesh: Mesh) -> None:
    """The scan's UVs are the head's own, so its picture must come back."""
    picture = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(
        picture.permute(2, 0, 1)[None], (SIZE, SIZE), mode="bicubic"
    )[0].permute(1, 2, 0).clamp(0, 1)  # fmt: skip
    topology = mesh.topology
    scan = Scan(mesh.vertices, topology.triangles, None, None, topology.uv, topology.triangle_uv)
    color, seen = bake_color(scan, picture, mesh, SIZE)
    inside = texel_map(topology, SIZE).inside
    error = (color - picture).abs().amax(-1).numpy()[inside]
    assert seen > 0.99
    assert float(np.quantile(error, 0.95)) < 0.01


def test_a_cloud_colours_as_its_surface_does(person: Planted, mesh: Mesh) -> None:
    cloud = replace(person.scan, triangles=person.scan.triangles[:0])
    color, _ = bake_color(cloud, None, mesh, SIZE)
    wanted, skin = expected(person, mesh)
    assert float(np.abs(color.numpy() - wanted)[skin].mean()) < 0.02


def test_what_a_hole_hides_is_completed(person: Planted, mesh: Mesh) -> None:
    """A cheek without scan takes the other cheek's colours; nothing comes from the hole's rim."""
    grey = replace(person.scan, colors=torch.full_like(person.scan.points, 0.25))
    local = (grey.points - person.pose[:3, 3]) @ person.pose[:3, :3]
    side = local[(local[:, 0] - 0.035).abs() + (local[:, 1] + 0.04).abs() < 0.01]
    cheek = (local - side[side[:, 2].argmax()]).norm(dim=1) < 0.02
    holed = replace(grey, triangles=grey.triangles[~cheek[grey.triangles].any(1)])
    color, less = bake_color(holed, None, mesh, SIZE)
    _, whole = bake_color(grey, None, mesh, SIZE)
    assert less < whole - 0.005
    _, skin = expected(person, mesh)
    assert float((color - 0.25).abs().amax(-1).numpy()[skin].max()) < 0.02


def test_relief_is_measured_along_the_normal(person: Planted, mesh: Mesh) -> None:
    """A finer scan, pushed out by a wave, gives the wave back as heights."""
    fine, matrix = catmull_clark(mesh.topology)
    points = refine(matrix, mesh.vertices)
    flat = Scan(points, fine.triangles)
    assert is_finer(flat, mesh) and not is_finer(person.scan, mesh)
    normals = vertex_normals(points.double(), fine.triangles).float()
    local = (points - person.pose[:3, 3]) @ person.pose[:3, :3]
    wave = 4e-4 * torch.sin(local[:, 1] * (2 * np.pi / 0.02))
    pushed = replace(flat, points=points + wave[:, None] * normals)
    heights = bake_heights(mesh, SIZE, look_up(pushed, mesh, SIZE))
    base = bake_heights(mesh, SIZE, look_up(flat, mesh, SIZE))
    place = (mesh.vertices - person.pose[:3, 3]) @ person.pose[:3, :3]
    truth = 4e-4 * torch.sin(place[:, 1] * (2 * np.pi / 0.02))
    face = mesh.topology.region_mask("face") & ~mesh.topology.region_mask("lips", "eyelids", "nose")
    wanted = bake(torch.stack([truth, face.float()], 1), mesh.topology, SIZE, dilation=False)
    skin = wanted[..., 1] > 0.999
    error = (heights - base - wanted[..., 0])[skin].abs()
    assert float(error.median()) < 4e-5
    assert float(base[skin].abs().median()) < 5e-5


def test_relief_ignores_eyes_and_what_faces_away(person: Planted, mesh: Mesh) -> None:
    topology = mesh.topology
    scan = Scan(mesh.vertices, topology.triangles)
    heights = bake_heights(mesh, SIZE, look_up(scan, mesh, SIZE))
    eyes = bake(topology.region_mask("eyes").float()[:, None], topology, SIZE, dilation=False)
    assert float(heights[eyes[..., 0] > 0].abs().max()) == 0
    inside_out = Scan(mesh.vertices, topology.triangles.flip(1))
    assert float(look_up(inside_out, mesh, SIZE).seen.mean()) < 0.05
