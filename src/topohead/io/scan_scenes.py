"""Scans of several parts: glTF, all meshes in their places; and what trimesh reads, STL and OFF."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError
from topohead.core.scans import Scan
from topohead.io.gltf_scenes import GltfScene, Shown, read_gltf
from topohead.io.meshes import merged_positions
from topohead.io.scan_pictures import (
    Picture,
    ScanFile,
    decoded,
    grey,
    joined_pictures,
    scan_colors,
    side_by_side,
    usable_normals,
)


def read_scene_scan(path: Path) -> ScanFile:
    """The surface of an STL or OFF file, as trimesh reads it."""
    import trimesh

    promised = _check_promises(path)
    try:
        loaded: Any = trimesh.load_scene(path, process=False)
        parts = [_part(part) for part in loaded.dump() if len(getattr(part, "vertices", ()))]
    except Exception as error:  # trimesh raises whatever its parsers meet
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is not a readable {path.suffix} scan ({reason})") from None
    faces = sum(len(part.triangles) for part in parts)
    if faces < promised:
        raise InputError(f"{path} is cut off: it promises {promised} faces and holds {faces}")
    return ScanFile(_joined(parts, path))


def read_gltf_scan(path: Path) -> ScanFile:
    """All meshes of a glTF's scene, with their pictures or colours."""
    scene = read_gltf(path)
    parts, notes = scene.shown(), list(scene.notes)
    gone = {k for part in parts if (k := part.picture) is not None and scene.picture_missing(k)}
    notes += [f"no colours from {scene.picture_name(number)}: not there" for number in sorted(gone)]
    parts = [replace(part, picture=None) if part.picture in gone else part for part in parts]
    scan = _joined(parts, path)
    known = sorted({part.picture for part in parts if part.picture is not None})
    if not known:
        plain = replace(scan, uv=None, triangle_uv=None)
        return ScanFile(plain, None, metric=True, notes=tuple(notes))
    readers: list[Picture] = [partial(_pixels, scene, number) for number in known]
    if len(known) == 1 and all(part.picture is not None for part in parts):
        return ScanFile(replace(scan, colors=None), readers[0], metric=True, notes=tuple(notes))
    # what has no picture gets one of its own colour
    owners: list[NDArray[np.int64]] = []
    for part in parts:
        if part.picture is None:
            readers.append(partial(_plain, part))
        own = len(readers) - 1 if part.picture is None else known.index(part.picture)
        owners.append(np.full(len(part.triangles), own))
    assert scan.uv is not None and scan.triangle_uv is not None
    owner = torch.from_numpy(np.concatenate(owners))
    uv = side_by_side(scan.uv[scan.triangle_uv], owner, len(readers)).reshape(-1, 2)
    scan = replace(scan, colors=None, uv=uv, triangle_uv=torch.arange(len(uv)).reshape(-1, 3))
    return ScanFile(scan, lambda: joined_pictures(readers), metric=True, notes=tuple(notes))


def _joined(parts: Sequence[Shown], path: Path) -> Scan:
    """All parts as one surface, vertices that a file repeats along seams merged again; with UVs,
    the middle where a part has none. Normals and colours where every part has some.
    """
    if not sum(len(part.points) for part in parts):
        raise InputError(f"{path} holds no points; expected a scan of a head")
    starts = np.cumsum([0, *(len(part.points) for part in parts[:-1])])
    positions = np.concatenate([part.points for part in parts])
    corners = np.concatenate(
        [part.triangles + start for part, start in zip(parts, starts, strict=True)]
    )
    if len(corners) and not 0 <= int(corners.min()) <= int(corners.max()) < len(positions):
        raise InputError(f"{path}: a face names point {int(corners.max()) + 1} of {len(positions)}")
    merged, first = merged_positions(positions)
    colors = [part.colors for part in parts if part.colors is not None]
    normals = [part.normals for part in parts if part.normals is not None]
    uv = [np.full((len(p.points), 2), 0.5) if p.uv is None else p.uv for p in parts]
    return Scan(
        torch.from_numpy(positions[first].astype(np.float32)),
        torch.from_numpy(merged[corners]),
        usable_normals(np.concatenate(normals)[first])
        if len(normals) == len(parts) and not len(corners)
        else None,
        scan_colors(np.concatenate(colors)[first]) if len(colors) == len(parts) else None,
        torch.from_numpy(np.concatenate(uv).astype(np.float32)),
        torch.from_numpy(corners),
    )


def _pixels(scene: GltfScene, number: int) -> Float[Tensor, "H W 3"]:
    return decoded(scene.picture(number), f"{scene.path.name}, {scene.picture_name(number)}")


def _plain(part: Shown) -> Float[Tensor, "1 1 3"]:
    """One texel of the mean colour of a part without a picture, grey where it has none."""
    if part.colors is not None and len(part.colors):
        return torch.from_numpy(part.colors.mean(0)).float()[None, None]
    return grey() if part.plain is None else torch.from_numpy(part.plain).float()[None, None]


def _part(mesh: Any) -> Shown:
    """A mesh of trimesh's."""
    colors = None
    if getattr(mesh, "visual", None) is not None and mesh.visual.kind == "vertex":
        colors = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    points = np.asarray(mesh.vertices, np.float64)
    return Shown(points, np.asarray(mesh.faces, np.int64), colors=colors)


def _check_promises(path: Path) -> int:
    """Compares counts in headers with the file's size before anything is allocated for them; gives
    the least number of triangles that are to follow.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(1024)
        stream.seek(max(0, size - 1024))
        tail = stream.read()
    if path.suffix.lower() == ".stl":
        count, told = int.from_bytes(head[80:84], "little"), head.lstrip().lower()
        if told.startswith(b"solid") and size != 84 + 50 * count:  # some binary ones begin so, too
            if b"endsolid" not in tail.lower():
                raise InputError(f"{path} is cut off: it does not end with 'endsolid'")
            return 0
        if size < 84 + 50 * count:
            raise InputError(f"{path} is cut off: {count} triangles do not fit in {size} bytes")
        return count
    words = [w for line in head.splitlines() if line[:1] != b"#" for w in line.split()]
    words = words[1:] if words and words[0].endswith(b"OFF") else words
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        raise InputError(f"{path} is no OFF file; expected 'OFF' and its counts")
    vertices, faces = int(words[0]), int(words[1])
    if 6 * vertices + 6 * faces > size:
        raise InputError(
            f"{path} is cut off: {vertices} vertices and {faces} faces do not fit in {size} bytes"
        )
    return faces
