"""Stored pictures to pinhole views: one resize and one warp, lens and skew undone."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Capture, Distortion, Photographs, Rig, Views
from topohead.core.transfer import brought
from topohead.geometry.cameras import distort, fold_radius, undistorted_pixels
from topohead.io.missing import MissingFrame

Size = tuple[int, int]
Grid = TypeVar("Grid", tuple[np.ndarray, np.ndarray], tuple[Tensor, ...])

_CACHE_BYTES = 768 * 2**20  # grids of 24 cameras at 1024×768, or of 8 at 12 megapixels
_MASK_HEIGHT = 1200
"""Of masks beside photographs: about that of the depth maps that they are compared with."""
_FAR = -1e6  # a map coordinate that is outside every picture


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
    there = device.type == "cuda"

    def read(index: int) -> _Read | None:
        name = rig.cameras.names[index]
        try:
            image = capture.read_image(frame, name)
            mask = None if capture.read_mask is None else capture.read_mask(frame, name)
        except MissingFrame:
            return None
        warp = _Warp(rig, target, index)
        picture = warp.reduced(image.numpy()) if there else warp.picture(image.numpy())
        return _Read(
            warp,
            (image.shape[1], image.shape[0]),
            torch.from_numpy(picture),
            None if mask is None else torch.from_numpy(warp.mask(mask.numpy())),
        )

    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as threads:
        found = [one for one in threads.map(read, range(len(rig.cameras))) if one is not None]
    cameras = target.select([one.warp.name for one in found])
    masks = tuple(one.mask for one in found if one.mask is not None)
    images = _warped(found, device) if there else tuple(one.picture for one in found)
    views = Views(frame, cameras, images, masks if capture.read_mask else None)
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
    capture: Capture, frame: str, workers: Executor, names: Sequence[str] | None = None
) -> Photographs:
    """Pictures of one instant as they are stored, 8 bits deep, read by `workers` at once.

    Only a fisheye is undone here. A picture that is missing under `allow_missing` leaves its
    camera out. Masks are those of `undistorted_views`, smaller.
    """
    rig = capture.rig if names is None else capture.rig.select(names)
    jobs = [
        workers.submit(_photograph, capture, frame, rig.select([name]))
        for name in rig.cameras.names
    ]
    taken = [found for found in (job.result() for job in jobs) if found is not None]
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


def _photograph(capture: Capture, frame: str, rig: Rig) -> Photographs | None:
    """One camera's picture; None where it is missing."""
    name = rig.cameras.names[0]
    try:
        fisheye = rig.distortion[0].model == "fisheye"
        read = capture.read_image if fisheye else capture.read_stored or capture.read_image
        image = read(frame, name)
        mask = None if capture.read_mask is None else capture.read_mask(frame, name)
    except MissingFrame:
        return None
    target = pinhole_cameras(capture, (name,))
    if fisheye:
        image = torch.from_numpy(_Warp(rig, target, 0).picture(image.numpy()))
        stored = Rig(target, (Distortion(),))
    else:
        size = torch.tensor([[image.shape[1], image.shape[0]]])
        stored = Rig(rig.cameras.resized(size), rig.distortion)
    masks = None
    if mask is not None:
        small = pinhole_cameras(capture, (name,), _MASK_HEIGHT)
        masks = (torch.from_numpy(_Warp(rig, small, 0).mask(mask.numpy())),)
    if image.dtype != torch.uint8:
        image = torch.from_numpy(cv2.convertScaleAbs(image.numpy(), alpha=255))
    return Photographs(frame, stored, (image,), masks)


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
        torch.from_numpy(_Warp(rig, cameras, index).seen()) for index in range(len(cameras))
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

    warp: "_Warp"
    size: Size
    picture: Float[Tensor, "_ _ 3"]
    mask: Float[Tensor, "_ _"] | None


class _Warp:
    """From one stored picture to one pinhole picture.

    Reduction by the factor r: exact b×b averages with b = ⌊r⌋, a three-tap blur for the rest, then
    one Lanczos warp on the target's pixels. Averages over fractions of pixels (OpenCV's INTER_AREA
    at such factors) would move content by up to a tenth of a pixel, to and fro across the picture.
    """

    def __init__(self, rig: Rig, target: Cameras, index: int) -> None:
        self.name, self.lens = rig.cameras.names[index], rig.distortion[index]
        self.stored = rig.cameras.size(index)
        self.target = target.size(index)
        self.stored_intrinsics = rig.cameras.intrinsics[index].double()
        self.target_intrinsics = target.intrinsics[index].double()

    def picture(self, image: np.ndarray) -> np.ndarray:
        return np.clip(self._apply(image, cv2.INTER_LANCZOS4), 0, 1)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Zero also where the lens saw nothing."""
        return self._apply(mask, cv2.INTER_LINEAR) * self.seen((mask.shape[1], mask.shape[0]))

    def seen(self, actual: Size | None = None) -> np.ndarray:
        """Float32 [H W]: one where the pixel's ray lands inside the stored picture."""
        width, height = actual = actual or self.stored
        box = self._box(actual)
        x, y = self._grid(actual, box)
        inside = (x >= -0.5) & (x <= width / box - 0.5) & (y >= -0.5) & (y <= height / box - 0.5)
        return inside.astype(np.float32)

    def reduced(self, picture: np.ndarray) -> np.ndarray:
        """The picture without the warp at its end."""
        actual = (picture.shape[1], picture.shape[0])
        if self._is_straight(actual):
            return picture
        box = self._box(actual)
        if box > 1:
            width, height = actual[0] // box, actual[1] // box
            whole = picture[: height * box, : width * box]
            picture = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        return _blurred(picture, self._factor(actual) / box)

    def grid_on(self, device: torch.device, actual: Size) -> Float[Tensor, "2 h w"] | None:
        """Where each pinhole pixel lies in the reduced picture; None where it lies there itself."""
        if self._is_straight(actual):
            return None
        box = self._box(actual)
        key = (*self._key(actual, box), device)
        found = _device_grids.get(key)
        if found is None:
            found = brought([torch.from_numpy(np.stack(self._grid(actual, box)))], device)
            _device_grids.put(key, found)
        return found[0]

    def _apply(self, picture: np.ndarray, filter: int) -> np.ndarray:
        actual = (picture.shape[1], picture.shape[0])
        reduced = self.reduced(picture)
        if self._is_straight(actual):
            return reduced
        grid = self._grid(actual, self._box(actual))
        return cv2.remap(reduced, *grid, filter, borderMode=cv2.BORDER_REPLICATE)

    def _is_straight(self, actual: Size) -> bool:
        if actual != self.target:
            return False
        expected = _scaled(self.stored_intrinsics, self.stored, self.target)
        same = torch.allclose(expected, self.target_intrinsics, rtol=1e-9, atol=1e-6)
        return self.lens.is_identity and same

    def _factor(self, actual: Size) -> float:
        return min(actual[0] / self.target[0], actual[1] / self.target[1])

    def _box(self, actual: Size) -> int:
        # 1 % of slack: a size that was rounded must not cost a whole step
        return max(1, math.floor(self._factor(actual) * 1.01))

    def _grid(self, actual: Size, box: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each pinhole pixel lies in the stored picture averaged over boxes."""
        key = self._key(actual, box)
        grid = _grids.get(key)
        if grid is None:
            grid = _make_grid(*key)
            _grids.put(key, grid)
        return grid

    def _key(
        self, actual: Size, box: int
    ) -> tuple[tuple[float, ...], tuple[float, ...], Distortion, Size]:
        """All that a grid depends on."""
        source = _scaled(self.stored_intrinsics, self.stored, actual).clone()
        source[:2] /= box
        target = tuple(self.target_intrinsics.flatten().tolist())
        return tuple(source.flatten().tolist()), target, self.lens, self.target


def _scaled(intrinsics: Float[Tensor, "3 3"], size: Size, other: Size) -> Float[Tensor, "3 3"]:
    """Intrinsics of the same picture resampled to another size."""
    factor = torch.tensor([[other[0] / size[0]], [other[1] / size[1]], [1.0]])
    return intrinsics * factor.to(intrinsics)


def _blurred(picture: np.ndarray, factor: float) -> np.ndarray:
    """Blurs so that pixels become as wide as those of a picture smaller by `factor` (1 to 2).

    A pixel's box has variance 1/12; the taps (a, 1 − 2a, a) add 2a, and variances add.
    """
    if factor <= 1.01:
        return picture
    side = (min(factor, 2) ** 2 - 1) / 24
    taps = np.array([side, 1 - 2 * side, side])
    return cv2.sepFilter2D(picture, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)


def _make_grid(
    stored: tuple[float, ...], target: tuple[float, ...], lens: Distortion, size: Size
) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV's remap grids (pixel centres at integers), float32 [H W], computed by rows."""
    into = torch.tensor(stored, dtype=torch.float64).reshape(3, 3)
    inverse = torch.linalg.inv(torch.tensor(target, dtype=torch.float64).reshape(3, 3))
    width, height = size
    across = torch.arange(width, dtype=torch.float64) + 0.5
    grid = np.empty((2, height, width), np.float32)
    limit = None if lens.is_identity else fold_radius(lens)
    rows = max(1, 2**18 // width)  # float64 temporaries of a few MB, whatever the picture's size
    for start in range(0, height, rows):
        down = torch.arange(start, min(start + rows, height), dtype=torch.float64) + 0.5
        pixels = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
        plane = pixels @ inverse[:2, :2].T + inverse[:2, 2]
        moved = distort(plane, lens) @ into[:2, :2].T + into[:2, 2] - 0.5
        if limit is not None:
            moved[plane.norm(dim=-1) > limit] = _FAR
        grid[:, start : start + rows] = moved.permute(2, 0, 1).float().numpy()
    return grid[0], grid[1]


class _GridCache(Generic[Grid]):
    """The grids used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._lock = Lock()  # background readers share it
        self._grids: OrderedDict[tuple, Grid] = OrderedDict()

    def get(self, key: tuple) -> Grid | None:
        with self._lock:
            if key not in self._grids:
                return None
            self._grids.move_to_end(key)
            return self._grids[key]

    def put(self, key: tuple, grid: Grid) -> None:
        with self._lock:
            if key in self._grids:
                return
            self._grids[key] = grid
            self._bytes += sum(part.nbytes for part in grid)
            while self._bytes > self._limit and len(self._grids) > 1:
                _, old = self._grids.popitem(last=False)
                self._bytes -= sum(part.nbytes for part in old)


_grids: _GridCache[tuple[np.ndarray, np.ndarray]] = _GridCache(_CACHE_BYTES)
_device_grids: _GridCache[tuple[Tensor, ...]] = _GridCache(4 * _CACHE_BYTES)
