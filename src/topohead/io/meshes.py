"""Meshes on disk: quad OBJ without loss (ours), everything else through trimesh."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topohead.core import InputError, Mesh, Topology
from topohead.geometry.meshes import face_edges
from topohead.io.atomic import write_text
from topohead.io.polygons import fans
from topohead.io.scan_pictures import obj_lines, obj_pictures

UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}
USD = (".usd", ".usda", ".usdc", ".usdz")
KNOWN = (".obj", ".ply", ".stl", ".glb", ".gltf", ".off", *USD)
"""Endings of the files that `read_mesh` reads."""


def read_mesh(path: str | Path, units: str | None = None) -> Mesh:
    """A mesh from a file, float32 metres; a file without units is taken as it stands.

    OBJ and USD keep quads, UV seams and vertex order exactly, and so do PLY and GLB that topohead
    wrote; USD knows its unit. Other PLY and GLB, STL and OFF come as triangles, with vertices that
    such files repeat along seams merged again. Of a sequence comes the first frame, of a rig the
    neutral mesh. A mesh without UVs has `uv` of length 0 (and zeros in `face_uv`).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no mesh at {path}; expected a file {', '.join(KNOWN)}")
    if units is not None and units not in UNITS:
        raise InputError(f"unknown unit {units!r} for {path}; expected one of {', '.join(UNITS)}")
    mesh = _read(path)
    if units is None or units == "m" or path.suffix.lower() in USD:
        return mesh
    return Mesh(mesh.topology, mesh.vertices * UNITS[units])


def _read(path: Path) -> Mesh:
    from topohead.io import gltf, ply, usd_reading

    suffix = path.suffix.lower()
    if suffix == ".obj":
        return read_obj(path)
    if suffix in USD:
        sequence = usd_reading.usd_sequence(path)
        return Mesh(sequence.topology, sequence.read(sequence.frames[0]))
    if suffix == ".ply" and ply.is_made_here(path):
        return ply.read_ply(path)
    own = gltf.read_own_mesh(path) if suffix == ".glb" else None
    return _read_other(path) if own is None else own


def material_picture(path: Path) -> Path | None:
    """The colour picture that an OBJ's material file names; None without one."""
    if path.suffix.lower() != ".obj":
        return None
    return next(iter(obj_pictures(path).values()), None)


def write_obj(mesh: Mesh, path: str | Path, texture: str | None = None) -> None:
    """Write quads, UV seams and vertex order as they are; floats so that float32 returns exactly.

    `texture` is the name of a picture beside the file: a material file that points to it is written
    too. The file appears whole or not at all.
    """
    path, topology = Path(path), mesh.topology
    vertices = mesh.vertices.detach().cpu().numpy()
    digits = 9 if vertices.dtype == np.float32 else 17
    lines = []
    if texture is not None:
        material = path.with_suffix(".mtl")
        write_text(material, f"newmtl head\nKd 1 1 1\nmap_Kd {texture}\n")
        lines.append(f"mtllib {material.name}\n")
    lines.append(_rows("v", vertices, digits))
    lines.append(_rows("vt", topology.uv.detach().cpu().numpy(), digits))
    if texture is not None:
        lines.append("usemtl head\n")
    lines.append(_face_rows(topology))
    write_text(path, "".join(lines))


def check_mesh(mesh: Mesh, name: str | Path = "mesh", uv_required: bool = False) -> Mesh:
    """The same mesh, or an InputError that names the first bad face or vertex."""
    topology = mesh.topology
    if not len(topology.faces):
        raise InputError(f"{name} has no faces; expected a surface, not a point cloud")
    bad = (~torch.isfinite(mesh.vertices).all(1)).nonzero()
    if len(bad):
        raise InputError(f"{name}: vertex {int(bad[0]) + 1} is not a finite position; repair it")
    if uv_required and not len(topology.uv):
        raise InputError(f"{name} has no UV coordinates; expected one layout, unwrap it first")
    if uv_required and not torch.isfinite(topology.uv).all():
        raise InputError(f"{name} has UV coordinates that are not finite; unwrap it again")
    corner = topology.faces.sort(1).values
    repeats = (corner[:, 1:] == corner[:, :-1]).sum(1)
    degenerate = (repeats > (~topology.is_quad).long()).nonzero()
    if len(degenerate):
        raise InputError(
            f"{name}: face {int(degenerate[0]) + 1} uses a vertex twice; remove degenerate faces"
        )
    _check_manifold(topology, name)
    return mesh


def _check_manifold(topology: Topology, name: str | Path) -> None:
    directed, face = face_edges(topology.faces)
    _, index, count = torch.unique(
        directed.sort(1).values, dim=0, return_inverse=True, return_counts=True
    )
    crowded = (count[index] > 2).nonzero()
    if len(crowded):
        bad = int(crowded[0])
        a, b = (directed[bad] + 1).tolist()
        raise InputError(
            f"{name}: face {int(face[bad]) + 1} shares the edge between vertices {a} and {b} with "
            f"{int(count[index[bad]]) - 1} other faces; expected at most 1 (a manifold surface)"
        )
    _, index, count = torch.unique(directed, dim=0, return_inverse=True, return_counts=True)
    turned = (count[index] > 1).nonzero()
    if len(turned):
        bad = int(turned[0])
        a, b = (directed[bad] + 1).tolist()
        raise InputError(
            f"{name}: face {int(face[bad]) + 1} and its neighbour across vertices {a} and {b} face "
            "opposite ways; make the winding consistent"
        )


# Reading OBJ


def read_obj(path: Path, some_uv: bool = False) -> Mesh:
    """The mesh of an OBJ. With `some_uv` faces may lack UVs that others have: −1 in `face_uv`."""
    vertices, uvs, faces, face_lines = [], [], [], []
    for number, line in enumerate(obj_lines(path), 1):
        head = line[:2]
        if head in (b"v ", b"v\t"):
            vertices.append(line)
        elif head == b"vt":
            uvs.append(line)
        elif head in (b"f ", b"f\t"):
            faces.append(line)
            face_lines.append((number, len(vertices), len(uvs)))
        elif line[:1] in (b" ", b"\t") and line.split()[:1] in ([b"v"], [b"vt"], [b"f"]):
            raise InputError(
                f"{path}, line {number}: an element that is indented; remove the space"
            )
    positions = _floats(vertices, 3, path, "v")
    uv = _floats(uvs, 2, path, "vt")
    if not len(positions):
        raise InputError(f"{path} holds no vertices; expected lines that begin with 'v '")
    corners, corner_uv = _corners(faces, face_lines, path)
    for what, index, limit in (("vertex", corners, len(positions)), ("UV", corner_uv, len(uv))):
        outside = (index >= limit) | (index < -1)
        if outside.any():
            row = int(outside.any(1).argmax())
            raise InputError(
                f"{path}: face {row + 1} names {what} {int(index[row].max()) + 1} of {limit}"
            )
    has_uv = (corner_uv >= 0).all(1)
    if has_uv.any() and not has_uv.all() and not some_uv:
        row = int((~has_uv).argmax())
        raise InputError(f"{path}: face {row + 1} has no UVs while others have; unwrap all of it")
    if not has_uv.any() or not len(uv):
        uv, corner_uv = np.zeros((0, 2)), np.zeros_like(corners)
    return _mesh(positions, corners, uv, corner_uv, path.stem)


def _floats(lines: Sequence[bytes], width: int, path: Path, keyword: str) -> np.ndarray:
    """The first `width` numbers of each line (a vertex may carry w or a colour behind them)."""
    if not lines:
        return np.zeros((0, width))
    count = len(lines[0].split()) - 1
    values = _numbers(b" ".join(line[len(keyword) :] for line in lines), float)
    if count >= width and len(values) == len(lines) * count:
        return values.reshape(len(lines), count)[:, :width]
    rows = [line.split()[1 : width + 1] for line in lines]  # their lengths differ, or one is bad
    for line, row in zip(lines, rows, strict=True):
        if len(row) < width or not all(_is_number(word) for word in row):
            shown = line.strip().decode(errors="replace")[:60]
            raise InputError(f"{path}: '{shown}' should hold {width} numbers after '{keyword}'")
    return np.array(rows).astype(float)


def _numbers(text: bytes, dtype: type) -> np.ndarray:
    """All numbers of a text; none when something else stands among them."""
    try:
        return np.fromstring(text, dtype=dtype, sep=" ")
    except ValueError:
        return np.zeros(0, dtype)


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _corners(
    lines: Sequence[bytes], places: Sequence[tuple[int, int, int]], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Vertex and UV index of the corners of every face [F 4]; UV −1 where there is none."""
    if not lines:
        return np.zeros((0, 4), dtype=np.int64), np.zeros((0, 4), dtype=np.int64)
    sizes = np.array([len(line.split()) - 1 for line in lines])
    if sizes.min() < 3:
        number = places[int(sizes.argmin())][0]
        raise InputError(f"{path}, line {number}: a face needs at least 3 corners")
    body, total = b" ".join(line[1:] for line in lines), int(sizes.sum())
    slashes, doubled = body.count(b"/"), body.count(b"//")
    columns = {0: 1, total: 2, 2 * total: 3}.get(slashes, 0) if doubled in (0, total) else 0
    if doubled == total:
        columns = 2
    table = _numbers(body.replace(b"//", b" ").replace(b"/", b" "), np.int64)
    if columns == 0 or len(table) != total * columns:
        pairs = np.array([_corner(w, p[0], path) for line, p in zip(lines, places, strict=True)
                          for w in line.split()[1:]])  # fmt: skip
    else:
        table = table.reshape(total, columns)
        with_uv = columns >= 2 and doubled == 0
        pairs = np.stack([table[:, 0], table[:, 1] if with_uv else np.zeros(total, int)], 1)
    # OBJ counts from 1; a negative index counts back from the last element read before the face.
    seen = np.repeat(np.array([place[1:] for place in places]), sizes, axis=0)
    index = np.where(pairs > 0, pairs - 1, np.where(pairs < 0, seen + pairs, -1))
    if (index[:, 0] < 0).any():
        row = int(np.repeat(np.arange(len(sizes)), sizes)[(index[:, 0] < 0).argmax()])
        raise InputError(
            f"{path}, line {places[row][0]}: a face names a vertex that does not exist"
        )
    fan = fans(sizes)
    return index[fan, 0], index[fan, 1]


def _corner(word: bytes, number: int, path: Path) -> tuple[int, int]:
    """Vertex and UV number of one corner 'v', 'v/t', 'v//n' or 'v/t/n'; UV 0 when absent."""
    parts = word.split(b"/")
    try:
        return int(parts[0]), int(parts[1]) if len(parts) > 1 and parts[1] else 0
    except ValueError as error:
        shown = word.decode(errors="replace")
        raise InputError(f"{path}, line {number}: '{shown}' is not a face corner") from error


def _mesh(positions, corners, uv, corner_uv, name: str) -> Mesh:
    topology = Topology(
        vertex_count=len(positions),
        faces=torch.from_numpy(np.ascontiguousarray(corners, dtype=np.int64)),
        uv=torch.from_numpy(np.asarray(uv, dtype=np.float32)),
        face_uv=torch.from_numpy(np.ascontiguousarray(corner_uv, dtype=np.int64)),
        name=name,
    )
    return Mesh(topology, torch.from_numpy(np.asarray(positions, dtype=np.float32)))


# Other formats


def _read_other(path: Path) -> Mesh:
    import trimesh

    if path.suffix.lower() not in KNOWN:
        raise InputError(f"{path}: unknown mesh format; expected {', '.join(KNOWN)}")
    try:
        loaded: Any = trimesh.load(path, process=False, force="mesh")
    except Exception as error:  # trimesh raises whatever its parsers meet
        raise InputError(f"{path} is not a readable {path.suffix} mesh ({error})") from error
    positions, faces = np.asarray(loaded.vertices), np.asarray(getattr(loaded, "faces", []))
    if not len(positions) or not len(faces):
        raise InputError(f"{path} has no faces; expected a surface, not a point cloud")
    uv = getattr(loaded.visual, "uv", None)
    uv = np.zeros((0, 2)) if uv is None else np.asarray(uv)
    merged, first = merged_positions(positions)
    corners = merged[faces]
    corner_uv = faces if len(uv) else np.zeros_like(faces)
    repeat = [0, 1, 2, 2]
    return _mesh(positions[first], corners[:, repeat], uv, corner_uv[:, repeat], path.stem)


def merged_positions(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number each distinct position in order of first use; and where each is met first."""
    _, first, inverse = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse.reshape(-1)], first[order]


# Writing OBJ


def _rows(keyword: str, values: np.ndarray, digits: int) -> str:
    form = keyword + f" %.{digits}g" * values.shape[1] + "\n"
    return (form * len(values)) % tuple(values.astype(np.float64).reshape(-1).tolist())


def _face_rows(topology: Topology) -> str:
    faces, quad = topology.faces.numpy() + 1, topology.is_quad.numpy()
    if len(topology.uv):
        faces = np.stack([faces, topology.face_uv.numpy() + 1], -1).reshape(len(faces), 8)
        forms = np.array(["f %d/%d %d/%d %d/%d\n", "f %d/%d %d/%d %d/%d %d/%d\n"])
    else:
        forms = np.array(["f %d %d %d\n", "f %d %d %d %d\n"])
    used = np.ones(faces.shape, dtype=bool)
    used[~quad, faces.shape[1] * 3 // 4 :] = False
    return "".join(forms[quad.astype(int)].tolist()) % tuple(faces[used].tolist())
