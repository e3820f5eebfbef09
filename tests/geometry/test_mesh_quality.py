"""Faults of meshes are found where they were planted and nowhere else."""

import pytest
import torch

from topohead.core import Topology
from topohead.geometry.mesh_quality import flipped, quad_angles, self_intersections


def sheet(count: int, height: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A flat square of side 1 in steps, as vertices and quads; facing up."""
    row, column = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
    step = 1 / (count - 1)
    vertices = torch.stack([column * step, torch.full((count, count), height), row * step], -1)
    a = (row[:-1, :-1] * count + column[:-1, :-1]).flatten()
    return vertices.reshape(-1, 3).float(), torch.stack([a, a + count, a + count + 1, a + 1], 1)


def topology(faces: torch.Tensor, count: int) -> Topology:
    return Topology(count, faces, torch.zeros(1, 2), torch.zeros_like(faces))


def test_a_square_has_right_angles_and_a_sheared_one_has_not() -> None:
    vertices, faces = sheet(4)
    square = quad_angles(vertices, topology(faces, len(vertices)))
    assert torch.allclose(square, torch.tensor(90.0).double())
    vertices[:, 0] += vertices[:, 2]  # by 45°
    sheared = quad_angles(vertices, topology(faces, len(vertices)))
    assert float(sheared.min()) == pytest.approx(45)
    assert float(sheared.max()) == pytest.approx(135)


def test_a_vertex_pulled_over_its_neighbours_flips_faces() -> None:
    vertices, faces = sheet(5)
    triangles = topology(faces, len(vertices)).triangles
    assert not flipped(vertices, vertices, triangles).any()
    pulled = vertices.clone()
    pulled[12] += torch.tensor([0.6, 0, 0])
    wrong = flipped(pulled, vertices, triangles)
    assert wrong.any()
    assert not wrong[~(triangles == 12).any(1)].any()


def test_sheets_through_each_other_are_found_and_touching_ones_are_not() -> None:
    (low, faces), (high, _) = sheet(9), sheet(9, 0.05)
    count = len(low)
    both = topology(torch.cat([faces, faces + count]), 2 * count)
    apart = torch.cat([low, high])
    assert not self_intersections(apart, both.triangles).any()
    crossed = apart.clone()
    crossed[count:, 1] += 0.2 * (crossed[count:, 0] - 0.53)  # tilted through the lower sheet
    hit = self_intersections(crossed, both.triangles)
    assert hit.any()
    # they meet where the upper one is at height zero: x = 0.28
    place = crossed[both.triangles[hit]].mean(1)[:, 0]
    assert float((place - 0.28).abs().max()) < 2 / 8
    assert hit[: len(both.triangles) // 2].any() and hit[len(both.triangles) // 2 :].any()


def test_a_large_triangle_among_small_ones_is_found() -> None:
    low, faces = sheet(17)
    tall = torch.tensor([[0.47, -3.0, 0.4], [0.47, -3.0, 0.6], [0.47, 4.0, 0.5]])
    count = len(low)
    triangles = torch.cat([topology(faces, count).triangles, torch.tensor([[0, 1, 2]]) + count])
    hit = self_intersections(torch.cat([low, tall]), triangles)
    assert bool(hit[-1])
    assert 0 < int(hit[:-1].sum()) < 30
