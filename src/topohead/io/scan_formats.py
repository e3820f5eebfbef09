"""Scans in the formats of other programs: OBJ, PLY, USD and point lists."""

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError, Topology
from topohead.core.scans import Scan
from topohead.io.meshes import read_obj
from topohead.io.ply_elements import Columns, Lists, ply_comments, read_ply_elements
from topohead.io.polygons import fan_triangles
from topohead.io.scan_pictures import (
    Picture,
    ScanFile,
    face_materials,
    grey,
    joined_pictures,
    obj_lines,
    obj_pictures,
    read_picture,
    scan_colors,
    side_by_side,
    udim_tiles,
    usable_normals,
)

# OBJ


def read_obj_scan(path: Path) -> ScanFile:
    """Surface or points, with the material's picture or the vertices' colours."""
    mesh = read_obj(path, some_uv=True)
    topology = mesh.topology
    table = _vertex_table(path, len(mesh.vertices))
    colors = scan_colors(table[:, 3:6]) if table.shape[1] >= 6 else None
    scan = Scan(mesh.vertices, topology.triangles, None, colors)
    return _with_pictures(scan, topology, path) if len(topology.uv) else ScanFile(scan)


def _with_pictures(scan: Scan, topology: Topology, path: Path) -> ScanFile:
    """With what the materials name: one picture as it is, several side by side in one."""
    named = obj_pictures(path)
    materials = np.array(face_materials(path) if named else [], dtype=object)
    owner, corners = np.full(len(topology.faces), -1), topology.face_uv
    for index, name in enumerate(named):
        owner[materials == name] = index
    if len(named) == 1 and not (owner == 0).any():
        owner[:] = 0  # the faces name no material
    owner[(corners < 0).any(1).numpy()] = -1
    named, owner = _by_tiles(named, owner, topology)
    whole = bool((corners >= 0).all())
    uv = (topology.uv, topology.triangle_uv) if whole else (None, None)
    plainly = replace(scan, uv=uv[0], triangle_uv=uv[1])
    if (owner == 0).all() or not named:
        return _with_picture(plainly, next(iter(named.values()), None))
    gone = [picture.name for picture in named.values() if not picture.is_file()]
    if len(gone) == len(named):
        told = f"no colours: its materials name {', '.join(gone)}, not there"
        return ScanFile(plainly, notes=(told,))
    readers = [_reader(picture) for picture in named.values()]
    plain = int((owner < 0).sum())
    notes = [f"{name} is not there: grey in its place" for name in gone]
    if plain:
        notes.append(f"{plain} of its faces have no picture: grey")
        readers.append(grey)
        owner[owner < 0] = len(readers) - 1
    shown = topology.uv[topology.triangle_uv.clamp(min=0)]
    owners = torch.from_numpy(owner)[topology.triangle_face]
    uv = side_by_side(shown, owners, len(readers)).reshape(-1, 2)
    scan = replace(scan, uv=uv, triangle_uv=torch.arange(len(uv)).reshape(-1, 3))
    return ScanFile(scan, lambda: joined_pictures(readers), notes=tuple(notes))


def _by_tiles(
    named: Mapping[str, Path], owner: NDArray[np.int64], topology: Topology
) -> tuple[dict[str, Path], NDArray[np.int64]]:
    """Materials and the faces' owners with a material of each tile where a picture has several."""
    place = topology.uv[topology.face_uv.clamp(min=0)].mean(1).floor().long().numpy()
    tile = 1001 + place[:, 0] + 10 * place[:, 1]
    found, owners = dict[str, Path](), owner.copy()
    for number, (name, picture) in enumerate(named.items()):
        mine, known = owner == number, udim_tiles(picture)
        if not picture.is_file() or len(np.unique(tile[mine])) > 1:
            parts = {f"{name} {at}": at for at in sorted(set(tile[mine].tolist()) & set(known))}
        else:
            parts = {}
        if not parts:
            owners[mine], found[name] = len(found), picture
            continue
        owners[mine] = -1  # in a tile without a picture
        for part, at in parts.items():
            owners[mine & (tile == at)], found[part] = len(found), known[at]
    return found, owners


def _reader(picture: Path) -> Picture:
    return (lambda: read_picture(picture)) if picture.is_file() else grey


def _vertex_table(path: Path, count: int) -> NDArray[np.float64]:
    """All numbers of the `v` lines; no columns when lines have different ones."""
    lines = [line[1:] for line in obj_lines(path) if line[:2] in (b"v ", b"v\t")]
    width = len(lines[0].split()) if lines else 0
    if width < 6:
        return np.empty((count, 0))
    try:
        values = np.array(b" ".join(lines).split()).astype(np.float64)
    except ValueError:
        return np.empty((count, 0))
    return values.reshape(count, width) if len(values) == count * width else np.empty((count, 0))


def _with_picture(scan: Scan, picture: Path | None) -> ScanFile:
    if picture is None or scan.uv is None:
        return ScanFile(scan)
    if not picture.is_file():
        return ScanFile(scan, notes=(f"no colours: its material names {picture.name}, not there",))
    return ScanFile(scan, lambda: read_picture(picture))


# PLY


def read_ply_scan(path: Path) -> ScanFile:
    """Surface or points of a text or binary file, with colours, normals and UVs."""
    elements, comments = read_ply_elements(path)
    vertex = elements.get("vertex", {})
    points = _stacked(vertex, ("x", "y", "z"))
    if points is None:
        raise InputError(f"{path} has no vertices with x, y and z")
    named = (("red", "green", "blue"), ("r", "g", "b"),
             ("diffuse_red", "diffuse_green", "diffuse_blue"))  # fmt: skip
    found = (_stacked(vertex, names) for names in named)
    colors = next((columns for columns in found if columns is not None), None)
    face = elements.get("face", {})
    corners = face.get("vertex_indices", face.get("vertex_index"))
    triangles = torch.zeros((0, 3), dtype=torch.long)
    uv, triangle_uv = None, None
    if isinstance(corners, Lists):
        rows = fan_triangles(corners.lengths)
        triangles = torch.from_numpy(corners.items.astype(np.int64)[rows])
        uv, triangle_uv = _ply_uv(vertex, face, corners, rows, triangles)
    normals = None if len(triangles) else usable_normals(_stacked(vertex, ("nx", "ny", "nz")))
    scan = Scan(
        torch.from_numpy(points.astype(np.float32)),
        triangles,
        normals,
        None if colors is None else scan_colors(colors),
        uv,
        triangle_uv,
    )
    return _with_picture(scan, next(iter(_named_pictures(path, comments)), None))


def ply_pictures(path: Path) -> list[Path]:
    """The pictures that a PLY's comments name (MeshLab's `TextureFile`)."""
    return _named_pictures(path, ply_comments(path))


def _named_pictures(path: Path, comments: Sequence[str]) -> list[Path]:
    named = [c.split(None, 1)[1] for c in comments if c.lower().startswith("texturefile ")]
    return [path.parent / name.strip() for name in named]


def _ply_uv(
    vertex: Columns, face: Columns, corners: Lists, rows: NDArray, triangles: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """UVs at corners (MeshLab's list `texcoord`) or at vertices under their usual names."""
    wedges = face.get("texcoord")
    if isinstance(wedges, Lists) and np.array_equal(wedges.lengths, 2 * corners.lengths):
        uv = wedges.items.reshape(-1, 2).astype(np.float32)
        return torch.from_numpy(uv), torch.from_numpy(rows)
    for names in (("s", "t"), ("u", "v"), ("texture_u", "texture_v")):
        uv = _stacked(vertex, names)
        if uv is not None:
            return torch.from_numpy(uv.astype(np.float32)), triangles
    return None, None


def _stacked(columns: Columns, names: tuple[str, ...]) -> NDArray | None:
    found = [columns[name] for name in names if name in columns]
    if len(found) < len(names) or any(isinstance(column, Lists) for column in found):
        return None
    return np.stack([np.asarray(column) for column in found], 1)


# USD


def read_usd_scan(path: Path) -> ScanFile:
    """What a stage shows, metres and y up."""
    from topohead.io import usd_scans

    return usd_scans.read_usd_scan(path)


def usd_files(path: Path) -> list[Path]:
    """The layers and pictures that a stage is made of."""
    from topohead.io import usd_scans

    return usd_scans.files_of(path)


# XYZ and PTS


def read_cloud_scan(path: Path) -> ScanFile:
    """Rows x y z, then by their number and range intensity, colours and normals.

    A first line with one number (PTS) is a count, one with words a title.
    """
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r", b"\n")
    text = re.sub(rb"(#|//)[^\n]*", b"", text)
    text = text.replace(b",", b" ").replace(b";", b" ")
    lines = [line for line in text.split(b"\n") if line.strip()]
    count = None
    if lines and len(lines[0].split()) == 1 and lines[0].strip().isdigit():
        count = int(lines.pop(0))
    elif lines and not _numeric(lines[0]):
        lines.pop(0)
    width = len(lines[0].split()) if lines else 0
    if count is not None and count > len(lines):
        raise InputError(f"{path} is cut off: it promises {count} points and holds {len(lines)}")
    try:
        table = np.array(b" ".join(lines).split()).astype(np.float64).reshape(len(lines), width)
    except ValueError:
        row = next(i for i, x in enumerate(lines) if len(x.split()) != width or not _numeric(x))
        shown = lines[row].decode(errors="replace").strip()[:60]
        raise InputError(
            f"{path}: point {row + 1} '{shown}' should hold {width} numbers like the first"
        ) from None
    if width < 3:
        raise InputError(f"{path}: a point of {width} numbers; expected x y z")
    rest = table[:, 3:]
    if width in (7, 10) and (rest[:, 3] == rest[0, 3]).all() and rest[0, 3] in (1, 255):
        rest = np.delete(rest, 3, 1)  # alpha stands behind the colours
    elif width in (4, 7, 10):  # an intensity stands before them
        rest = rest[:, 1:]
    normals, colors = None, None
    while rest.shape[1] >= 3:
        part, rest = rest[:, :3], rest[:, 3:]
        if normals is None and np.allclose(np.linalg.norm(part, axis=1), 1, atol=0.02):
            normals = usable_normals(part)
        elif colors is None and part.min() >= 0:
            colors = scan_colors(part)
    points = torch.from_numpy(table[:, :3].astype(np.float32))
    return ScanFile(Scan(points, torch.zeros((0, 3), dtype=torch.long), normals, colors))


def _numeric(line: bytes) -> bool:
    try:
        [float(word) for word in line.split()]
    except ValueError:
        return False
    return True
