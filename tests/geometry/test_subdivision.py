import math

import pytest
import torch

from topohead.core import SurfacePoints, Topology
from topohead.geometry.correspondence import interpolate
from topohead.geometry.subdivision import catmull_clark, refine

CUBE_FACES = torch.tensor(
    [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
)
CUBE = torch.tensor(
    [[x, y, z] for z in (-1.0, 1.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
)


def topology_of(faces, count, **parts) -> Topology:
    uv = torch.rand(count, 2, generator=torch.Generator().manual_seed(1))
    return Topology(count, faces, uv, faces, **parts)


def test_cube_has_the_known_positions():
    finer, matrix = catmull_clark(topology_of(CUBE_FACES, 8))
    vertices = refine(matrix, CUBE)
    assert (finer.vertex_count, len(finer.faces), len(finer.edges)) == (26, 24, 48)
    assert torch.allclose(vertices[:8], CUBE * 5 / 9)  # (Q + 2R) / 3 with Q = 1/3, R = 2/3
    assert torch.allclose(vertices[8:20].norm(dim=1), torch.tensor(0.75 * math.sqrt(2)))
    assert torch.allclose(vertices[20:].norm(dim=1), torch.ones(6))


def test_limit_of_the_cube_is_closed_and_smooth():
    topology, vertices = topology_of(CUBE_FACES, 8), CUBE
    for _ in range(4):
        topology, matrix = catmull_clark(topology)
        vertices = refine(matrix, vertices)
    radius = vertices.norm(dim=1)
    assert radius.max() / radius.min() < 1.2
    count = topology.vertex_count
    assert count - len(topology.edges) + len(topology.faces) == 2


def mixed_sheet() -> tuple[Topology, torch.Tensor]:
    """Two quads and two triangles in the plane, symmetric in x."""
    points = torch.tensor(
        [[-2, 0, 0], [0, 0, 0], [2, 0, 0], [-2, 1, 0], [0, 1, 0], [2, 1, 0], [0, 2, 0.0]]
    )
    faces = torch.tensor([[0, 1, 4, 3], [1, 2, 5, 4], [3, 4, 6, 6], [5, 6, 4, 4]])
    return topology_of(faces, 7, mirror=torch.tensor([2, 1, 0, 5, 4, 3, 6])), points


def test_affine_shapes_stay_planar_and_rows_sum_to_one():
    topology, points = mixed_sheet()
    finer, matrix = catmull_clark(topology)
    assert torch.allclose(matrix.to_dense().sum(1), torch.ones(finer.vertex_count))
    assert torch.allclose(refine(matrix, points)[:, 2], torch.zeros(finer.vertex_count))
    assert len(finer.faces) == 14
    assert finer.is_quad.all()


def test_boundary_is_the_cubic_spline_of_the_rim():
    topology, points = mixed_sheet()
    _, matrix = catmull_clark(topology)
    moved = refine(matrix, points)
    assert torch.allclose(moved[1], 0.75 * points[1] + 0.125 * (points[0] + points[2]))
    edge = topology.edges.tolist().index([0, 1])
    assert torch.allclose(moved[7 + edge], (points[0] + points[1]) / 2)


def test_mirror_is_carried_and_reflects():
    topology, points = mixed_sheet()
    finer, matrix = catmull_clark(topology)
    moved = refine(matrix, points)
    assert torch.equal(finer.mirror[finer.mirror], torch.arange(finer.vertex_count))
    assert torch.allclose(moved[finer.mirror], moved * torch.tensor([-1.0, 1, 1]), atol=1e-6)


def test_uvs_are_split_linearly_and_seams_stay():
    topology = topology_of(CUBE_FACES, 8)
    uv = torch.rand(24, 2, generator=torch.Generator().manual_seed(2))
    topology = Topology(8, CUBE_FACES, uv, torch.arange(24).reshape(6, 4))  # six islands
    finer, _ = catmull_clark(topology)
    assert torch.equal(finer.uv[:24], uv)
    assert len(finer.uv) == 6 * 9

    def area(rows, table):
        a, b, c = (table[rows[:, k]] for k in range(3))
        return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum() / 2

    for face in range(6):
        coarse = area(topology.triangle_uv[2 * face : 2 * face + 2], uv)
        fine = area(finer.triangle_uv[8 * face : 8 * face + 8], finer.uv)
        assert fine == pytest.approx(coarse.item(), abs=1e-6)


def test_regions_take_what_lies_within():
    topology, _ = mixed_sheet()
    topology = Topology(7, topology.faces, topology.uv, topology.face_uv,
                        regions={"left": torch.tensor([0, 1, 3, 4])})  # fmt: skip
    finer, _ = catmull_clark(topology)
    assert len(finer.regions["left"]) == 9


def test_landmarks_keep_their_place():
    """In a sheet where subdivision is linear (UVs), carried landmarks do not move."""
    topology, _ = mixed_sheet()
    generator = torch.Generator().manual_seed(3)
    count = 200
    weights = torch.rand(count, 3, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    triangles = torch.randint(len(topology.triangles), (count,), generator=generator)
    square = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [1, 2.0]])
    topology = Topology(7, topology.faces, square, topology.faces,
                        landmarks={"some": SurfacePoints(triangles, weights)})  # fmt: skip
    finer, _ = catmull_clark(topology)
    before = interpolate(topology.landmarks["some"], topology.triangle_uv, topology.uv)
    after = interpolate(finer.landmarks["some"], finer.triangle_uv, finer.uv)
    assert finer.landmarks["some"].barycentrics.min() > -1e-6
    assert torch.allclose(before, after, atol=1e-6)


def test_refine_takes_batches():
    topology, points = mixed_sheet()
    _, matrix = catmull_clark(topology)
    batch = torch.stack([points, 2 * points])[None]
    assert torch.allclose(refine(matrix, batch)[0, 1], 2 * refine(matrix, points))
