import math

import pytest
import torch

from topohead.core import Topology
from topohead.geometry import alignment
from topohead.geometry.meshes import (
    boundary_edges,
    connected_parts,
    cotangent_laplacian,
    face_normals,
    neighbour_rings,
    outward_normals,
    triangle_areas,
    uniform_laplacian,
    vertex_normals,
)
from topohead.geometry.subdivision import catmull_clark, refine


def sphere(levels: int = 4) -> tuple[Topology, torch.Tensor]:
    """A cube subdivided and pushed onto the unit sphere."""
    vertices = torch.tensor(
        [[x, y, z] for z in (-1.0, 1.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    ).double()
    faces = torch.tensor(
        [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
    )
    topology = Topology(8, faces, torch.zeros(0, 2), 0 * faces)
    for _ in range(levels):
        topology, matrix = catmull_clark(topology)
        vertices = torch.nn.functional.normalize(refine(matrix, vertices), dim=1)
    return topology, vertices


def test_normals_and_area_of_a_sphere():
    topology, vertices = sphere()
    normals = vertex_normals(vertices, topology.triangles)
    assert (normals * vertices).sum(1).min() > 0.9995
    assert triangle_areas(vertices, topology.triangles).sum() == pytest.approx(
        4 * math.pi, rel=5e-3
    )
    batch = torch.stack([vertices, 2 * vertices])
    assert torch.allclose(vertex_normals(batch, topology.triangles)[1], normals)
    assert torch.allclose(
        face_normals(vertices, topology.triangles).norm(dim=1), torch.ones(1).double()
    )


def test_outward_normals_do_not_depend_on_winding():
    topology, vertices = sphere(3)
    for triangles in (topology.triangles, topology.triangles.flip(1)):
        for part in (triangles, triangles[: len(triangles) // 3]):  # a cap is enough
            normals = outward_normals(vertices, part)
            used = part.unique()
            assert (normals * vertices).sum(1)[used].min() > 0.5


def test_cotangent_laplacian_is_twice_the_mean_curvature_normal():
    """Σ over the sphere of (L v) · v = −(Dirichlet energy) = −2 area for the embedding."""
    topology, vertices = sphere()
    laplacian = cotangent_laplacian(vertices, topology.triangles)
    area = triangle_areas(vertices, topology.triangles).sum()
    assert -(laplacian @ vertices * vertices).sum() == pytest.approx(2 * area.item(), rel=1e-9)
    assert (laplacian @ torch.ones_like(vertices)).abs().max() < 1e-12


def test_uniform_laplacian_kills_constants_and_points_inward():
    topology, vertices = sphere(2)
    laplacian = uniform_laplacian(topology).double()
    assert (laplacian @ torch.ones_like(vertices)).abs().max() < 1e-6
    assert ((laplacian @ vertices) * vertices).sum(1).max() < 0


def test_boundary_parts_and_rings():
    faces = torch.tensor([[0, 1, 4, 3], [1, 2, 5, 4], [6, 7, 8, 8]])
    topology = Topology(9, faces, torch.zeros(0, 2), 0 * faces)
    assert len(boundary_edges(topology)) == 9
    assert connected_parts(topology).tolist() == [0] * 6 + [1] * 3
    start = torch.zeros(9, dtype=torch.bool)
    start[0] = True
    assert neighbour_rings(topology, start, 2).tolist() == [0, 1, 2, 1, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("scale", [False, True])
def test_alignment_recovers_a_planted_motion(scale):
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    rotation *= torch.det(rotation).sign()
    factor = 1.7 if scale else 1.0
    target = factor * source @ rotation.T + torch.tensor([0.1, -2.0, 3.0])
    target[0] += 100.0  # an outlier without weight
    weights = torch.ones(20, dtype=torch.float64)
    weights[0] = 0
    found = alignment.rigid(source, target, weights, scale=scale)
    assert torch.allclose(found[:3, :3], factor * rotation)
    assert torch.allclose(alignment.apply(found, source)[1:], target[1:])


def test_alignment_never_reflects():
    source = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = alignment.rigid(source, source * torch.tensor([-1.0, 1, 1]))
    assert torch.det(found[:3, :3]) == pytest.approx(1.0)
