"""L1 + D-SSIM from the definition: full 11×11 windows by conv2d, float64, gradient by autograd."""

import torch
from torch.nn.functional import conv2d


def ssim_ref(a, b):
    """Map of SSIM [3 H W] of pictures [H W 3] in [0, 1], zero padding."""
    x = torch.arange(11, dtype=torch.float64) - 5
    row = torch.exp(-(x**2) / (2 * 1.5**2))
    kernel = (row[:, None] * row / row.sum() ** 2)[None, None]

    def blur(picture):
        return conv2d(picture.permute(2, 0, 1)[:, None], kernel, padding=5)[:, 0]

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def l1_dssim_ref(image, target, dssim_weight=0.2, mask=None):
    if mask is not None:
        image, target = image * mask[..., None], target * mask[..., None]
    absolute = (image - target).abs().mean()
    return (1 - dssim_weight) * absolute + dssim_weight * (1 - ssim_ref(image, target).mean())
