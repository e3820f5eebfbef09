"""Opens a take of any layout as a `Capture`; what is wrong with it is said here, before work."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core import Cameras, Capture, InputError
from topohead.io.agreement import (
    agreed_names,
    check_distance,
    check_view_count,
    open_full,
    scaled_rig,
    span_of,
    stored_sizes,
)
from topohead.io.calibration import find_calibration, read_rig
from topohead.io.landmarks import landmarks_of
from topohead.io.layouts import ImageFiles, Layout, Pictures, Stored, find_layout
from topohead.io.masks import read_stored_coverage, unit
from topohead.io.missing import MissingFrame
from topohead.io.undistortion import (
    pinhole_cameras,
    seen_by_lens,
    undistorted_landmarks,
    undistorted_views,
)

__all__ = [
    "choose_frames",
    "open_capture",
    "pinhole_cameras",
    "seen_by_lens",
    "undistorted_landmarks",
    "undistorted_views",
]

log = logging.getLogger(__name__)

StoredMask = Float[Tensor, "_ _"] | UInt8[Tensor, "_ _"]
"""Coverage in [0, 1], or its 8-bit codes."""


def open_capture(
    path: Path | str,
    units: str | None = None,
    views: Sequence[str] | str | None = None,
    frames: str | Sequence[str] | None = None,
    allow_missing: bool = False,
    full: Path | str | None = None,
    *,
    calibration: Path | str | None = None,
    component: str | None = None,
    landmarks: Path | str | None = None,
) -> Capture:
    """A take in any layout (`io.layouts`) and calibration format, checked, in metres.

    `units` (mm, cm, m) is needed where the calibration does not say; `views` keeps these cameras
    (names, or one comma-separated string); `frames` is "A:B" (frame numbers, both ends included,
    either may be left out), "A:B:STEP", or names. `allow_missing` bears pictures that are absent
    or broken: reading those raises `MissingFrame`. `full` is a folder FRAME/CAM.jpg of larger
    pictures, perhaps of some frames only: the rig gets their size, frames without keep the smaller
    ones. `calibration` names a file or folder, absolute or within the take; `component` one of
    several Metashape components.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no folder {root}; expected a take: calibration, and frames or videos")
    source = _calibration_path(root, calibration)
    calibrated = read_rig(source, units, component=component)
    layout = find_layout(root, calibrated.cameras.names)
    chosen = choose_frames(layout.pictures.frames, frames)
    calibrated = calibrated.select(agreed_names(calibrated, layout.pictures, chosen, views, source))
    check_view_count(calibrated)
    check_distance(calibrated, source, units)
    missing: set[tuple[str, str]] = set()
    sizes = stored_sizes(layout.pictures, calibrated, chosen, missing, allow_missing)
    stored = final = scaled_rig(calibrated, sizes, layout.pictures, chosen)
    larger = None
    if full is not None:
        larger, final = open_full(Path(full), calibrated, chosen)
    reader = _Reader(layout, stored.cameras, larger, final.cameras, missing, allow_missing)
    reader.check_masks(chosen)
    return Capture(
        rig=final,
        frames=chosen,
        read_image=reader.image,
        read_stored=reader.stored,
        read_jpeg=reader.jpeg,
        read_mask=reader.mask if layout.masks else None,
        read_stored_mask=reader.stored_mask if layout.masks else None,
        start_mesh=layout.start_mesh,
        landmarks=landmarks_of(layout, landmarks, chosen, stored, final),
        frames_per_second=_frame_rate(layout, source),
    )


def _calibration_path(root: Path, calibration: Path | str | None) -> Path:
    if calibration is None:
        return find_calibration(root)
    inside = root / calibration
    return inside if inside.exists() else Path(calibration)


def choose_frames(
    available: Sequence[str], selection: str | Sequence[str] | None
) -> tuple[str, ...]:
    """The frames that a selection means, in the take's order.

    Numbers are those in the frames' names, or 1, 2, … where names are no numbers.
    """
    if selection is None or selection == "":
        return tuple(available)
    numbered = all(name.isdigit() for name in available)
    numbers = {name: int(name) if numbered else at for at, name in enumerate(available, 1)}
    if isinstance(selection, str) and ":" in selection:
        try:
            parts = [int(part) if part.strip() else None for part in selection.split(":")]
            first, last, step = (*parts, None)[:3] if len(parts) == 2 else parts
        except ValueError:
            raise InputError(
                f"frames {selection!r} is no range; expected A:B or A:B:STEP in frame numbers"
            ) from None
        first = min(numbers.values()) if first is None else first
        last = max(numbers.values()) if last is None else last
        wanted = set(range(first, last + 1, step or 1)) if (step or 1) > 0 else set()
        chosen = tuple(name for name in available if numbers[name] in wanted)
    else:
        asked = selection.split(",") if isinstance(selection, str) else [str(s) for s in selection]
        by_number = {str(number): name for name, number in numbers.items()}
        names = {name: name for name in available}
        found = [
            names.get(one.strip(), by_number.get(one.strip().lstrip("0") or "0")) for one in asked
        ]
        if None in found:
            raise InputError(f"no frame {asked[found.index(None)]!r}; {span_of(available)}")
        chosen = tuple(name for name in available if name in set(found))
    if not chosen:
        raise InputError(f"no frame in {selection!r}; {span_of(available)}")
    return chosen


@dataclass
class _Reader:
    """Reads pictures and masks on demand, and says once what is missing."""

    layout: Layout
    cameras: Cameras
    full: ImageFiles | None
    full_cameras: Cameras
    missing: set[tuple[str, str]]
    allow_missing: bool

    def image(self, frame: str, camera: str) -> Float[Tensor, "H W 3"]:
        with self._told(frame, camera):
            return self._source(frame, camera).read(frame, camera)

    def stored(self, frame: str, camera: str) -> Stored:
        with self._told(frame, camera):
            return self._source(frame, camera).stored(frame, camera)

    def jpeg(self, frame: str, camera: str) -> bytes | None:
        with self._told(frame, camera):
            return self._source(frame, camera).jpeg(frame, camera)

    @contextmanager
    def _told(self, frame: str, camera: str) -> Iterator[None]:
        """Says of what fails inside, or has failed before, which picture it was."""
        if (frame, camera) in self.missing:
            raise MissingFrame(f"camera {camera!r} has no usable picture of frame {frame}")
        try:
            yield
        except InputError as error:
            raise self._failure(frame, camera, error) from error

    def mask(self, frame: str, camera: str) -> Float[Tensor, "H W"]:
        """Coverage at the size of the stored picture; ones where allowed to be missing."""
        return unit(self.stored_mask(frame, camera))

    def stored_mask(self, frame: str, camera: str) -> StoredMask:
        """`mask`, as codes where it is stored so."""
        masks = self.layout.masks
        assert masks is not None
        path = masks.file(frame, camera)
        size = self._size(frame, camera)
        if path is None:
            if self.allow_missing:
                return torch.ones(size[1], size[0])
            raise InputError(
                f"camera {camera!r} has no mask of frame {frame} in {masks.place}; add it, "
                "remove the masks, or use --allow-missing"
            )
        mask = read_stored_coverage(path)
        if not mask.numpy().max() > 0:  # torch would start threads in every reader
            fault = InputError(f"mask {path} is empty; add the subject, or use --allow-missing")
            raise self._failure(frame, camera, fault)
        return _fitted(mask, size, path)

    def check_masks(self, frames: Sequence[str]) -> None:
        """Reads the first frame's masks, and looks for the files of all."""
        masks = self.layout.masks
        if masks is None or self.allow_missing:
            return
        for frame in frames:
            for camera in self.cameras.names:
                if frame == frames[0] or masks.file(frame, camera) is None:
                    self.mask(frame, camera)

    def _source(self, frame: str, camera: str) -> Pictures:
        """Where the largest picture is."""
        if self.full is not None and self.full.file(frame, camera) is not None:
            return self.full
        return self.layout.pictures

    def _size(self, frame: str, camera: str) -> tuple[int, int]:
        """Of the picture that `image` gives."""
        full = self._source(frame, camera) is self.full
        cameras = self.full_cameras if full else self.cameras
        return cameras.size(cameras.names.index(camera))

    def _failure(self, frame: str, camera: str, error: InputError) -> InputError:
        if not self.allow_missing:
            return InputError(f"frame {frame}, camera {camera!r}: {error}")
        log.warning("frame %s goes without camera %s: %s", frame, camera, error)
        self.missing.add((frame, camera))
        return MissingFrame(str(error))


def _fitted(mask: StoredMask, size: tuple[int, int], path: Path) -> StoredMask:
    """A mask at its picture's size; it may be stored at another scale, not at another shape."""
    height, width = mask.shape
    if (width, height) == size:
        return mask
    scale = size[0] / width
    if abs(height * scale - size[1]) > max(1.0, scale):
        raise InputError(
            f"mask {path} is {width}×{height} but its picture {size[0]}×{size[1]}; "
            "expected the same shape, not turned"
        )
    shrink = scale < 1
    filter = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(unit(mask).numpy(), size, interpolation=filter))


def _frame_rate(layout: Layout, source: Path) -> float:
    """Of the videos, or as written into our calibration file; else 30."""
    rate = getattr(layout.pictures, "frames_per_second", None)
    if rate is None and source.suffix == ".json":
        rate = json.loads(source.read_text(encoding="utf-8")).get("frames_per_second")
    return float(rate or 30.0)
