"""The kernel that poses Gaussians against the tensor operations that it stands for."""

import os

import pytest
import torch

from posed_person import sitting, weights_of
from topohead.core import BoundSplats
from topohead.geometry.avatars import Avatar, ExpressionChange
from topohead.geometry.binding import posed_gaussians
from topohead.rendering.avatars import Player
from topohead.rendering.harmonics import shaded
from topohead.workflows.avatars.fitting import upright_rig
from topohead.workflows.avatars.start import starting_gaussians

posing_triton = pytest.importorskip("topohead.rendering.posing_triton", reason="needs triton")

INTERPRETED = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="the compiled kernel is tested on the device"
)


@pytest.fixture(scope="module")
def person():
    return sitting(32)


def dressed_up(person, degree: int, ranks: int) -> Avatar:
    """A start with random harmonics, offsets and changes."""
    generator = torch.Generator().manual_seed(degree)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    start = starting_gaussians(person, 4000)
    count, rows = len(start), (degree + 1) ** 2
    binding = type(start.binding)(
        start.binding.triangles, start.binding.barycentrics, 0.3 * random(count, 3),
        random(count, 4), start.binding.scales,
    )  # fmt: skip
    splats = BoundSplats(binding, start.opacities, 0.4 * random(count, rows, 3))
    change = ExpressionChange(
        torch.zeros(52), random(52, ranks), torch.full((ranks,), -0.5), torch.full((ranks,), 0.5),
        0.2 * random(count, ranks, 3), 0.2 * random(count, ranks, 3),
    )  # fmt: skip
    return Avatar(upright_rig(person.rig), splats, change)


def posed(person, degree: int, ranks: int):
    """An avatar in a pose, and what poses it."""
    avatar = dressed_up(person, degree, ranks)
    weights = weights_of({"jawOpen": 0.7, "mouthSmileLeft": 0.5})
    pose = torch.eye(4)
    pose[:3, :3] = torch.linalg.matrix_exp(
        torch.tensor([[0, -0.1, 0.2], [0.1, 0, 0.3], [-0.2, -0.3, 0]])
    )
    pose[:3, 3] = torch.tensor([0.01, 0.02, -0.03])
    gaze = torch.tensor([[0.2, -0.1], [0.3, 0.1]])
    cameras = torch.eye(4).repeat(2, 1, 1)
    cameras[:, 2, 3] = 0.5
    cameras[1, :3, :3] = pose[:3, :3].T
    return avatar, weights, gaze, pose, cameras


@INTERPRETED
@pytest.mark.parametrize(("degree", "ranks"), [(0, 0), (1, 2), (3, 1)])
def test_the_kernel_poses_as_tensors_do(person, degree: int, ranks: int) -> None:
    avatar, weights, gaze, pose, cameras = posed(person, degree, ranks)
    triangles = avatar.rig.topology.triangles
    vertices = avatar.vertices(weights[None], gaze[None], pose[None])[0]
    dressed, turn = avatar.dressed(weights), pose[:3, :3].T
    means, covariances = posed_gaussians(dressed.binding, triangles, vertices)
    colors = shaded(dressed.harmonics, means, cameras, turn)
    prepared = posing_triton.prepared(avatar)
    instant = posing_triton.instant_of(weights, gaze, pose, cameras, torch.device("cpu"))
    mesh, codes = posing_triton.shape(prepared, instant)
    assert torch.allclose(mesh, vertices, atol=1e-6)
    assert torch.allclose(codes, avatar.change.codes(weights), atol=1e-6)
    found = posing_triton.pose(prepared, instant, len(cameras))
    assert torch.allclose(found[0], means, atol=1e-6)
    upper = torch.triu_indices(3, 3)
    flat = covariances[:, upper[0], upper[1]]
    assert float((found[1] - flat).abs().max() / flat.abs().max()) < 1e-5
    assert torch.allclose(found[2], colors, atol=1e-4)
    still = posed_gaussians(avatar.splats.binding, triangles, vertices)[0]
    assert ranks == 0 or float((found[0] - still).abs().max()) > 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("degree", [0, 3])
def test_the_device_plays_the_same_pictures(person, degree: int) -> None:
    avatar, weights, gaze, pose, cameras = posed(person, degree, 2)
    lens = torch.tensor([[150.0, 0, 48], [0, 150.0, 48], [0, 0, 1]]).repeat(2, 1, 1)
    seen = weights, gaze, pose, cameras, lens, (96, 96)
    expected, coverage = Player(avatar).draw(*seen)
    image, alpha = Player(avatar.to("cuda")).draw(*seen)
    assert float(coverage.max()) > 0.9
    assert float((alpha.cpu() - coverage).abs().mean()) < 1e-3
    assert float((image.cpu() - expected).abs().mean()) < 1e-3
