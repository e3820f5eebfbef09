"""Scans in the formats of other programs: OBJ, PLY, point lists, and what trimesh reads."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError, Topology
from topohead.core.scans import Scan
from topohead.io.meshes import merged_positions, read_obj
from topohead.io.ply_elements import Columns, Lists, read_ply_elements
from topohead.io.polygons import fan_triangles
from topohead.io.scan_pictures import (
    Picture,
    face_materials,
    grey,
    joined_pictures,
    obj_pictures,
    read_picture,
    side_by_side,
)


@dataclass(frozen=True)
class ScanFile:
    """A scan, its colour picture (srgb, read when called), and what was odd about the file.

    `metric` says that the format's unit is the metre.
    """

    scan: Scan
    picture: Picture | None = None
    metric: bool = False
    notes: tuple[str, ...] = ()


# OBJ


def read_obj_scan(path: Path) -> ScanFile:
    """Surface or points, with the material's picture or the vertices' colours."""
    mesh = read_obj(path, some_uv=True)
    topology = mesh.topology
    table = _vertex_table(path, len(mesh.vertices))
    colors = _srgb(table[:, 3:6]) if table.shape[1] >= 6 else None
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


def _reader(picture: Path) -> Picture:
    return (lambda: read_picture(picture)) if picture.is_file() else grey


def _vertex_table(path: Path, count: int) -> NDArray[np.float64]:
    """All numbers of the `v` lines; no columns when lines have different ones."""
    with path.open("rb") as stream:
        lines = [line[1:] for line in stream if line[:2] in (b"v ", b"v\t")]
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


def _srgb(values: NDArray) -> Float[Tensor, "N 3"]:
    """Colours as floats, whether they were stored as shares or as codes."""
    peak = values.max(initial=0)
    scale = 255 if values.dtype.kind == "u" or peak > 1 else 1
    if peak > 255:
        scale = 65535
    return torch.from_numpy((values / scale).clip(0, 1).astype(np.float32))


# PLY


def read_ply_scan(path: Path) -> ScanFile:
    """Surface or points of a text or binary file, with colours, normals and UVs."""
    elements, comments = read_ply_elements(path)
    vertex = elements.get("vertex", {})
    points = _stacked(vertex, ("x", "y", "z"))
    if points is None:
        raise InputError(f"{path} has no vertices with x, y and z")
    colors = _stacked(vertex, ("red", "green", "blue"))
    if colors is None:
        colors = _stacked(vertex, ("r", "g", "b"))
    face = elements.get("face", {})
    corners = face.get("vertex_indices", face.get("vertex_index"))
    triangles = torch.zeros((0, 3), dtype=torch.long)
    uv, triangle_uv = None, None
    if isinstance(corners, Lists):
        rows = fan_triangles(corners.lengths)
        triangles = torch.from_numpy(corners.items.astype(np.int64)[rows])
        uv, triangle_uv = _ply_uv(vertex, face, corners, rows, triangles)
    normals = None if len(triangles) else _unit(_stacked(vertex, ("nx", "ny", "nz")))
    scan = Scan(
        torch.from_numpy(points.astype(np.float32)),
        triangles,
        normals,
        None if colors is None else _srgb(colors),
        uv,
        triangle_uv,
    )
    named = [c.split(None, 1)[1] for c in comments if c.lower().startswith("texturefile ")]
    return _with_picture(scan, path.parent / named[0].strip() if named else None)


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


def _unit(normals: NDArray | None) -> Float[Tensor, "N 3"] | None:
    if normals is None or not np.isfinite(normals).all() or not normals.any():
        return None
    return torch.nn.functional.normalize(torch.from_numpy(normals.astype(np.float32)), dim=1)


# USD


def read_usd_scan(path: Path) -> ScanFile:
    """What a stage shows, metres and y up."""
    from topohead.io import usd_scans

    scan, picture = usd_scans.read_usd_scan(path)
    return ScanFile(scan, picture, metric=True)


# XYZ and PTS


def read_cloud_scan(path: Path) -> ScanFile:
    """Rows x y z, then by their number and range intensity, colours and normals.

    A first line with one number (PTS) is a count, one with words a title.
    """
    text = re.sub(rb"(#|//)[^\n]*", b"", path.read_bytes().replace(b"\r", b"\n"))
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
    if width in (4, 7, 10):  # an intensity stands before the colours
        rest = rest[:, 1:]
    normals, colors = None, None
    while rest.shape[1] >= 3:
        part, rest = rest[:, :3], rest[:, 3:]
        if normals is None and np.allclose(np.linalg.norm(part, axis=1), 1, atol=0.02):
            normals = _unit(part)
        elif colors is None and part.min() >= 0:
            colors = _srgb(part)
    points = torch.from_numpy(table[:, :3].astype(np.float32))
    return ScanFile(Scan(points, torch.zeros((0, 3), dtype=torch.long), normals, colors))


def _numeric(line: bytes) -> bool:
    try:
        [float(word) for word in line.split()]
    except ValueError:
        return False
    return True


# Formats of trimesh: STL, OFF, glTF


def read_other_scan(path: Path) -> ScanFile:
    """All meshes of a scene in their places, as trimesh reads them."""
    import trimesh

    _check_promises(path)
    try:
        loaded: Any = trimesh.load_scene(path, process=False)
        parts = [part for part in loaded.dump() if len(getattr(part, "vertices", ()))]
    except Exception as error:  # trimesh raises whatever its parsers meet
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is not a readable {path.suffix} scan ({reason})") from None
    if not parts:
        raise InputError(f"{path} holds no points; expected a scan of a head")
    scan = _joined(parts)
    metric = path.suffix.lower() in (".glb", ".gltf")
    images = [_image(part) for part in parts]
    known = list({id(image): image for image in images if image is not None}.values())
    if not known:
        return ScanFile(replace(scan, uv=None, triangle_uv=None), None, metric)
    if len(known) == 1 and all(image is not None for image in images):
        return ScanFile(replace(scan, colors=None), lambda: _pixels(known[0]), metric)
    # what has no picture gets one of its own colour
    number = {id(image): index for index, image in enumerate(known)}
    readers = [lambda image=image: _pixels(image) for image in known]
    readers += [lambda part=part: _plain(part) for part in parts if _image(part) is None]
    numbers, bare = [], iter(range(len(known), len(readers)))
    for part, image in zip(parts, images, strict=True):
        own = next(bare) if image is None else number[id(image)]
        numbers.append(np.full(len(getattr(part, "faces", ())), own))
    assert scan.uv is not None and scan.triangle_uv is not None
    owners = torch.from_numpy(np.concatenate(numbers))
    uv = side_by_side(scan.uv[scan.triangle_uv], owners, len(readers)).reshape(-1, 2)
    scan = replace(scan, colors=None, uv=uv, triangle_uv=torch.arange(len(uv)).reshape(-1, 3))
    return ScanFile(scan, lambda: joined_pictures(readers), metric)


def _joined(parts: list[Any]) -> Scan:
    """All parts as one surface, vertices that a file repeats along seams merged again; with UVs,
    the middle where a part has none.
    """
    positions, faces, uv, colors, count = [], [], [], [], 0
    for part in parts:
        vertices = np.asarray(part.vertices, np.float64)
        positions.append(vertices)
        faces.append(np.asarray(getattr(part, "faces", np.zeros((0, 3))), np.int64) + count)
        given = getattr(part.visual, "uv", None) if hasattr(part, "visual") else None
        known = given is not None and len(given) == len(vertices)
        uv.append(np.asarray(given, np.float64) if known else np.full((len(vertices), 2), 0.5))
        colors.append(_part_colors(part))
        count += len(vertices)
    corners = np.concatenate(faces)
    merged, first = merged_positions(np.concatenate(positions))
    everywhere = [c for c in colors if c is not None and len(c)]
    painted = len(everywhere) == len(parts)
    triangles = torch.from_numpy(merged[corners] if len(corners) else corners.reshape(0, 3))
    return Scan(
        torch.from_numpy(np.concatenate(positions)[first].astype(np.float32)),
        triangles,
        None,
        _srgb(np.concatenate(everywhere)[first]) if painted else None,
        torch.from_numpy(np.concatenate(uv).astype(np.float32)),
        torch.from_numpy(corners),
    )


def _image(part: Any) -> Any:
    """The PIL image of a part's base colour; None without one."""
    material = getattr(getattr(part, "visual", None), "material", None)
    image = getattr(material, "baseColorTexture", None)
    return getattr(material, "image", None) if image is None else image


def _pixels(image: Any) -> Float[Tensor, "H W 3"]:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)


def _plain(part: Any) -> Float[Tensor, "1 1 3"]:
    """One texel of the mean colour of a part without a picture, grey where it has none."""
    visual = getattr(part, "visual", None)
    material = getattr(visual, "material", None)
    if material is not None:
        color = np.asarray(material.main_color, np.float32)[None]
    elif visual is not None and len(visual.vertex_colors):
        color = np.asarray(visual.vertex_colors, np.float32)
    else:
        return grey()
    return torch.from_numpy(color[:, :3].mean(0) / 255)[None, None]


def _part_colors(part: Any) -> NDArray[np.uint8] | None:
    """Colours of a part's points; None without any."""
    if hasattr(part, "colors"):  # a cloud
        return np.asarray(part.colors)[:, :3] if len(part.colors) == len(part.vertices) else None
    visual = part.visual
    if visual.kind not in ("vertex", "texture") or not hasattr(visual, "vertex_colors"):
        return None
    colors = np.asarray(visual.vertex_colors)
    return colors[:, :3] if colors.shape[0] == len(part.vertices) else None


def _check_promises(path: Path) -> None:
    """Compares counts in headers with the file's size before anything is allocated for them."""
    size, suffix = path.stat().st_size, path.suffix.lower()
    with path.open("rb") as stream:
        head = stream.read(1024)
    if suffix == ".stl" and not head.lstrip().startswith(b"solid"):
        count = int.from_bytes(head[80:84], "little")
        if size < 84 + 50 * count:
            raise InputError(f"{path} is cut off: {count} triangles do not fit in {size} bytes")
    if suffix == ".off":
        words = [w for line in head.splitlines() if line[:1] != b"#" for w in line.split()]
        words = words[1:] if words and words[0].endswith(b"OFF") else words
        if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
            raise InputError(f"{path} is no OFF file; expected 'OFF' and its counts")
        vertices, faces = int(words[0]), int(words[1])
        if 6 * vertices + 6 * faces > size:
            raise InputError(
                f"{path} is cut off: {vertices} vertices and {faces} faces do not fit in "
                f"{size} bytes"
            )
    if suffix == ".glb":
        if head[:4] != b"glTF":
            raise InputError(f"{path} is no GLB; expected 'glTF' at its beginning")
        promised = int.from_bytes(head[8:12], "little")
        if promised > size:
            raise InputError(f"{path} is cut off: {promised} bytes promised, {size} there")
        _check_accessors(path, size)


def _check_accessors(path: Path, size: int) -> None:
    from topohead.io.sequences import glb_document

    for index, accessor in enumerate(glb_document(path).get("accessors", ())):
        if not 0 <= int(accessor.get("count", 0)) <= size:
            raise InputError(
                f"{path}: accessor {index} promises {accessor['count']} elements and the file has "
                f"{size} bytes"
            )
