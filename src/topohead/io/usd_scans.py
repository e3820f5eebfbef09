"""Scans in USD, as phones and photogrammetry write it: all meshes in their places, pictures."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError
from topohead.core.scans import Scan
from topohead.io.meshes import merged_positions
from topohead.io.polygons import pieces
from topohead.io.scan_pictures import (
    Picture,
    ScanFile,
    decoded,
    grey,
    joined_pictures,
    scan_colors,
    side_by_side,
    srgb_shares,
    udim_tiles,
)
from topohead.io.usd import pxr
from topohead.io.usd_reading import face_sizes, open_stage, points_at, stage_topology

DEEPEST = 6
"""Nodes between a surface and its picture that are followed."""

SURFACE_COLORS = ("diffuseColor", "baseColor")
"""The inputs of a surface that say its colour: UsdPreviewSurface's, RealityKit's."""


def read_usd_scan(path: Path) -> ScanFile:
    """What a stage shows at its first time, metres and y up, and its colour pictures or colours.

    Pictures of several materials lie side by side in one; what has none of its own is grey there.
    A stage that does not say its unit is taken as it stands, whatever USD's fallback is.
    """
    Usd, UsdGeom = pxr("Usd", "UsdGeom")
    stage = open_stage(path)
    everything = Usd.PrimRange(stage.GetPseudoRoot(), Usd.TraverseInstanceProxies())
    shown = [
        prim for prim in everything
        if prim.IsA(UsdGeom.Mesh) and UsdGeom.Imageable(prim).ComputeVisibility() != "invisible"
        and len(face_sizes(UsdGeom.Mesh(prim)))
    ]  # fmt: skip
    drawn = [prim for prim in shown if _purpose(prim) in ("default", "render")]
    if not shown:
        raise InputError(f"{path} shows no mesh; expected a scan of a head")
    points, triangles, uv, owners, colors, count = [], [], [], [], [], 0
    assets: dict[str, int] = {}
    for prim in drawn or shown:
        mesh = UsdGeom.Mesh(prim)
        topology = stage_topology(mesh, path)
        times = mesh.GetPointsAttr().GetTimeSamples()
        time = Usd.TimeCode(times[0]) if times else Usd.TimeCode.Default()
        points.append(points_at(stage, mesh, time))
        triangles.append(topology.triangles + count)
        count += topology.vertex_count
        colors.append(_colors(mesh, topology.vertex_count))
        bare = not len(topology.uv)
        corners = torch.zeros(len(topology.triangles), 3, 2)
        uv.append(corners if bare else topology.uv[topology.triangle_uv])
        owner = np.full(len(face_sizes(mesh)), -1) if bare else _owners(prim, assets)
        face = np.repeat(np.arange(len(owner)), pieces(face_sizes(mesh)))  # of every fan's piece
        owners.append(torch.from_numpy(owner[face])[topology.triangle_face])
    # points that stand twice along seams of UVs are one
    merged, first = merged_positions(torch.cat(points).numpy())
    joined = torch.from_numpy(merged)[torch.cat(triangles)]
    known = [told for told in colors if told is not None]
    painted = scan_colors(np.concatenate(known)[first]) if len(known) == len(colors) else None
    scan = Scan(torch.cat(points)[torch.from_numpy(first)], joined, None, painted)
    said = stage.HasAuthoredMetadata(UsdGeom.Tokens.metersPerUnit)
    metres = float(UsdGeom.GetStageMetersPerUnit(stage))
    if not said:
        scan, metres = replace(scan, points=scan.points / metres), 1.0
    found = ScanFile(scan, metric=said, metres_per_unit=metres)
    return _with_pictures(found, torch.cat(uv), torch.cat(owners), list(assets), path)


def files_of(path: Path) -> list[Path]:
    """The layers and pictures that a stage names and that are there."""
    (UsdUtils,) = pxr("UsdUtils")

    open_stage(path)  # tells what is no stage
    layers, assets, _ = UsdUtils.ComputeAllDependencies(str(path))
    return [Path(name) for name in (*(layer.realPath for layer in layers), *assets) if name]


def _with_pictures(
    found: ScanFile, corner_uv: Tensor, owner: Tensor, assets: Sequence[str], path: Path
) -> ScanFile:
    """With the pictures of the triangles' owners; what is not there is grey, and told."""
    corner = corner_uv.mean(1).floor().long()
    tile = 1001 + corner[:, 0] + 10 * corner[:, 1]
    readers: list[Picture] = []
    final, notes = torch.full_like(owner, -1), []
    for number, asset in enumerate(assets):
        tiles = udim_tiles(path.parent / asset) if "<udim>" in asset.lower() else {}
        named = {str(file): tile == at for at, file in tiles.items()} or {asset: owner == number}
        gone = [name for name in named if not _open(name)]
        notes += [f"no colours from {Path(name).name}: not there" for name in gone]
        for name, its in named.items():
            if name not in gone and bool((its & (owner == number)).any()):
                final[its & (owner == number)] = len(readers)
                readers.append(partial(_read, name, path))
    found = replace(found, notes=(*found.notes, *notes))
    if not readers:
        return found
    if (final < 0).any():
        final[final < 0] = len(readers)
        readers.append(grey)
    if len(readers) > 1 or int(tile.max()) > 1001:
        corner_uv = side_by_side(corner_uv, final, len(readers))
    rows = torch.arange(3 * len(corner_uv)).reshape(-1, 3)
    scan = replace(found.scan, colors=None, uv=corner_uv.reshape(-1, 2), triangle_uv=rows)
    picture = readers[0] if len(readers) == 1 else lambda: joined_pictures(readers)
    return replace(found, scan=scan, picture=picture)


def _purpose(prim: Any) -> str:
    (UsdGeom,) = pxr("UsdGeom")

    return UsdGeom.Imageable(prim).ComputePurpose()


def _colors(mesh: Any, count: int) -> NDArray[np.float64] | None:
    """A mesh's display colours at its points, srgb; None where it has none of its points'."""
    (UsdGeom,) = pxr("UsdGeom")

    primvar = mesh.GetDisplayColorPrimvar()
    if not primvar or not primvar.HasValue():
        return None
    if primvar.GetInterpolation() not in (UsdGeom.Tokens.vertex, UsdGeom.Tokens.varying):
        return None
    values = np.array(primvar.ComputeFlattened(), np.float64).reshape(-1, 3)
    return srgb_shares(values) if len(values) == count else None


def _owners(prim: Any, assets: dict[str, int]) -> NDArray[np.int64]:
    """Which of `assets`, which grow, is the colour picture of each face; -1 where none is."""
    UsdGeom, UsdShade = pxr("UsdGeom", "UsdShade")

    def number(part: Any) -> int:
        asset = _picture(UsdShade.MaterialBindingAPI(part).ComputeBoundMaterial()[0])
        return -1 if asset is None else assets.setdefault(asset, len(assets))

    owner = np.full(len(face_sizes(UsdGeom.Mesh(prim))), number(prim))
    for subset in UsdGeom.Subset.GetAllGeomSubsets(UsdGeom.Imageable(prim)):
        faces = np.array(subset.GetIndicesAttr().Get() or (), np.int64)
        faces = faces[(faces >= 0) & (faces < len(owner))]
        if subset.GetElementTypeAttr().Get() == UsdGeom.Tokens.face:
            owner[faces] = number(subset.GetPrim())
    return owner


def _picture(material: Any) -> str | None:
    """Where the colour picture of a material is; None without one."""
    (UsdShade,) = pxr("UsdShade")

    if not material:
        return None
    # a surface of RealityKit's beside the preview's is in a render context of its own
    for surface in (
        child for child in material.GetPrim().GetChildren() if child.IsA(UsdShade.Shader)
    ):
        for name in SURFACE_COLORS:
            found = _asset(UsdShade.Shader(surface).GetInput(name), DEEPEST)
            if found is not None:
                return found
    return None


def _asset(wanted: Any, depth: int) -> str | None:
    """The file that an input's value comes from, through whatever nodes are between."""
    UsdShade, Sdf = pxr("UsdShade", "Sdf")

    if not wanted or depth == 0:
        return None
    value = wanted.Get()
    if isinstance(value, Sdf.AssetPath):
        return value.resolvedPath or value.path
    for source in wanted.GetConnectedSources()[0] if wanted.HasConnectedSource() else ():
        above = UsdShade.ConnectableAPI(source.source)
        for each in above.GetInputs():
            found = _asset(each, depth - 1)
            if found is not None:
                return found
    return None


def _open(asset: str) -> Any:
    """A file beside the stage or inside its package; nothing where there is none."""
    (Ar,) = pxr("Ar")

    return Ar.GetResolver().OpenAsset(Ar.ResolvedPath(asset))


def _read(asset: str, path: Path) -> Tensor:
    """A picture beside the stage or inside its package."""
    opened = _open(asset)
    if not opened:
        raise InputError(f"{path}: its picture {asset} is not there")
    return decoded(np.frombuffer(opened.GetBuffer(), np.uint8).tobytes(), asset)
