"""Stored pictures to pinhole views: one resize and one warp, lens and skew undone."""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture, Distortion, Photographs, Rig, Views
from topohead.core.transfer import brought
from topohead.geometry.cameras import undistorted_pixels
from topohead.io.lens_warps import Size, Warp
from topohead.io.missing import MissingFrame

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

    def read(index: int) -> _Read | None:
        stored = _stored(capture, frame, rig.cameras.names[index])
        return None if stored is None else _read(stored, Warp(rig, target, index), device)

    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as threads:
        found = [one for one in threads.map(read, range(len(rig.cameras))) if one is not None]
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

    def read(index: int) -> tuple[_Read, Photographs] | None:
        stored = _stored(capture, frame, rig.cameras.names[index])
        if stored is None:
            return None
        small = _read(stored, Warp(rig, target, index), device)
        whole = _photograph(
            stored, capture, frame, rig.select(rig.cameras.names[index : index + 1])
        )
        return small, whole.to(device)

    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as threads:
        found = [both for both in threads.map(read, range(len(rig.cameras))) if both is not None]
    views = _views(frame, target, [small for small, _ in found], device)
    return views, _together(frame, [whole for _, whole in found])


_Stored = tuple[Tensor, Float[Tensor, "H W"] | None]
"""A picture, 8-bit codes or srgb in [0, 1], and its mask."""


def _stored(capture: Capture, frame: str, name: str) -> _Stored | None:
    """A camera's picture as it is stored; None where it is missing."""
    try:
        image = (capture.read_stored or capture.read_image)(frame, name)
        return image, None if capture.read_mask is None else capture.read_mask(frame, name)
    except MissingFrame:
        return None


def _read(stored: _Stored, warp: Warp, device: torch.device) -> "_Read":
    """What is left to do for a CUDA device is the picture's warp."""
    image, mask = stored
    reduce = warp.reduced if device.type == "cuda" else warp.picture
    return _Read(
        warp,
        (image.shape[1], image.shape[0]),
        torch.from_numpy(reduce(image.numpy())),
        None if mask is None else torch.from_numpy(warp.mask(mask.numpy())),
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
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        images = tuple(
            picture if grid is None else remapped(picture, grid)
            for picture, grid in zip(there, grids, strict=True)
        )
    for image in images:
        image.record_stream(torch.cuda.default_stream(device))
    stream.synchronize()
    return images


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

    def read(name: str) -> Photographs | None:
        stored = _stored(capture, frame, name)
        if stored is None:
            return None
        return _photograph(stored, capture, frame, rig.select([name])).to(device)

    taken = workers.map(read, rig.cameras.names)
    return _together(frame, [one for one in taken if one is not None])


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
        image = torch.from_numpy(Warp(rig, target, 0).picture(image.numpy()))
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
