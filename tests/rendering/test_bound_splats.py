"""Gaussians with sheared covariances against the renderer of scales and quaternions."""

import math

import pytest
import torch

from topohead.rendering import bound_splats, splats_cpu
from topohead.rendering.bound_splats import render_factored
from topohead.rendering.splats import render


def scene(count: int = 60):
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    means = (random(count, 3) - 0.5) * 0.2
    quats = torch.nn.functional.normalize(random(count, 4) - 0.5, dim=1)
    scales = 0.004 + 0.02 * random(count, 3)
    colors, opacities = random(count, 3), 0.2 + 0.7 * random(count)
    turn = torch.eye(4, dtype=torch.float64)
    turn[2, 3] = 0.6
    other = turn.clone()
    other[:3, :3] = torch.tensor(
        [[math.cos(0.7), 0, math.sin(0.7)], [0, 1, 0], [-math.sin(0.7), 0, math.cos(0.7)]]
    )
    lens = torch.tensor([[90.0, 0, 24.3], [0, 92.0, 17.6], [0, 0, 1]]).double()
    return means, quats, scales, opacities, colors, torch.stack([turn, other]), lens.repeat(2, 1, 1)


def rotations(quats: torch.Tensor) -> torch.Tensor:
    w, x, y, z = quats.unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def compensation(means, factors, pose, lens):
    """√(|Σ'| / |Σ' + 0.3 I|) of the projected covariances, straight from the definition."""
    rows = []
    for mean, factor in zip(means, factors, strict=True):

        def pixel(place, pose=pose, lens=lens):
            local = lens.float() @ (pose[:3, :3].float() @ place + pose[:3, 3].float())
            return local[:2] / local[2]

        slope = torch.autograd.functional.jacobian(pixel, mean, create_graph=True)
        flat = slope @ factor @ factor.T @ slope.T
        rows.append((torch.det(flat) / torch.det(flat + 0.3 * torch.eye(2))).sqrt())
    return torch.stack(rows)


def test_pictures_and_gradients_are_those_of_scales_and_quaternions(monkeypatch) -> None:
    monkeypatch.setattr(bound_splats, "LOW_PASS", float(splats_cpu.LOW_PASS))
    means, quats, scales, opacities, colors, poses, lenses = scene()
    leaves = [t.requires_grad_() for t in (means, quats, scales, opacities, colors)]
    size = (48, 36)
    factors = rotations(torch.nn.functional.normalize(quats, dim=1)) * scales[:, None]
    images, alphas = render_factored(
        means, factors, opacities, colors.expand(2, -1, -1), poses, lenses, size
    )
    for camera in range(2):
        pose, lens = poses[camera], lenses[camera]
        shown = opacities * compensation(means, factors, pose, lens)
        expected, coverage = render(means, quats, scales, shown, colors, pose, lens, size)
        image, alpha = images[camera], alphas[camera]
        assert torch.allclose(image, expected, atol=2e-5)
        assert torch.allclose(alpha, coverage, atol=2e-5)
        weights = torch.linspace(-1, 1, expected.numel()).reshape(expected.shape)
        wanted, found = (
            torch.autograd.grad((a * weights).sum() + b.square().sum(), leaves, retain_graph=True)
            for a, b in ((expected, coverage), (image, alpha))
        )
        for name, one, other in zip("mqsoc", found, wanted, strict=True):
            assert float((one - other).norm() / other.norm()) < 1e-3, name


def test_gaussians_behind_the_camera_and_off_the_picture_are_left_out() -> None:
    means, quats, scales, opacities, colors, poses, lenses = scene(3)
    means = torch.tensor([[0.0, 0, -2], [3.0, 0, 0], [0, -4.0, 0]]).requires_grad_()
    factors = rotations(quats) * scales[:, None]
    image, alpha = render_factored(
        means, factors, opacities, colors.expand(1, -1, -1), poses[:1], lenses[:1], (20, 20)
    )
    assert not bool(alpha.any())
    image.sum().backward()
    assert means.grad is not None and torch.isfinite(means.grad).all()


@pytest.mark.gpu
def test_cuda_agrees() -> None:
    means, quats, scales, opacities, colors, poses, lenses = scene()
    factors = rotations(quats) * scales[:, None]
    given = means, factors, opacities, colors.expand(2, -1, -1).contiguous()
    expected, _ = render_factored(*given, poses, lenses, (48, 36))
    image, _ = render_factored(*(t.cuda() for t in given), poses, lenses, (48, 36))
    assert float((image.cpu() - expected).abs().max()) < 2e-3
