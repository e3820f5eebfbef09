"""Gaussians of what is exported: the run's own, or flat ones laid on its mesh."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import BoundSplats, InputError, Splats, Topology
from topohead.core.splats import SH_DC
from topohead.geometry.binding import posed_splats
from topohead.geometry.placement import Placement
from topohead.geometry.surface_cells import SurfaceCells, cell_gaussians, surface_cells
from topohead.io.results import with_regions
from topohead.io.sequences import stored_tensor
from topohead.rendering.harmonics import turned_harmonics
from topohead.rendering.shading import sample_texture
from topohead.workflows.export import ExportConfig
from topohead.workflows.exporting.source import Source, Worn

OPACITY = 0.97
"""Of each Gaussian: neighbours overlap, so that the surface itself is opaque."""

EYE_FINENESS = 2.5
"""Edges of cells on the eyes are so many times shorter than on the skin."""

PLAIN = 0.62
"""sRGB grey of a surface without a texture."""


def splat_reader(source: Source, config: ExportConfig) -> Callable[[str], Splats]:
    """What reads a frame's Gaussians in world metres.

    Those that an avatar wears, or that the solver kept, else the surface's.
    """
    if source.worn is not None:
        worn = source.worn
        return lambda frame: _worn_splats(source, worn(frame), frame)
    if has_own(source):
        return lambda frame: own_splats(source, frame)
    laid, triangles = surface_splats(source, config), source.sequence.topology.triangles
    return lambda frame: posed_splats(laid, triangles, source.sequence.read(frame))


def surface_splats(source: Source, config: ExportConfig) -> BoundSplats:
    """Flat Gaussians bound to the mesh, of about one size on the first frame or the rig's rest.

    An avatar has its own, which are given as they look in the first frame.
    Colours are the mean of the first frame's texture over the cell that each one covers.
    """
    if source.worn is not None:
        return source.worn(source.sequence.frames[0]).splats
    if config.gaussians < 1:
        raise InputError(f"--gaussians expects a number above zero, got {config.gaussians}")
    sequence = source.sequence
    first = sequence.frames[0]
    rest = sequence.read(first) if source.played is None else source.played.rig.neutral
    cells = surface_cells(rest, sequence.topology.triangles, config.gaussians, _fineness(source))
    stored = sequence.texture(first) if config.textures != "none" else None
    if stored is None or not len(sequence.topology.uv):
        colors = torch.full((len(cells.triangles), 3), PLAIN)
    else:
        colors = cell_colors(cells, sequence.topology, stored.read().float())
    opacities = torch.full((len(colors),), OPACITY)
    return BoundSplats(cell_gaussians(cells), opacities, ((colors - 0.5) / SH_DC)[:, None])


def _worn_splats(source: Source, worn: Worn, frame: str) -> Splats:
    """An avatar's Gaussians in the world, their harmonics turned with the head."""
    triangles = source.sequence.topology.triangles
    splats = posed_splats(worn.splats, triangles, source.sequence.read(frame))
    return replace(splats, harmonics=turned_harmonics(splats.harmonics, worn.turn))


def placed_splats(place: Placement, splats: Splats) -> Splats:
    """Gaussians in a file's axes, harmonics turned with them."""
    plain = place.splats(replace(splats, harmonics=splats.harmonics[:, :1]))
    return replace(plain, harmonics=turned_harmonics(splats.harmonics, place.rotation))


def _fineness(source: Source) -> Float[Tensor, " T"] | None:
    """Finer cells on the eyes of a run: an iris is what one looks at, and its mesh is coarse."""
    if source.run is None:
        return None
    topology = with_regions(source.sequence.topology, source.run / "regions.json")
    if "eyes" not in topology.regions:
        return None
    inside = topology.triangle_mask("eyes")
    return 1 + (EYE_FINENESS - 1) * inside.float()


def cell_colors(
    cells: SurfaceCells, topology: Topology, texture: Float[Tensor, "S1 S2 3"]
) -> Float[Tensor, "N 3"]:
    """Mean of the texture over each cell, srgb, from samples at `_inner_points`."""
    uv = topology.uv[topology.triangle_uv[cells.triangles]]
    inside = _inner_points(4) @ (cells.corners @ uv)
    return sample_texture(texture, inside).mean(1).clamp(0, 1)


def _inner_points(split: int) -> Float[Tensor, "P 3"]:
    """Barycentrics of the centroids of the split² equal triangles that a triangle falls into."""
    points = []
    for row in range(split):
        for column in range(split - row):
            points.append((column + 1 / 3, row + 1 / 3))
            if row + column < split - 1:
                points.append((column + 2 / 3, row + 2 / 3))
    plane = torch.tensor(points) / split
    return torch.cat([1 - plane.sum(1, keepdim=True), plane], 1)


def has_own(source: Source) -> bool:
    """Whether the run's solver kept Gaussians (`--solver published`)."""
    if source.run is None:
        return False
    from safetensors import SafetensorError, safe_open

    state = source.run / "frames" / source.sequence.frames[0] / "state.safetensors"
    try:
        with safe_open(state, framework="pt") as file:
            return "published.means" in file.keys()  # noqa: SIM118
    except (OSError, SafetensorError):
        return False  # whoever reads the frame says what is wrong with it


def own_splats(source: Source, frame: str) -> Splats:
    """A frame's Gaussians of `--solver published` in world metres."""
    from topohead.solvers.published_scene import PublishedConfig

    assert source.run is not None
    state = source.run / "frames" / frame / "state.safetensors"
    means, quats, scales, colors = (
        stored_tensor(state, f"published.{name}") for name in ("means", "quats", "scales", "colors")
    )
    # the published method's scene is centred on the mesh that the take began with
    first = stored_tensor(source.run / "first" / "head.safetensors", "vertices")
    middle, unit = first.double().mean(0), PublishedConfig().unit
    return Splats.colored(
        (means.double() * unit + middle).float(),
        quats,
        scales * unit,
        torch.ones(len(means)),
        colors,
    )
