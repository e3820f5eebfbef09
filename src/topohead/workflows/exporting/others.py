"""Cameras and expression curves."""

import glob
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from topohead.core import Distortion, InputError, Rig
from topohead.io.calibration import Format, write_rig
from topohead.io.expressions import picked, read_live_link, resampled, write_live_link
from topohead.io.images import IMAGE_SUFFIXES, write_image
from topohead.io.results import open_run, open_source
from topohead.io.sequences import run_sequence
from topohead.io.undistortion import undistorted_views
from topohead.workflows.export import ExportConfig
from topohead.workflows.exporting.source import Source

CAMERA_FILES: dict[Format, str] = {
    "ours": "cameras.json",
    "colmap": "colmap/sparse/0",
    "metashape": "metashape.xml",
    "nerfstudio": "transforms.json",
    "opencv": "opencv.yml",
}
"""File or, for COLMAP, folder."""


def write_cameras(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """The rig in each wanted format, and for COLMAP its undistorted pinholes as well.

    Pinholes come with the undistorted pictures of a frame where these are wanted.
    """
    rig = source.placement(config).cameras(source.cameras())
    wanted: list[Format] = (
        list(CAMERA_FILES) if config.camera_format == "all" else [config.camera_format]
    )
    notes, ending = [], _picture_ending(source)
    for name in wanted:
        try:
            write_rig(rig, folder / CAMERA_FILES[name], name, config.units, suffix=ending)
        except InputError as error:  # a lens or a skew that this format has no place for
            if len(wanted) == 1 and name != "colmap":
                raise
            notes.append(f"no {CAMERA_FILES[name]}: {error}")
    if config.pictures and "colmap" not in wanted:
        raise InputError("--pictures is for COLMAP; add --camera-format colmap, or leave that out")
    if "colmap" in wanted:
        straight, place, points = undistorted(rig), folder / "colmap_undistorted", None
        if config.pictures:
            straight, ending = _write_pictures(source, straight, place / "images"), ".png"
            vertices = source.sequence.read(source.sequence.frames[0]).double()
            points = source.placement(config).points(vertices).numpy()
        write_rig(
            straight, place / "sparse" / "0", "colmap", config.units, suffix=ending, points=points
        )
    return notes


def _write_pictures(source: Source, pinholes: Rig, folder: Path) -> Rig:
    """Writes what the pinholes saw of the first exported frame; gives them in the pictures' size.

    Cameras without a picture of that frame are left out.
    """
    assert source.run is not None, "a rig came from a run"
    capture = open_source(open_run(source.run, first_only=True))
    if capture is None:
        raise InputError("--pictures: the take is no longer where it was; put it back")
    names = [name for name in pinholes.cameras.names if name in capture.rig.cameras.names]
    views = undistorted_views(capture, source.sequence.frames[0], names)
    for name, image in zip(views.cameras.names, views.images, strict=True):
        write_image(folder / f"{name}.png", image)
    placed = pinholes.select(views.cameras.names)
    sized = replace(placed.cameras, intrinsics=views.cameras.intrinsics, sizes=views.cameras.sizes)
    return Rig(sized, placed.distortion)


def _picture_ending(source: Source) -> str:
    """How the take's pictures end, as far as the take is still where it was."""
    settings = source.run / "config.yaml" if source.run is not None else None
    if settings is None or not settings.exists():
        return ".png"
    take = (yaml.safe_load(settings.read_text("utf-8")) or {}).get("source")
    name = source.cameras().cameras.names[0]
    pictures = Path(take).glob(f"*/*/{glob.escape(name)}.*") if take else iter(())
    return next((p.suffix for p in pictures if p.suffix.lower() in IMAGE_SUFFIXES), ".png")


def undistorted(rig: Rig) -> Rig:
    """The pinhole cameras of pictures from which lens and skew were taken."""
    intrinsics = rig.cameras.intrinsics.clone()
    intrinsics[:, 0, 1] = 0
    return Rig(replace(rig.cameras, intrinsics=intrinsics), (Distortion(),) * len(rig.cameras))


def write_curves(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """Live Link CSV of the chosen frames: the rig's curves where there is one, else the run's."""
    if source.run is None:
        raise InputError("a single mesh has no expression curves; export them from a run folder")
    path = next(
        (p for p in (source.run / "rig" / "expression.csv", source.run / "expression.csv")
         if p.exists()), None,
    )  # fmt: skip
    if path is None:
        raise InputError(f"{source.run} has no expression.csv; run `topohead rig` on it")
    performance = read_live_link(path)
    everything = run_sequence(source.run).frames
    if len(performance) != len(everything):
        raise InputError(
            f"{path} has {len(performance)} rows and the run {len(everything)} frames; "
            "run `topohead rig` again"
        )
    rows = [everything.index(frame) for frame in source.sequence.frames]
    performance = picked(performance, torch.tensor(rows))
    if config.rate is not None:
        if config.rate <= 0:
            raise InputError(f"--rate expects frames a second above zero, got {config.rate:g}")
        performance = resampled(performance, config.rate)
    write_live_link(performance, folder / f"{source.sequence.name}.csv")
    return [f"{len(performance)} rows from {path}"]
