"""What a glTF file shows, whoever wrote it: the primitives of its scene, in their places.

Read from the format's own text (glTF 2.0): any accessor, sparse or normalised; buffers inside, in
the text and beside it; pictures at the UVs that their material says. Compressed meshes are refused.
"""

import base64
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from topohead.core import InputError
from topohead.io.gltf_parts import WIDTH
from topohead.io.scan_pictures import srgb_shares

TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
UNREAD_PICTURES = "KHR_texture_basisu"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Shown:
    """One primitive in the scene's place, metres: a surface, or points alone.

    `uv` has its origin at the bottom left and belongs to `picture`, the number of a glTF image.
    `colors` are srgb shares, `plain` the material's colour.
    """

    points: NDArray[np.float64]
    triangles: NDArray[np.int64]
    normals: NDArray[np.float64] | None = None
    uv: NDArray[np.float64] | None = None
    picture: int | None = None
    colors: NDArray[np.float64] | None = None
    plain: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class GltfScene:
    """A glTF document, and how its buffers are read."""

    path: Path
    document: Mapping[str, Any]
    body: bytes | None
    """The binary part of a GLB."""

    def shown(self) -> list[Shown]:
        """The primitives of its scene, in order; InputError says what cannot be read."""
        return list(self._told(lambda: list(self._parts())))

    def picture(self, number: int) -> bytes:
        """The bytes of an image; InputError where its file is not there."""
        image = self.document["images"][number]
        if "bufferView" in image:
            return self._told(lambda: self._view(image["bufferView"]))
        return self._linked(image["uri"], "picture")

    def picture_name(self, number: int) -> str:
        """What to call an image in a message."""
        image = self.document["images"][number]
        uri = image.get("uri", "")
        return unquote(uri) if uri and not uri.startswith("data:") else f"image {number}"

    def picture_missing(self, number: int) -> bool:
        """Whether an image's file is not there."""
        uri = self.document["images"][number].get("uri", "data:")
        return not uri.startswith("data:") and not self._file(uri).is_file()

    def files(self) -> list[Path]:
        """The files beside the document that it names."""

        def named() -> list[str]:
            owners = (*self.document.get("buffers", ()), *self.document.get("images", ()))
            return [owner.get("uri", "data:") for owner in owners]

        return [self._file(uri) for uri in self._told(named) if not uri.startswith("data:")]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What it names and cannot be read."""
        if any(map(self._unread, self.document.get("textures", ()))):
            return ("no colours: its pictures are KTX2; save them as PNG or JPEG",)
        return ()

    # Files

    def _told(self, read: Callable[[], Found]) -> Found:
        """What `read` gives; an InputError where the document is not what the format says."""
        try:
            return read()
        except InputError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise InputError(f"{self.path} is no readable glTF ({told}); save it again") from None

    def _file(self, uri: str) -> Path:
        return self.path.parent / unquote(uri).replace("\\", "/")

    def _linked(self, uri: str, what: str) -> bytes:
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2])
        try:
            return self._file(uri).read_bytes()
        except OSError:
            raise InputError(
                f"{self.path}: its {what} {unquote(uri)} is not there; keep both in one folder"
            ) from None

    @cached_property
    def _buffers(self) -> list[bytes | None]:
        found: list[bytes | None] = []
        for number, buffer in enumerate(self.document.get("buffers", ())):
            data = self._linked(buffer["uri"], "buffer") if "uri" in buffer else None
            data = self.body if data is None and number == 0 else data
            if data is not None and len(data) < buffer["byteLength"]:
                raise InputError(
                    f"{self.path} is cut off: buffer {number} promises {buffer['byteLength']} "
                    f"bytes and holds {len(data)}"
                )
            found.append(data)
        return found

    def _view(self, number: int) -> bytes:
        view = self.document["bufferViews"][number]
        data = self._buffers[view["buffer"]]
        if data is None:
            self._refuse_compressed(view)
            raise ValueError(f"buffer {view['buffer']} is nowhere")
        start = view.get("byteOffset", 0)
        return data[start : start + view["byteLength"]]

    def _refuse_compressed(self, owner: Mapping[str, Any]) -> None:
        for name in COMPRESSED:
            if name in owner.get("extensions", {}):
                raise InputError(
                    f"{self.path}: its meshes are compressed ({name}), which is not read; "
                    "export it without compression"
                )

    # Numbers

    def _rows(self, number: int) -> NDArray:
        """An accessor as rows; integers that stand for shares become them."""
        accessor = self.document["accessors"][number]
        count, width = int(accessor["count"]), WIDTH[accessor["type"]]
        dtype = np.dtype(TYPES[accessor["componentType"]])
        sparse = accessor.get("sparse")
        if not 0 <= count <= sum(len(b) for b in self._buffers if b is not None):
            raise InputError(
                f"{self.path}: accessor {number} promises {count} elements, more than it holds"
            )
        if "bufferView" in accessor:
            rows = self._strided(accessor, dtype, count, width)
        else:
            rows = np.zeros((count, width), dtype)
        if sparse is not None:
            rows, few = rows.copy(), int(sparse["count"])
            kind = np.dtype(TYPES[sparse["indices"]["componentType"]])
            where = self._strided(sparse["indices"], kind, few, 1)[:, 0]
            rows[where] = self._strided(sparse["values"], dtype, few, width)
        if not accessor.get("normalized"):
            return rows
        return np.maximum(rows.astype(np.float64) / np.iinfo(dtype).max, -1)

    def _strided(
        self, where: Mapping[str, Any], dtype: np.dtype, count: int, width: int
    ) -> NDArray:
        view = self.document["bufferViews"][where["bufferView"]]
        step = view.get("byteStride") or width * dtype.itemsize
        data = self._view(where["bufferView"])[where.get("byteOffset", 0) :]
        if count and len(data) < (count - 1) * step + width * dtype.itemsize:
            raise ValueError(f"{count} rows do not fit in buffer view {where['bufferView']}")
        return np.ndarray((count, width), dtype, data, strides=(step, dtype.itemsize))

    # The scene

    def _parts(self) -> Iterator[Shown]:
        scenes, nodes = self.document.get("scenes"), self.document.get("nodes", [])
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", ())
        else:
            below = {child for node in nodes for child in node.get("children", ())}
            roots = [k for k in range(len(nodes)) if k not in below]
        waiting = [(root, np.eye(4), 0) for root in reversed(roots)]
        while waiting:
            number, above, depth = waiting.pop()
            if depth > len(nodes):
                raise ValueError("a node lies below itself")
            node = nodes[number]
            place = above @ _matrix(node)
            children = node.get("children", ())
            waiting += [(child, place, depth + 1) for child in reversed(children)]
            if "mesh" in node:
                for primitive in self.document["meshes"][node["mesh"]]["primitives"]:
                    shown = self._part(primitive, place)
                    if shown is not None:
                        yield shown

    def _part(self, primitive: Mapping[str, Any], place: NDArray[np.float64]) -> Shown | None:
        mode, columns = primitive.get("mode", TRIANGLES), primitive["attributes"]
        if mode not in (POINTS, TRIANGLES, STRIP, FAN) or "POSITION" not in columns:
            return None
        if "bufferView" not in self.document["accessors"][columns["POSITION"]]:
            self._refuse_compressed(primitive)
        points = self._rows(columns["POSITION"]).astype(np.float64) @ place[:3, :3].T + place[:3, 3]
        count = len(points)
        listed = self._rows(primitive["indices"])[:, 0] if "indices" in primitive else None
        corners = np.arange(count) if listed is None else listed.astype(np.int64)
        normals = None
        if mode == POINTS and "NORMAL" in columns:
            turn = np.linalg.inv(place[:3, :3]) * np.sign(np.linalg.det(place[:3, :3]))
            normals = self._rows(columns["NORMAL"]).astype(np.float64) @ turn
        triangles = _triangles(corners, mode)
        if len(triangles) and np.linalg.det(place[:3, :3]) < 0:
            triangles = triangles[:, ::-1]  # a mirrored node's front faces are the other ones
        colors = self._rows(columns["COLOR_0"])[:, :3] if "COLOR_0" in columns else None
        material = self.document.get("materials", ())[primitive["material"]] if (
            "material" in primitive) else {}  # fmt: skip
        picture, uv = self._pictured(material, columns)
        # bytes are what scanners have, srgb; finer numbers are the format's, linear
        wide = colors is not None and self._finer_than_bytes(columns["COLOR_0"])
        factor = material.get("pbrMetallicRoughness", {}).get("baseColorFactor")
        return Shown(
            points, triangles, normals, uv, picture,
            None if colors is None else srgb_shares(colors) if wide else colors.astype(np.float64),
            None if factor is None else srgb_shares(np.array(factor[:3], np.float64)),
        )  # fmt: skip

    def _finer_than_bytes(self, number: int) -> bool:
        return TYPES[self.document["accessors"][number]["componentType"]] != "<u1"

    # Materials

    def _pictured(
        self, material: Mapping[str, Any], columns: Mapping[str, int]
    ) -> tuple[int | None, NDArray[np.float64] | None]:
        """The image of a material's colours and the UVs there; None where it has none."""
        other = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
        surface = material.get("pbrMetallicRoughness", {})
        named = (surface.get("baseColorTexture"), other.get("diffuseTexture"),
                 material.get("emissiveTexture"))  # fmt: skip
        info = next((found for found in named if found is not None), None)
        if info is None:
            return None, None
        texture = self.document["textures"][info["index"]]
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        column = f"TEXCOORD_{moved.get('texCoord', info.get('texCoord', 0))}"
        source = texture.get("source")
        for extension in texture.get("extensions", {}).values():
            source = extension.get("source") if source is None else source
        if source is None or self._unread(texture) or column not in columns:
            return None, None
        return source, _moved(self._rows(columns[column]).astype(np.float64), moved)

    def _unread(self, texture: Mapping[str, Any]) -> bool:
        """Whether a texture has no picture but a KTX2 one."""
        return "source" not in texture and UNREAD_PICTURES in texture.get("extensions", {})


def read_gltf(path: Path) -> GltfScene:
    """The document of a `.gltf` or `.glb`; InputError where it is none, or cut off."""
    data = path.read_bytes()
    body, text = None, data
    if path.suffix.lower() == ".glb":
        if data[:4] != b"glTF":
            raise InputError(f"{path} is no GLB; expected 'glTF' at its beginning")
        if len(data) >= 12 and (promised := int.from_bytes(data[8:12], "little")) > len(data):
            raise InputError(f"{path} is cut off: {promised} bytes promised, {len(data)} there")
        chunks = dict(reversed(list(_chunks(data))))
        text, body = chunks.get(b"JSON", b""), chunks.get(b"BIN\0")
    try:
        document = json.loads(text.decode("utf-8-sig"))
        version = str(document["asset"]["version"])
    except (ValueError, KeyError, TypeError) as error:
        kind = path.suffix[1:].upper()
        raise InputError(f"{path} is not a readable {kind} ({type(error).__name__})") from None
    if not version.startswith("2"):
        raise InputError(f"{path} is glTF {version}; expected 2.0")
    return GltfScene(path, document, body)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length, kind = struct.unpack_from("<I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length


def _matrix(node: Mapping[str, Any]) -> NDArray[np.float64]:
    """A node's place below the one above it."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    place = np.eye(4)
    turn = Rotation.from_quat(node.get("rotation", (0, 0, 0, 1))).as_matrix()
    place[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), np.float64)
    place[:3, 3] = node.get("translation", (0, 0, 0))
    return place


def _triangles(corners: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    """Triangles of a list, a strip or a fan; none of points."""
    if mode == TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    if mode == POINTS or len(corners) < 3:
        return np.zeros((0, 3), np.int64)
    after = np.stack([corners[1:-1], corners[2:]], 1)
    if mode == STRIP:
        after[1::2] = after[1::2, ::-1]  # every other one is wound the other way round
        rows = np.column_stack([corners[:-2], after])
    else:
        rows = np.column_stack([np.full(len(after), corners[0]), after])
    same = (rows == np.roll(rows, 1, 1)).any(1)
    return rows[~same]


def _moved(uv: NDArray[np.float64], told: Mapping[str, Any]) -> NDArray[np.float64]:
    """UVs by KHR_texture_transform (scaled, turned, moved), then from the bottom left."""
    angle, offset = float(told.get("rotation", 0)), told.get("offset", (0, 0))
    cosine, sine = np.cos(angle), np.sin(angle)
    u, v = (uv * np.array(told.get("scale", (1, 1)), np.float64)).T
    u, v = cosine * u - sine * v + offset[0], sine * u + cosine * v + offset[1]
    return np.stack([u, 1 - v], 1)
