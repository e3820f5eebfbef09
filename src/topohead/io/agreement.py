"""Whether a take's calibration and pictures belong together, checked before any work is done."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from topohead.core import InputError, Rig
from topohead.geometry.cameras import convergence
from topohead.io.calibration import METRES
from topohead.io.layouts import ImageFiles, Pictures, find_files

log = logging.getLogger(__name__)

FEW_VIEWS = 8  # below this the published method's surfaces warp (Topo4D, section 5)
_PLAUSIBLE_DISTANCE = (0.1, 10.0)
_LIKELY_DISTANCE = (0.25, 4.0)


def agreed_names(
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
                    f"camera {name!r} of --views is not in {source}; it has {listed(calibrated)}"
                )
            if name not in pictured:
                raise InputError(
                    f"camera {name!r} of --views has no pictures in {pictures.place}; "
                    f"there are {listed(sorted(pictured))}"
                )
        return tuple(name for name in calibrated if name in asked)
    if not both:
        raise InputError(
            f"no camera of {source} ({listed(calibrated)}) has pictures in {pictures.place} "
            f"({listed(sorted(pictured))}); the names must agree"
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


def check_view_count(rig: Rig) -> None:
    """Refuses a single view; warns of few."""
    count = len(rig.cameras)
    if count == 1:
        raise InputError(
            f"only one view ({rig.cameras.names[0]}): depth needs two or more calibrated cameras; "
            "name more in --views or add their pictures"
        )
    if count < FEW_VIEWS:
        log.warning("%d views: with fewer than %d the surface may warp", count, FEW_VIEWS)


def stored_sizes(
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


def scaled_rig(
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


def open_full(folder: Path, rig: Rig, frames: Sequence[str]) -> tuple[ImageFiles, Rig]:
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
            f"{folder} has no full-size picture of camera {absent[0]!r} in frames {span_of(frames)}"
        )
    sizes: dict[str, tuple[int, int]] = {}
    for frame, cameras in kept.items():
        for camera in cameras:
            size = pictures.size(frame, camera)
            if sizes.setdefault(camera, size) != size:
                raise InputError(f"{cameras[camera]} is {size}, others of it {sizes[camera]}")
    return pictures, scaled_rig(rig, sizes, pictures, frames)


def check_distance(rig: Rig, source: Path, units: str | None) -> None:
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


def listed(names: Sequence[str]) -> str:
    """At most forty names for a message."""
    return ", ".join(names[:40]) + (", …" if len(names) > 40 else "")


def span_of(frames: Sequence[str]) -> str:
    """The first and the last frame for a message."""
    return f"the take has {frames[0]} to {frames[-1]} ({len(frames)} frames)"
