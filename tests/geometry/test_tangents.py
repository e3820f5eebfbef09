"""Tangents against a surface whose ∂p/∂u is known in closed form."""

import numpy as np
import torch

from planted_run import ellipsoid_topology
from topohead.core import Topology
from topohead.geometry.morphs import split_seams, unit_normals
from topohead.geometry.tangents import split_tangents


def cylinder(rings: int = 24, sectors: int = 64) -> tuple[Topology, torch.Tensor]:
    """Unit radius, axis y; u runs once around, v up."""
    topology = ellipsoid_topology(rings, sectors)
    height = torch.linspace(-1, 1, rings).double()
    angle = torch.arange(sectors).double() / sectors * 2 * torch.pi
    y, a = torch.meshgrid(height, angle, indexing="ij")
    return topology, torch.stack([a.sin(), y, a.cos()], -1).reshape(-1, 3)


def test_tangents_run_around_a_cylinder() -> None:
    topology, vertices = cylinder()
    split = split_seams(topology)
    found = split_tangents(topology, vertices, unit_normals(vertices, topology), split)
    x, _, z = vertices.numpy()[split.source_vertex].T
    around = np.stack([z, 0 * x, -x], 1)
    interior = np.abs(vertices.numpy()[split.source_vertex, 1]) < 0.95
    # the seam's copies know one side only: half a sector, 3 degrees
    assert (found[interior, :3] * around[interior]).sum(1).min() > np.cos(0.06)
    assert np.allclose(np.linalg.norm(found[:, :3], axis=1), 1, atol=1e-6)
    assert (found[:, 3] == 1).all(), "normal × tangent points up, where v grows"


def test_mirrored_uvs_turn_the_bitangent() -> None:
    topology, vertices = cylinder()
    mirrored = Topology(
        topology.vertex_count, topology.faces, topology.uv * torch.tensor([-1.0, 1.0]),
        topology.face_uv,
    )  # fmt: skip
    normals = unit_normals(vertices, topology)
    there = split_tangents(mirrored, vertices, normals, split_seams(mirrored))
    here = split_tangents(topology, vertices, normals, split_seams(topology))
    assert (there[:, 3] == -1).all()
    assert np.allclose(there[:, :3], -here[:, :3], atol=1e-6)


def test_vertices_without_uv_extent_get_a_finite_one() -> None:
    topology, vertices = cylinder(4, 8)
    flat = Topology(
        topology.vertex_count, topology.faces, torch.zeros(1, 2), torch.zeros_like(topology.face_uv)
    )
    normals = unit_normals(vertices, topology)
    found = split_tangents(flat, vertices, normals, split_seams(flat))
    assert np.allclose(np.linalg.norm(found[:, :3], axis=1), 1, atol=1e-6)
    assert np.abs((found[:, :3] * normals).sum(1)).max() < 1e-6
