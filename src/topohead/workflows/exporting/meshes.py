"""OBJ and PLY, a file a frame."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Mesh
from topohead.geometry.binding import bind, posed_splats, similarity_frames
from topohead.geometry.placement import Placement
from topohead.io.animated_ply import DeltaBits, write_animated_ply
from topohead.io.calibration import METRES
from topohead.io.meshes import write_obj
from topohead.io.ply import write_ply
from topohead.io.splat_ply import write_splat_ply
from topohead.rendering.harmonics import turned_harmonics
from topohead.workflows.export import ExportConfig
from topohead.workflows.exporting.gaussians import placed_splats, splat_reader, surface_splats
from topohead.workflows.exporting.pictures import add_textures
from topohead.workflows.exporting.source import Source
from topohead.workflows.progress import track as progress


def write_objs(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """A quad OBJ a frame, its material beside it."""
    place, textures = source.placement(config), add_textures(source, config, folder)
    for frame in progress(source.sequence.frames, "obj"):
        vertices = place.points(source.sequence.read(frame))
        path = folder / f"{stem(source, frame)}.obj"
        write_obj(Mesh(source.sequence.topology, vertices), path, textures.get(frame))
    return []


def write_plys(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """A mesh a frame, or Gaussians."""
    if config.splats or config.layout is not None:
        if config.axis != "y-up":
            raise InputError(
                "Gaussians are written y down, as their viewers expect; leave --axis out"
            )
        if config.layout == "cap4d":
            return write_clip(source, config, folder)
        if config.delta_bits != "16":
            raise InputError("--delta-bits is about --layout cap4d")
        place = y_down(source.placement(config))
        read = splat_reader(source, config)
        for frame in progress(source.sequence.frames, "splats"):
            write_splat_ply(
                placed_splats(place, read(frame)), folder / f"{stem(source, frame)}.ply"
            )
        return []
    place, textures = source.placement(config), add_textures(source, config, folder)
    for frame in progress(source.sequence.frames, "ply"):
        vertices = place.points(source.sequence.read(frame))
        path = folder / f"{stem(source, frame)}.ply"
        write_ply(Mesh(source.sequence.topology, vertices), path, textures.get(frame))
    return []


def stem(source: Source, frame: str) -> str:
    """A file's name without its ending: frames are numbered where there are several."""
    sequence = source.sequence
    return sequence.name if len(sequence) == 1 else f"{sequence.name}_{frame}"


def y_down(place: Placement) -> Placement:
    """The same place in OpenCV's axes: y down, the face along −z."""
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    return Placement(turn @ place.rotation, turn @ place.shift, place.scale)


def write_clip(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """CAP4D's layout: Gaussians on the first frame and how the mesh moves them, in one file."""
    sequence, place = source.sequence, y_down(source.placement(config))
    triangles = sequence.topology.triangles

    def shapes(told: str) -> Iterator[Float[Tensor, "V 3"]]:
        return (place.points(sequence.read(frame)) for frame in progress(sequence.frames, told))

    base = place.points(sequence.read(sequence.frames[0]))
    low = torch.zeros(3)
    high = torch.zeros(3)
    for vertices in shapes("extent"):
        moved = vertices - base
        low, high = torch.minimum(low, moved.amin(0)), torch.maximum(high, moved.amax(0))
    laid = surface_splats(source, config)
    owners = laid.binding.triangles
    # an avatar's first frame may have closed eyes, whose folded triangles bind nothing
    rest, turn = base, place.rotation
    if source.worn is not None:
        worn = source.worn(sequence.frames[0])
        rest, turn = place.points(worn.rest), place.rotation @ worn.turn.to(place.rotation)
    splats = bind(
        posed_splats(laid, triangles, rest), owners, torch.full((len(owners), 3), 1 / 3),
        triangles, rest, similarity_frames,
    )  # fmt: skip
    splats = replace(splats, harmonics=turned_harmonics(splats.harmonics, turn))
    bits: DeltaBits = 8 if config.delta_bits == "8" else 16
    write_animated_ply(
        folder / f"{sequence.name}_animation.ply", splats, triangles, shapes("ply"), (low, high),
        len(sequence), sequence.pace, bits,
    )  # fmt: skip
    step = float((high - low).max()) / (2**bits - 1) * METRES[config.units] * 1000
    return [f"vertices to {step / 2:.3g} mm in {bits} bits"]
