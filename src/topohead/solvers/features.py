"""Pictures made comparable over time: contrast against the neighbourhood, at every scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Cameras, Views


@dataclass(frozen=True)
class FeatureConfig:
    """How pictures become features."""

    radius: float = 2.5
    """Standard deviation of the neighbourhood, in pixels of the level."""
    floor: float = 0.02
    """Contrast (srgb) under which the neighbourhood's own contrast no longer divides."""
    levels: int = 4
    """Number of halvings of the working size, the working size included."""


@dataclass(frozen=True)
class FeatureLevel:
    """All views at one scale, padded to a common size.

    `features` (values, x and y derivatives per pixel) and `cameras` (rotation, translation, fx fy
    cx cy) are float32. `projections` (float64) take world points to (u z, v z, z) in pixels of this
    scale, `extents` (int32) are each picture's own (width, height).
    """

    features: Float[Tensor, "C H W 9"]
    cameras: Float[Tensor, "C 16"]
    projections: Float[Tensor, "C 3 4"]
    extents: Int[Tensor, "C 2"]

    @property
    def size(self) -> tuple[int, int]:
        """The common (width, height)."""
        return self.features.shape[2], self.features.shape[1]


def pack_cameras(cameras: Cameras, scale: float, origin: np.ndarray) -> np.ndarray:
    """Cameras as float32 [C 16] for pictures scaled by `scale`, world origin moved to `origin`."""
    pose = cameras.world_to_camera.double().numpy()
    k = cameras.intrinsics.double().numpy() * scale
    translation = pose[:, :3, 3] + pose[:, :3, :3] @ origin
    focal_center = np.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], 1)
    packed = np.concatenate([pose[:, :3, :3].reshape(-1, 9), translation, focal_center], 1)
    return packed.astype(np.float32)


def level_projections(cameras: Cameras, index: int) -> Float[Tensor, "C 3 4"]:
    """What takes world points to (u z, v z, z) at a level, float64."""
    intrinsics = cameras.intrinsics.double().clone()
    intrinsics[:, :2] *= 0.5**index
    return intrinsics @ cameras.world_to_camera.double()[:, :3]


def feature_pyramid(
    views: Views, origin: torch.Tensor, config: FeatureConfig
) -> list[FeatureLevel]:
    """Feature levels of an instant, finest first.

    Each value is (I − mean) / sqrt(variance + floor²) over a Gaussian neighbourhood inside the
    mask: slow changes of light, gloss and camera gain cancel (local normalisation).
    """
    images = [np.ascontiguousarray(image.numpy()) for image in views.images]
    masks = (
        [np.ones(image.shape[:2], np.float32) for image in images]
        if views.masks is None
        else [np.ascontiguousarray(mask.numpy()) for mask in views.masks]
    )
    pyramid = []
    for level in range(config.levels):
        if level:
            halves = [_halve(i, m) for i, m in zip(images, masks, strict=True)]
            images, masks = [h[0] for h in halves], [h[1] for h in halves]
        pyramid.append(
            FeatureLevel(
                torch.from_numpy(
                    _stack([_normalise(i, m, config) for i, m in zip(images, masks, strict=True)])
                ),
                torch.from_numpy(pack_cameras(views.cameras, 0.5**level, origin.double().numpy())),
                level_projections(views.cameras, level),
                torch.tensor([image.shape[1::-1] for image in images], dtype=torch.int32),
            )
        )
    return pyramid


def _halve(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average 2×2 pixels, weighted by the mask; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    size = (width // 2, height // 2)
    weight = mask[:height, :width]
    total = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    color = cv2.resize(
        image[:height, :width] * weight[..., None], size, interpolation=cv2.INTER_AREA
    )
    return color / np.maximum(total, 1e-3)[..., None], total


def _normalise(image: np.ndarray, mask: np.ndarray, config: FeatureConfig) -> np.ndarray:
    weight = np.maximum(_blur(mask, config.radius), 1e-3)[..., None]
    mean = _blur(image * mask[..., None], config.radius) / weight
    variance = _blur(np.square(image) * mask[..., None], config.radius) / weight - np.square(mean)
    spread = np.sqrt(np.maximum(variance, 0).mean(-1, keepdims=True) + config.floor**2)
    values = (image - mean) / spread * mask[..., None]
    # central differences; a light blur first so that derivatives are those of what bilinear reads
    values = cv2.GaussianBlur(values, (3, 3), 0.7, borderType=cv2.BORDER_REPLICATE)
    dx = cv2.Sobel(values, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(values, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    return np.concatenate([values, dx, dy], -1)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    height = max(p.shape[0] for p in pictures)
    width = max(p.shape[1] for p in pictures)
    out = np.zeros((len(pictures), height, width, pictures[0].shape[2]), np.float32)
    for i, picture in enumerate(pictures):
        out[i, : picture.shape[0], : picture.shape[1]] = picture
    return out
