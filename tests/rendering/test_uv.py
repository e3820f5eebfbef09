"""Texel maps: agree with the rasteriser, bake exactly, mirror, dilate and find seams."""

import numpy as np
import pytest
import torch

from planted_sphere import sphere, symmetric_sphere
from topohead.core import Topology
from topohead.rendering.mesh import rasterize_uv
from topohead.rendering.shading import sample_texture
from topohead.rendering.uv import (
    DILATION,
    bake,
    find_seams,
    mirrored_uv,
    texel_map,
)


def square(margin: float = 0.25) -> Topology:
    """One quad in the middle of the texture."""
    low, high = margin, 1 - margin
    uv = torch.tensor([[low, low], [high, low], [high, high], [low, high]])
    quad = torch.tensor([[0, 1, 2, 3]])
    return Topology(4, quad, uv, quad)


def test_texels_know_the_triangles_that_the_rasteriser_finds() -> None:
    topology, _ = sphere()
    texels = texel_map(topology, 128)
    raster = rasterize_uv(topology.uv.float(), topology.triangle_uv, (128, 128))
    assert np.array_equal(texels.triangle, raster.triangle.numpy())


def test_a_map_is_made_once_and_not_confused_with_another() -> None:
    topology, _ = sphere()
    assert texel_map(topology, 64) is texel_map(topology, 64)
    assert texel_map(topology, 64) is not texel_map(topology, 32)
    other = square()
    assert texel_map(other, 64).topology is other


def test_baking_uv_gives_texel_centres_back() -> None:
    topology = square()
    baked = bake(topology.uv, topology, 64)
    inside = torch.from_numpy(texel_map(topology, 64).inside)
    assert int(inside.sum()) == 32 * 32
    rows, columns = torch.nonzero(inside).T
    expected = torch.stack([(columns + 0.5) / 64, 1 - (rows + 0.5) / 64], -1)
    assert torch.allclose(baked[inside], expected, atol=1e-6)


def test_dilation_copies_the_nearest_border() -> None:
    topology = square()
    size = 256
    baked = bake(topology.uv, topology, size)
    # straight above the island: the colour of its top row; beyond the reach: nothing
    column = 128
    assert torch.equal(baked[63, column], baked[64, column])
    assert torch.equal(baked[64 - DILATION, column], baked[64, column])
    assert torch.equal(baked[64 - DILATION - 2, column], torch.zeros(2))


def test_a_face_finds_its_mirror_whatever_the_diagonal() -> None:
    topology, vertices = symmetric_sphere()
    places = mirrored_uv(topology)
    assert not places.isnan().any()
    corners = vertices[topology.triangles]
    positions = bake(vertices, topology, 256)
    # each corner's mirrored place shows the mirrored point
    found = sample_texture(positions, places.clamp(0.002, 0.998))
    assert torch.allclose(found, corners * torch.tensor([-1.0, 1, 1]), atol=2e-3)


def test_triangles_that_repeat_other_vertices_still_find_their_mirror() -> None:
    faces = torch.tensor([[0, 1, 2, 2], [4, 3, 5, 5]])
    uv = torch.tensor([[0.0, 0], [0.4, 0], [0.2, 0.4], [1.0, 0], [0.6, 0], [0.8, 0.4]])
    mirror = torch.tensor([3, 4, 5, 0, 1, 2])
    topology = Topology(6, faces, uv, faces, mirror=mirror)
    expected = uv[mirror[topology.triangles]]
    assert torch.equal(mirrored_uv(topology), expected)


def test_without_a_mirror_nothing_is_mirrored() -> None:
    assert mirrored_uv(square()).isnan().all()


def test_the_sphere_has_one_seam_and_it_points_inwards() -> None:
    topology, _ = sphere(rows=24)
    seams = find_seams(topology)
    assert len(seams.places) == 24
    assert torch.allclose(seams.places[..., 0].flatten(1).sort(1).values[:, 0], torch.zeros(24))
    # both sides run the same way, v from v, and inwards is +u at u = 0, −u at u = 1
    assert torch.allclose(seams.places[:, 0, :, 1], seams.places[:, 1, :, 1])
    sides = seams.places[:, :, 0, 0]
    assert torch.allclose(seams.inward[..., 0], 1 - 2 * sides, atol=1e-5)


@pytest.mark.parametrize("size", [100, 257])
def test_odd_sizes_bake_as_well(size: int) -> None:
    topology, vertices = sphere()
    baked = bake(vertices, topology, size)
    inside = torch.from_numpy(texel_map(topology, size).inside)
    assert torch.allclose(baked[inside].norm(dim=-1), torch.tensor(0.1), atol=1e-3)
