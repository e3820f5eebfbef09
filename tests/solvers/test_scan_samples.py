"""Samples of a mesh face as its skin does."""

import math

import pytest
import torch
import trimesh

from topohead.core import Scan
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.scan_samples import sample_scan


def roof(degrees: float) -> Scan:
    """Two slopes of 40 by 20 mm in triangles of 1 mm that meet in the z axis, up in y; each
    inclined by so many degrees."""
    row, column = torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij")
    across, along = 1e-3 * (column.flatten() - 20), 1e-3 * row.flatten()
    angle = math.radians(degrees)
    points = torch.stack([math.cos(angle) * across, -math.sin(angle) * across.abs(), along], 1)
    number = torch.arange(41 * 41).reshape(41, 41)
    a, b, c, d = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    return Scan(points, torch.stack([a, b, c, a, c, d], -1).reshape(-1, 3))


def ball(fineness: int, noise: float = 0.0) -> Scan:
    made = trimesh.creation.icosphere(fineness, 0.09)
    points = torch.tensor(made.vertices).float()
    random = torch.Generator().manual_seed(0)
    shaken = points + noise * torch.randn(points.shape, generator=random)
    return Scan(shaken, torch.tensor(made.faces).long())


def test_a_fold_stays_sharp_though_samples_are_coarser_than_triangles() -> None:
    scan = roof(25)
    samples = sample_scan(scan, 300)
    beyond = samples.points[:, 0].abs() > 1.1e-3
    assert beyond.sum() > 200
    angle = math.radians(25)
    right = torch.where(samples.points[:, 0] > 0, 1.0, -1.0)
    slope = torch.stack([math.sin(angle) * right, torch.full_like(right, math.cos(angle))], 1)
    cosine = (samples.normals[:, :2] * slope).sum(1)[beyond]
    assert float(cosine.abs().min()) > 1 - 1e-6


@pytest.mark.parametrize("flipped", [False, True])
def test_noise_does_not_turn_normals_and_winding_neither(flipped: bool) -> None:
    scan = ball(6, 5e-4)
    true = vertex_normals(scan.points, scan.triangles)
    raw = float((true * ball(6).points / 0.09).sum(1).clamp(-1, 1).acos().mean())
    turned = Scan(scan.points, scan.triangles.flip(1)) if flipped else scan
    samples = sample_scan(turned, 20_000)
    outward = torch.nn.functional.normalize(samples.points, dim=1)
    found = float((samples.normals * outward).sum(1).clamp(-1, 1).acos().mean())
    assert found < 0.5 * raw
