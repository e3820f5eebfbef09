"""One file for the whole take: GLB, USD, FBX, Alembic."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.geometry.morphs import morphs_of
from topohead.geometry.skinning import RigPerformance
from topohead.io import blender, usd
from topohead.io.calibration import METRES
from topohead.io.gltf import write_glb
from topohead.io.gltf_rig import write_rig_glb
from topohead.workflows.export import ExportConfig
from topohead.workflows.exporting.gaussians import placed_splats, splat_reader, surface_splats
from topohead.workflows.exporting.pictures import add_normal_map, add_textures
from topohead.workflows.exporting.source import Source
from topohead.workflows.progress import track as progress

PCA_ABOVE, PCA_ERROR_MM = 200, 0.05
"""A longer take becomes as few shapes as keep every vertex this near; GLB's and FBX's."""


def write_gltf(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """The rig and what it plays, or the sequence as morph targets; pictures inside."""
    sequence, place = source.sequence, source.placement(config)
    path = folder / f"{sequence.name}.glb"
    splats = surface_splats(source, config) if config.splats else None
    if splats is not None:  # the page knows no harmonics that turn with a face
        splats = replace(splats, harmonics=splats.harmonics[:, :1])
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch)
        names = set(add_textures(source, config, pictures).values())
        texture = pictures / names.pop() if names else None
        bumps = add_normal_map(source, config, pictures)
        normal_map = pictures / bumps if bumps else None
        if source.played is not None:
            for _ in progress(range(1), "glb"):
                played = place.performance(_evenly(source))
                write_rig_glb(path, played, texture, normal_map, splats)
            return []
        vertices = _all_vertices(source, config)
        worst = write_glb(
            path,
            sequence.topology,
            vertices,
            texture,
            sequence.frames_per_second,
            names=sequence.frames,
            normals=not config.no_normals,
            normal_map=normal_map,
            times=sequence.times(),
            splats=splats,
            pca_above=PCA_ABOVE,
            pca_error_mm=PCA_ERROR_MM,
        )
    if len(sequence) <= PCA_ABOVE:
        return []
    return [
        f"{len(sequence)} frames as principal shapes, no vertex off by more than {worst:.3f} mm"
    ]


def _all_vertices(source: Source, config: ExportConfig) -> Float[Tensor, "T V 3"]:
    """The whole take in memory: principal shapes need it."""
    sequence, place = source.sequence, source.placement(config)
    vertices = torch.empty(len(sequence), sequence.topology.vertex_count, 3)
    for row, frame in enumerate(progress(sequence.frames, "reading")):
        vertices[row] = place.points(sequence.read(frame))
    return vertices


def _evenly(source: Source) -> RigPerformance:
    """The performance at the pace of the chosen frames."""
    assert source.played is not None
    return replace(source.played, frames_per_second=source.sequence.pace)


def write_stage(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """USD: the rig, the frames' points, or their Gaussians; .usdz packs the same with pictures."""
    usd.pxr("Usd")
    sequence = source.sequence
    if config.usd_type != "usdz":
        _write_stage(source, config, folder, f"{sequence.name}.{config.usd_type}")
        return []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _write_stage(source, config, Path(scratch), f"{sequence.name}.usdc")
        usd.write_usdz(Path(scratch) / f"{sequence.name}.usdc", folder / f"{sequence.name}.usdz")
    return []


def _write_stage(source: Source, config: ExportConfig, folder: Path, name: str) -> None:
    sequence, place = source.sequence, source.placement(config)
    facts = usd.StageFacts(
        usd.prim_names([sequence.name])[0],
        config.axis,
        METRES[config.units],
        sequence.frames_per_second,
        sequence.numbers,
    )
    cameras = place.cameras(source.cameras()) if config.cameras else None
    path = folder / name
    if config.splats:
        from topohead.io.usd_splats import write_splats_usd

        read = splat_reader(source, config)
        frames = (placed_splats(place, read(frame)) for frame in progress(sequence.frames, "usd"))
        write_splats_usd(path, facts, frames, cameras)
        return
    pictures = add_textures(source, config, folder / "textures")
    bumps = add_normal_map(source, config, folder / "textures")
    normal_map = f"textures/{bumps}" if bumps else None
    if source.played is not None:
        from topohead.io.usd_rig import write_rig_usd

        texture = f"textures/{pictures[sequence.frames[0]]}" if pictures else None
        for _ in progress(range(1), "usd"):
            write_rig_usd(
                path, facts, place.performance(source.played), texture,
                normal_map=normal_map, normals=not config.no_normals, cameras=cameras,
            )  # fmt: skip
        return
    textures = {
        number: f"textures/{pictures[frame]}"
        for frame, number in zip(sequence.frames, sequence.numbers, strict=True)
        if frame in pictures
    }
    if len(set(textures.values())) == 1:
        textures = dict(list(textures.items())[:1])
    usd.write_usd(
        path, facts, sequence.topology, _placed(source, config, "usd"), textures,
        normal_map=normal_map, normals=not config.no_normals, rig=cameras,
    )  # fmt: skip


def _placed(source: Source, config: ExportConfig, told: str) -> Iterator[Float[Tensor, "V 3"]]:
    """The frames' vertices in the file's axes and unit, one after the other."""
    place = source.placement(config)
    for frame in progress(source.sequence.frames, told):
        yield place.points(source.sequence.read(frame))


def write_filmbox(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """FBX: mesh, shape keys and, of a rig, joints."""
    command = blender.find_blender(config.blender)
    sequence = source.sequence
    names = set(add_textures(source, config, folder).values())
    file = _blender_file(source, config, folder, folder / names.pop() if names else None)
    with tempfile.TemporaryDirectory() as scratch:
        if source.played is not None:
            played = source.placement(config).performance(source.played)
            for _ in progress(range(1), "fbx"):
                blender.write_rig_fbx(file, played, Path(scratch), command)
            return []
        vertices = _all_vertices(source, config)
        error = PCA_ERROR_MM / METRES[config.units]  # morphs_of takes the numbers for metres
        morphs, weights = morphs_of(vertices.numpy(), PCA_ABOVE, error)
        for _ in progress(range(1), "fbx"):
            blender.write_shapes_fbx(
                file, sequence.topology, vertices[0], morphs, weights, Path(scratch), command
            )
    return []


def write_point_cache(source: Source, config: ExportConfig, folder: Path) -> list[str]:
    """Alembic: the frames' points."""
    command = blender.find_blender(config.blender)
    file = _blender_file(source, config, folder, None)
    with tempfile.TemporaryDirectory() as scratch:
        shapes = _placed(source, config, "abc")
        blender.write_alembic(file, source.sequence.topology, shapes, Path(scratch), command)
    return []


def _blender_file(
    source: Source, config: ExportConfig, folder: Path, texture: Path | None
) -> blender.BlenderFile:
    """Frames in a row, at the pace of those chosen: Blender samples every frame number."""
    sequence = source.sequence
    to = "fbx" if config.to == "fbx" else "abc"
    return blender.BlenderFile(
        to,
        folder / f"{sequence.name}.{to}",
        sequence.name,
        config.axis,
        METRES[config.units],
        source.sequence.pace,
        tuple(range(sequence.numbers[0], sequence.numbers[0] + len(sequence))),
        texture,
    )
