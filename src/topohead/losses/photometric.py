"""How far a picture is from another: L1 and structural dissimilarity."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

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
    """A picture to be matched many times: its window statistics are taken once.

    Where a mask hides the borders, only what windows around the rest reach is looked at.
    """

    shape: tuple[int, int]
    """Height and width of the whole picture."""
    rows: slice
    columns: slice
    picture: np.ndarray
    """[h 3w] the part that is looked at, multiplied by the mask."""
    statistics: np.ndarray
    mask: np.ndarray | None
    """[h 3w] the mask there, once for each channel."""

    @classmethod
    def of(cls, picture: np.ndarray, mask: np.ndarray | None = None) -> "Target":
        """From a picture [H W 3] and a mask [H W]."""
        height, width, _ = picture.shape
        rows, columns = slice(0, height), slice(0, width)
        flat_mask = None
        if mask is not None:
            rows, columns = _reach(mask.max(1) > 0), _reach(mask.max(0) > 0)
            flat_mask = np.repeat(mask[rows, columns], 3, axis=1).astype(np.float32)
        part = np.ascontiguousarray(picture[rows, columns], np.float32)
        flat = part.reshape(len(part), -1)
        flat = flat if flat_mask is None else flat * flat_mask
        statistics = ssim_cpu.statistics(flat, WINDOW)
        return cls((height, width), rows, columns, flat, statistics, flat_mask)

    def compare(self, picture: np.ndarray, dssim_weight: float) -> tuple[float, np.ndarray]:
        """The loss `l1_dssim` of a float32 picture [H W 3], and its gradient [H W 3]."""
        height, width = self.shape
        part = np.ascontiguousarray(picture[self.rows, self.columns])
        flat = part.reshape(self.picture.shape)
        value, slope = ssim_cpu.l1_dssim(
            flat if self.mask is None else flat * self.mask,
            self.picture,
            self.statistics,
            WINDOW,
            np.float32(dssim_weight),
            3 * height * width,
        )
        if self.mask is not None:
            slope *= self.mask
        if part.shape == picture.shape:
            return value, slope.reshape(picture.shape)
        gradient = np.zeros_like(picture)
        gradient[self.rows, self.columns] = slope.reshape(part.shape)
        return value, gradient


@dataclass(frozen=True)
class DeviceTarget:
    """`Target` on a CUDA device: pictures in and out are tensors, and nothing waits for it.

    Whole pictures are looked at, one or a batch: where a mask hides both, they agree.
    """

    picture: Float[Tensor, "N H L"]
    """Multiplied by the mask; L = 3 W."""
    statistics: Float[Tensor, "2 N H L"]
    weights: Float[Tensor, "11"]
    mask: Float[Tensor, "*B H W 1"] | None

    @classmethod
    def of(
        cls, picture: Float[Tensor, "*B H W 3"], mask: Float[Tensor, "*B H W"] | None = None
    ) -> "DeviceTarget":
        """From pictures and masks of one device."""
        kernels = _triton_kernels()
        weights = kernels.window(picture.device)
        factor = None if mask is None else mask.float()[..., None]
        seen = picture.detach().float()
        flat = _flat(seen if factor is None else seen * factor)
        return cls(flat, kernels.statistics(flat, weights), weights, factor)

    def compare(
        self, picture: Float[Tensor, "*B H W 3"], dssim_weight: float
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "*B H W 3"]]:
        """The loss `l1_dssim` of float32 pictures, and its gradient."""
        flat = _flat(picture if self.mask is None else picture * self.mask)
        value, slope = _triton_kernels().l1_dssim(
            flat, self.picture, self.statistics, self.weights, dssim_weight
        )
        slope = slope.view(picture.shape)
        return value, slope if self.mask is None else slope.mul_(self.mask)


def _flat(picture: Tensor) -> Tensor:
    height, width, _ = picture.shape[-3:]
    return picture.contiguous().view(-1, height, 3 * width)


def _triton_kernels() -> ModuleType:
    if find_spec("triton") is None:
        raise InputError(
            "expected the package triton for pictures on a CUDA device, found none; add it with: "
            "python -m pip install triton"
        )
    return import_module("topohead.rendering.ssim_triton")


def _reach(is_seen: np.ndarray) -> slice:
    """From the first to the last true entry, and a window's radius further; one entry if none."""
    where = np.flatnonzero(is_seen)
    if len(where) == 0:
        return slice(0, 1)
    return slice(
        max(int(where[0]) - ssim_cpu.RADIUS, 0),
        min(int(where[-1]) + ssim_cpu.RADIUS + 1, len(is_seen)),
    )


def l1_dssim(
    image: Float[Tensor, "*B H W 3"],
    target: Float[Tensor, "*B H W 3"],
    dssim_weight: float = 0.2,
    mask: Float[Tensor, "*B H W"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - λ) mean|a - b| + λ (1 - mean SSIM(a, b)), for pictures in [0, 1].

    SSIM with an 11-tap Gaussian window, σ = 1.5 pixels, zero padding (Wang et al. 2004; the
    weights of Kerbl et al. 2023). The mask multiplies both pictures, so hidden pixels agree; means
    run over all pixels. Differentiable by `image` alone; float32 inside. All tensors on one
    device, the CPU or CUDA.
    """
    return _L1Dssim.apply(image, target, dssim_weight, mask)  # pyright: ignore


class _L1Dssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, target, dssim_weight, mask):  # pyright: ignore
        if image.is_cuda:
            value, gradient = DeviceTarget.of(target, mask).compare(
                image.detach().float(), dssim_weight
            )
            ctx.save_for_backward(gradient.to(image.dtype))
            return value.to(image.dtype)
        height, width, _ = image.shape[-3:]
        pictures = _array(image).reshape(-1, height, width, 3)
        goals = _array(target).reshape(pictures.shape)
        masks = [None] * len(goals)
        if mask is not None:
            masks = _array(mask).reshape(-1, height, width)
        rows = [
            Target.of(goal, counts).compare(picture, dssim_weight)
            for picture, goal, counts in zip(pictures, goals, masks, strict=True)
        ]
        values, gradients = zip(*rows, strict=True)
        gradient = torch.from_numpy(np.stack(gradients) / len(rows)).reshape(image.shape)
        ctx.save_for_backward(gradient.to(image.dtype))
        return image.new_tensor(sum(values) / len(rows))

    @staticmethod
    @once_differentiable
    def backward(ctx, d_value):  # pyright: ignore
        (gradient,) = ctx.saved_tensors
        return gradient * d_value, None, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).numpy())
