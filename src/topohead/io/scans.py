"""Scans from files as scanners, photogrammetry and other programs write them.

What cannot be a scan of a head is refused here in one line: nothing there, no numbers, no surface
and too few points, files that promise what they do not hold. Units and axes stay the file's own.
"""

from dataclasses import replace
from pathlib import Path

import torch

from topohead.core import InputError
from topohead.core.scans import Scan
from topohead.geometry.meshes import face_normals, triangle_areas
from topohead.io.gltf_scenes import read_gltf
from topohead.io.meshes import USD
from topohead.io.scan_formats import (
    ply_pictures,
    read_cloud_scan,
    read_obj_scan,
    read_ply_scan,
    read_usd_scan,
    usd_files,
)
from topohead.io.scan_pictures import ScanFile, obj_libraries, obj_pictures, udim_tiles
from topohead.io.scan_scenes import read_gltf_scan, read_scene_scan

CLOUDS = (".xyz", ".pts", ".txt", ".asc")
SCANS = (".obj", ".ply", ".stl", ".glb", ".gltf", ".off", ".xyz", ".pts", ".asc", *USD)
"""Endings by which a folder's scans are found; `.txt` is read as XYZ when it is named."""

READERS = (
    ((".obj",), read_obj_scan),
    ((".ply",), read_ply_scan),
    (CLOUDS, read_cloud_scan),
    (USD, read_usd_scan),
    ((".glb", ".gltf"), read_gltf_scan),
)
"""Who reads which endings; the rest is trimesh's."""

FEWEST = 500
"""Points below which nothing can be told of a head."""

COARSE, COARSEST = 1e-4, 2e-3
"""Shares of a scan's size that the steps of its float32 positions may be: a warning, a refusal."""


def read_scan(path: str | Path) -> Scan:
    """The scan of a file in the file's own unit and axes; see `open_scan`."""
    return open_scan(path).scan


def open_scan(path: str | Path) -> ScanFile:
    """A scan of any supported format, checked: finite, at least `FEWEST` points.

    Triangles wound clockwise from outside are turned over, and so are a cloud's normals that point
    inwards; normals of a cloud that point both ways are left out. The notes say so.
    """
    path = Path(path)
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in (*SCANS, *CLOUDS):
        raise InputError(f"{path}: unknown scan format; expected {', '.join(SCANS)}")
    read = next((reader for endings, reader in READERS if suffix in endings), read_scene_scan)
    return _oriented(_checked(read(path), path))


def companions(path: Path) -> list[Path]:
    """The files beside a scan that it names: materials, pictures, buffers, layers; in order.

    None of them need be there, nor the scan be readable.
    """
    suffix, found = path.suffix.lower(), list[Path]()
    try:
        if suffix == ".obj":
            found = [*obj_libraries(path), *obj_pictures(path).values()]
        elif suffix in (".glb", ".gltf"):
            found = read_gltf(path).files()
        elif suffix == ".ply":
            found = ply_pictures(path)
        elif suffix in USD:
            found = usd_files(path)
    except InputError:
        return []  # reading it will say what is wrong
    tiles = (file for picture in found for file in udim_tiles(picture).values())
    return sorted({file.resolve() for file in (*found, *tiles) if file.is_file()})


# What is checked


def check_file(path: Path) -> None:
    """Tells what is no scan whatever its ending says, or cannot be read."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected one scan, {', '.join(SCANS)}")
    if not path.is_file():
        raise InputError(f"no scan at {path}; expected a file {', '.join(SCANS)}")
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if not head.strip():
        raise InputError(f"{path} is empty; copy or save the scan again")
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not the scan; fetch it with `git lfs pull`")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path} is a web page, not a scan; the download went wrong")
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b")) and path.suffix.lower() != ".usdz":
        raise InputError(f"{path} is an archive; unpack it and name the scan inside")


def _checked(found: ScanFile, path: Path) -> ScanFile:
    scan = found.scan
    if not len(scan.points):
        raise InputError(f"{path} holds no points; expected a scan of a head")
    bad = (~torch.isfinite(scan.points).all(1)).nonzero()
    if len(bad):
        first = int(bad[0])
        raise InputError(
            f"{path}: point {first + 1} of {len(scan.points)} is not a finite position "
            f"({len(bad)} are not); remove what the scanner did not measure"
        )
    if len(scan.points) < FEWEST:
        surface = f"{len(scan.triangles)} triangles" if len(scan.triangles) else "no surface"
        raise InputError(
            f"{path} holds {len(scan.points)} points and {surface}; expected a scan of a head, "
            f"at least {FEWEST} points"
        )
    if len(scan.triangles):
        low, high = int(scan.triangles.min()), int(scan.triangles.max())
        if low < 0 or high >= len(scan.points):
            raise InputError(f"{path}: a face names point {high + 1} of {len(scan.points)}")
    if float((scan.points.amax(0) - scan.points.amin(0)).max()) == 0:
        raise InputError(f"{path}: all {len(scan.points)} points lie in one place")
    return _near_enough(found, path)


def _near_enough(found: ScanFile, path: Path) -> ScanFile:
    """The same, and a note or an InputError where float32 blurs what lies far from the origin."""
    ordered = found.scan.points.sort(0).values
    low, middle, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.05, 0.5, 0.95))
    away, size = float(middle.abs().max()), float((high - low).max())
    share = away * 2.0**-23 / size if size > 0 else 0.0
    if share <= COARSE:
        return found
    told = (
        f"it lies {away:.4g} of its units from the origin, which rounds its points by {share:.1%}"
    )
    if share > COARSEST:
        raise InputError(f"{path}: {told} of its size; move it to the origin")
    return replace(found, notes=(*found.notes, f"{told} of its size"))


def _oriented(found: ScanFile) -> ScanFile:
    """Faces or normals towards the outside, as a bulged surface has them."""
    scan = found.scan
    middle = scan.points.mean(0)
    if len(scan.triangles):
        away = (scan.points[scan.triangles].mean(1) - middle) * face_normals(
            scan.points, scan.triangles
        )
        area = triangle_areas(scan.points, scan.triangles)
        if float((away.sum(1) * area).sum()) >= 0:
            return found
        uv = None if scan.triangle_uv is None else scan.triangle_uv.flip(1)
        turned = replace(scan, triangles=scan.triangles.flip(1), triangle_uv=uv)
        note = "its faces are wound clockwise seen from outside: turned over, or it is mirrored"
        return replace(found, scan=turned, notes=(*found.notes, note))
    if scan.normals is None:
        return replace(found, notes=(*found.notes, "a point cloud without normals: estimated"))
    outwards = float((((scan.points - middle) * scan.normals).sum(1) > 0).float().mean())
    if outwards > 0.65:
        return found
    if outwards < 0.35:
        note = "its normals point inwards; turned over"
        return replace(found, scan=replace(scan, normals=-scan.normals), notes=(*found.notes, note))
    note = "its normals point both ways; estimated instead"
    return replace(found, scan=replace(scan, normals=None), notes=(*found.notes, note))
