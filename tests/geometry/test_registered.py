"""Measures of registered heads are zero for the truth and tell what is planted, and only that."""

import math

import pytest
import torch

from topohead.core import Mesh, Topology
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.registered import (
    coverage,
    error_parts,
    f_score,
    round_trip,
    tangential,
)


def sphere(bands: int = 40) -> Mesh:
    """A unit sphere without its poles, as quads that close around; outward."""
    u, v = torch.meshgrid(torch.arange(bands), torch.arange(2 * bands), indexing="ij")
    theta = 0.3 + (math.pi - 0.6) * u.flatten() / (bands - 1)
    phi = math.pi * v.flatten() / bands
    vertices = torch.stack([theta.sin() * phi.cos(), theta.cos(), theta.sin() * phi.sin()], 1)
    a = (u[:-1] * 2 * bands + v[:-1]).flatten()
    b = (u[:-1] * 2 * bands + (v[:-1] + 1) % (2 * bands)).flatten()
    faces = torch.stack([a, b, b + 2 * bands, a + 2 * bands], 1)
    uv = torch.zeros(1, 2)
    return Mesh(Topology(len(vertices), faces, uv, torch.zeros_like(faces)), vertices.double())


def turned(mesh: Mesh, angle: float) -> Mesh:
    c, s = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    return Mesh(mesh.topology, mesh.vertices @ matrix.T)


def test_the_truth_has_no_error() -> None:
    mesh = sphere()
    parts = error_parts(mesh.vertices, mesh.vertices, mesh.topology.triangles)
    assert all(float(part.max()) == 0 for part in parts)
    everywhere = torch.arange(mesh.topology.vertex_count)
    assert float(round_trip(mesh, mesh, everywhere).max()) < 1e-9


def test_swelling_is_normal_and_turning_is_slide() -> None:
    mesh = sphere()
    triangles = mesh.topology.triangles
    swollen = error_parts(1.01 * mesh.vertices, mesh.vertices, triangles)
    inner = slice(200, -200)  # an open border's normals lean outwards
    assert torch.allclose(swollen.normal[inner], torch.tensor(0.01).double(), rtol=1e-3)
    assert float(swollen.slide[inner].max()) < 5e-4
    moved = error_parts(turned(mesh, 0.02).vertices, mesh.vertices, triangles)
    assert float(moved.normal[inner].max()) < 5e-4
    middle = mesh.vertices[:, 1].abs().argmin()  # on the equator a turn moves by its angle
    assert float(moved.slide[middle]) == pytest.approx(0.02, rel=0.02)


def test_a_round_trip_tells_slide_alone() -> None:
    mesh = sphere()
    equator = (mesh.vertices[:, 1].abs() < 0.1).nonzero()[:, 0]
    swollen = Mesh(mesh.topology, 1.01 * mesh.vertices)
    assert float(round_trip(swollen, mesh, equator).max()) < 1e-3
    slid = round_trip(turned(mesh, 0.02), mesh, equator)
    assert float(slid.median()) == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="share one topology"):
        round_trip(sphere(), mesh, equator)


def test_f_score_is_harmonic() -> None:
    near, far = torch.tensor([0.1, 0.2, 0.3, 9.0]), torch.tensor([0.1, 9.0])
    assert float(f_score(near, far, 1.0)) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert float(f_score(far[1:], far[1:], 1.0)) == 0


def test_honest_sigma_is_covered_and_bold_sigma_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(40_000, 3)
    found = 0.002 * torch.randn(truth.shape, generator=generator)
    sigma = torch.full((len(truth),), 0.002)
    for per_cent in (50, 90):
        assert float(coverage(found, truth, sigma, per_cent)) == pytest.approx(
            per_cent / 100, abs=0.01
        )
        assert float(coverage(found, truth, sigma / 2, per_cent)) < per_cent / 100 - 0.2


def test_tangential_parts_have_no_normal_part() -> None:
    mesh = sphere(12)
    normals = vertex_normals(mesh.vertices, mesh.topology.triangles)
    offset = torch.ones_like(mesh.vertices)
    along = tangential(offset, normals)
    assert float((along * normals).sum(-1).abs().max()) < 1e-12
    assert torch.allclose(tangential(along, normals), along)
