"""GLB in and out: a sequence of one topology as morph targets and one animation of their weights.

glTF wants one UV per vertex and triangles, so UV seams are split and quads cut. Both are undone on
reading: the vertex attribute `_SOURCE_VERTEX` names the vertex that each copy came from, and the
mesh's extras tell how triangles pair into faces.
"""

import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import InputError, Topology
from topohead.geometry.morphs import SeamSplit, morph_normals, morphs_of, split_seams, unit_normals
from topohead.io.runs import atomic_write

SOURCE_ATTRIBUTE = "_SOURCE_VERTEX"
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5123, 5125
COMPONENT_DTYPE = {5121: "<u1", UNSIGNED_SHORT: "<u2", UNSIGNED_INT: "<u4", FLOAT: "<f4"}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


@dataclass(frozen=True)
class GlbSequence:
    """What a GLB of ours holds: the topology, world metres [T V 3], and how fast it plays."""

    topology: Topology
    vertices: Float[Tensor, "T V 3"]
    frames_per_second: float
    names: tuple[str, ...]


def write_glb(
    path: Path,
    topology: Topology,
    vertices: Float[Tensor, "T V 3"],
    texture: Path | None = None,
    frames_per_second: float = 30.0,
    *,
    names: Sequence[str] | None = None,
    upright: Float[Tensor, "4 4"] | None = None,
    normals: bool = True,
    pca_above: int = 200,
    pca_error_mm: float = 0.05,
) -> float:
    """Write a sequence as GLB; gives the largest error of any vertex in any frame, mm.

    The first frame is the resting shape; every later frame is one morph target, or, above
    `pca_above` frames, as many principal offsets as keep all vertices within `pca_error_mm`.
    `normals` lets them follow the shape; without, the file is half as large and light stands still.
    `upright` (world to a y-up, z-forward frame) becomes a parent node's matrix: the stored
    vertices stay in world metres. `texture` is an 8-bit sRGB PNG or JPEG, embedded.
    """
    if vertices.shape[0] == 0 or not bool(torch.isfinite(vertices).all()):
        raise InputError(
            f"{path}: expected at least one frame of finite vertices, got {vertices.shape[0]} "
            "frames or NaN; drop the frames that failed"
        )
    names = [f"{t + 1:06d}" for t in range(len(vertices))] if names is None else list(names)
    if len(names) != len(vertices):
        raise InputError(f"{path}: {len(vertices)} frames but {len(names)} frame names")
    frames = vertices.detach().cpu().to(torch.float64)
    morphs, weights = morphs_of(frames.numpy(), pca_above, pca_error_mm)
    pack = _Pack()
    split = split_seams(topology)
    mesh = _add_mesh(pack, topology, split, frames, morphs, weights, normals)
    mesh.extras = _extras(topology, names, len(morphs), frames_per_second)
    if texture is not None and not len(topology.uv):
        raise InputError(f"{path}: a texture needs UVs and the mesh has none; write without it")
    _add_material(pack, texture)
    _add_nodes(pack, upright)
    if len(morphs):
        _add_animation(pack, weights, frames_per_second)
    with atomic_write(path) as partial:
        partial.write_bytes(pack.to_bytes())
    rebuilt = frames.numpy()[:1].astype(np.float32) + np.tensordot(weights, morphs, 1)
    return float(np.linalg.norm(rebuilt - frames.numpy(), axis=-1).max() * 1000)


@dataclass
class _Pack:
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
        self, values: NDArray, kind: str, target: int | None = ARRAY_BUFFER, bounds: bool = False
    ) -> int:
        """A new accessor of these values: float32, or the integer type they come in."""
        import pygltflib

        dtype = values.dtype if values.dtype.kind == "u" else np.dtype("<f4")
        values = np.ascontiguousarray(values, dtype=dtype)
        component = next(k for k, name in COMPONENT_DTYPE.items() if np.dtype(name) == dtype)
        rows = values.reshape(-1, WIDTH[kind])
        accessor = pygltflib.Accessor(
            bufferView=self.view(values.tobytes(), target),
            componentType=component,
            count=len(rows),
            type=kind,
        )
        if bounds:
            accessor.min, accessor.max = rows.min(0).tolist(), rows.max(0).tolist()
        self.gltf.accessors.append(accessor)
        return len(self.gltf.accessors) - 1

    def to_bytes(self) -> bytes:
        """The whole file."""
        import pygltflib

        self.gltf.buffers = [pygltflib.Buffer(byteLength=self.length)]
        self.gltf.set_binary_blob(b"".join(self.chunks))
        return b"".join(self.gltf.save_to_bytes())


def _add_mesh(
    pack: _Pack,
    topology: Topology,
    split: SeamSplit,
    frames: Float[Tensor, "T V 3"],
    morphs: NDArray[np.float32],
    weights: NDArray[np.float32],
    with_normals: bool,
) -> Any:
    """Add the mesh with its targets; gives pygltflib's object."""
    import pygltflib

    source = split.source_vertex
    rest = frames[0].numpy().astype(np.float32)
    normal_offsets = None
    normals = unit_normals(frames[0], topology)
    if with_normals and len(morphs):
        normal_offsets = morph_normals(topology, frames, weights)
    attributes = pygltflib.Attributes(
        POSITION=pack.accessor(rest[source], "VEC3", bounds=True),
        NORMAL=pack.accessor(normals[source], "VEC3"),
        # float32 holds every vertex number below 2²⁴; glTF allows no 32-bit integers here
        **{SOURCE_ATTRIBUTE: pack.accessor(source.astype(np.float32), "SCALAR")},
    )
    if len(topology.uv):
        # glTF counts v from the top
        uv = topology.uv.numpy()[split.source_uv] * [1.0, -1.0] + [0.0, 1.0]
        attributes.TEXCOORD_0 = pack.accessor(uv, "VEC2")
    targets = []
    for index, morph in enumerate(morphs):
        target = {"POSITION": pack.accessor(morph[source], "VEC3", bounds=True)}
        if normal_offsets is not None:
            target["NORMAL"] = pack.accessor(normal_offsets[index][source], "VEC3")
        targets.append(pygltflib.Attributes(**target))
    small = len(source) < 65535  # 65535 itself restarts a primitive
    triangles = split.triangles.astype("<u2" if small else "<u4")
    primitive = pygltflib.Primitive(
        attributes=attributes,
        targets=targets,
        indices=pack.accessor(triangles, "SCALAR", ELEMENT_ARRAY_BUFFER),
        material=0,
    )
    mesh = pygltflib.Mesh(name=topology.name, primitives=[primitive], weights=[0.0] * len(morphs))
    pack.gltf.meshes.append(mesh)
    return mesh


def _extras(
    topology: Topology, names: Sequence[str], morph_count: int, frames_per_second: float
) -> dict[str, Any]:
    """What glTF has no place for: how to undo the split, and the frames' names and rate."""
    each = morph_count == len(names) - 1
    titles = names[1:] if each else [f"offset {k + 1}" for k in range(morph_count)]
    ours = {
        "vertex_count": topology.vertex_count,
        "source_vertex": SOURCE_ATTRIBUTE,
        "face_runs": _face_runs(topology),
        "topology": topology.name,
        "frames": list(names),
        "frames_per_second": frames_per_second,
    }
    # targetNames is the convention by which Blender and three.js name shape keys
    return {"topohead": ours} | ({"targetNames": list(titles)} if titles else {})


def _face_runs(topology: Topology) -> list[list[int]]:
    """[corners, how many faces in a row], so that triangles pair up into the same faces again."""
    corners = (3 + topology.is_quad.long()).tolist()
    return [[size, len(list(run))] for size, run in itertools.groupby(corners)]


def _add_material(pack: _Pack, texture: Path | None) -> None:
    import pygltflib

    surface = pygltflib.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.6)
    if texture is None:
        surface.baseColorFactor = [0.72, 0.68, 0.64, 1.0]  # clay, linear
    else:
        data, mime = _image_bytes(texture)
        pack.gltf.images.append(pygltflib.Image(bufferView=pack.view(data), mimeType=mime))
        # linear with mipmaps; clamped, since heads have no tiling UVs
        pack.gltf.samplers.append(
            pygltflib.Sampler(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)
        )
        pack.gltf.textures.append(pygltflib.Texture(sampler=0, source=0))
        surface.baseColorTexture = pygltflib.TextureInfo(index=0)
    pack.gltf.materials.append(
        pygltflib.Material(name="skin", pbrMetallicRoughness=surface, doubleSided=True)
    )


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


def _add_nodes(pack: _Pack, upright: Float[Tensor, "4 4"] | None) -> None:
    """One node with the mesh, and above it the turn to y-up where the world is not.

    The turn has its own node: a matrix may not stand on a node whose weights are animated.
    """
    import pygltflib

    nodes = [pygltflib.Node(name="head", mesh=0)]
    if upright is not None:
        matrix = upright.detach().cpu().double().T.reshape(-1).tolist()  # column-major
        nodes.insert(0, pygltflib.Node(name="upright", matrix=matrix, children=[1]))
    pack.gltf.nodes = nodes
    pack.gltf.scenes = [pygltflib.Scene(nodes=[0])]
    pack.gltf.scene = 0


def _add_animation(pack: _Pack, weights: NDArray[np.float32], frames_per_second: float) -> None:
    import pygltflib

    times = np.arange(len(weights), dtype=np.float32) / np.float32(frames_per_second)
    sampler = pygltflib.AnimationSampler(
        input=pack.accessor(times, "SCALAR", None, bounds=True),
        output=pack.accessor(weights, "SCALAR", None),
        interpolation="LINEAR",
    )
    target = pygltflib.AnimationChannelTarget(node=len(pack.gltf.nodes) - 1, path="weights")
    channel = pygltflib.AnimationChannel(sampler=0, target=target)
    pack.gltf.animations.append(
        pygltflib.Animation(name="performance", samplers=[sampler], channels=[channel])
    )


def read_glb(path: Path) -> GlbSequence:
    """The sequence of a GLB that `write_glb` wrote: vertex order, faces and UVs as they were.

    For meshes of other programs see `topohead.io.meshes.read_mesh`.
    """
    import pygltflib

    gltf: Any
    try:
        gltf = pygltflib.GLTF2.load_binary(str(path))
        extras = gltf.meshes[0].extras["topohead"]
    except (OSError, ValueError, KeyError, IndexError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: expected a GLB written by topohead, got {type(error).__name__} ({error}); "
            "open other files with read_mesh"
        ) from None
    blob = gltf.binary_blob() or b""
    primitive = gltf.meshes[0].primitives[0]
    attributes = primitive.attributes
    source = _values(gltf, blob, getattr(attributes, SOURCE_ATTRIBUTE))[:, 0].astype(np.int64)
    first_copy = np.full(extras["vertex_count"], -1)
    first_copy[source[::-1]] = np.arange(len(source))[::-1]
    vertices = _values(gltf, blob, attributes.POSITION)[first_copy][None]
    if primitive.targets:
        offsets = [_values(gltf, blob, t["POSITION"])[first_copy] for t in primitive.targets]
        weights = _values(gltf, blob, gltf.animations[0].samplers[0].output)
        weights = weights.reshape(-1, len(offsets))
        vertices = vertices + np.tensordot(weights, np.stack(offsets), 1)
    uv = np.zeros((0, 2))
    if attributes.TEXCOORD_0 is not None:
        uv = _values(gltf, blob, attributes.TEXCOORD_0) * [1.0, -1.0] + [0.0, 1.0]
    corners = _joined_faces(
        _values(gltf, blob, primitive.indices).reshape(-1, 3).astype(np.int64), extras["face_runs"]
    )
    topology = Topology(
        vertex_count=extras["vertex_count"],
        faces=torch.from_numpy(source[corners]),
        uv=torch.from_numpy(uv.astype(np.float32)),
        face_uv=torch.from_numpy(corners if len(uv) else np.zeros_like(corners)),
        name=extras["topology"],
    )
    return GlbSequence(
        topology,
        torch.from_numpy(vertices.astype(np.float32)),
        float(extras["frames_per_second"]),
        tuple(extras["frames"]),
    )


def _values(gltf: Any, blob: bytes, index: int) -> NDArray:
    """An accessor of ours as rows: tightly packed, never sparse."""
    accessor = gltf.accessors[index]
    view = gltf.bufferViews[accessor.bufferView]
    width = WIDTH[accessor.type]
    dtype = np.dtype(COMPONENT_DTYPE[accessor.componentType])
    flat = np.frombuffer(blob, dtype, accessor.count * width, view.byteOffset or 0)
    return flat.reshape(-1, width)


def _joined_faces(triangles: NDArray[np.int64], runs: list[list[int]]) -> NDArray[np.int64]:
    """Corners [F 4] from triangles (a b c), (a c d); lone triangles repeat their last corner."""
    faces, start = [], 0
    for size, count in runs:
        used = count * (size - 2)
        part = triangles[start : start + used]
        start += used
        last = part[1::2, 2] if size == 4 else part[:, 2]
        faces.append(np.concatenate([part[:: size - 2], last[:, None]], 1))
    return np.concatenate(faces)
