"""ICT-FaceKit as a head: the public model's arrays brought into our frame, names and layout.

Part names in this file are those of the model's file; nothing outside knows them.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Mesh, Topology
from topohead.geometry import regions
from topohead.geometry.bridge import fit_bridge
from topohead.geometry.meshes import neighbour_rings
from topohead.models.linear import LinearHead

REQUIRED = ("vertices", "identity", "expression", "expression_arkit", "faces", "uv", "face_uv",
            "part_names", "part_vertices", "part_faces", "detail_names", "detail_faces",
            "landmarks_68")  # fmt: skip
"""Arrays of the model's file that are read."""

SHELLS = ("lacrimal", "eye_blend", "eye_occlusion", "eyelashes")
"""Thin parts around the eyes, by how their names begin."""

UPPER_LIP_RINGS, LOWER_LIP_RINGS, LID_RINGS = 14, 12, 9
"""Edge loops from the sockets outward, up to the border of the red and around the lids."""

BACK = (0.75, 0.75, 0.25)
TEXTURE_BOXES = {
    "face": (0.0, 0.25, 0.75),
    "head_and_neck": BACK, "mouth_socket": BACK, "eye_socket_left": BACK, "eye_socket_right": BACK,
    "gums_and_tongue": (0.75, 0.5, 0.25), "teeth": (0.75, 0.25, 0.25),
    "sclera_left": (0.0, 0.0, 0.25), "sclera_right": (0.25, 0.0, 0.25),
    "iris_left": (0.5, 0.125, 0.125), "iris_right": (0.625, 0.125, 0.125),
    "eyelashes_left": (0.5, 0.0, 0.125), "eyelashes_right": (0.5, 0.0, 0.125),
    "lacrimal_fluid_left": (0.625, 0.0, 0.0625), "lacrimal_fluid_right": (0.6875, 0.0, 0.0625),
    "eye_blend_left": (0.625, 0.0625, 0.0625), "eye_blend_right": (0.6875, 0.0625, 0.0625),
    "eye_occlusion_left": (0.75, 0.0, 0.125), "eye_occlusion_right": (0.875, 0.0, 0.125),
}  # fmt: skip
"""Where each part's texture tile goes in the unit square: left, bottom, side. The source keeps
seven tiles side by side and lays eyeballs and shells over the face's."""
BOX_MARGIN = 1 / 256


def build_ict(arrays: Mapping[str, np.ndarray], reference: HeadModel) -> LinearHead:
    """The head in metres, origin midway between the eyeballs; 100 modes, 51 of 52 actions.

    The model has no `tongueOut` (a zero row); `browInnerUp` and `cheekPuff` are the sums of their
    halves. Texture tiles are folded into the unit square. Brows, nose, ears, neck and the face's
    border come from the reference head through a bridge, lips and lids from the model's own loops.
    """
    vertices = torch.from_numpy(arrays["vertices"]).double()
    topology = Topology(
        vertex_count=len(vertices),
        faces=torch.from_numpy(arrays["faces"]).long(),
        uv=torch.from_numpy(arrays["uv"]).float(),
        face_uv=torch.from_numpy(arrays["face_uv"]).long(),
        name="ict-facekit",
    )
    parts = _parts(arrays)
    globes = [vertices[parts[f"eyeball_{side}"]].mean(0) for side in ("left", "right")]
    vertices = vertices - (globes[0] + globes[1]) / 2
    seed = regions.mirror_by_position(vertices, 1e-5)
    landmarks = torch.from_numpy(arrays["landmarks_68"]).long()
    topology = replace(
        topology,
        mirror=regions.complete_mirror(topology, seed, vertices),
        landmarks={"ibug68": regions.at_vertices(topology, landmarks)},
    )
    expression = _expression(arrays)
    topology = replace(topology, regions=_regions(topology, vertices, parts, expression, reference))
    uv, face_uv = _folded_tiles(arrays)
    topology = replace(topology, uv=uv, face_uv=face_uv)
    identity = torch.from_numpy(arrays["identity"].astype(np.float32))
    return LinearHead(topology, vertices.float(), identity, expression)


def _parts(arrays: Mapping[str, np.ndarray]) -> dict[str, slice]:
    names = [str(name) for name in arrays["part_names"]]
    return {
        name: slice(int(start), int(stop))
        for name, (start, stop) in zip(names, arrays["part_vertices"], strict=True)
    }


def _expression(arrays: Mapping[str, np.ndarray]) -> Float[Tensor, "52 V 3"]:
    basis = torch.zeros(len(ARKIT_52), len(arrays["vertices"]), 3)
    for name, delta in zip(arrays["expression_arkit"], arrays["expression"], strict=True):
        if str(name):
            basis[ARKIT_52.index(str(name))] += torch.from_numpy(delta).float()
    return basis


def _folded_tiles(arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """UVs inside the unit square, each part's tile in its box, and the faces' corners in them."""
    corners = torch.from_numpy(arrays["face_uv"]).long()
    boxes = list(TEXTURE_BOXES)
    box = torch.zeros(len(corners)).long()
    for kind in ("part", "detail"):  # details split the eyeballs further
        ranges = zip(arrays[f"{kind}_names"], arrays[f"{kind}_faces"], strict=True)
        for name, (start, stop) in ranges:
            if str(name) in TEXTURE_BOXES:
                box[int(start) : int(stop)] = boxes.index(str(name))
    pairs = torch.stack([corners, box[:, None].expand(-1, 4)], -1).reshape(-1, 2)
    rows, face_uv = torch.unique(pairs, dim=0, return_inverse=True)
    place = torch.tensor([TEXTURE_BOXES[name] for name in boxes])[rows[:, 1]]
    source = torch.from_numpy(arrays["uv"]).float()
    tile = torch.zeros(len(rows), 2)
    tile[face_uv, 0] = source[corners].mean(1)[:, :1].floor().expand(-1, 4).reshape(-1)
    within = source[rows[:, 0]] - tile
    side = place[:, 2:] - 2 * BOX_MARGIN
    return place[:, :2] + BOX_MARGIN + side * within, face_uv.reshape(-1, 4)


def _regions(
    topology: Topology, vertices: Tensor, parts: Mapping[str, slice], expression: Tensor,
    reference: HeadModel,
) -> dict[str, Tensor]:  # fmt: skip
    def part(*names: str) -> Bool[Tensor, " V"]:
        mask = torch.zeros(topology.vertex_count, dtype=torch.bool)
        for name in names:
            mask[parts[name]] = True
        return mask

    bridge, _ = fit_bridge(reference, Mesh(topology, vertices.float()))
    skin = part("face", "head_and_neck")
    masks = {
        name: bridge.region(name) & skin for name in ("brows", "nose", "ears", "neck", "scalp")
    }
    masks["skin"] = skin
    masks["eye_left"], masks["eye_right"] = part("eyeball_left"), part("eyeball_right")
    masks["eyes"] = masks["eye_left"] | masks["eye_right"]
    masks["eye_sockets"] = part("eye_socket_left", "eye_socket_right")
    masks["eye_shells"] = part(*(name for name in parts if name.startswith(SHELLS)))
    masks["teeth"] = part("teeth")
    masks["mouth_interior"] = part("mouth_socket", "gums_and_tongue", "teeth")
    face = part("face")
    masks |= _lips(topology, vertices, face, _touching(topology, face, part("mouth_socket")))
    lid = neighbour_rings(topology, _touching(topology, face, masks["eye_sockets"]), LID_RINGS)
    masks["eyelids"] = face & (lid <= LID_RINGS)
    masks["face"] = face & (bridge.region("face") | masks["lips"] | masks["eyelids"]) & (lid > 0)
    skull = masks["face"] | masks["scalp"] | masks["ears"]
    masks["rigid"] = skull & regions.unmoved(expression)
    named = {name: regions.as_index(mask) for name, mask in masks.items()}
    named["boundary"] = regions.open_rim(topology, vertices)
    return named


def _touching(topology: Topology, first: Tensor, second: Tensor) -> Bool[Tensor, " V"]:
    """Vertices of the first set that share a face with the second."""
    mixed = topology.faces[second[topology.faces].any(1)]
    mask = torch.zeros_like(first)
    mask[mixed] = True
    return mask & first


def _lips(
    topology: Topology, vertices: Tensor, face: Tensor, slit: Tensor
) -> dict[str, Bool[Tensor, " V"]]:
    corner = vertices[regions.as_index(slit)]
    above = vertices[:, 1] > corner[corner[:, 0].abs().argmax(), 1]
    upper = neighbour_rings(topology, slit & above, UPPER_LIP_RINGS + 1)
    lower = neighbour_rings(topology, slit & ~above, LOWER_LIP_RINGS + 1)
    masks = {
        "lips_upper": face & (upper <= UPPER_LIP_RINGS) & (upper <= lower),
        "lips_lower": face & (lower <= LOWER_LIP_RINGS) & (lower <= upper),
    }
    return masks | {"lips": masks["lips_upper"] | masks["lips_lower"]}
