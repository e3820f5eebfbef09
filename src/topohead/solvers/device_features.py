"""The feature pyramid of `features`, made where the pictures are compared."""

from functools import cache

import cv2
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from topohead.core import Views
from topohead.solvers.features import FeatureConfig, FeatureLevel, pack_cameras
from topohead.solvers.kernels.blur_triton import filtered


def device_pyramid(
    views: Views, origin: Float[Tensor, " 3"], config: FeatureConfig, device: torch.device
) -> list[FeatureLevel]:
    """`features.feature_pyramid` on a device: the same filters, so the same values to 1e-4.

    Pictures of one size are filtered together; those on the host are brought over first.
    """
    shapes = [tuple(image.shape[:2]) for image in views.images]
    groups = [
        _Group.load(views, [i for i, own in enumerate(shapes) if own == shape], device)
        for shape in dict.fromkeys(shapes)
    ]
    where = origin.detach().cpu().double().numpy()
    pyramid = []
    for level in range(config.levels):
        if level:
            groups = [group.halved() for group in groups]
        sizes = [(0, 0)] * len(shapes)
        for group in groups:
            for index in group.members:
                sizes[index] = (group.images.shape[3], group.images.shape[2])
        width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
        features = torch.zeros(len(shapes), height, width, 9, device=device)
        for group in groups:
            values = group.normalised(config)
            features[group.rows, : values.shape[1], : values.shape[2]] = values
        cameras = torch.from_numpy(pack_cameras(views.cameras, 0.5**level, where)).to(device)
        pyramid.append(FeatureLevel(features, cameras, tuple(sizes)))
    return pyramid


class _Group:
    """Pictures of one size: `images` [N 3 H W], `masks` [N 1 H W], `members` their numbers."""

    def __init__(self, members: list[int], rows: Tensor, images: Tensor, masks: Tensor) -> None:
        self.members, self.rows, self.images, self.masks = members, rows, images, masks

    @staticmethod
    def load(views: Views, members: list[int], device: torch.device) -> "_Group":
        images = torch.stack([views.images[i].to(device, torch.float32) for i in members])
        images = images.permute(0, 3, 1, 2).contiguous()
        if views.masks is None:
            masks = torch.ones_like(images[:, :1])
        else:
            masks = torch.stack([views.masks[i].to(device, torch.float32) for i in members])[
                :, None
            ]
        return _Group(members, torch.tensor(members, device=device), images, masks)

    def halved(self) -> "_Group":
        """Mean of 2×2 pixels, weighted by the mask; an odd last row or column is dropped."""
        total = functional.avg_pool2d(self.masks, 2)
        color = functional.avg_pool2d(self.images * self.masks, 2)
        return _Group(self.members, self.rows, color / total.clamp(min=1e-3), total)

    def normalised(self, config: FeatureConfig) -> Tensor:
        """Values and derivatives [N H W 9]."""
        held = torch.cat(
            [self.masks, self.images * self.masks, self.images.square() * self.masks], 1
        )
        blurred = filtered(held, _gaussian(_size(config.radius), config.radius, held.device))
        weight = blurred[:, :1].clamp(min=1e-3)
        mean = blurred[:, 1:4] / weight
        variance = blurred[:, 4:] / weight - mean.square()
        spread = (variance.clamp(min=0).mean(1, keepdim=True) + config.floor**2).sqrt()
        values = filtered(
            (self.images - mean) / spread * self.masks, _gaussian(3, 0.7, held.device)
        )
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
