"""Scans in the formats that trimesh reads, STL, OFF and glTF: all meshes in their places."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError
from topohead.core.scans import Scan
from topohead.io.meshes import merged_positions
from topohead.io.scan_pictures import ScanFile, grey, joined_pictures, scan_colors, side_by_side


def read_scene_scan(path: Path) -> ScanFile:
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
        scan_colors(np.concatenate(everywhere)[first]) if painted else None,
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
