"""GLB in and out: a sequence of one topology as morph targets and one animation of their weights.

glTF wants one UV per vertex and triangles, so UV seams are split and quads cut. Both are undone on
reading: the vertex attribute `_SOURCE_VERTEX` names the vertex that each copy came from, and the
mesh's extras tell how triangles pair into faces.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from topohead.core import BoundSplats, InputError, Mesh, Topology
from topohead.geometry.morphs import (
    SeamSplit,
    largest_error,
    morph_normals,
    morphs_of,
    split_seams,
    unit_normals,
)
from topohead.io.atomic import atomic_write
from topohead.io.gltf_parts import (
    ELEMENT_ARRAY_BUFFER,
    GlbPack,
    accessor_values,
    add_material,
)
from topohead.io.gltf_splats import add_splats

SOURCE_ATTRIBUTE = "_SOURCE_VERTEX"


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
    normal_map: Path | None = None,
    times: Sequence[float] | None = None,
    splats: BoundSplats | None = None,
    pca_above: int = 200,
    pca_error_mm: float = 0.05,
) -> float:
    """Write a sequence as GLB; gives the largest error of any vertex in any frame, mm.

    The first frame is the resting shape; every later frame is one morph target, or, above
    `pca_above` frames, as many principal offsets as keep all vertices within `pca_error_mm`.
    `normals` lets them follow the shape; without, the file is half as large and light stands still.
    `upright` (world to a y-up, z-forward frame) becomes a parent node's matrix: the stored
    vertices stay in world metres. `texture` is an 8-bit sRGB PNG or JPEG, embedded, `normal_map`
    one in tangent space. `times` are seconds of the frames where they are not even. `splats` make
    it a bundle (`topohead.io.gltf_splats`).
    """
    if vertices.shape[0] == 0 or not bool(torch.isfinite(vertices).all()):
        raise InputError(
            f"{path}: expected at least one frame of finite vertices, got {vertices.shape[0]} "
            "frames or NaN; drop the frames that failed"
        )
    names = [f"{t + 1:06d}" for t in range(len(vertices))] if names is None else list(names)
    if len(names) != len(vertices):
        raise InputError(f"{path}: {len(vertices)} frames but {len(names)} frame names")
    frames = vertices.detach().cpu()
    morphs, weights = morphs_of(frames.numpy(), pca_above, pca_error_mm)
    worst = largest_error(frames.numpy(), morphs, weights) * 1000
    pack = GlbPack()
    split = split_seams(topology)
    bumpy = normal_map is not None
    mesh = add_mesh(pack, topology, split, frames, morphs, weights, normals, tangents=bumpy)
    mesh.extras = _extras(topology, names, len(morphs), frames_per_second)
    if splats is not None:
        add_splats(pack, mesh, topology, splats)
    if texture is not None and not len(topology.uv):
        raise InputError(f"{path}: a texture needs UVs and the mesh has none; write without it")
    add_material(pack, texture, normal_map)
    _add_nodes(pack, upright)
    if len(morphs):
        even = np.arange(len(weights)) / frames_per_second
        _add_animation(pack, weights, even if times is None else np.array(times))
    with atomic_write(path) as partial:
        pack.save(partial)
    return worst


def add_mesh(
    pack: GlbPack,
    topology: Topology,
    split: SeamSplit,
    frames: Float[Tensor, "T V 3"],
    morphs: NDArray[np.float32],
    weights: NDArray[np.float32],
    with_normals: bool,
    sparse: bool = False,
    tangents: bool = False,
) -> Any:
    """Add the mesh with its targets; gives pygltflib's object.

    `sparse` targets hold only the vertices that they move, and turn by more than a little.
    `tangents` are those of the first frame, for a normal map.
    """
    import pygltflib

    source = split.source_vertex
    rest = frames[0].numpy().astype(np.float32)
    normal_offsets = None
    normals = unit_normals(frames[0], topology)
    if with_normals and len(morphs):
        normal_offsets = morph_normals(topology, frames, weights)
        if sparse:
            normal_offsets[np.abs(normal_offsets).max(-1) < 1e-3] = 0
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
        if tangents:
            along = _tangents(topology, frames[0], normals, split)
            attributes.TANGENT = pack.accessor(along, "VEC4")
    targets = []
    for index, morph in enumerate(morphs):
        target = {"POSITION": pack.accessor(morph[source], "VEC3", bounds=True, sparse=sparse)}
        if normal_offsets is not None:
            offsets = normal_offsets[index][source]
            target["NORMAL"] = pack.accessor(offsets, "VEC3", sparse=sparse)
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


def _tangents(
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    normals: NDArray[np.float32],
    split: SeamSplit,
) -> NDArray[np.float32]:
    """MikkTSpace tangents along +u, and the bitangent's side, of `split`'s vertices [S 4].

    A vertex whose UVs have no extent gets any unit tangent: glTF forbids zeros.
    """
    from topohead.rendering.displacement import tangent_frames

    tangents, side = (values.numpy() for values in tangent_frames(topology, vertices))
    across = normals[split.source_vertex]
    least = np.eye(3, dtype=np.float32)[np.abs(across).argmin(1)]
    found = np.cross(across, least)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    sides = np.ones((len(found), 1), np.float32)
    usable = np.linalg.norm(tangents, axis=-1) > 0.5
    found[split.triangles[usable]] = tangents[usable]
    sides[split.triangles] = side[:, None, None]
    return np.concatenate([found, sides], 1)


def _extras(
    topology: Topology, names: Sequence[str], morph_count: int, frames_per_second: float
) -> dict[str, Any]:
    """What glTF has no place for: how to undo the split, and the frames' names and rate."""
    each = morph_count == len(names) - 1
    titles = names[1:] if each else [f"offset {k + 1}" for k in range(morph_count)]
    ours = {"frames": list(names), "frames_per_second": frames_per_second}
    return mesh_extras(topology, titles, ours)


def mesh_extras(topology: Topology, titles: Sequence[str], more: dict[str, Any]) -> dict[str, Any]:
    """A mesh's extras: what `stored_topology` needs, the targets' titles, and `more`."""
    ours = {
        "vertex_count": topology.vertex_count,
        "source_vertex": SOURCE_ATTRIBUTE,
        "face_runs": _face_runs(topology),
        "topology": topology.name,
    }
    # targetNames is the convention by which Blender and three.js name shape keys
    return {"topohead": ours | more} | ({"targetNames": list(titles)} if titles else {})


def _face_runs(topology: Topology) -> list[list[int]]:
    """[corners, how many faces in a row], so that triangles pair up into the same faces again."""
    corners = (3 + topology.is_quad.long()).tolist()
    return [[size, len(list(run))] for size, run in itertools.groupby(corners)]


def _add_nodes(pack: GlbPack, upright: Float[Tensor, "4 4"] | None) -> None:
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


def _add_animation(pack: GlbPack, weights: NDArray[np.float32], times: NDArray[np.float64]) -> None:
    import pygltflib

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

    For rigs see `topohead.io.gltf_rig.read_rig_glb`, for other programs' meshes
    `topohead.io.meshes.read_mesh`.
    """
    gltf, blob, extras = open_glb(path)
    if "frames" not in extras:
        raise InputError(f"{path} is no sequence but a rig; open it with read_rig_glb")
    topology, first_copy = stored_topology(gltf, blob)
    primitive = gltf.meshes[0].primitives[0]
    vertices = accessor_values(gltf, blob, primitive.attributes.POSITION)[first_copy][None]
    if primitive.targets:
        targets = [accessor_values(gltf, blob, t["POSITION"]) for t in primitive.targets]
        offsets = np.stack([target[first_copy] for target in targets])
        weights = accessor_values(gltf, blob, gltf.animations[0].samplers[0].output)
        vertices = vertices + np.tensordot(weights.reshape(-1, len(offsets)), offsets, 1)
    return GlbSequence(
        topology,
        torch.from_numpy(vertices.astype(np.float32)),
        float(extras["frames_per_second"]),
        tuple(extras["frames"]),
    )


def read_own_mesh(path: Path) -> Mesh | None:
    """The resting shape of a GLB of ours, upright as its node stands; None for other programs'."""
    try:
        gltf, blob, _ = open_glb(path)
    except InputError:
        return None
    topology, first_copy = stored_topology(gltf, blob)
    primitive = gltf.meshes[0].primitives[0]
    vertices = accessor_values(gltf, blob, primitive.attributes.POSITION)[first_copy]
    matrix = gltf.nodes[0].matrix
    if matrix is not None:
        turn = np.array(matrix).reshape(4, 4)  # column-major: acts on rows as it is
        vertices = (vertices @ turn[:3, :3] + turn[3, :3]).astype(np.float32)
    return Mesh(topology, torch.from_numpy(vertices.copy()))


def open_glb(path: Path) -> tuple[Any, bytes, dict[str, Any]]:
    """A GLB of ours: pygltflib's document, its buffer, and our extras of its mesh."""
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
    return gltf, gltf.binary_blob() or b"", extras


def stored_rate(path: Path) -> float:
    """Frames per second of a GLB of ours, from its first kilobytes: sequences can be large."""
    with path.open("rb") as stream:
        header = stream.read(20)
        length = int.from_bytes(header[12:16], "little")
        document = stream.read(length) if header[:4] == b"glTF" else b""
    try:
        extras = json.loads(document)["meshes"][0]["extras"]["topohead"]
        return float(extras["frames_per_second"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path} is no GLB written by topohead ({error})") from None


def stored_topology(gltf: Any, blob: bytes) -> tuple[Topology, NDArray[np.int64]]:
    """The topology before seams were split, and the first copy of each of its vertices."""
    extras = gltf.meshes[0].extras["topohead"]
    primitive = gltf.meshes[0].primitives[0]
    attributes = primitive.attributes
    source = accessor_values(gltf, blob, getattr(attributes, SOURCE_ATTRIBUTE))[:, 0]
    source = source.astype(np.int64)
    first_copy = np.full(extras["vertex_count"], -1)
    first_copy[source[::-1]] = np.arange(len(source))[::-1]
    uv = np.zeros((0, 2))
    if attributes.TEXCOORD_0 is not None:
        uv = accessor_values(gltf, blob, attributes.TEXCOORD_0) * [1.0, -1.0] + [0.0, 1.0]
    triangles = accessor_values(gltf, blob, primitive.indices).reshape(-1, 3).astype(np.int64)
    corners = _joined_faces(triangles, extras["face_runs"])
    topology = Topology(
        vertex_count=extras["vertex_count"],
        faces=torch.from_numpy(source[corners]),
        uv=torch.from_numpy(uv.astype(np.float32)),
        face_uv=torch.from_numpy(corners if len(uv) else np.zeros_like(corners)),
        name=extras["topology"],
    )
    return topology, first_copy


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
