"""Displacement and normal maps: closed forms, exact decoding, and the way back to a mesh."""

import math

import pytest
import torch

from planted_sphere import sphere
from topohead.core import Mesh, Topology
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.tessellation import tessellate
from topohead.rendering.displacement import (
    displaced_mesh,
    displacement_map,
    normal_map,
    tangent_frames,
)
from topohead.rendering.mesh import interpolate, rasterize_uv
from topohead.rendering.uv import texel_map

SIDE = 0.1
DEPTH, WAVE = 0.001, 0.025


def plane(cells: int, flip: bool = False) -> tuple[Topology, torch.Tensor]:
    """A square of quads in x and y, z up, its UVs the same square; `flip` mirrors u."""
    axis = torch.linspace(0, 1, cells + 1)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    points = SIDE * torch.stack([u, v, torch.zeros_like(u)], -1).reshape(-1, 3)
    index = torch.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    faces = torch.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], -1)
    faces = faces.reshape(-1, 4)
    uv = torch.stack([1 - u if flip else u, v], -1).reshape(-1, 2)
    return Topology(len(points), faces, uv, faces), points.double()


@pytest.mark.parametrize("flip", [False, True])
def test_normals_of_waves_are_the_closed_forms(flip: bool) -> None:
    """h = a cos kx + a sin ky: n ∝ (a k sin kx, −a k cos ky, 1), x turned over with u."""
    topology, points = plane(8, flip)
    fine = tessellate(topology, 4)
    x, y, _ = fine.carry(points).unbind(1)
    k, size = 2 * math.pi / WAVE, 128
    heights = DEPTH * (torch.cos(k * x) + torch.sin(k * y))
    found = 2 * normal_map(fine, topology, points, heights, size) - 1
    column = (torch.arange(size).double() + 0.5) / size * SIDE
    x = (SIDE - column if flip else column)[None].expand(size, size)
    y = (SIDE - column)[:, None].expand(size, size)  # row 0 is the top, v = 1
    side = -1 if flip else 1
    slope = torch.stack(
        [
            side * DEPTH * k * torch.sin(k * x),
            -DEPTH * k * torch.cos(k * y),
            torch.ones(size, size),
        ],
        -1,
    )
    expected = torch.nn.functional.normalize(slope, dim=-1).float()
    inner = slice(4, -4)  # the border's own normals see one side only
    assert (found - expected)[inner, inner].abs().max() < 0.02
    assert found[..., 0].abs().max() > 0.2


def test_decoding_gives_the_displaced_normals_back() -> None:
    """x T + y B + z N with MikkTSpace's interpolated frame, which is never made orthogonal."""
    topology, points = sphere(12, 24)
    points = points.double()
    fine = tessellate(topology, 2)
    generator = torch.Generator().manual_seed(0)
    heights = 5e-4 * torch.randn(fine.finer.vertex_count, generator=generator).double()
    size = 256
    code = 2 * normal_map(fine, topology, points, heights, size) - 1
    raster = rasterize_uv(topology.uv, topology.triangle_uv, (size, size))
    tangents, sign = tangent_frames(topology, points)
    corners = torch.arange(tangents.shape[0] * 3).reshape(-1, 3)
    n = interpolate(vertex_normals(points, topology.triangles).float(), topology.triangles, raster)
    t = interpolate(tangents.reshape(-1, 3), corners, raster)
    b = sign[raster.triangle.clamp(min=0).long()][..., None] * torch.linalg.cross(n, t)
    decoded = code[..., :1] * t + code[..., 1:2] * b + code[..., 2:] * n
    drawn = rasterize_uv(fine.finer.uv, fine.finer.triangle_uv, (size, size))
    displaced = fine.displaced(points, heights)
    wanted = vertex_normals(displaced, fine.finer.triangles).float()
    wanted = interpolate(wanted, fine.finer.triangles, drawn)
    inside = raster.covered & drawn.covered
    cosine = torch.nn.functional.cosine_similarity(decoded, wanted, dim=-1)[inside]
    assert cosine.min() > 1 - 1e-5
    assert code[..., :2][inside].abs().mean() > 0.05


def test_tangents_follow_u_and_lie_in_the_surface() -> None:
    topology, points = sphere(24, 48)
    tangents, sign = tangent_frames(topology, points)
    corners = points[topology.triangles]
    radial = torch.nn.functional.normalize(corners, dim=-1)
    east = torch.stack([corners[..., 2], torch.zeros(corners.shape[:2]), -corners[..., 0]], -1)
    east = torch.nn.functional.normalize(east, dim=-1)
    assert (tangents * radial).sum(-1).abs().max() < 0.03
    assert ((tangents * east).sum(-1) > 0.99).all()
    assert (sign == 1).all()


def test_a_map_brings_the_finer_mesh_back() -> None:
    topology, points = sphere(12, 24)
    fine = tessellate(topology, 2)
    place = fine.carry(points)
    heights = 1e-3 * torch.sin(60 * place[:, 1]) * torch.cos(50 * place[:, 0])
    drawn = displacement_map(fine, heights, 512)
    found = displaced_mesh(Mesh(topology, points), drawn, 2)
    expected = fine.displaced(points.double(), heights.double()).float()
    assert (found.vertices - expected).norm(dim=1).max() < 5e-5
    assert (found.vertices - place).norm(dim=1).max() > 9e-4
    outside = torch.from_numpy(~texel_map(fine.finer, 512).inside)
    dilated = outside & (drawn != 0)
    assert dilated.any(), "borders reach beyond the islands"
