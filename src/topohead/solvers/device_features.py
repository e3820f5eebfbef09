"""The feature pyramid of `features`, made where the pictures are compared."""

from functools import cache

import cv2
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from topohead.core import Cameras, Views
from topohead.solvers.features import (
    FeatureConfig,
    FeatureLevel,
    level_projections,
    pack_cameras,
)
from topohead.solvers.kernels.blur_triton import filtered


class DevicePyramid:
    """`features.feature_pyramid` on a device: the same filters, so the same values to 1e-4.

    Its tensors keep their place from frame to frame, so that recorded work may read them: `load`
    brings in pictures of the first ones' sizes, `make` filters them and waits for nothing. Pictures
    of one size are filtered together.
    """

    def __init__(self, views: Views, config: FeatureConfig, device: torch.device) -> None:
        self._config = config
        shapes = [(image.shape[0], image.shape[1]) for image in views.images]
        self._groups = [
            _Group.empty([i for i, own in enumerate(shapes) if own == shape], shape, device)
            for shape in dict.fromkeys(shapes)
        ]
        self._cameras: Cameras | None = None
        self.levels = []
        for index in range(config.levels):
            sizes = torch.tensor([(w >> index, h >> index) for h, w in shapes], dtype=torch.int32)
            width, height = sizes.amax(0).tolist()
            count = len(shapes)
            self.levels.append(
                FeatureLevel(
                    torch.zeros(count, height, width, 9, device=device),
                    torch.zeros(count, 16, device=device),
                    torch.zeros(count, 3, 4, dtype=torch.float64, device=device),
                    sizes.to(device),
                )
            )

    @staticmethod
    def key(views: Views) -> tuple:
        """What views must have in common with the first ones."""
        return tuple(image.shape for image in views.images), views.masks is None

    def load(self, views: Views, origin: Float[Tensor, " 3"]) -> None:
        """Takes over pictures, on whatever device they are, and cameras; `origin` as those."""
        for group in self._groups:
            group.load(views)
        cameras, last = views.cameras, self._cameras
        if (
            last is None
            or not torch.equal(cameras.world_to_camera, last.world_to_camera)
            or not torch.equal(cameras.intrinsics, last.intrinsics)
        ):
            self._cameras = cameras
            for index, level in enumerate(self.levels):
                packed = pack_cameras(cameras, 0.5**index, origin.double().numpy())
                level.cameras.copy_(torch.from_numpy(packed))
                level.projections.copy_(level_projections(cameras, index))

    def make(self) -> tuple[()]:
        """Fills the levels' features from the pictures that were loaded."""
        pictures = [group.pictures() for group in self._groups]
        for index, level in enumerate(self.levels):
            if index:
                pictures = [_halved(*group) for group in pictures]
            for group, own in zip(self._groups, pictures, strict=True):
                values = _normalised(*own, self._config)
                level.features[group.rows, : values.shape[1], : values.shape[2]] = values
        return ()


class _Group:
    """Room for pictures of one size: `images` [N H W 3], `masks` [N 1 H W]."""

    def __init__(self, members: list[int], images: Tensor, masks: Tensor) -> None:
        self.members, self.images, self.masks = members, images, masks
        self.rows = torch.tensor(members, device=images.device)

    @staticmethod
    def empty(members: list[int], shape: tuple[int, int], device: torch.device) -> "_Group":
        height, width = shape
        images = torch.empty(len(members), height, width, 3, device=device)
        masks = torch.ones(len(members), 1, height, width, device=device)
        return _Group(members, images, masks)

    def load(self, views: Views) -> None:
        for row, index in enumerate(self.members):
            self.images[row].copy_(views.images[index])
            if views.masks is not None:
                self.masks[row, 0].copy_(views.masks[index])

    def pictures(self) -> tuple[Tensor, Tensor]:
        """Images [N 3 H W] and masks."""
        return self.images.permute(0, 3, 1, 2).contiguous(), self.masks


def _halved(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of 2×2 pixels, weighted by the mask; an odd last row or column is dropped."""
    total = functional.avg_pool2d(masks, 2)
    color = functional.avg_pool2d(images * masks, 2)
    return color / total.clamp(min=1e-3), total


def _normalised(images: Tensor, masks: Tensor, config: FeatureConfig) -> Tensor:
    """Values and derivatives [N H W 9]."""
    held = torch.cat([masks, images * masks, images.square() * masks], 1)
    blurred = filtered(held, _gaussian(_size(config.radius), config.radius, held.device))
    weight = blurred[:, :1].clamp(min=1e-3)
    mean = blurred[:, 1:4] / weight
    variance = blurred[:, 4:] / weight - mean.square()
    spread = (variance.clamp(min=0).mean(1, keepdim=True) + config.floor**2).sqrt()
    values = filtered((images - mean) / spread * masks, _gaussian(3, 0.7, held.device))
    wide = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    along_x = 0.5 * (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2])
    along_y = 0.5 * (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1])
    return torch.cat([values, along_x, along_y], 1).permute(0, 2, 3, 1)


def _size(sigma: float) -> int:
    """The odd number of taps that OpenCV gives a float picture: four deviations each way."""
    return round(8 * sigma + 1) | 1


@cache
def _gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    return torch.from_numpy(cv2.getGaussianKernel(size, sigma).ravel()).float().to(device)
