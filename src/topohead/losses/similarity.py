"""How alike two pictures are, where a mask says that it matters: PSNR, SSIM, and a colour fit."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def psnr(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> float:
    """Peak signal-to-noise ratio in dB over the masked pixels, peak 1; infinite when equal."""
    error = (image[mask].double() - target[mask].double()).square().mean()
    return float(-10 * torch.log10(error)) if error > 0 else float("inf")


def ssim(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> float:
    """Mean structural similarity of the masked pixels (Wang et al. 2004).

    Gaussian windows of 11 pixels, σ 1.5, each channel by itself, K = (0.01, 0.03). Windows reach
    over the mask's border and the pictures are mirrored at theirs.
    """
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()

    def blurred(picture: Tensor) -> Tensor:
        stack = functional.pad(picture.permute(2, 0, 1)[:, None], (5, 5, 5, 5), mode="reflect")
        rows = functional.conv2d(stack, weights[None, None, :, None])
        return functional.conv2d(rows, weights[None, None, None, :])[:, 0].permute(1, 2, 0)

    a, b = image.double(), target.double()
    mean_a, mean_b = blurred(a), blurred(b)
    variance_a, variance_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    likeness = likeness / (mean_a**2 + mean_b**2 + 0.01**2)
    likeness = likeness / (variance_a + variance_b + 0.03**2)
    return float(likeness[mask].mean())


def affine_color_fit(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W 3"]:
    """The image under the 3×4 colour transform that brings its masked pixels nearest the target.

    Least squares in the pictures' own (srgb) values: takes a camera's gain, offset and colour
    response out of a comparison.
    """
    source = torch.cat([image, torch.ones_like(image[..., :1])], -1).double()
    matrix = torch.linalg.lstsq(source[mask], target[mask].double()).solution
    return (source @ matrix).clamp(0, 1).to(image)


def gain_fit(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W 3"]:
    """The image scaled by the one gain a channel that brings its masked pixels nearest."""
    a, b = image[mask].double(), target[mask].double()
    gain = (a * b).sum(0) / a.square().sum(0).clamp(min=1e-12)
    return (image * gain.to(image)).clamp(0, 1)
