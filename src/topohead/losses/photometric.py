"""How far a picture is from another: L1 and structural dissimilarity."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from topohead.core import InputError
from topohead.rendering import ssim_cpu

WINDOW = ssim_cpu.window()


@dataclass(frozen=True)
class Target:
    """A picture to be matched many times: its window statistics are taken once."""

    picture: np.ndarray
    """[H 3W], multiplied by the mask."""
    statistics: np.ndarray
    mask: np.ndarray | None

    @classmethod
    def of(cls, picture: np.ndarray, mask: np.ndarray | None = None) -> "Target":
        """From a picture [H W 3] and a mask [H W]."""
        height, width, _ = picture.shape
        masked = picture if mask is None else picture * mask[..., None]
        flat = np.ascontiguousarray(masked, np.float32).reshape(height, 3 * width)
        return cls(flat, ssim_cpu.statistics(flat, WINDOW), mask)

    def compare(self, picture: np.ndarray, dssim_weight: float) -> tuple[float, np.ndarray]:
        """The loss `l1_dssim` of a float32 picture [H W 3], and its gradient [H W 3]."""
        masked = picture if self.mask is None else picture * self.mask[..., None]
        value, gradient = ssim_cpu.l1_dssim(
            masked.reshape(self.picture.shape),
            self.picture,
            self.statistics,
            WINDOW,
            np.float32(dssim_weight),
        )
        gradient = gradient.reshape(picture.shape)
        return value, gradient if self.mask is None else gradient * self.mask[..., None]


def l1_dssim(
    image: Float[Tensor, "H W 3"],
    target: Float[Tensor, "H W 3"],
    dssim_weight: float = 0.2,
    mask: Float[Tensor, "H W"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - λ) mean|a - b| + λ (1 - mean SSIM(a, b)), for pictures in [0, 1].

    SSIM with an 11-tap Gaussian window, σ = 1.5 pixels, zero padding (Wang et al. 2004; the
    weights of Kerbl et al. 2023). The mask multiplies both pictures, so hidden pixels agree; means
    run over all pixels. Differentiable by `image` alone; float32 inside.
    """
    if image.device.type != "cpu":
        raise InputError(
            f"expected tensors on the CPU, got {image.device}: the CUDA loss is not part of this "
            "version; run with --device cpu"
        )
    return _L1Dssim.apply(image, target, dssim_weight, mask)  # pyright: ignore


class _L1Dssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, target, dssim_weight, mask):  # pyright: ignore
        goal = Target.of(_array(target), None if mask is None else _array(mask))
        value, gradient = goal.compare(_array(image), dssim_weight)
        ctx.save_for_backward(torch.from_numpy(gradient).to(image.dtype))
        return image.new_tensor(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_value):  # pyright: ignore
        (gradient,) = ctx.saved_tensors
        return gradient * d_value, None, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).numpy())
