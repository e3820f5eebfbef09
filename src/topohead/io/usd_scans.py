"""Scans in USD, as phones and photogrammetry write it: all meshes in their places, pictures."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topohead.core import InputError
from topohead.core.scans import Scan
from topohead.io.meshes import merged_positions
from topohead.io.scan_pictures import Picture, decoded, grey, joined_pictures, side_by_side
from topohead.io.usd import pxr
from topohead.io.usd_reading import open_stage, points_at, stage_topology

DEEPEST = 6
"""Nodes between a surface and its picture that are followed."""

SURFACE_COLORS = ("diffuseColor", "baseColor")
"""The inputs of a surface that say its colour: UsdPreviewSurface's, RealityKit's."""


def read_usd_scan(path: Path) -> tuple[Scan, Picture | None]:
    """What a stage shows at its first time, metres and y up, and its colour picture.

    Pictures of several materials lie side by side in one; what has none of its own is grey there.
    """
    Usd, UsdGeom = pxr("Usd", "UsdGeom")
    stage = open_stage(path)
    everything = Usd.PrimRange(stage.GetPseudoRoot(), Usd.TraverseInstanceProxies())
    shown = [
        prim for prim in everything
        if prim.IsA(UsdGeom.Mesh) and UsdGeom.Imageable(prim).ComputeVisibility() != "invisible"
    ]  # fmt: skip
    if not shown:
        raise InputError(f"{path} shows no mesh; expected a scan of a head")
    points, triangles, uv, owners, assets, count = [], [], [], [], {}, 0
    for prim in shown:
        mesh = UsdGeom.Mesh(prim)
        topology = stage_topology(mesh, path)
        times = mesh.GetPointsAttr().GetTimeSamples()
        time = Usd.TimeCode(times[0]) if times else Usd.TimeCode.Default()
        points.append(points_at(stage, mesh, time))
        triangles.append(topology.triangles + count)
        count += topology.vertex_count
        asset = _picture(prim) if len(topology.uv) else None
        owner = -1 if asset is None else assets.setdefault(asset, len(assets))
        corners = torch.zeros(len(topology.triangles), 3, 2)
        uv.append(corners if owner < 0 else topology.uv[topology.triangle_uv])
        owners.append(torch.full((len(corners),), owner))
    # points that stand twice along seams of UVs are one
    merged, first = merged_positions(torch.cat(points).numpy())
    joined = torch.from_numpy(merged)[torch.cat(triangles)]
    scan = Scan(torch.cat(points)[torch.from_numpy(first)], joined, None, None)
    if not assets:
        return scan, None
    readers: list[Picture] = [partial(_read, asset, path) for asset in assets]
    owner = torch.cat(owners)
    if (owner < 0).any():
        readers.append(grey)
        owner[owner < 0] = len(assets)
    corner_uv = torch.cat(uv)
    if len(readers) > 1:
        corner_uv = side_by_side(corner_uv, owner, len(readers))
    rows = torch.arange(3 * len(corner_uv)).reshape(-1, 3)
    scan = Scan(scan.points, scan.triangles, None, None, corner_uv.reshape(-1, 2), rows)
    return scan, readers[0] if len(readers) == 1 else lambda: joined_pictures(readers)


def _picture(prim: Any) -> str | None:
    """Where the colour picture of a mesh is: its material's, or its first part's that has one."""
    UsdGeom, UsdShade = pxr("UsdGeom", "UsdShade")

    parts = [prim, *(subset.GetPrim() for subset in UsdGeom.Subset.GetAllGeomSubsets(
        UsdGeom.Imageable(prim)))]  # fmt: skip
    for part in parts:
        material = UsdShade.MaterialBindingAPI(part).ComputeBoundMaterial()[0]
        if not material:
            continue
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


def _read(asset: str, path: Path) -> torch.Tensor:
    """A picture beside the stage or inside its package."""
    (Ar,) = pxr("Ar")

    opened = Ar.GetResolver().OpenAsset(Ar.ResolvedPath(asset))
    if not opened:
        raise InputError(f"{path}: its picture {asset} is not there")
    return decoded(np.frombuffer(opened.GetBuffer(), np.uint8).tobytes(), asset)
