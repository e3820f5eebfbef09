"""OBJ and PLY, a file a frame."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Mesh, Splats
from topohead.geometry.placement import Placement
from topohead.io.meshes import write_obj
from topohead.io.ply import write_ply
from topohead.io.sequences import stored_tensor
from topohead.io.splat_ply import write_splat_ply
from topohead.workflows.export import ExportConfig
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
    """A mesh a frame, or the frame's Gaussians."""
    if config.splats:
        if config.axis != "y-up":
            raise InputError("--splats writes y down, as splat viewers expect; leave --axis out")
        place = y_down(source.placement(config))
        for frame in progress(source.sequence.frames, "splats"):
            path = folder / f"{stem(source, frame)}.ply"
            write_splat_ply(place.splats(read_splats(source, frame)), path)
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


def read_splats(source: Source, frame: str) -> Splats:
    """A frame's Gaussians in world metres; only `--solver published` keeps some."""
    from topohead.solvers.published_scene import PublishedConfig

    run = source.run
    if run is None:
        raise InputError("--splats needs a run; a mesh has no Gaussians")
    state = run / "frames" / frame / "state.safetensors"
    try:
        means, quats, scales, colors = (
            stored_tensor(state, f"published.{name}")
            for name in ("means", "quats", "scales", "colors")
        )
    except InputError:
        raise InputError(
            f"{run} holds no Gaussians at frame {frame}; only `topohead capture --solver "
            "published` keeps some: leave --splats out for the meshes"
        ) from None
    middle, unit = _first_mesh(run).double().mean(0), PublishedConfig().unit
    return Splats.colored(
        (means.double() * unit + middle).float(),
        quats,
        scales * unit,
        torch.ones(len(means)),
        colors,
    )


def _first_mesh(run: Path) -> Float[Tensor, "V 3"]:
    """The mesh that the take began with: the published method's scene is centred on it."""
    return stored_tensor(run / "first" / "head.safetensors", "vertices")
