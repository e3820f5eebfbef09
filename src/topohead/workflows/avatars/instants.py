"""A sitting's pictures as the solver takes them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import PosedViews
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import rasterize
from topohead.solvers.gaussian_head import Instant
from topohead.workflows.avatars.inputs import Sitting

ASLANT, LEAST_FACING, MANY = 0.5, 0.1, 16
"""Cosine of the angle of view from which colours are wholly believed, and how far the others; of
so many pictures all are, at any angle, where heads are certain."""


def camera_names(sitting: Sitting) -> list[str]:
    """All cameras of a sitting by name; those of a frame may be fewer."""
    named = {name: None for view in sitting.posed.views for name in view.cameras.names}
    return list(named)


def instants_of(
    sitting: Sitting,
    codes: Float[Tensor, "T R"],
    names: Sequence[str],
    device: torch.device,
    doubted: bool = False,
) -> list[Instant]:
    """The sitting's pictures as the solver takes them, cameras of one size together.

    Skin that is seen aslant is hardly believed in few pictures, nor where heads are `doubted` to be
    where they are said to be.
    """
    posed, found = sitting.posed, []
    pictures = sum(len(view.images) for view in posed.views)
    least = LEAST_FACING if doubted else min(max(pictures / MANY, LEAST_FACING), 1.0)
    for t, view in enumerate(posed.views):
        assert view.masks is not None
        turn = posed.upright[:3, :3].double() @ posed.poses[t, :3, :3].double().T
        sizes = [view.cameras.size(c) for c in range(len(view.images))]
        for size in dict.fromkeys(sizes):
            mine = [c for c, one in enumerate(sizes) if one == size]
            coverage = torch.stack([view.masks[c] for c in mine])
            images = torch.stack([view.images[c] for c in mine]) * coverage[..., None]
            counted = sitting.counted
            weights = None if counted is None else torch.stack([counted[t][c] for c in mine])
            cosines = torch.stack([_facing(posed, t, c, least) for c in mine])
            found.append(
                Instant(
                    posed.vertices[t].float().to(device),
                    codes[t].to(device),
                    turn.float().to(device),
                    view.cameras.world_to_camera[mine].float().to(device),
                    view.cameras.intrinsics[mine].float().to(device),
                    torch.tensor([names.index(view.cameras.names[c]) for c in mine]).to(device),
                    _bytes(images).to(device),
                    _bytes(coverage).to(device),
                    None if weights is None else _bytes(weights).to(device),
                    t,
                    _bytes(cosines).to(device),
                )
            )
    return found


def _facing(posed: PosedViews, t: int, c: int, least: float) -> Float[Tensor, "H W"]:
    """How far a picture's colours are believed: less where the mesh is seen aslant."""
    triangles, vertices, cameras = (
        posed.topology.triangles,
        posed.vertices[t],
        posed.views[t].cameras,
    )
    pose = cameras.world_to_camera[c].float()
    raster = rasterize(
        vertices.float(), triangles, pose, cameras.intrinsics[c], cameras.size(c), cull=False
    )
    center = -(pose[:3, :3].T @ pose[:3, 3])
    ways = torch.nn.functional.normalize(center - vertices, dim=1)
    cosine = (ways * vertex_normals(vertices.float(), triangles)).sum(1)[triangles].mean(1).abs()
    believed = (cosine / ASLANT).clamp(least, 1)
    return torch.where(raster.triangle >= 0, believed[raster.triangle.clamp(min=0).long()], 1.0)


def _bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)
