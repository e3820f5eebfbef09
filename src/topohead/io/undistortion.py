"""Stored pictures to pinhole views: one resize and one warp, lens and skew undone."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture, Distortion, Photographs, Rig, Views
from topohead.core.transfer import aside
from topohead.geometry.cameras import undistorted_pixels
from topohead.io.lens_warps import Warp
from topohead.io.stored_pictures import Stored, stored_on_device, stored_picture

_MASK_HEIGHT = 1200
"""Of masks beside photographs: about that of the depth maps that they are compared with."""


def undistorted_views(
    capture: Capture,
    frame: str,
    names: Sequence[str] | None = None,
    height: int | None = None,
    readers: int = 1,
    device: torch.device | str = "cpu",
) -> Views:
    """Pinhole pictures of one instant, antialiased and undistorted; skew is gone.

    `names` picks cameras (default: all). All cameras of the capture shrink by one common factor,
    the one that gives the rig's median image this `height`; pictures are never enlarged. Where the
    lens saw nothing the nearest border colour fills the image and the mask is zero. A picture that
    is missing under `allow_missing` leaves its camera out of the views. Filters work on srgb.
    Cameras are shared out among `readers` threads. On a CUDA `device` the pictures are warped and
    stay there; see `transfer.brought`.
    """
    rig = capture.rig if names is None else capture.rig.select(names)
    target = pinhole_cameras(capture, rig.cameras.names, height)

    def make(index: int, stored: Stored) -> _Made:
        return _pinhole(stored, Warp(rig, target, index))

    made = _each(capture, frame, rig.cameras.names, _readers(readers), torch.device(device), make)
    return _views(frame, target, made)


def views_and_photographs(
    capture: Capture,
    frame: str,
    names: Sequence[str],
    height: int | None,
    readers: int,
    device: torch.device | str,
) -> tuple[Views, Photographs]:
    """`undistorted_views` and `photographs` of one instant, every picture decoded once."""
    rig = capture.rig.select(names)
    target = pinhole_cameras(capture, names, height)
    masks = pinhole_cameras(capture, names, _MASK_HEIGHT)

    def make(index: int, stored: Stored) -> _Made:
        straight = _pinhole(stored, Warp(rig, target, index))
        return *straight, *_photograph(stored, capture, rig, masks, index)

    made = _each(capture, frame, names, _readers(readers), torch.device(device), make)
    small = {index: parts[:2] for index, parts in made.items()}
    whole = {index: parts[2:] for index, parts in made.items()}
    return _views(frame, target, small), _photographs(frame, capture, rig, whole)


def photographs(
    capture: Capture,
    frame: str,
    workers: Executor,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Photographs:
    """Pictures of one instant as they are stored, 8 bits deep, on a device.

    `workers` read them at once.

    Only a fisheye is undone here. A picture that is missing under `allow_missing` leaves its
    camera out. Masks are those of `undistorted_views`, smaller.
    """
    rig = capture.rig if names is None else capture.rig.select(names)
    masks = pinhole_cameras(capture, rig.cameras.names, _MASK_HEIGHT)

    def make(index: int, stored: Stored) -> _Made:
        return _photograph(stored, capture, rig, masks, index)

    made = _each(capture, frame, rig.cameras.names, workers, torch.device(device), make)
    return _photographs(frame, capture, rig, made)


@cache
def _readers(count: int) -> ThreadPoolExecutor:
    """So many threads, which stay: to begin them takes longer than to read small pictures."""
    return ThreadPoolExecutor(count, thread_name_prefix="reader")


_Made = tuple[Tensor | None, ...]
"""Pictures, each followed by its mask."""


def _each(
    capture: Capture,
    frame: str,
    names: Sequence[str],
    workers: Executor,
    device: torch.device,
    make: Callable[[int, Stored], _Made],
) -> dict[int, _Made]:
    """What `make` makes, on the device, of every picture that is there, by the camera's number.

    For a CUDA device the workers only read. Else each does all there is to do, and no more pictures
    are in memory than there are workers.
    """
    if device.type == "cuda":
        there = stored_on_device(capture, frame, names, workers, device)
        with aside(device) as tensors:
            found = {index: make(index, stored) for index, stored in there.items()}
            tensors += [part for parts in found.values() for part in parts if part is not None]
        return found

    def made(index: int) -> _Made | None:
        stored = stored_picture(capture, frame, names[index])
        return None if stored is None else make(index, stored)

    parts = enumerate(workers.map(made, range(len(names))))
    return {index: one for index, one in parts if one is not None}


def _pinhole(stored: Stored, warp: Warp) -> _Made:
    """A stored picture and its mask as the warp's pinhole camera sees them."""
    image, mask = stored
    if image.is_cuda:
        straight = warp.picture_on_device(image)
    else:
        straight = torch.from_numpy(warp.picture(image.numpy()))
    return straight, _pinhole_mask(mask, warp)


def _pinhole_mask(mask: Tensor | None, warp: Warp) -> Tensor | None:
    if mask is None:
        return None
    return warp.mask_on_device(mask) if mask.is_cuda else torch.from_numpy(warp.mask(mask.numpy()))


def _views(frame: str, target: Cameras, made: Mapping[int, _Made]) -> Views:
    cameras = target.select([target.names[index] for index in made])
    return Views(frame, cameras, *_columns(made))


def _photograph(stored: Stored, capture: Capture, rig: Rig, masks: Cameras, index: int) -> _Made:
    """A stored picture as 8-bit codes, a fisheye undone, and its mask as small as `masks`."""
    image, mask = stored
    if rig.distortion[index].model == "fisheye":
        straight = pinhole_cameras(capture, rig.cameras.names)
        whole, _ = _pinhole((image, None), Warp(rig, straight, index))
        assert whole is not None, "there was a picture"
        image = whole
    if image.dtype != torch.uint8:
        if image.is_cuda:
            image = (image * 255).round().to(torch.uint8)
        else:
            image = torch.from_numpy(cv2.convertScaleAbs(image.numpy(), alpha=255))
    return image, None if mask is None else _pinhole_mask(mask, Warp(rig, masks, index))


def _photographs(frame: str, capture: Capture, rig: Rig, made: Mapping[int, _Made]) -> Photographs:
    """Photographs and the cameras that fit them."""
    images, masks = _columns(made)
    rig = rig.select([rig.cameras.names[index] for index in made])
    bent = [lens.model == "fisheye" for lens in rig.distortion]
    cameras, intrinsics = rig.cameras, rig.cameras.intrinsics
    if any(bent):
        straight = pinhole_cameras(capture, cameras.names)
        there = torch.tensor(bent)[:, None, None]
        intrinsics = torch.where(there, straight.intrinsics, intrinsics)
    sizes = torch.tensor([[image.shape[1], image.shape[0]] for image in images])
    lenses = [Distortion() if b else d for b, d in zip(bent, rig.distortion, strict=True)]
    cameras = replace(cameras, intrinsics=intrinsics).resized(sizes)
    return Photographs(frame, Rig(cameras, tuple(lenses)), images, masks)


def _columns(made: Mapping[int, _Made]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """All pictures, and all masks or None."""
    images = tuple(image for image, _ in made.values() if image is not None)
    return images, tuple(mask for _, mask in made.values() if mask is not None) or None


def pinhole_cameras(
    capture: Capture, names: Sequence[str] | None = None, height: int | None = None
) -> Cameras:
    """The cameras that `undistorted_views` gives for these names and this height."""
    all_cameras = capture.rig.cameras
    cameras = all_cameras if names is None else all_cameras.select(names)
    median = float(all_cameras.sizes[:, 1].double().quantile(0.5))
    factor = 1.0 if height is None else min(1.0, height / median)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 1] = 0
    sizes = (cameras.sizes * factor).round().long().clamp(min=1)
    return replace(cameras, intrinsics=intrinsics).resized(sizes)


def seen_by_lens(capture: Capture, cameras: Cameras) -> tuple[Float[Tensor, "H W"], ...]:
    """Per pinhole camera (of `pinhole_cameras`): one where the lens saw something, else zero."""
    rig = capture.rig.select(cameras.names)
    return tuple(
        torch.from_numpy(Warp(rig, cameras, index).seen()) for index in range(len(cameras))
    )


def undistorted_landmarks(
    capture: Capture, frame: str, cameras: Cameras
) -> dict[str, dict[int, tuple[float, float]]]:
    """The take's landmarks of a frame in the pixels of these pinhole cameras, by camera."""
    moved: dict[str, dict[int, tuple[float, float]]] = {}
    for name, points in ((capture.landmarks or {}).get(frame) or {}).items():
        if name not in cameras.names or not points:
            continue
        pixels = torch.tensor(list(points.values()), dtype=torch.float64)[None]
        straight = undistorted_pixels(capture.rig.select([name]), pixels, cameras.select([name]))[0]
        moved[name] = {
            index: (float(x), float(y)) for index, (x, y) in zip(points, straight, strict=True)
        }
    return moved
