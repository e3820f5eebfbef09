"""Texture metrics against closed forms and a plain float64 SSIM."""

import math

import numpy as np
import pytest
import torch

from planted_sphere import skin_texture, sphere
from topohead.losses.texture import match_gain, psnr, seam_gradient_ratio, ssim
from topohead.rendering.uv import bake


def test_psnr_of_a_known_error() -> None:
    target = torch.rand(16, 16, 3)
    assert psnr(target + 0.1, target).item() == pytest.approx(20, abs=1e-3)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:4] = True
    spoiled = target + 0.01
    spoiled[8:] += 0.5
    assert psnr(spoiled, target, mask).item() == pytest.approx(40, abs=1e-3)
    assert math.isinf(psnr(target, target).item())


def test_gain_is_taken_out_per_channel() -> None:
    target = torch.rand(16, 16, 3)
    image = target * torch.tensor([0.8, 1.1, 1.3])
    mask = torch.ones(16, 16, dtype=torch.bool)
    assert torch.allclose(match_gain(image, target, mask), target, atol=1e-6)


def ssim_ref(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """SSIM of one channel at the centres of whole windows, straight from the definition."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    height, width = image.shape
    score = np.zeros((height - 10, width - 10))
    for y in range(height - 10):
        for x in range(width - 10):
            a, b = image[y : y + 11, x : x + 11], target[y : y + 11, x : x + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a = (window * (a - mean_a) ** 2).sum()
            var_b = (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            score[y, x] = ((2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)) / (
                (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
            )
    return score


def test_ssim_matches_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(24, 20, 3, generator=generator)
    image = (target + 0.2 * torch.randn(24, 20, 3, generator=generator)).clamp(0, 1)
    mask = torch.ones(24, 20, dtype=torch.bool)
    mask[:, 0] = False  # whole windows then start one column further in
    expected = np.mean(
        [
            ssim_ref(image[:, 1:, k].double().numpy(), target[:, 1:, k].double().numpy()).mean()
            for k in range(3)
        ]
    )
    assert ssim(image, target, mask).item() == pytest.approx(expected, abs=2e-5)
    assert ssim(target, target).item() == pytest.approx(1, abs=1e-5)


def test_seams_of_a_continuous_texture_cannot_be_told_from_skin() -> None:
    topology, vertices = sphere()
    smooth = 0.5 + 0.3 * torch.sin(vertices * 60)
    ratio = seam_gradient_ratio(bake(smooth, topology, 256), topology).item()
    assert 0.7 < ratio < 1.5
    broken = skin_texture(256)
    broken[:, :128] *= 0.8
    assert seam_gradient_ratio(broken, topology).item() > 3
