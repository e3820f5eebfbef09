"""The texture's side of a mesh: which triangle each texel shows, seams, mirrored places, baking.

Textures are square; row 0 is the top, v = 1. Texel (row, column) has its centre at
u = (column + ½)/S, v = 1 − (row + ½)/S.
"""

import weakref
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Shaped
from torch import Tensor

from topohead.core import Topology
from topohead.rendering.mesh_cpu import rasterize_projected
from topohead.rendering.uv_cpu import interpolate_texels

DILATION = 32
"""Texels that colours are carried beyond their islands: five mip levels without bleeding."""


@dataclass(frozen=True)
class TexelMap:
    """Which triangle of a topology each texel's centre lies in.

    Weights follow from `corners` in a few operations, so they are not stored: at 4096² the map
    takes 67 MB instead of 270.
    """

    topology: Topology
    size: int
    triangle: Int32[np.ndarray, "S S"]
    """−1 outside the islands."""
    corners: Float32[np.ndarray, "T 3 2"]
    """(column, row) of every triangle's corners, in texels."""

    @property
    def inside(self) -> Bool[np.ndarray, "S S"]:
        """Texels whose centres lie on an island."""
        return self.triangle >= 0

    @cached_property
    def fringe(self) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Texels up to `DILATION` beyond the islands, and the nearest island texel of each."""
        inside = self.inside
        if not inside.any():
            return np.empty(0, np.int64), np.empty(0, np.int64)
        distance, label = cv2.distanceTransformWithLabels(
            (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        label = np.asarray(label, np.int32)
        targets = np.flatnonzero((distance > 0) & (distance <= DILATION))
        islands = np.flatnonzero(inside)
        place = np.zeros(label.max() + 1, np.int64)
        place[label.ravel()[islands]] = islands
        return targets, place[label.ravel()[targets]]

    @cached_property
    def mirrored_corners(self) -> Float32[np.ndarray, "T 3 2"]:
        """(column, row) of the corners' places on the other side of the head; NaN: none."""
        places = mirrored_uv(self.topology).numpy()
        flipped = np.stack([places[..., 0], 1 - places[..., 1]], -1) * self.size
        return np.ascontiguousarray(flipped, np.float32)

    def dilate(self, picture: Shaped[np.ndarray, "S S K"]) -> None:
        """Carry the islands' border colours outwards by `DILATION` texels, in place."""
        targets, sources = self.fringe
        flat = picture.reshape(-1, picture.shape[-1])
        flat[targets] = flat[sources]


_maps: dict[tuple[int, int], tuple[weakref.ref, TexelMap]] = {}


def texel_map(topology: Topology, size: int) -> TexelMap:
    """The texel map of a topology at S×S, made once per topology and size (the last eight live)."""
    key = (id(topology), size)
    held = _maps.get(key)
    if held is not None and held[0]() is topology:
        return held[1]
    made = _make_texel_map(topology, size)
    while len(_maps) >= 8:
        _maps.pop(next(iter(_maps)))
    _maps[key] = (weakref.ref(topology), made)
    return made


def _make_texel_map(topology: Topology, size: int) -> TexelMap:
    uv = topology.uv.double().numpy()
    texels = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, np.ones(len(uv))], 1)
    triangle_uv = np.ascontiguousarray(topology.triangle_uv.numpy(), np.int32)
    _, triangle = rasterize_projected(
        texels.astype(np.float32), triangle_uv, size, size, False, np.float32(0)
    )
    corners = np.ascontiguousarray(texels[:, :2][triangle_uv], np.float32)
    return TexelMap(topology, size, triangle, corners)


def bake(
    values: Float[Tensor, "V K"], topology: Topology, size: int, dilation: bool = True
) -> Float[Tensor, "S S K"]:
    """Vertex values drawn into the texture plane (colours, errors, positions); zero elsewhere.

    With `dilation` border values reach 32 texels beyond the islands.
    """
    texels = texel_map(topology, size)
    baked = interpolate_texels(
        texels.triangle,
        0,
        0,
        texels.corners,
        np.ascontiguousarray(topology.triangles.numpy(), np.int32),
        np.ascontiguousarray(values.detach().float().numpy()),
    )
    if dilation:
        texels.dilate(baked)
    return torch.from_numpy(baked)


def mirrored_uv(topology: Topology) -> Float[Tensor, "T 3 2"]:
    """UV places of every triangle's corners on the other side of the head; NaN where none is.

    A corner's place is looked up in the mirrored face, so seams are respected, and it does not
    matter along which diagonal the mirrored quad was split. Without `topology.mirror`: all NaN.
    """
    places = torch.full((len(topology.triangles), 3, 2), torch.nan)
    if topology.mirror is None:
        return places
    faces = topology.faces
    lookup = {tuple(face): index for index, face in enumerate(faces.sort(1).values.tolist())}
    mirrored = topology.mirror[faces]
    # a triangle repeats its third index, which need not be the one that its mirror repeats
    keys = mirrored.sort(1).values.tolist()
    partner = torch.tensor([_mirrored_face(lookup, key) for key in keys])
    triangle_partner = partner[topology.triangle_face]
    known = triangle_partner >= 0
    corners = topology.mirror[topology.triangles[known]]
    candidates = faces[triangle_partner[known]]
    match = candidates[:, None, :] == corners[:, :, None]
    slot = match.to(torch.uint8).argmax(-1)
    rows = topology.face_uv[triangle_partner[known]].gather(1, slot)
    places[known] = topology.uv[rows].float()
    return places


def _mirrored_face(lookup: dict[tuple[int, ...], int], key: list[int]) -> int:
    """The face with these vertices, whichever of a triangle's vertices is repeated; −1: none."""
    found = lookup.get(tuple(key))
    if found is None and len(set(key)) == 3:
        distinct = sorted(set(key))
        for repeated in distinct:
            found = lookup.get(tuple(sorted([*distinct, repeated])))
            if found is not None:
                break
    return -1 if found is None else found


@dataclass(frozen=True)
class Seams:
    """Edges where the surface goes on but the UVs jump: the two places of each, and inwards.

    `places[e, side, end]` are UV positions; ends correspond between sides. `inward[e, side]` is
    the unit UV direction from the edge into its own island.
    """

    places: Float[Tensor, "E 2 2 2"]
    inward: Float[Tensor, "E 2 2"]


def find_seams(topology: Topology) -> Seams:
    """All UV seams of a topology. Open borders and edges of more than two faces are none."""
    faces, face_uv = topology.faces, topology.face_uv
    begin = torch.stack([faces, faces.roll(-1, 1)], -1).reshape(-1, 2)
    places = torch.stack([face_uv, face_uv.roll(-1, 1)], -1).reshape(-1, 2)
    owner = torch.arange(len(faces)).repeat_interleave(4)
    real = begin[:, 0] != begin[:, 1]
    begin, places, owner = begin[real], places[real], owner[real]
    low, flipped = begin.min(1).values, begin[:, 0] > begin[:, 1]
    key = low * topology.vertex_count + begin.max(1).values
    order = torch.argsort(key, stable=True)
    key, places, owner, flipped = key[order], places[order], owner[order], flipped[order]
    places = torch.where(flipped[:, None], places.flip(1), places)
    starts = torch.cat([torch.tensor([True]), key[1:] != key[:-1]])
    first = torch.nonzero(starts)[:, 0]
    count = torch.diff(torch.cat([first, torch.tensor([len(key)])]))
    first = first[count == 2]
    apart = (topology.uv[places[first]] - topology.uv[places[first + 1]]).abs().amax((1, 2)) > 1e-6
    pair = torch.stack([first[apart], first[apart] + 1], 1)
    ends = topology.uv[places[pair]].float()
    middle = topology.uv[face_uv[owner[pair]]].float().mean(2)
    along = ends[:, :, 1] - ends[:, :, 0]
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    towards = ((middle - ends[:, :, 0]) * across).sum(-1, keepdim=True).sign()
    return Seams(ends, torch.nn.functional.normalize(across * towards, dim=-1))
