"""Coarse triangles of a ball come nearer to it; noise does not turn its normals."""

import weakref

import pytest
import torch
import trimesh

from topohead.core import Scan
from topohead.geometry.meshes import face_normals, vertex_normals
from topohead.solvers.scan_triangles import bulged, calm_normals, skin_normals

RADIUS = 0.09


def ball(fineness: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = trimesh.creation.icosphere(fineness, RADIUS)
    return torch.tensor(made.vertices), torch.tensor(made.faces).long()


def places(triangles: torch.Tensor, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    weights = -torch.rand(count, 3, generator=random, dtype=torch.float64).log()
    face = torch.randint(len(triangles), (count,), generator=random)
    return face, weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("fineness", [2, 3, 4])
def test_bulged_triangles_lie_half_as_far_from_the_ball(fineness: int) -> None:
    vertices, triangles = ball(fineness)
    face, weights = places(triangles)
    corners, normals = vertices[triangles[face]], vertex_normals(vertices, triangles)
    flat = (weights[..., None] * corners).sum(1)
    curved = bulged(corners, normals[triangles[face]], weights)
    off = [float((points.norm(dim=1) - RADIUS).abs().mean()) for points in (flat, curved)]
    # tangent planes lie as far outside again: three quarters of the way leave half of the distance
    assert off[1] == pytest.approx(0.5 * off[0], rel=0.1)
    assert (curved.norm(dim=1) > flat.norm(dim=1) - 1e-12).all()


def test_a_flat_sheet_stays_flat_and_corners_stay() -> None:
    corners = torch.rand(20, 3, 3, dtype=torch.float64)
    corners[..., 2] = 0
    up = torch.tensor([0.0, 0, 1]).double().expand(20, 3, 3)
    weights = torch.rand(20, 3, dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    assert torch.equal(bulged(corners, up, weights)[:, 2], torch.zeros(20).double())
    tilted = torch.nn.functional.normalize(torch.rand(20, 3, 3, dtype=torch.float64), dim=-1)
    first = torch.tensor([1.0, 0, 0]).double().expand(20, 3)
    assert torch.allclose(bulged(corners, tilted, first), corners[:, 0])


def test_large_triangles_keep_their_normals_and_small_ones_lose_noise() -> None:
    spacing = 0.0029
    vertices, triangles = ball(2)
    face, weights = places(triangles)
    found = skin_normals(Scan(vertices, triangles), triangles[face], weights, spacing)
    assert torch.equal(found, face_normals(vertices, triangles)[face])
    vertices, triangles = ball(6)
    spacing *= 2
    random = torch.Generator().manual_seed(2)
    worst = []
    for noise in (0.0, 1e-4, 3e-4):
        shaken = vertices + noise * torch.randn(vertices.shape, generator=random)
        face, weights = places(triangles)
        true = vertices[triangles[face]].mean(1) / RADIUS
        rows = (
            skin_normals(Scan(shaken, triangles), triangles[face], weights, spacing),
            face_normals(shaken, triangles)[face],
        )
        worst.append([float((row * true).sum(1).clamp(-1, 1).acos().mean()) for row in rows])
    assert worst[0][0] < 0.02
    # sides of 1.6 mm: noise of 0.3 turns triangles by 17°
    assert worst[1][0] < 0.7 * worst[1][1]
    assert worst[2][0] < 0.35 * worst[2][1]


def test_calm_normals_are_found_once_and_go_with_the_scan() -> None:
    vertices, triangles = ball(3)
    scan = Scan(vertices, triangles)
    found = calm_normals(scan)
    assert calm_normals(scan.to("cpu")) is found
    other = calm_normals(Scan(vertices.flip(1), triangles))
    assert not torch.equal(other, found)
    gone = weakref.ref(found)
    del scan, found
    assert gone() is None
