"""The stage's renderer against closed forms and against the camera model of the package."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from topohead.core import Distortion, Rig, Topology
from topohead.core.cameras import Cameras
from topohead.geometry.cameras import look_at, project_through_lens
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.stage_cpu import bend_brown
from topohead.synthesis.lights import Lamp, Lighting, gather, preset
from topohead.synthesis.props import Props
from topohead.synthesis.render import Materials, bend, light_head, render_view
from topohead.synthesis.skin import SkinMaps

LENS = Distortion("brown", (-0.2, 0.15, -0.02, 0.0, 6e-4, -7e-4))


def _sphere(radius: float = 0.1, rings: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and triangles of a ball, counter-clockwise from outside."""
    theta = torch.linspace(0, math.pi, rings)[:, None]
    phi = torch.linspace(0, 2 * math.pi, 2 * rings + 1)[:-1]
    points = torch.stack(
        [theta.sin() * phi.sin(), theta.cos() + 0 * phi, theta.sin() * phi.cos()], -1
    )
    i, j = torch.meshgrid(torch.arange(rings - 1), torch.arange(2 * rings), indexing="ij")
    a, b = i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)
    c, d = a + 2 * rings, b + 2 * rings
    quads = [torch.stack([a, c, d], -1), torch.stack([a, d, b], -1)]
    return radius * points.reshape(-1, 3), torch.cat([q.reshape(-1, 3) for q in quads])


def test_a_ball_in_an_even_dome_receives_pi() -> None:
    vertices, triangles = _sphere()
    normals = torch.nn.functional.normalize(vertices, dim=1)
    even = Lighting((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    light = gather(even, vertices, normals, (vertices, triangles), dome_samples=200)
    # nothing hides a convex body's dome: no shadow may come from its own roundness
    assert light.open_sky.min() > 0.97
    assert torch.allclose(light.irradiance, torch.tensor(math.pi), rtol=0.04)


def test_a_lamp_lights_by_its_solid_angle_and_only_its_side() -> None:
    vertices, triangles = _sphere()
    normals = torch.nn.functional.normalize(vertices, dim=1)
    lamp = Lamp((0.0, 0.0, 2.0), 0.1, (10.0, 20.0, 30.0))
    lighting = Lighting((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (lamp,))
    light = gather(lighting, vertices, normals, (vertices, triangles))
    front = int(vertices[:, 2].argmax())
    expected = math.pi * 0.1**2 / 1.9**2 * torch.tensor([10.0, 20.0, 30.0])
    assert torch.allclose(light.irradiance[front], expected, rtol=0.03)
    assert light.irradiance[vertices[:, 2] < -0.02].abs().max() == 0
    assert light.lamp_seen[front, 0] == pytest.approx(1.0)


def test_a_shelf_shades_what_is_below_it() -> None:
    vertices, triangles = _sphere(0.05)
    normals = torch.nn.functional.normalize(vertices, dim=1)
    shelf = torch.tensor([[-1, 0.1, -1], [1, 0.1, -1], [1, 0.1, 1], [-1, 0.1, 1]]).float()
    corners = torch.tensor([[0, 1, 2], [0, 2, 3]]) + len(vertices)
    blockers = (torch.cat([vertices, 0.3 * shelf * torch.tensor([1, 1 / 0.3, 1])]),
                torch.cat([triangles, corners]))  # fmt: skip
    light = gather(preset("dome"), vertices, normals, blockers)
    top, bottom = int(vertices[:, 1].argmax()), int(vertices[:, 1].argmin())
    assert light.open_sky[top] < 0.35
    assert light.open_sky[bottom] > 0.95


def test_bend_agrees_with_the_packages_lens() -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(200, 3, generator=generator).double() * 0.1
    pose = look_at(
        torch.tensor([0.3, 0.2, 1.1]).double(),
        torch.zeros(3).double(),
        torch.tensor([0.0, 1.0, 0.0]).double(),
    )
    intrinsics = torch.tensor([[900.0, 0, 260], [0, 905, 190], [0, 0, 1]]).double()
    cameras = Cameras(("a",), pose[None], intrinsics[None], torch.tensor([[512, 384]]))
    bent = bend(points, pose, LENS)
    pixels = bent @ intrinsics.T
    expected, depth = project_through_lens(Rig(cameras, (LENS,)), points)
    assert torch.allclose(pixels[:, :2] / pixels[:, 2:], expected[0], atol=1e-8)
    assert torch.allclose(bent[:, 2], depth[0])
    local = points @ pose[:3, :3].T + pose[:3, 3]
    straight = bend_brown(local.numpy(), np.zeros(6))
    assert np.allclose(straight, local.numpy())


def _dotted_plane(cells: int = 8, steps: int = 64) -> tuple[Topology, torch.Tensor, SkinMaps]:
    """A plane of 0.2 m at z = 0 with soft bright dots at the corners between its 8 × 8 cells."""
    axis = torch.linspace(0, 1, steps + 1)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    uv = torch.stack([u, v], -1).reshape(-1, 2)
    vertices = torch.cat([(uv - 0.5) * 0.2, torch.zeros(len(uv), 1)], 1)
    i, j = torch.meshgrid(torch.arange(steps), torch.arange(steps), indexing="ij")
    a = (i * (steps + 1) + j).reshape(-1)
    faces = torch.stack([a, a + 1, a + steps + 2, a + steps + 1], 1)
    topology = Topology(len(vertices), faces, uv, faces)
    size = 512
    place = (torch.arange(size) + 0.5) * cells / size
    wave = torch.exp(-(((place - place.round().clamp(1, cells - 1)) / 0.06) ** 2))
    board = 0.05 + 0.9 * wave[:, None] * wave
    maps = SkinMaps(
        board[..., None].expand(-1, -1, 3).clone(),
        torch.full((size, size), 0.5),
        torch.zeros(size, size),
        torch.ones(size, size, dtype=torch.bool),
        torch.full((size, size), 0.028),
    )
    return topology, vertices, maps


def _centroid(picture: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Centre of light above the surroundings within 7 pixels, half-integer pixel centres."""
    column, row = near.floor().long().tolist()
    y, x = torch.meshgrid(torch.arange(row - 7, row + 8), torch.arange(column - 7, column + 8),
                          indexing="ij")  # fmt: skip
    window = picture[y, x].double()
    weight = (window - window.min() - 0.1 * (window.max() - window.min())).clamp(min=0)
    return torch.stack([(weight * (x + 0.5)).sum(), (weight * (y + 0.5)).sum()]) / weight.sum()


def test_dots_appear_where_the_exact_camera_says() -> None:
    topology, vertices, maps = _dotted_plane()
    nothing = Props(
        torch.zeros(1, 3), torch.zeros(0, 3, dtype=torch.long), torch.zeros(1, 3), torch.zeros(1)
    )
    lit = light_head(topology, vertices, (vertices, topology.triangles), nothing, preset("dome"))
    eye = torch.tensor([0.25, 0.15, 1.0]).double()
    pose = look_at(eye, torch.zeros(3).double(), torch.tensor([0.0, 1.0, 0.0]).double())
    intrinsics = torch.tensor([[1300.0, 0, 247], [0, 1302, 201], [0, 0, 1]]).double()
    image, coverage = render_view(
        lit, Materials.of(maps), pose, intrinsics, LENS, (512, 384), supersampling=4, gloss=0.0
    )
    axis = (torch.arange(1, 8) / 8 - 0.5) * 0.2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    corners = torch.stack([x, y, 0 * x], -1).reshape(-1, 3).double()
    cameras = Cameras(("a",), pose[None], intrinsics[None], torch.tensor([[512, 384]]))
    expected = project_through_lens(Rig(cameras, (LENS,)), corners)[0][0]
    found = torch.stack([_centroid(image.mean(-1), center) for center in expected])
    assert (found - expected).norm(dim=1).max() < 0.02
    assert coverage.max() == pytest.approx(1.0) and coverage[0, 0] == 0


def test_bumps_change_shading_and_gloss_adds_light() -> None:
    topology, vertices, maps = _dotted_plane()
    nothing = Props(
        torch.zeros(1, 3), torch.zeros(0, 3, dtype=torch.long), torch.zeros(1, 3), torch.zeros(1)
    )
    lit = light_head(topology, vertices, (vertices, topology.triangles), nothing, preset("key"))
    pose = look_at(
        torch.tensor([0.0, 0.0, 1.0]).double(),
        torch.zeros(3).double(),
        torch.tensor([0.0, 1.0, 0.0]).double(),
    )
    intrinsics = torch.tensor([[600.0, 0, 64], [0, 600, 64], [0, 0, 1]]).double()
    grey = torch.full_like(maps.albedo, 0.4)
    ramp = torch.linspace(1, 0, 512)[:, None].expand(512, 512) * 0.02  # rises with v: faces down

    def mean(height: torch.Tensor, gloss: float) -> float:
        materials = Materials.of(replace(maps, albedo=grey, height=height))
        view = render_view(lit, materials, pose, intrinsics, Distortion(), (128, 128), 2, gloss)
        return float(view[0][44:84, 44:84].mean())

    flat, tilted = mean(maps.height, 0.0), mean(ramp, 0.0)
    # the key lamp is above: a slope that faces down must darken, by about the lost cosine
    lamp = torch.nn.functional.normalize(torch.tensor([0.75, 0.85, 1.25]), dim=0)
    normal = torch.nn.functional.normalize(torch.tensor([0.0, -0.1, 1.0]), dim=0)
    expected = float((lamp @ normal) / lamp[2])
    assert tilted / flat == pytest.approx(expected, abs=0.03)
    assert mean(maps.height, 1.0) > flat + 0.005
    assert torch.allclose(vertex_normals(vertices, topology.triangles)[:, 2], torch.tensor(1.0))
