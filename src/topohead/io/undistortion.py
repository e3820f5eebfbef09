"""Stored pictures to pinhole views: one resize and one warp, lens and skew undone."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture, Distortion, Photographs, Rig, Views
from topohead.core.transfer import aside, brought
from topohead.geometry.cameras import undistorted_pixels
from topohead.io import jpegs_cuda
from topohead.io.lens_warps import Size, Warp
from topohead.io.missing import MissingFrame

Made = TypeVar("Made")

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
    device = torch.device(device)

    def read(index: int, stored: _Stored) -> _Read:
        return _read(stored, Warp(rig, target, index), device)

    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as threads:
        found = list(_each(capture, frame, rig.cameras.names, threads, device, read))
    return _views(frame, target, found, device)


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
    target = pinhole_cameras(capture, rig.cameras.names, height)
    device = torch.device(device)

    def read(index: int, stored: _Stored) -> tuple[_Read, Photographs]:
        small = _read(stored, Warp(rig, target, index), device)
        whole = _photograph(
            stored, capture, frame, rig.select(rig.cameras.names[index : index + 1])
        )
        return small, whole.to(device)

    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as threads:
        found = list(_each(capture, frame, rig.cameras.names, threads, device, read))
    views = _views(frame, target, [small for small, _ in found], device)
    return views, _together(frame, [whole for _, whole in found])


_Stored = tuple[Tensor, Float[Tensor, "H W"] | None]
"""A picture, 8-bit codes or srgb in [0, 1], and its mask; codes may be on a device already."""


def _each(
    capture: Capture,
    frame: str,
    names: Sequence[str],
    workers: Executor,
    device: torch.device,
    make: Callable[[int, _Stored], Made],
) -> Iterator[Made]:
    """What `make` makes of every picture that is there: given its number and how it is stored.

    JPEG files are decoded on a CUDA device where it can, which is several times faster.
    """
    here: Sequence[Tensor | None] = [None] * len(names)
    if device.type == "cuda" and capture.read_jpeg is not None and jpegs_cuda.is_there():
        files = list(workers.map(lambda name: _jpeg(capture, frame, name), names))
        whole = [file for file in files if file is not None]
        decoded = iter(jpegs_cuda.decoded(whole, device) or [None] * len(whole))
        here = [None if file is None else next(decoded) for file in files]

    def read(index: int) -> Made | None:
        stored = _stored(capture, frame, names[index], here[index])
        return None if stored is None else make(index, stored)

    return (made for made in workers.map(read, range(len(names))) if made is not None)


def _jpeg(capture: Capture, frame: str, name: str) -> bytes | None:
    assert capture.read_jpeg is not None
    try:
        return capture.read_jpeg(frame, name)
    except MissingFrame:
        return None


def _stored(capture: Capture, frame: str, name: str, image: Tensor | None) -> _Stored | None:
    """A camera's picture as it is stored, decoded here if need be; None where it is missing."""
    try:
        if image is None:
            image = (capture.read_stored or capture.read_image)(frame, name)
        return image, None if capture.read_mask is None else capture.read_mask(frame, name)
    except MissingFrame:
        return None


def _read(stored: _Stored, warp: Warp, device: torch.device) -> "_Read":
    """What is left to do for a CUDA device is the picture's warp."""
    image, mask = stored
    size = (image.shape[1], image.shape[0])
    if image.is_cuda:
        with aside(device) as made:
            made.append(warp.reduced_on_device(image))
        picture = made[0]
    else:
        reduce = warp.reduced if device.type == "cuda" else warp.picture
        picture = torch.from_numpy(reduce(image.numpy()))
    return _Read(
        warp, size, picture, None if mask is None else torch.from_numpy(warp.mask(mask.numpy()))
    )


def _views(frame: str, target: Cameras, found: Sequence["_Read"], device: torch.device) -> Views:
    there = device.type == "cuda"
    masks = tuple(one.mask for one in found if one.mask is not None)
    images = _warped(found, device) if there else tuple(one.picture for one in found)
    cameras = target.select([one.warp.name for one in found])
    views = Views(frame, cameras, images, masks or None)
    return views.to(device) if there else views


def _warped(pictures: Sequence["_Read"], device: torch.device) -> tuple[Tensor, ...]:
    """Reduced pictures, brought to a CUDA device and warped there."""
    from topohead.rendering.warp_triton import remapped

    there = brought([one.picture for one in pictures], device)
    grids = [one.warp.grid_on(device, one.size) for one in pictures]
    with aside(device) as images:
        images += [
            picture if grid is None else remapped(picture, grid)
            for picture, grid in zip(there, grids, strict=True)
        ]
    return tuple(images)


def photographs(
    capture: Capture,
    frame: str,
    workers: Executor,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Photographs:
    """Pictures of one instant as they are stored, 8 bits deep, on a device.

    `workers` read them at once, and each brings its own over; see `transfer.brought`.

    Only a fisheye is undone here. A picture that is missing under `allow_missing` leaves its
    camera out. Masks are those of `undistorted_views`, smaller.
    """
    rig = capture.rig if names is None else capture.rig.select(names)

    def read(index: int, stored: _Stored) -> Photographs:
        name = rig.cameras.names[index]
        return _photograph(stored, capture, frame, rig.select([name])).to(device)

    names = rig.cameras.names
    return _together(frame, list(_each(capture, frame, names, workers, torch.device(device), read)))


def _together(frame: str, taken: Sequence[Photographs]) -> Photographs:
    """Single cameras' pictures of an instant as one."""
    cameras = [one.rig.cameras for one in taken]
    kept = Rig(
        Cameras(
            tuple(camera.names[0] for camera in cameras),
            torch.cat([camera.world_to_camera for camera in cameras]),
            torch.cat([camera.intrinsics for camera in cameras]),
            torch.cat([camera.sizes for camera in cameras]),
        ),
        tuple(one.rig.distortion[0] for one in taken),
    )
    masks = tuple(one.masks[0] for one in taken if one.masks is not None)
    return Photographs(frame, kept, tuple(one.images[0] for one in taken), masks or None)


def _photograph(stored: _Stored, capture: Capture, frame: str, rig: Rig) -> Photographs:
    """The picture of a rig of one camera."""
    image, mask = stored
    names = rig.cameras.names
    if rig.distortion[0].model == "fisheye":
        target = pinhole_cameras(capture, names)
        image = torch.from_numpy(Warp(rig, target, 0).picture(image.cpu().numpy()))
        rig = Rig(target, (Distortion(),))
    else:
        size = torch.tensor([[image.shape[1], image.shape[0]]])
        rig = Rig(rig.cameras.resized(size), rig.distortion)
    masks = None
    if mask is not None:
        small = pinhole_cameras(capture, names, _MASK_HEIGHT)
        masks = (torch.from_numpy(Warp(capture.rig.select(names), small, 0).mask(mask.numpy())),)
    if image.dtype != torch.uint8:
        image = torch.from_numpy(cv2.convertScaleAbs(image.numpy(), alpha=255))
    return Photographs(frame, rig, (image,), masks)


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


@dataclass(frozen=True)
class _Read:
    """A picture as a reader hands it over, its stored size, and the mask, which is finished."""

    warp: Warp
    size: Size
    picture: Float[Tensor, "_ _ 3"]
    mask: Float[Tensor, "_ _"] | None
