"""Picture likeness against closed forms and a slow windowed sum."""

import math

import pytest
import torch

from topohead.losses.similarity import affine_color_fit, gain_fit, psnr, ssim


def picture(seed: int, height: int = 24, width: int = 20) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error_inside_the_mask_only() -> None:
    a = picture(0) * 0.5
    b = a + 0.01
    b[:4] += 0.4
    mask = torch.ones(24, 20, dtype=torch.bool)
    mask[:4] = False
    assert psnr(a, b, mask) == pytest.approx(40, abs=1e-3)
    assert psnr(a, a, mask) == math.inf


def test_ssim_equals_the_windowed_sum_at_one_pixel() -> None:
    a, b = picture(1).double(), picture(2).double()
    mask = torch.zeros(24, 20, dtype=torch.bool)
    mask[11, 9] = True
    y, x = torch.meshgrid(torch.arange(-5, 6), torch.arange(-5, 6), indexing="ij")
    w = torch.exp(-(x**2 + y**2).double() / 4.5)
    w = (w / w.sum())[..., None]
    p, q = a[6:17, 4:15], b[6:17, 4:15]
    mp, mq = (w * p).sum((0, 1)), (w * q).sum((0, 1))
    vp, vq = (w * (p - mp) ** 2).sum((0, 1)), (w * (q - mq) ** 2).sum((0, 1))
    cov = (w * (p - mp) * (q - mq)).sum((0, 1))
    expected = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
    expected = expected / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
    assert ssim(a.float(), b.float(), mask) == pytest.approx(float(expected.mean()), abs=1e-5)
    assert ssim(a.float(), a.float(), mask) == pytest.approx(1)


def test_color_fits_undo_planted_colour_changes() -> None:
    target = picture(3) * 0.6 + 0.2
    mask = torch.rand(24, 20, generator=torch.Generator().manual_seed(4)) > 0.3
    mix = torch.tensor([[0.8, 0.1, 0.0], [0.05, 0.9, 0.0], [0.0, 0.05, 0.7]])
    seen = target @ mix + 0.03
    assert psnr(affine_color_fit(seen, target, mask), target, mask) > 90
    seen = target * torch.tensor([0.9, 1.1, 0.8])
    assert psnr(gain_fit(seen, target, mask), target, mask) > 90
    outside = seen.clone()
    outside[~mask] = 0  # what the mask leaves out changes nothing
    assert torch.equal(gain_fit(outside, target, mask)[mask], gain_fit(seen, target, mask)[mask])
