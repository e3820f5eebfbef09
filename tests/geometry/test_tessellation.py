"""Finer triangles lie on the coarse ones, and round as the surface does."""

import math

import pytest
import torch

from planted_sphere import sphere
from topohead.core import Mesh
from topohead.geometry.meshes import triangle_areas
from topohead.geometry.tessellation import smooth_heights, tessellate, tessellated

RADIUS = 0.1


def test_finer_triangles_cover_the_coarse_ones() -> None:
    topology, points = sphere(8, 16, RADIUS)
    for halvings in (0, 1, 2):
        fine = tessellated(Mesh(topology, points.double()), halvings)
        assert len(fine.topology.faces) == len(topology.triangles) * 4**halvings
        # a closed band of quads: Euler's number stays
        edges = len(torch.unique(fine.topology.edges, dim=0))
        assert len(fine.vertices) - edges + len(fine.topology.faces) == 0
        areas = triangle_areas(fine.vertices, fine.topology.triangles)
        coarse = triangle_areas(points.double(), topology.triangles)
        assert areas.sum() == pytest.approx(float(coarse.sum()), rel=1e-6)
        torch.testing.assert_close(areas.reshape(len(coarse), -1).sum(1), coarse)


def test_uv_is_split_with_the_surface_and_seams_stay() -> None:
    """Both are linear in a triangle, so a finer corner has the same weights in both."""
    topology, points = sphere(6, 10, RADIUS)
    fine = tessellate(topology, 2)
    corners = fine.finer.face_uv
    parent = torch.arange(len(topology.triangles)).repeat_interleave(16)
    coarse_points = points.double()[topology.triangles[parent]]
    coarse_uv = topology.uv.double()[topology.triangle_uv[parent]]
    places = fine.carry(points.double())[fine.finer.faces[:, :3]]
    weights = torch.linalg.lstsq(coarse_points.transpose(1, 2), places.transpose(1, 2)).solution
    expected = coarse_uv.transpose(1, 2) @ weights
    found = fine.finer.uv.double()[corners[:, :3]].transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # the sphere's seam: more UV rows than vertices
    assert len(fine.finer.uv) == fine.finer.vertex_count + 6 * 4 + 1


def test_hidden_regions_are_left_out_and_others_carried() -> None:
    topology, _ = sphere(8, 16, RADIUS)
    named = torch.arange(topology.vertex_count)
    regions = {"eyes": named[:40], "face": named[40:]}
    topology = type(topology)(
        topology.vertex_count, topology.faces, topology.uv, topology.face_uv, regions
    )
    fine = tessellate(topology, 1, ("eyes",))
    assert len(fine.finer.regions["eyes"]) == 0
    assert len(fine.finer.regions["face"]) == fine.finer.vertex_count
    kept = ~topology.region_mask("eyes")[topology.triangles].any(1)
    assert len(fine.finer.faces) == 4 * int(kept.sum())


def test_heights_of_the_rounded_surface_are_the_spheres() -> None:
    topology, points = sphere(24, 48, RADIUS)
    points = points.double()
    fine = tessellate(topology, 2)
    flat = fine.carry(points).norm(dim=1)
    round_ = fine.displaced(points, smooth_heights(fine, points)).norm(dim=1)
    inner = fine.carry(points)[:, 1].abs() < RADIUS * math.sin(1.2)  # away from the open ends
    assert (RADIUS - flat)[inner].max() > 2e-4
    assert (RADIUS - round_)[inner].abs().max() < 0.1 * (RADIUS - flat)[inner].max()
    at_vertices = smooth_heights(fine, points)[: topology.vertex_count]
    assert at_vertices.abs().max() < 1e-12
