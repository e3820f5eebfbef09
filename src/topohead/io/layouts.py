"""Where a take keeps its pictures, masks, start mesh and landmarks, in every layout we read.

Ours: `frames/000001/CAM.png` or `videos/CAM.mp4`, `masks/000001/CAM.png`, `start.obj`. Topo4D's:
`000001/CAM.jpg` beside the calibration, `mask/`, `face_v5.obj`. Others: `images/` in the place of
`frames/`; one folder a camera (`images/CAM/000001.jpg`); or pictures of one instant, no folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core.errors import InputError
from topohead.io.images import (
    IMAGE_SUFFIXES,
    JPEG_SUFFIXES,
    image_size,
    read_encoded,
    read_image,
    read_stored_image,
)
from topohead.io.videos import VIDEO_SUFFIXES, Video

FIRST_FRAME = "000001"
"""The name of the only frame of a take without frame folders; videos count on from it."""

Stored = Float[Tensor, "H W 3"] | UInt8[Tensor, "H W 3"]
"""A picture as srgb in [0, 1], or as codes where it is 8 bits deep."""

Files = Mapping[str, Mapping[str, Path]]
"""Paths by frame and camera."""


@runtime_checkable
class Pictures(Protocol):
    """The pictures of a take, by frame and camera."""

    @property
    def place(self) -> Path: ...
    @property
    def frames(self) -> tuple[str, ...]: ...
    def cameras(self, frames: Sequence[str]) -> set[str]: ...
    def file(self, frame: str, camera: str) -> Path | None: ...
    def size(self, frame: str, camera: str) -> tuple[int, int]: ...
    def read(self, frame: str, camera: str) -> Float[Tensor, "H W 3"]: ...
    def stored(self, frame: str, camera: str) -> Stored: ...
    def jpeg(self, frame: str, camera: str) -> bytes | None: ...


@dataclass(frozen=True)
class ImageFiles:
    """One file a frame and camera."""

    place: Path
    files: Files

    @property
    def frames(self) -> tuple[str, ...]:
        return tuple(self.files)

    def cameras(self, frames: Sequence[str]) -> set[str]:
        return {camera for frame in frames for camera in self.files.get(frame, {})}

    def file(self, frame: str, camera: str) -> Path | None:
        return self.files.get(frame, {}).get(camera)

    def size(self, frame: str, camera: str) -> tuple[int, int]:
        return image_size(self.files[frame][camera])

    def read(self, frame: str, camera: str) -> Float[Tensor, "H W 3"]:
        return read_image(self.files[frame][camera])

    def stored(self, frame: str, camera: str) -> Stored:
        return read_stored_image(self.files[frame][camera])

    def jpeg(self, frame: str, camera: str) -> bytes | None:
        path = self.files[frame][camera]
        return read_encoded(path) if path.suffix.lower() in JPEG_SUFFIXES else None


class VideoFiles:
    """One constant-rate video a camera, all of the same length and rate."""

    def __init__(self, place: Path) -> None:
        self.place = place
        files = [p for p in sorted(place.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
        self.videos = {path.stem: Video(path) for path in files}
        if not self.videos:
            raise InputError(f"no video in {place}; expected CAM{', CAM'.join(VIDEO_SUFFIXES)}")
        lengths = {name: len(video) for name, video in self.videos.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise InputError(f"videos in {place} differ in length ({told} frames); cut them alike")
        rates = {name: video.frames_per_second for name, video in self.videos.items()}
        if max(rates.values()) > 1.001 * min(rates.values()):
            told = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
            raise InputError(f"videos in {place} differ in frame rate ({told}); convert to one")
        self.frames_per_second = next(iter(rates.values()))
        count = next(iter(lengths.values()))
        self.frames = tuple(f"{int(FIRST_FRAME) + n:06d}" for n in range(count))

    def cameras(self, frames: Sequence[str]) -> set[str]:
        return set(self.videos)

    def file(self, frame: str, camera: str) -> Path | None:
        return self.videos[camera].path if camera in self.videos else None

    def size(self, frame: str, camera: str) -> tuple[int, int]:
        return self.videos[camera].size

    def read(self, frame: str, camera: str) -> Float[Tensor, "H W 3"]:
        return self.videos[camera].frame(int(frame) - int(FIRST_FRAME))

    def stored(self, frame: str, camera: str) -> Stored:
        return self.read(frame, camera)

    def jpeg(self, frame: str, camera: str) -> None:
        return None


@dataclass(frozen=True)
class Layout:
    """What a take consists of."""

    pictures: Pictures
    masks: ImageFiles | None
    start_mesh: Path | None
    landmarks: Path | None


def find_layout(root: Path, cameras: Sequence[str]) -> Layout:
    """The take in a folder; `cameras` are the calibrated names, to tell folders apart."""
    pictures: Pictures | None = None
    for name in ("frames", "images"):
        if pictures is None and (root / name).is_dir():
            pictures = ImageFiles(root / name, find_files(root / name, cameras))
    if pictures is None and (root / "videos").is_dir():
        pictures = VideoFiles(root / "videos")
    if pictures is None:
        pictures = ImageFiles(root, _numbered_folders(root))
    if not pictures.frames:
        raise InputError(
            f"no pictures in {root}; expected frames/000001/CAM.png, videos/CAM.mp4, or "
            "Topo4D's 000001/CAM.jpg"
        )
    return Layout(
        pictures,
        _find_masks(root, pictures.frames, cameras),
        _first_file(root, ("start.obj", "face_v5.obj", f"{pictures.frames[0]}/face_v5.obj")),
        _first_file(root, ("landmarks.json",)),
    )


def find_files(folder: Path, cameras: Sequence[str]) -> Files:
    """Pictures by frame and camera: FRAME/CAM.png, CAM/FRAME.png, or CAM.png of one instant."""
    inner = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    loose = _pictures_in(folder)
    if not inner:
        return {FIRST_FRAME: loose} if loose else {}
    if not {p.name for p in inner} <= set(cameras):
        return {p.name: _pictures_in(p) for p in sorted(inner, key=_by_number)}
    by_camera = {p.name: _pictures_in(p) for p in inner}
    stems = sorted({Path(s) for files in by_camera.values() for s in files}, key=_by_number)
    return {
        stem.name: {c: files[stem.name] for c, files in by_camera.items() if stem.name in files}
        for stem in stems
    }


def _numbered_folders(root: Path) -> Files:
    inner = sorted((p for p in root.iterdir() if p.is_dir() and p.name.isdigit()), key=_by_number)
    return {p.name: _pictures_in(p) for p in inner}


def _find_masks(root: Path, frames: Sequence[str], cameras: Sequence[str]) -> ImageFiles | None:
    for name in ("masks", "mask"):
        place = root / name
        if place.is_dir():
            files = find_files(place, cameras)
            if list(files) == [FIRST_FRAME] and FIRST_FRAME not in frames:
                files = {frames[0]: files[FIRST_FRAME]}
            return ImageFiles(place, files)
    inside = {
        frame: _pictures_in(root / frame / "mask")
        for frame in frames
        if (root / frame / "mask").is_dir()
    }
    return ImageFiles(root, inside) if inside else None


def _pictures_in(folder: Path) -> dict[str, Path]:
    """Picture files by stem, which is the camera's name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InputError(f"both {found[path.stem]} and {path.name} are there; keep one")
        found[path.stem] = path
    return found


def _first_file(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _by_number(path: Path) -> tuple[int, int, str]:
    return (0, int(path.name), path.name) if path.name.isdigit() else (1, 0, path.name)
