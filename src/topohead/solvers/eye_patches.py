"""Pictures cut out around a globe, with what hides it: what the gaze is solved on."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Cameras, Views
from topohead.rendering.mesh import depth_maps


@dataclass(frozen=True)
class Patches:
    """Pictures cut out around one globe; see `kernels.eyes` for the arrays."""

    centers: np.ndarray
    axes: np.ndarray
    lens: np.ndarray
    pictures: np.ndarray
    front: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """In the order in which the kernels take them."""
        return self.centers, self.axes, self.lens, self.pictures, self.front


def patches_around(
    views: Views,
    hiding: Float[Tensor, "N 3"],
    triangles: Int[Tensor, "K 3"],
    center: Float[Tensor, "3"],
    radius: float,
    motion: Float[Tensor, "4 4"],
    ahead: Float[Tensor, "3"],
    most: int,
    blur: float,
) -> Patches:
    """Views around a globe that `motion` carries from `center` in the first frame.

    The `most` views that look it straightest in the face, which looks `ahead`; more only cost
    time. `triangles` of the posed vertices `hiding` may hide it; `blur` smooths the pictures,
    pixels.
    """
    place = motion[:3, :3] @ center + motion[:3, 3]
    towards = torch.nn.functional.normalize(views.cameras.centers.double() - place, dim=1)
    chosen = (towards @ ahead).argsort(descending=True, stable=True)[:most].sort().values.tolist()
    cameras = views.cameras.select([views.cameras.names[index] for index in chosen])
    pose = cameras.world_to_camera.double()
    seen = pose[:, :3, :3] @ place + pose[:, :3, 3]
    lens = cameras.intrinsics.double()
    focal = lens[:, [0, 1], [0, 1]]
    middle = lens[:, :2, 2] + focal * seen[:, :2] / seen[:, 2:].clamp(min=1e-3)
    # a globe in a picture of a few hundred pixels; in a finer one its patch is the larger
    half = int((1.1 * radius * focal.amax(1) / seen[:, 2].clamp(min=1e-3)).max().ceil()) + 3
    corner = (middle.round() - half).long()
    size = 2 * half
    moved = lens.clone()
    moved[:, :2, 2] -= corner
    window = Cameras(cameras.names, pose, moved, torch.full((len(lens), 2), size))
    depth = depth_maps(hiding, triangles, window, cull=False)
    pictures = np.zeros((len(lens), size, size, 3), np.float32)
    front = np.zeros((len(lens), size, size), np.float32)
    for index, view in enumerate(chosen):
        mask = None if views.masks is None else views.masks[view]
        x, y = corner[index].tolist()
        inside = _cut(views.images[view], mask, x, y, pictures[index])
        picture = cv2.GaussianBlur(pictures[index], (0, 0), blur)
        pictures[index] = picture
        nearest = np.minimum(depth[index].numpy(), np.float32(1e6))
        # a pixel beside a lid mixes both
        front[index] = np.where(inside, cv2.erode(nearest, np.ones((3, 3), np.uint8)), 0)
    turned = (pose[:, :3, :3] @ motion[:3, :3]).float().numpy()
    lenses = torch.cat([focal, moved[:, :2, 2]], 1).float().numpy()
    return Patches(seen.float().numpy(), turned, lenses, pictures, front)


def _cut(
    image: Float[Tensor, "H W 3"],
    mask: Float[Tensor, "H W"] | None,
    x: int,
    y: int,
    out: np.ndarray,
) -> np.ndarray:
    """Fills `out` with the window at (x, y) of a picture; where it lies within picture and mask."""
    size, (height, width) = len(out), image.shape[:2]
    left, top, right, low = max(x, 0), max(y, 0), min(x + size, width), min(y + size, height)
    inside = np.zeros((size, size), bool)
    if left < right and top < low:
        there = (slice(top - y, low - y), slice(left - x, right - x))
        out[there] = image[top:low, left:right].cpu().numpy()
        covered = None if mask is None else mask[top:low, left:right].cpu().numpy() > 0.5
        inside[there] = True if covered is None else covered
    return inside
