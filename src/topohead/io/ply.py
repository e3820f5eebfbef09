"""Binary PLY: tables with a header. Meshes of ours keep quads, vertex order and UV seams in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from topohead.core import InputError, Mesh, Topology
from topohead.io.atomic import atomic_write

MADE_HERE = "made by topohead"
"""The comment by which a mesh is known whose vertices are not split along seams."""

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2",
    "ushort": "<u2", "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4",
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8",
}  # fmt: skip
_NAMES = {
    "<f4": "float", "<f8": "double", "|u1": "uchar", "<u2": "ushort", "<i4": "int", "<u4": "uint",
}  # fmt: skip


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY says it holds: per element its name, count and properties, and where data begins.

    A property is (name, type), or (name, type of the count, type of the items) for a list.
    """

    elements: tuple[tuple[str, int, tuple[tuple[str, ...], ...]], ...]
    comments: tuple[str, ...]
    start: int


def read_header(path: Path) -> PlyHeader:
    """The header of a binary little-endian PLY."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    end = head.find(b"end_header\n")
    if not head.startswith(b"ply\n") or end < 0:
        raise InputError(f"{path} is no PLY file; expected one that begins with 'ply'")
    lines = head[:end].decode("utf-8", "replace").splitlines()
    if "format binary_little_endian 1.0" not in lines:
        raise InputError(f"{path}: expected a binary little-endian PLY; save it as such")
    elements: list[tuple[str, int, list[tuple[str, ...]]]] = []
    try:
        for line in lines:
            match line.split():
                case ["element", name, count]:
                    elements.append((name, int(count), []))
                case ["property", "list", count, kind, name]:
                    elements[-1][2].append((name, _TYPES[count], _TYPES[kind]))
                case ["property", kind, name]:
                    elements[-1][2].append((name, _TYPES[kind]))
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} has a PLY header that cannot be understood ({error})") from None
    comments = [line.removeprefix("comment ") for line in lines if line.startswith("comment ")]
    told = tuple((name, count, tuple(properties)) for name, count, properties in elements)
    return PlyHeader(told, tuple(comments), end + len(b"end_header\n"))


def read_table(path: Path, header: PlyHeader, element: str) -> NDArray:
    """The rows of an element as a structured array; it and those before it hold no lists."""
    for name, table in _tables(path, header):
        if name == element:
            return table
    raise InputError(f"{path} has no element {element!r}")


def read_tables(path: Path, header: PlyHeader) -> dict[str, NDArray]:
    """All elements, none of which may hold lists."""
    return dict(_tables(path, header))


def _tables(path: Path, header: PlyHeader) -> Iterator[tuple[str, NDArray]]:
    """Elements one after the other, read from the disk when they are looked at."""
    at, size = header.start, path.stat().st_size
    for name, count, properties in header.elements:
        if any(len(entry) == 3 for entry in properties):
            raise InputError(f"{path}: element {name!r} holds lists; expected plain columns")
        dtype = np.dtype([(entry[0], entry[1]) for entry in properties])
        if size < at + count * dtype.itemsize:
            raise InputError(f"{path} is cut off: {count} rows of {name!r} do not fit in it")
        yield name, np.memmap(path, dtype, "r", at, (count,)) if count else np.empty(0, dtype)
        at += count * dtype.itemsize


def write_tables(
    path: Path, tables: Mapping[str, NDArray | tuple[str, bytes, int]], comments: Sequence[str] = ()
) -> None:
    """Write a PLY of structured arrays; (properties, bytes, count) stands for rows with lists."""
    head, parts = ["ply", "format binary_little_endian 1.0"], []
    head += [f"comment {comment}" for comment in comments]
    for name, table in tables.items():
        if isinstance(table, tuple):
            properties, data, count = table
            head += [f"element {name} {count}", properties]
        else:
            head += element_header(name, table)
            data = table.tobytes()
        parts.append(data)
    head.append("end_header\n")
    with atomic_write(path) as partial:
        partial.write_bytes("\n".join(head).encode() + b"".join(parts))


def element_header(name: str, table: NDArray) -> list[str]:
    """The header's lines of a structured array."""
    fields = table.dtype.fields
    assert fields is not None
    columns = [f"property {_NAMES[dtype.str]} {column}" for column, (dtype, *_) in fields.items()]
    return [f"element {name} {len(table)}", *columns]


def write_ply(mesh: Mesh, path: Path, texture: str | None = None) -> None:
    """Write a mesh with its quads and vertex order; UVs stand at the corners of faces.

    `texture` is the name of a picture beside the file (MeshLab's comment TextureFile).
    """
    topology = mesh.topology
    vertices = mesh.vertices.detach().cpu().numpy().astype("<f4")
    table = np.empty(len(vertices), [("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
    for axis, name in enumerate("xyz"):
        table[name] = vertices[:, axis]
    properties = "property list uchar int vertex_indices"
    if len(topology.uv):
        properties += "\nproperty list uchar float texcoord"
    comments = [MADE_HERE, *([f"TextureFile {texture}"] if texture else [])]
    faces = (properties, _face_rows(topology), len(topology.faces))
    write_tables(path, {"vertex": table, "face": faces}, comments)


def _face_rows(topology: Topology) -> bytes:
    """Rows of corners, and of their u, v where there are any, as bytes."""
    faces = topology.faces.numpy().astype("<i4")
    uv = topology.uv.numpy().astype("<f4")
    corner_uv = topology.face_uv.numpy()
    rows = np.empty(len(faces), object)
    for size in (3, 4):
        picked = np.flatnonzero(topology.is_quad.numpy() == (size == 4))
        kinds = [("n", "u1"), ("corners", "<i4", size), ("m", "u1"), ("uv", "<f4", 2 * size)]
        table = np.zeros(len(picked), kinds if len(uv) else kinds[:2])
        table["n"], table["corners"] = size, faces[picked, :size]
        if len(uv):
            table["m"] = 2 * size
            table["uv"] = uv[corner_uv[picked, :size]].reshape(-1, 2 * size)
        data, width = table.tobytes(), table.dtype.itemsize
        rows[picked] = [data[at : at + width] for at in range(0, len(data), width)]
    return b"".join(rows.tolist())


def is_made_here(path: Path) -> bool:
    """Whether `write_ply` wrote this file."""
    try:
        return MADE_HERE in read_header(path).comments
    except InputError:
        return False


def read_ply(path: Path) -> Mesh:
    """The mesh of a PLY that `write_ply` wrote: vertex order, faces and UVs as they were."""
    header = read_header(path)
    (_, count, _), (_, face_count, properties) = header.elements
    data = path.read_bytes()
    vertices = np.frombuffer(data, "<f4", count * 3, header.start).reshape(-1, 3)
    at = header.start + vertices.nbytes
    has_uv = len(properties) > 1
    corners, wedges = np.zeros((face_count, 4), np.int64), np.zeros((face_count, 4, 2), np.float32)
    try:
        for row in range(face_count):
            size = data[at]
            corners[row, :size] = np.frombuffer(data, "<i4", size, at + 1)
            at += 1 + 4 * size
            if has_uv:
                wedges[row, :size] = np.frombuffer(data, "<f4", 2 * size, at + 1).reshape(-1, 2)
                at += 1 + 8 * size
            if size == 3:
                corners[row, 3], wedges[row, 3] = corners[row, 2], wedges[row, 2]
    except (ValueError, IndexError):
        raise InputError(f"{path} is cut off after face {row}; write it again") from None
    uv, corner_uv = joined_wedges(corners, wedges) if has_uv else (np.zeros((0, 2)), corners * 0)
    topology = Topology(
        count,
        torch.from_numpy(corners),
        torch.from_numpy(uv.astype(np.float32)),
        torch.from_numpy(corner_uv),
        name=path.stem,
    )
    return Mesh(topology, torch.from_numpy(vertices.copy()))


def joined_wedges(
    corners: NDArray[np.int64], wedges: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """UV rows [U 2] and their numbers [F 4]: corners with one vertex and one UV share a row."""
    keys = np.concatenate([corners[..., None], wedges.view("<i4").reshape(*wedges.shape)], -1)
    unique, index = np.unique(keys.reshape(-1, 3), axis=0, return_inverse=True)
    uv = np.ascontiguousarray(unique[:, 1:].astype("<i4")).view(np.float32)
    return uv, index.reshape(corners.shape)
