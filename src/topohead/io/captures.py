"""Opens a take of any layout as a `Capture`; what is wrong with it is said here, before work."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Capture, InputError, Rig
from topohead.geometry.cameras import convergence
from topohead.io.calibration import METRES, find_calibration, read_rig
from topohead.io.layouts import ImageFiles, Layout, Pictures, find_files, find_layout
from topohead.io.masks import read_coverage
from topohead.io.missing import MissingFrame
from topohead.io.undistortion import (
    pinhole_cameras,
    seen_by_lens,
    undistorted_landmarks,
    undistorted_views,
)

__all__ = [
    "open_capture",
    "pinhole_cameras",
    "read_landmarks",
    "seen_by_lens",
    "undistorted_landmarks",
    "undistorted_views",
]

log = logging.getLogger(__name__)

FEW_VIEWS = 8  # below this the published method's surfaces warp (Topo4D, section 5)
_PLAUSIBLE_DISTANCE = (0.1, 10.0)
_LIKELY_DISTANCE = (0.25, 4.0)
Landmarks = dict[str, dict[str, dict[int, tuple[float, float]]]]


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
    rig = read_rig(source, units, component=component)
    layout = find_layout(root, rig.cameras.names)
    chosen = choose_frames(layout.pictures.frames, frames)
    rig = rig.select(_agreed_names(rig, layout.pictures, chosen, views, source))
    _check_view_count(rig)
    missing: set[tuple[str, str]] = set()
    stored = _stored_sizes(layout.pictures, rig, chosen, missing, allow_missing)
    calibrated = rig
    rig = _resized(calibrated, stored, layout.pictures, chosen)
    _check_distance(rig, source, units)
    small, large = rig, None
    if full is not None:
        large, rig = _open_full(Path(full), calibrated, chosen)
    reader = _Reader(layout.pictures, layout.masks, large, small, missing, allow_missing)
    reader.check_masks(chosen)
    return Capture(
        rig=rig,
        frames=chosen,
        read_image=reader.image,
        read_mask=reader.mask if layout.masks else None,
        start_mesh=layout.start_mesh,
        landmarks=_landmarks(layout, landmarks, chosen, calibrated, small, rig),
        frames_per_second=_frame_rate(layout, source),
    )


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
            raise InputError(f"no frame {asked[found.index(None)]!r}; {_span(available)}")
        chosen = tuple(name for name in available if name in set(found))
    if not chosen:
        raise InputError(f"no frame in {selection!r}; {_span(available)}")
    return chosen


def read_landmarks(path: Path, first_frame: str) -> Landmarks:
    """iBUG-68 pixels by frame, camera and index, from JSON nested that way.

    A file without the frame level, {camera: {index: [x, y]}}, speaks of `first_frame`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"landmarks {path} are not readable JSON ({error})") from error
    try:
        flat = any(isinstance(p, list) for camera in document.values() for p in camera.values())
        by_frame = {first_frame: document} if flat else document
        return {
            frame: {
                camera: {int(i): (float(x), float(y)) for i, (x, y) in points.items()}
                for camera, points in cameras.items()
            }
            for frame, cameras in by_frame.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"landmarks {path} are not {{frame: {{camera: {{index: [x, y]}}}}}} ({error})"
        ) from error


# --- reading -----------------------------------------------------------------------------------


@dataclass
class _Reader:
    """Reads pictures and masks on demand, and says once what is missing."""

    pictures: Pictures
    masks: ImageFiles | None
    full: ImageFiles | None
    rig: Rig
    missing: set[tuple[str, str]]
    allow_missing: bool
    _sizes: dict[str, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        cameras = self.rig.cameras
        self._sizes = {name: cameras.size(i) for i, name in enumerate(cameras.names)}

    def image(self, frame: str, camera: str) -> Float[Tensor, "H W 3"]:
        if (frame, camera) in self.missing:
            raise MissingFrame(f"camera {camera!r} has no usable picture of frame {frame}")
        larger = self.full.file(frame, camera) if self.full else None
        source = self.full if self.full and larger else self.pictures
        try:
            return source.read(frame, camera)
        except InputError as error:
            raise self._failure(frame, camera, error) from error

    def mask(self, frame: str, camera: str) -> Float[Tensor, "H W"]:
        """Coverage at the size of the stored picture; ones where allowed to be missing."""
        assert self.masks is not None
        path = self.masks.file(frame, camera)
        if path is None:
            if self.allow_missing:
                width, height = self._sizes[camera]
                return torch.ones(height, width)
            raise InputError(
                f"camera {camera!r} has no mask of frame {frame} in {self.masks.place}; add it, "
                "remove the masks, or use --allow-missing"
            )
        mask = read_coverage(path)
        if not bool((mask > 0).any()):
            fault = InputError(f"mask {path} is empty; add the subject, or use --allow-missing")
            raise self._failure(frame, camera, fault)
        return _fitted(mask, self._sizes[camera], path)

    def check_masks(self, frames: Sequence[str]) -> None:
        """Reads the first frame's masks, and looks for the files of all."""
        if self.masks is None or self.allow_missing:
            return
        for frame in frames:
            for camera in self._sizes:
                if frame == frames[0] or self.masks.file(frame, camera) is None:
                    self.mask(frame, camera)

    def _failure(self, frame: str, camera: str, error: InputError) -> InputError:
        if not self.allow_missing:
            return InputError(f"frame {frame}, camera {camera!r}: {error}")
        log.warning("frame %s goes without camera %s: %s", frame, camera, error)
        self.missing.add((frame, camera))
        return MissingFrame(str(error))


def _fitted(mask: Float[Tensor, "H W"], size: tuple[int, int], path: Path) -> Float[Tensor, "H W"]:
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
    return torch.from_numpy(cv2.resize(mask.numpy(), size, interpolation=filter))


# --- agreement of calibration and pictures -----------------------------------------------------


def _calibration_path(root: Path, calibration: Path | str | None) -> Path:
    if calibration is None:
        return find_calibration(root)
    inside = root / calibration
    return inside if inside.exists() else Path(calibration)


def _agreed_names(
    rig: Rig,
    pictures: Pictures,
    frames: Sequence[str],
    views: Sequence[str] | str | None,
    source: Path,
) -> tuple[str, ...]:
    """Cameras that are calibrated and have pictures; anything else must be asked for."""
    calibrated, pictured = rig.cameras.names, pictures.cameras(frames)
    both = [name for name in calibrated if name in pictured]
    if views is not None:
        asked = [v.strip() for v in (views.split(",") if isinstance(views, str) else views)]
        for name in asked:
            if name not in calibrated:
                raise InputError(
                    f"camera {name!r} of --views is not in {source}; it has {_list(calibrated)}"
                )
            if name not in pictured:
                raise InputError(
                    f"camera {name!r} of --views has no pictures in {pictures.place}; "
                    f"there are {_list(sorted(pictured))}"
                )
        return tuple(name for name in calibrated if name in asked)
    if not both:
        raise InputError(
            f"no camera of {source} ({_list(calibrated)}) has pictures in {pictures.place} "
            f"({_list(sorted(pictured))}); the names must agree"
        )
    advice = f"leave it out with --views {','.join(both)}"
    for name in calibrated:
        if name not in pictured:
            raise InputError(
                f"camera {name!r} is calibrated in {source} but has no pictures in "
                f"{pictures.place}; add them, or {advice}"
            )
    for name in sorted(pictured):
        if name not in calibrated:
            raise InputError(
                f"camera {name!r} has pictures in {pictures.place} but no calibration in "
                f"{source}; calibrate it, or {advice}"
            )
    return tuple(both)


def _check_view_count(rig: Rig) -> None:
    count = len(rig.cameras)
    if count == 1:
        raise InputError(
            f"only one view ({rig.cameras.names[0]}): depth needs two or more; "
            "for a single camera use topohead track"
        )
    if count < FEW_VIEWS:
        log.warning("%d views: with fewer than %d the surface may warp", count, FEW_VIEWS)


def _stored_sizes(
    pictures: Pictures,
    rig: Rig,
    frames: Sequence[str],
    missing: set[tuple[str, str]],
    allow_missing: bool,
) -> dict[str, tuple[int, int]]:
    """The one size of each camera's pictures; broken and absent ones are errors or `missing`."""
    sizes: dict[str, tuple[int, int]] = {}
    for camera in rig.cameras.names:
        found: dict[str, tuple[int, int]] = {}
        for frame in frames:
            try:
                if pictures.file(frame, camera) is None:
                    raise InputError(f"no picture of camera {camera!r} in frame {frame}")
                found[frame] = pictures.size(frame, camera)
            except InputError as error:
                if not allow_missing:
                    raise InputError(
                        f"frame {frame}, camera {camera!r}: {error} (in {pictures.place}); "
                        "or go on without it: --allow-missing"
                    ) from error
                log.warning("frame %s goes without camera %s: %s", frame, camera, error)
                missing.add((frame, camera))
        if not found:
            raise InputError(f"camera {camera!r} has no readable picture in {pictures.place}")
        usual = Counter(found.values()).most_common(1)[0][0]
        for frame, size in found.items():
            if size != usual:
                raise InputError(
                    f"{pictures.file(frame, camera)} is {size[0]}×{size[1]} but the other "
                    f"pictures of camera {camera!r} are {usual[0]}×{usual[1]}"
                )
        sizes[camera] = usual
    return sizes


def _resized(
    rig: Rig, sizes: dict[str, tuple[int, int]], pictures: Pictures, frames: Sequence[str]
) -> Rig:
    """The rig for pictures of these sizes, which must be one scale of the calibrated ones."""
    names, calibrated = rig.cameras.names, rig.cameras.sizes
    stored = torch.tensor([sizes[name] for name in names])
    scale = float((stored[:, 0] / calibrated[:, 0]).median())
    for index, name in enumerate(names):
        error = (stored[index] - scale * calibrated[index]).abs().max()
        if error <= max(1.0, scale):  # a scaled size is rounded, up or down
            continue
        (width, height), (w, h) = sizes[name], rig.cameras.size(index)
        file = next((f for frame in frames if (f := pictures.file(frame, name))), pictures.place)
        turned = abs(width * w - height * h) < 1e-3 * w * h and width != height
        advice = "it looks turned: store pixels as calibrated" if turned else "which one is right?"
        raise InputError(
            f"camera {name!r}: {file} is {width}×{height} but the calibration {w}×{h}, and the "
            f"rig's common scale is {scale:.4g}; {advice}"
        )
    return Rig(rig.cameras.resized(stored), rig.distortion)


def _open_full(folder: Path, rig: Rig, frames: Sequence[str]) -> tuple[ImageFiles, Rig]:
    """Full-size pictures of some of the frames, and the rig at their size."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder} of full-size pictures (--full)")
    files = find_files(folder, rig.cameras.names)
    kept = {
        frame: {c: p for c, p in files[frame].items() if c in rig.cameras.names}
        for frame in frames
        if frame in files
    }
    pictures = ImageFiles(folder, kept)
    absent = [name for name in rig.cameras.names if name not in pictures.cameras(frames)]
    if absent:
        raise InputError(
            f"{folder} has no full-size picture of camera {absent[0]!r} in frames {_span(frames)}"
        )
    sizes: dict[str, tuple[int, int]] = {}
    for frame, cameras in kept.items():
        for camera in cameras:
            size = pictures.size(frame, camera)
            if sizes.setdefault(camera, size) != size:
                raise InputError(f"{cameras[camera]} is {size}, others of it {sizes[camera]}")
    return pictures, _resized(rig, sizes, pictures, frames)


def _check_distance(rig: Rig, source: Path, units: str | None) -> None:
    """A head is filmed from decimetres to metres away: far outside, the unit is wrong."""
    depth = convergence(rig.cameras)[1]
    distance = float(depth.median())
    # diverging or parallel axes do not tell a distance
    if not bool((depth > 0).all()) or _PLAUSIBLE_DISTANCE[0] <= distance <= _PLAUSIBLE_DISTANCE[1]:
        return
    used = METRES.get(units or "")
    fits = [
        name
        for name, metres in METRES.items()
        if used and _LIKELY_DISTANCE[0] <= distance * metres / used <= _LIKELY_DISTANCE[1]
    ]
    advice = f"--units {fits[0]} would fit" if fits else "check --units (mm, cm or m)"
    raise InputError(
        f"{source}: the cameras stand {distance:.3g} m from where they look; expected "
        f"{_PLAUSIBLE_DISTANCE[0]:g} to {_PLAUSIBLE_DISTANCE[1]:g} m; {advice}"
    )


def _landmarks(
    layout: Layout,
    given: Path | str | None,
    frames: Sequence[str],
    calibrated: Rig,
    stored: Rig,
    final: Rig,
) -> Landmarks | None:
    """Landmarks of the chosen frames and cameras, in the pixels of the capture's rig."""
    path = Path(given) if given is not None else layout.landmarks
    if path is None:
        return None
    read = read_landmarks(path, layout.pictures.frames[0])
    names = stored.cameras.names
    factors = (final.cameras.sizes / stored.cameras.sizes).tolist()
    known = set(layout.pictures.cameras(layout.pictures.frames))
    kept: Landmarks = {}
    for frame, cameras in read.items():
        for camera, points in cameras.items():
            _check_landmarks(points, camera, known, path)
            if frame in frames and camera in names:
                index = names.index(camera)
                (u, v), (width, height) = factors[index], stored.cameras.size(index)
                if any(
                    not (-width < x < 2 * width and -height < y < 2 * height)
                    for x, y in points.values()
                ):
                    raise InputError(
                        f"landmarks {path}: camera {camera!r} has points far outside its "
                        f"{width}×{height} picture; expected pixels of the stored picture"
                    )
                scaled = {i: (x * u, y * v) for i, (x, y) in points.items()}
                kept.setdefault(frame, {})[camera] = scaled
    return kept


def _check_landmarks(
    points: dict[int, tuple[float, float]], camera: str, known: set[str], path: Path
) -> None:
    if camera not in known:
        raise InputError(
            f"landmarks {path} name camera {camera!r}; there are {_list(sorted(known))}"
        )
    wrong = [index for index in points if not 0 <= index < 68]
    if wrong:
        raise InputError(f"landmarks {path}: index {wrong[0]} is not in iBUG's 0 to 67")


def _frame_rate(layout: Layout, source: Path) -> float:
    """Of the videos, or as written into our calibration file; else 30."""
    rate = getattr(layout.pictures, "frames_per_second", None)
    if rate is None and source.suffix == ".json":
        rate = json.loads(source.read_text(encoding="utf-8")).get("frames_per_second")
    return float(rate or 30.0)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:40]) + (", …" if len(names) > 40 else "")


def _span(frames: Sequence[str]) -> str:
    return f"the take has {frames[0]} to {frames[-1]} ({len(frames)} frames)"
