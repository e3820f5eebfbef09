"""One stored picture reduced and undistorted to one pinhole picture."""

import math
from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from topohead.core import Cameras, Distortion, Rig
from topohead.core.transfer import brought
from topohead.geometry.cameras import distort, fold_radius

OnDevice = UInt8[Tensor, "H W *K"] | Float[Tensor, "H W *K"]
"""8-bit codes or values in [0, 1], of a picture or a mask."""
Size = tuple[int, int]
"""Width, height."""
Intrinsics = tuple[float, ...]
"""Row by row."""
Grid = TypeVar("Grid", tuple[np.ndarray, np.ndarray], tuple[Tensor, ...])

_CACHE_BYTES = 768 * 2**20  # grids of 24 cameras at 1024×768, or of 8 at 12 megapixels
_BAND_PIXELS = 2**17
_FAR = -1e6  # a map coordinate that is outside every picture


class Warp:
    """From one stored picture to one pinhole picture.

    Reduction by the factor r: exact b×b averages with b = ⌊r⌋, a three-tap blur for the rest, then
    one Lanczos warp on the target's pixels. Averages over fractions of pixels (OpenCV's INTER_AREA
    at such factors) would move content by up to a tenth of a pixel, to and fro across the picture.
    """

    def __init__(self, rig: Rig, target: Cameras, index: int) -> None:
        self.name, self.lens = rig.cameras.names[index], rig.distortion[index]
        self.stored = rig.cameras.size(index)
        self.target = target.size(index)
        # plain numbers: dozens of small tensors a picture would cost more than small pictures do
        self.stored_intrinsics = _numbers(rig.cameras, index)
        self.target_intrinsics = _numbers(target, index)

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
        """The picture, or its 8-bit codes, as float32 without the warp at its end."""
        actual = (picture.shape[1], picture.shape[0])
        if self._is_straight(actual):
            return _as_float(picture)
        box = self._box(actual)
        return _blurred(averaged(picture, box), self._factor(actual) / box)

    def picture_on_device(self, stored: OnDevice) -> Float[Tensor, "h w 3"]:
        """`picture` of what is on a CUDA device, there, to rounding."""
        from topohead.rendering.warp_triton import remapped

        grid = self.grid_on(stored.device, (stored.shape[1], stored.shape[0]))
        reduced = self.reduced_on_device(stored)
        return reduced if grid is None else remapped(reduced, grid)

    def mask_on_device(self, stored: OnDevice) -> Float[Tensor, "h w"]:
        """`mask` of what is on a device, there; some OpenCV round positions to 32nds of a pixel."""
        width, height = actual = (stored.shape[1], stored.shape[0])
        grid = self.grid_on(stored.device, actual)
        reduced = self.reduced_on_device(stored[..., None])[..., 0]
        if grid is None:
            return reduced
        box = self._box(actual)
        x, y = grid
        inside = (grid >= -0.5).all(0) & (x <= width / box - 0.5) & (y <= height / box - 0.5)
        across, down = (2 / (length - 1) for length in (reduced.shape[1], reduced.shape[0]))
        place = torch.stack([x * across - 1, y * down - 1], -1)
        found = functional.grid_sample(
            reduced[None, None], place[None], padding_mode="border", align_corners=True
        )
        return found[0, 0] * inside

    def reduced_on_device(self, stored: OnDevice) -> Float[Tensor, "h w K"]:
        """`reduced` of what is on a device, there, to rounding."""
        actual = (stored.shape[1], stored.shape[0])
        is_code = stored.dtype == torch.uint8
        if self._is_straight(actual):
            return stored.float() / 255 if is_code else stored
        box = self._box(actual)
        height, width, channels = stored.shape[0] // box, stored.shape[1] // box, stored.shape[2]
        blocks = stored[: height * box, : width * box].reshape(height, box, width, box, channels)
        total = blocks.sum((1, 3), dtype=torch.int32 if is_code else torch.float32)
        small = total.float() / ((255 if is_code else 1) * box * box)
        taps = _taps(self._factor(actual) / box)
        if taps is None:
            return small
        side, middle, _ = taps.tolist()
        for axis in (0, 1):  # not a convolution, which would round to ten bits on CUDA
            last = small.shape[axis] - 1
            before = torch.cat([small.narrow(axis, 0, 1), small.narrow(axis, 0, last)], axis)
            after = torch.cat([small.narrow(axis, 1, last), small.narrow(axis, last, 1)], axis)
            small = small * middle + (before + after) * side
        return small

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
        pairs = zip(expected, self.target_intrinsics, strict=True)
        return self.lens.is_identity and all(abs(a - b) <= 1e-6 for a, b in pairs)

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

    def _key(self, actual: Size, box: int) -> tuple[Intrinsics, Intrinsics, Distortion, Size]:
        """All that a grid depends on."""
        source = _scaled(self.stored_intrinsics, self.stored, actual)
        source = (*(value / box for value in source[:6]), *source[6:])
        return source, self.target_intrinsics, self.lens, self.target


def _numbers(cameras: Cameras, index: int) -> Intrinsics:
    return tuple(cameras.intrinsics[index].double().flatten().tolist())


def _scaled(intrinsics: Intrinsics, size: Size, other: Size) -> Intrinsics:
    """Intrinsics of the same picture resampled to another size."""
    across, down = other[0] / size[0], other[1] / size[1]
    factors = (across, across, across, down, down, down, 1.0, 1.0, 1.0)
    return tuple(value * factor for value, factor in zip(intrinsics, factors, strict=True))


def _as_float(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint8:
        return np.divide(picture, np.float32(255), dtype=np.float32)
    return picture


def averaged(picture: np.ndarray, box: int) -> np.ndarray:
    """Means over box × box pixels, float32.

    By bands of rows that stay in a core's cache: a photograph as a float picture is 150 MB, and
    readers that all ask the kernel for such memory wait for one another.
    """
    if box == 1:
        return _as_float(picture)
    height, width = picture.shape[0] // box, picture.shape[1] // box
    small = np.empty((height, width, *picture.shape[2:]), np.float32)
    rows = max(1, _BAND_PIXELS // (width * box * box))
    for top in range(0, height, rows):
        out = small[top : top + rows]
        band = picture[top * box : (top + len(out)) * box, : width * box]
        cv2.resize(_as_float(band), (width, len(out)), dst=out, interpolation=cv2.INTER_AREA)
    return small


def _blurred(picture: np.ndarray, factor: float) -> np.ndarray:
    """Blurs so that pixels become as wide as those of a picture smaller by `factor` (1 to 2).

    A pixel's box has variance 1/12; the taps (a, 1 − 2a, a) add 2a, and variances add.
    """
    taps = _taps(factor)
    if taps is None:
        return picture
    return cv2.sepFilter2D(picture, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)


def _taps(factor: float) -> np.ndarray | None:
    if factor <= 1.01:
        return None
    side = (min(factor, 2) ** 2 - 1) / 24
    return np.array([side, 1 - 2 * side, side])


def _make_grid(
    stored: Intrinsics, target: Intrinsics, lens: Distortion, size: Size
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
