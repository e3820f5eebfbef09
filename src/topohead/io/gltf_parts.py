"""What every GLB of ours is made of: buffers, accessors, the skin's material."""

import io
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topohead.core import InputError

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
COMPONENT_DTYPE = {5121: "<u1", UNSIGNED_SHORT: "<u2", UNSIGNED_INT: "<u4", FLOAT: "<f4"}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass
class GlbPack:
    """A glTF document under construction and its one binary buffer."""

    chunks: list[bytes] = field(default_factory=list)
    length: int = 0

    def __post_init__(self) -> None:
        import pygltflib

        self.gltf = pygltflib.GLTF2()
        self.gltf.asset.generator = "topohead"

    def view(self, data: bytes, target: int | None = None) -> int:
        """A new buffer view of these bytes, aligned to four."""
        import pygltflib

        view = pygltflib.BufferView(
            buffer=0, byteOffset=self.length, byteLength=len(data), target=target
        )
        self.gltf.bufferViews.append(view)
        padding = -len(data) % 4
        self.chunks += [data, b"\0" * padding]
        self.length += len(data) + padding
        return len(self.gltf.bufferViews) - 1

    def accessor(
        self,
        values: NDArray,
        kind: str,
        target: int | None = ARRAY_BUFFER,
        bounds: bool = False,
        sparse: bool = False,
    ) -> int:
        """A new accessor of these values: float32, or the integer type they come in.

        `sparse` stores only the rows that are not zero, where that is smaller.
        """
        import pygltflib

        dtype = values.dtype if values.dtype.kind == "u" else np.dtype("<f4")
        values = np.ascontiguousarray(values, dtype=dtype)
        component = next(k for k, name in COMPONENT_DTYPE.items() if np.dtype(name) == dtype)
        rows = values.reshape(-1, WIDTH[kind])
        accessor = pygltflib.Accessor(componentType=component, count=len(rows), type=kind)
        filled = np.flatnonzero(rows.any(1))
        if sparse and len(filled) < 0.7 * len(rows):
            accessor.byteOffset = None  # an offset without a view is an error
            accessor.sparse = self._sparse(rows, filled if len(filled) else np.zeros(1, int))
        else:
            accessor.bufferView = self.view(values.tobytes(), target)
        if bounds:
            accessor.min, accessor.max = rows.min(0).tolist(), rows.max(0).tolist()
        self.gltf.accessors.append(accessor)
        return len(self.gltf.accessors) - 1

    def _sparse(self, rows: NDArray, filled: NDArray[np.int64]) -> Any:
        """These rows of an accessor whose others are zero; glTF wants at least one."""
        import pygltflib

        index = filled.astype("<u4")
        return pygltflib.Sparse(
            count=len(index),
            indices=pygltflib.AccessorSparseIndices(
                bufferView=self.view(index.tobytes()), byteOffset=0, componentType=UNSIGNED_INT
            ),
            values=pygltflib.AccessorSparseValues(
                bufferView=self.view(rows[filled].tobytes()), byteOffset=0
            ),
        )

    def save(self, path: Path) -> None:
        """Write the whole file: header, JSON, buffer (glTF 2.0, "GLB File Format")."""
        import pygltflib

        self.gltf.buffers = [pygltflib.Buffer(byteLength=self.length)]
        told = self.gltf.gltf_to_json(separators=(",", ":"), indent=None)  # pyright: ignore
        text = told.encode()
        text += b" " * (-len(text) % 4)
        body = [(b"JSON", [text], len(text)), (b"BIN\0", self.chunks, self.length)]
        total = 12 + sum(8 + size for _, _, size in body)
        with path.open("wb") as stream:
            stream.write(struct.pack("<4sII", b"glTF", 2, total))
            for kind, parts, size in body:
                stream.write(struct.pack("<I4s", size, kind))
                stream.writelines(parts)


def add_material(pack: GlbPack, texture: Path | None, normal_map: Path | None = None) -> None:
    """Adds the skin: the texture's picture embedded, or plain clay; and a tangent-space normal map.

    Normal maps have green up and MikkTSpace tangents, which the mesh must then hold.
    """
    import pygltflib

    surface = pygltflib.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.6)
    if texture is None:
        surface.baseColorFactor = [0.72, 0.68, 0.64, 1.0]  # clay, linear
    else:
        surface.baseColorTexture = pygltflib.TextureInfo(index=_add_picture(pack, texture))
    skin = pygltflib.Material(name="skin", pbrMetallicRoughness=surface, doubleSided=True)
    if normal_map is not None:
        skin.normalTexture = pygltflib.NormalMaterialTexture(index=_add_picture(pack, normal_map))
    pack.gltf.materials.append(skin)


def _add_picture(pack: GlbPack, path: Path) -> int:
    """A new texture of this picture, embedded."""
    import pygltflib

    data, mime = _image_bytes(path)
    pack.gltf.images.append(pygltflib.Image(bufferView=pack.view(data), mimeType=mime))
    if not pack.gltf.samplers:
        # linear with mipmaps; clamped, since heads have no tiling UVs
        pack.gltf.samplers.append(
            pygltflib.Sampler(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)
        )
    source = len(pack.gltf.images) - 1
    pack.gltf.textures.append(pygltflib.Texture(sampler=0, source=source))
    return len(pack.gltf.textures) - 1


def _image_bytes(path: Path) -> tuple[bytes, str]:
    """The file as glTF may embed it: unchanged if it is a plain 8-bit PNG or JPEG, else as PNG."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            # colour profiles and gamma chunks must be ignored by readers, and the validator warns
            special = {"icc_profile", "gamma", "chromaticity"} & set(image.info)
            if image.format in ("PNG", "JPEG") and image.mode in ("RGB", "L") and not special:
                return path.read_bytes(), f"image/{image.format.lower()}"
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "PNG", icc_profile=None)
            return buffer.getvalue(), "image/png"
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(
            f"{path}: expected a PNG or JPEG texture, got {error}; pass another or none"
        ) from None


def accessor_values(gltf: Any, blob: bytes, index: int) -> NDArray:
    """An accessor of ours as rows: tightly packed, or sparse over zeros."""
    accessor = gltf.accessors[index]
    dtype = np.dtype(COMPONENT_DTYPE[accessor.componentType])
    width = WIDTH[accessor.type]
    if accessor.sparse is None:
        return _view_rows(gltf, blob, accessor.bufferView, dtype, accessor.count, width)
    rows = np.zeros((accessor.count, width), dtype)
    count, indices, values = (getattr(accessor.sparse, k) for k in ("count", "indices", "values"))
    filled = _view_rows(gltf, blob, indices.bufferView, np.dtype("<u4"), count, 1)
    rows[filled[:, 0]] = _view_rows(gltf, blob, values.bufferView, dtype, count, width)
    return rows


def _view_rows(
    gltf: Any, blob: bytes, view: int, dtype: np.dtype, count: int, width: int
) -> NDArray:
    start = gltf.bufferViews[view].byteOffset or 0
    return np.frombuffer(blob, dtype, count * width, start).reshape(-1, width)
