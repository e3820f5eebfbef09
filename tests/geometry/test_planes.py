"""Planes through points, and rotations between sets of them, against decompositions."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from topohead.geometry.alignment import rigid, rotations
from topohead.geometry.planes import plane_normals


def test_a_planes_normal_is_the_axis_of_least_variance() -> None:
    random = torch.Generator().manual_seed(0)
    stretch = torch.rand(500, 1, 3, generator=random, dtype=torch.float64) + 0.02
    turn = torch.from_numpy(Rotation.random(500, random_state=0).as_matrix())
    points = (stretch * torch.randn(500, 9, 3, generator=random, dtype=torch.float64)) @ turn
    points = 1e-3 * points + 0.7
    arms = (points - points.mean(1, keepdim=True)).numpy()
    values, axes = np.linalg.eigh(arms.transpose(0, 2, 1) @ arms)
    clear = torch.from_numpy(values[:, 0] < 0.9 * values[:, 1])
    agree = (plane_normals(points) * torch.from_numpy(axes[:, :, 0])).sum(1).abs()
    assert float(clear.double().mean()) > 0.9 and float(agree[clear].min()) > 1 - 1e-8


def test_points_on_a_line_or_in_one_place_have_some_unit_normal() -> None:
    line = torch.arange(6.0).double()[:, None] * torch.tensor([1.0, 2, 3]).double()
    normals = plane_normals(torch.stack([line, torch.zeros(6, 3).double()]))
    assert torch.allclose(normals.norm(dim=1), torch.ones(2).double())


def test_rotations_are_those_of_a_singular_value_decomposition() -> None:
    """Of turned and noisy sets, flat ones, and mirrored ones, which no rotation brings back."""
    random = torch.Generator().manual_seed(0)
    source = torch.randn(60, 8, 3, generator=random, dtype=torch.float64)
    source[20:40, :, 2] = 0
    turns = torch.from_numpy(Rotation.random(60, random_state=0).as_matrix())
    target = source @ turns.mT + 0.1 * torch.randn(60, 8, 3, generator=random, dtype=torch.float64)
    target[40:, :, 0] *= -1
    arms = [part - part.mean(1, keepdim=True) for part in (source, target)]
    found = rotations(arms[1].mT @ arms[0])
    expected = torch.stack([rigid(a, b)[:3, :3] for a, b in zip(source, target, strict=True)])
    assert float((found - expected).abs().max()) < 1e-6
    assert torch.allclose(torch.linalg.det(found), torch.ones(60).double())
