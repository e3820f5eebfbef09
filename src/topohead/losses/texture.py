"""How close a texture is to the truth: PSNR, SSIM, visibility of seams."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from topohead.core import Topology
from topohead.rendering.shading import sample_texture
from topohead.rendering.uv import Seams, find_seams

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def match_gain(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W 3"]:
    """The image times one gain a channel: least squares against the target within the mask.

    A texture's overall exposure is the rig's, not the solver's; evaluation takes it out.
    """
    x, y = image[mask].double(), target[mask].double()
    gain = (x * y).sum(0) / x.square().sum(0).clamp(min=1e-12)
    return image * gain.to(image)


def psnr(
    image: Float[Tensor, "H W 3"],
    target: Float[Tensor, "H W 3"],
    mask: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB, peak 1, over the mask; infinite where they agree."""
    square = (image - target).square()
    return -10 * torch.log10(square.mean() if mask is None else square[mask].mean())


def ssim(
    image: Float[Tensor, "H W 3"],
    target: Float[Tensor, "H W 3"],
    mask: Bool[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """Structural similarity (Wang et al. 2004): 11×11 Gaussian window of σ 1.5, mean of channels.

    With a mask, the mean over pixels whose whole window lies inside it and the picture; over the
    mask itself if there are none.
    """
    position = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = torch.exp(-(position**2) / (2 * SSIM_SIGMA**2)).to(image)
    window = window / window.sum()

    def blur(x: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W"]:
        pad = SSIM_WINDOW // 2
        x = functional.pad(x[:, None], (pad,) * 4, mode="reflect")
        x = functional.conv2d(x, window[None, None, :, None])
        return functional.conv2d(x, window[None, None, None, :])[:, 0]

    x, y = image.permute(2, 0, 1), target.permute(2, 0, 1)
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score = score / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    if mask is None:
        return score.mean()
    outside = functional.pad((~mask).float()[None], (SSIM_WINDOW // 2,) * 4, value=1.0)
    eroded = functional.max_pool2d(outside, SSIM_WINDOW, 1)[0] == 0
    return score[:, eroded if eroded.any() else mask].mean()


def seam_gradient_ratio(
    texture: Float[Tensor, "S S 3"],
    topology: Topology,
    mask: Bool[Tensor, "S S"] | None = None,
    seams: Seams | None = None,
) -> Float[Tensor, ""]:
    """Mean colour step across UV seams over the mean step of equal length beside them.

    1 means that seams cannot be told from skin. Steps are two texels long, between texel centres
    one texel inside either island; NaN where no seam lies inside the mask.
    """
    seams = seams or find_seams(topology)
    size = texture.shape[0]
    share = torch.tensor([0.25, 0.5, 0.75])[:, None]
    ends = seams.places[:, :, None]
    places = ends[..., 0, :] * (1 - share) + ends[..., 1, :] * share
    inward = seams.inward[:, :, None] / size
    near, far = places + inward, places + 3 * inward
    across = _step(texture, near[:, 0], near[:, 1])
    beside = (_step(texture, near[:, 0], far[:, 0]) + _step(texture, near[:, 1], far[:, 1])) / 2
    if mask is not None:
        inside = mask.float()[..., None]
        used = torch.stack([sample_texture(inside, far[:, side])[..., 0] for side in (0, 1)])
        kept = (used > 0.999).all(0)
        across, beside = across[kept], beside[kept]
    return across.mean() / beside.mean().clamp(min=1e-9)


def _step(
    texture: Float[Tensor, "S S 3"], first: Float[Tensor, "*B 2"], second: Float[Tensor, "*B 2"]
) -> Float[Tensor, "*B"]:
    return (sample_texture(texture, first) - sample_texture(texture, second)).norm(dim=-1)
