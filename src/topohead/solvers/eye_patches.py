"""Pictures cut out around a globe, with what hides it: what the gaze is solved on."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from topohead.core import Cameras, Views
from topohead.core.transfer import aside, pinned
from topohead.rendering.mesh import depth_stack


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
    pictures, inside, depth = _windows(views, chosen, corner, window, hiding, triangles)
    front = np.zeros((len(lens), size, size), np.float32)
    for index in range(len(lens)):
        pictures[index] = cv2.GaussianBlur(pictures[index], (0, 0), blur)
        nearest = np.minimum(depth[index], np.float32(1e6))
        # a pixel beside a lid mixes both
        front[index] = np.where(inside[index], cv2.erode(nearest, np.ones((3, 3), np.uint8)), 0)
    turned = (pose[:, :3, :3] @ motion[:3, :3]).float().numpy()
    lenses = torch.cat([focal, moved[:, :2, 2]], 1).float().numpy()
    return Patches(seen.float().numpy(), turned, lenses, pictures, front)


def _windows(
    views: Views,
    chosen: Sequence[int],
    corner: Int[Tensor, "C 2"],
    window: Cameras,
    hiding: Float[Tensor, "N 3"],
    triangles: Int[Tensor, "K 3"],
) -> tuple[Float32[np.ndarray, "C P P 3"], Bool[np.ndarray, "C P P"], Float32[np.ndarray, "C P P"]]:
    """The chosen pictures' windows at their corners, where these lie in picture and mask, and the
    depth of what hides, in the windows' cameras.

    Of pictures on a device all comes over at once, past the work that others wait for.
    """
    where, size = views.images[0].device, window.size(0)[0]
    shape = (len(chosen), size, size)
    if where.type != "cuda":
        pictures, inside = torch.zeros(*shape, 3), torch.zeros(shape, dtype=torch.bool)
        _cut(views, chosen, corner, pictures, inside)
        depth = depth_stack(hiding, triangles, window, cull=False)
        return pictures.numpy(), inside.numpy(), depth.numpy()
    pictures, inside = pinned((*shape, 3), torch.float32), pinned(shape, torch.bool)
    depth = pinned(shape, torch.float32)
    with aside(where) as made:
        made += [pictures.new_zeros(pictures.shape, device=where)]
        made += [inside.new_zeros(shape, device=where)]
        _cut(views, chosen, corner, *made)
        made += [depth_stack(hiding.to(where), triangles, window, cull=False)]
        for host, there in zip((pictures, inside, depth), made, strict=True):
            host.copy_(there, non_blocking=True)
    return pictures.numpy(), inside.numpy(), depth.numpy()


def _cut(
    views: Views,
    chosen: Sequence[int],
    corner: Int[Tensor, "C 2"],
    pictures: Float[Tensor, "C P P 3"],
    inside: Bool[Tensor, "C P P"],
) -> None:
    """Fills windows where they lie within pictures; `inside` says where also within masks."""
    size = pictures.shape[1]
    for row, (view, (x, y)) in enumerate(zip(chosen, corner.tolist(), strict=True)):
        image = views.images[view]
        height, width = image.shape[:2]
        left, top, right, low = max(x, 0), max(y, 0), min(x + size, width), min(y + size, height)
        if left < right and top < low:
            there = (slice(top - y, low - y), slice(left - x, right - x))
            pictures[row][there] = image[top:low, left:right]
            covered = True
            if views.masks is not None:
                covered = views.masks[view][top:low, left:right] > 0.5
            inside[row][there] = covered
