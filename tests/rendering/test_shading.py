"""Pictures of meshes: colours arrive unchanged, framing holds, light comes from above."""

import pytest
import torch

from planted_sphere import sphere
from topohead.rendering.shading import (
    linear_to_srgb,
    portrait_camera,
    render_mesh,
    sample_texture,
    srgb_to_linear,
)
from topohead.rendering.uv import bake


def test_srgb_is_undone_exactly() -> None:
    codes = torch.linspace(0, 1, 257)
    assert torch.allclose(linear_to_srgb(srgb_to_linear(codes)), codes, atol=2e-6)
    assert srgb_to_linear(torch.tensor(0.5)).item() == pytest.approx(0.2140, abs=1e-4)


def test_texels_are_read_at_their_centres() -> None:
    texture = torch.rand(8, 8, 3)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    uv = torch.stack([(columns + 0.5) / 8, 1 - (rows + 0.5) / 8], -1)
    assert torch.allclose(sample_texture(texture, uv), texture, atol=1e-5)


def test_framing_keeps_every_vertex_in_the_picture() -> None:
    _, vertices = sphere()
    for yaw, pitch, size in [(0.0, 0.0, (90, 120)), (1.1, 0.4, (160, 90)), (-2.0, -0.3, (64, 64))]:
        world_to_camera, intrinsics = portrait_camera(vertices + 0.3, size, yaw, pitch)
        local = (vertices.double() + 0.3) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
        pixels = local @ intrinsics.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        assert (pixels > 0).all() and (pixels < torch.tensor(size)).all()
        assert torch.det(world_to_camera[:3, :3]).item() == pytest.approx(1)
        extent = (pixels.amax(0) - pixels.amin(0)) / torch.tensor(size)
        assert extent.max() > 0.75  # and fills it


def test_left_of_the_person_is_right_in_the_picture() -> None:
    topology, vertices = sphere()
    red_left = torch.zeros(len(vertices), 3)
    red_left[vertices[:, 0] > 0, 0] = 1.0
    world_to_camera, intrinsics = portrait_camera(vertices, (64, 64))
    picture = render_mesh(
        vertices, topology, red_left, world_to_camera, intrinsics, (64, 64), shading="colors"
    )
    assert picture[32, 48, 0] > 0.5 and picture[32, 16, 0] < 0.05


def test_a_texture_shows_its_own_colours() -> None:
    topology, vertices = sphere()
    colors = 0.5 + 0.4 * torch.sin(vertices * 40)
    texture = bake(colors, topology, 512)
    world_to_camera, intrinsics = portrait_camera(vertices, (96, 96))
    seen = render_mesh(
        vertices, topology, texture, world_to_camera, intrinsics, (96, 96), shading="texture"
    )
    # the middle of the picture shows (0, 0, radius)
    expected = 0.5 + 0.4 * torch.sin(torch.tensor([0.0, 0.0, 0.1]) * 40)
    assert torch.allclose(seen[47:49, 47:49].mean((0, 1)), expected, atol=0.02)
    assert torch.allclose(seen[0, 0], torch.ones(3))


def test_clay_is_lit_from_above_and_antialiased() -> None:
    topology, vertices = sphere()
    world_to_camera, intrinsics = portrait_camera(vertices, (96, 96))
    clay = render_mesh(vertices, topology, None, world_to_camera, intrinsics, (96, 96))
    assert clay[25, 48].mean() > clay[70, 48].mean() + 0.1
    edge = clay[48, :12, 0]
    assert ((edge > clay[48, 14, 0]) & (edge < 1)).any()


def test_wrong_appearance_is_refused() -> None:
    topology, vertices = sphere()
    world_to_camera, intrinsics = portrait_camera(vertices, (16, 16))
    with pytest.raises(ValueError, match="needs a texture"):
        render_mesh(
            vertices, topology, None, world_to_camera, intrinsics, (16, 16), shading="texture"
        )
    with pytest.raises(ValueError, match="3 vertex colours"):
        render_mesh(
            vertices,
            topology,
            torch.zeros(3, 3),
            world_to_camera,
            intrinsics,
            (16, 16),
            shading="colors",
        )
