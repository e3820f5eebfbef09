"""How well the triangles of a surface are seen from outside."""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.meshes import face_normals
from topohead.rendering.mesh import projected_depths
from topohead.synthesis.remeshing import AWAY, ROOM, evenly_around, looking_at

VIEWS, PICTURE = 24, 768
"""From how many sides surfaces are looked at, and the size of each picture."""

BEHIND = 3e-4
"""So much, metres, a triangle's middle may lie behind what a picture shows there."""

LEAST = 0.1
"""Cosine below which a triangle is seen too much from the side."""


def seen_from_outside(
    vertices: Float[Tensor, "S 3"], triangles: Int[Tensor, "T 3"]
) -> Float[Tensor, " T"]:
    """The share of the views before each triangle of a surface, metres, that see its outer side,
    weighted by the cosine of their incidence: 0 for backs of lips that touch and bottoms of deep
    nostrils, about a half for edges of lids, 1 on cheeks.
    """
    turned, camera, sizes = _views(vertices.device)
    low, high = vertices.aminmax(dim=0)
    center = ((low + high) / 2).double()
    radius = (vertices - center).norm(dim=1).max()
    shift = AWAY * radius * torch.eye(3, device=center.device).double()[2] - turned @ center
    projections = camera @ torch.cat([turned, shift[..., None]], 2)
    depths = projected_depths(
        vertices, triangles, projections, sizes, (PICTURE, PICTURE), cull=False
    )
    middle = vertices[triangles].mean(1).double()
    projected = middle @ projections[:, :, :3].mT + projections[:, None, :, 3]
    column, row, depth = projected.unbind(2)
    column, row = ((part / depth).long().clamp(0, PICTURE - 1) for part in (column, row))
    shown = depths.flatten(1).gather(1, row * PICTURE + column)
    away = middle @ turned.mT + shift[:, None]
    normal = face_normals(vertices, triangles).double() @ turned.mT
    cosine = -(normal * away).sum(-1) / away.norm(dim=-1)
    # the pixel's middle lies up to half a diagonal from the triangle's
    off = 0.7 * 2 * ROOM * radius / PICTURE
    slope = torch.sqrt((1 - cosine.square()).clamp(min=0)) / cosine.clamp(min=LEAST)
    sees = (cosine > LEAST) & (depth < shown + BEHIND + off * slope)
    before = cosine.clamp(min=0)
    return ((before * sees).sum(0) / before.sum(0).clamp(min=1e-9)).float()


@cache
def _views(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """World to camera [C 3 3] without the shift, the intrinsics of all, and sizes of pictures."""
    views = [looking_at(torch.zeros(3), towards, AWAY, PICTURE, ROOM)
             for towards in evenly_around(VIEWS)]  # fmt: skip
    turned = torch.stack([camera[:3, :3] for camera, _ in views]).to(device)
    sizes = torch.full((VIEWS, 2), PICTURE, dtype=torch.int32, device=device)
    return turned, views[0][1].to(device), sizes
