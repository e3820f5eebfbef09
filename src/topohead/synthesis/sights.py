"""Which triangles of a surface anyone sees from outside, for many surfaces at once."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.geometry.meshes import face_normals
from topohead.geometry.subdivision import refine
from topohead.rendering.mesh import projected_depths
from topohead.synthesis.remeshing import evenly_around, looking_at
from topohead.synthesis.scan_surface import ScanSurface

VIEWS, PICTURE = 24, 768
"""From how many sides surfaces are looked at, and the size of each picture."""

BEHIND = 3e-4
"""So much, metres, a triangle's middle may lie behind what a picture shows there."""

AWAY, ROOM = 6.0, 1.1
"""How far the views are and what half a picture holds, times the radius of the ball around a
surface."""

LEAST = 0.1
"""Cosine below which a triangle is seen too much from the side."""


def seen_from_outside(surface: ScanSurface, heads: Float[Tensor, "P V 3"]) -> Bool[Tensor, "P T"]:
    """Triangles of each head's scanned surface that some of `VIEWS` sides see, inner parts too:
    no back of lips that are closed, no bottom of deep nostrils. Heads are control vertices.
    """
    device = heads.device
    views = [looking_at(torch.zeros(3), towards, AWAY, PICTURE, ROOM)
             for towards in evenly_around(VIEWS)]  # fmt: skip
    turned = torch.stack([camera[:3, :3] for camera, _ in views]).to(device)
    camera = views[0][1].to(device)
    sizes = torch.full((VIEWS, 2), PICTURE, dtype=torch.int32, device=device)
    seen = []
    for head in heads:
        vertices = refine(surface.refinement, head[None])[0]
        low, high = vertices.aminmax(dim=0)
        center = ((low + high) / 2).double()
        radius = (vertices - center).norm(dim=1).max()
        shift = torch.stack([radius.new_zeros(()), radius.new_zeros(()), AWAY * radius])
        shift = shift - (turned @ center)
        projections = camera @ torch.cat([turned, shift[..., None]], 2)
        depths = projected_depths(
            vertices, surface.triangles, projections, sizes, (PICTURE, PICTURE), cull=False
        )
        middle = vertices[surface.triangles].mean(1).double()
        normal = face_normals(vertices, surface.triangles).double()
        projected = middle @ projections[:, :, :3].mT + projections[:, None, :, 3]
        column, row, depth = projected.unbind(2)
        column, row = ((part / depth).long().clamp(0, PICTURE - 1) for part in (column, row))
        shown = depths.flatten(1).gather(1, row * PICTURE + column)
        away = middle @ turned.mT + shift[:, None]
        cosine = -((normal @ turned.mT) * away).sum(-1) / away.norm(dim=-1)
        # the pixel's middle lies up to half a diagonal from the triangle's
        off = 0.7 * 2 * ROOM * radius / PICTURE
        slope = torch.sqrt((1 - cosine.square()).clamp(min=0)) / cosine.clamp(min=LEAST)
        seen.append(((cosine > LEAST) & (depth < shown + BEHIND + off * slope)).any(0))
    return torch.stack(seen)
