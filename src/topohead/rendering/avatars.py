"""Pictures of avatars."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.geometry.avatars import Avatar
from topohead.geometry.binding import posed_factors
from topohead.rendering.bound_splats import render_factored
from topohead.rendering.harmonics import shaded


@torch.no_grad()
def render_avatar(
    avatar: Avatar,
    weights: Float[Tensor, " 52"],
    gaze: Float[Tensor, "2 2"],
    pose: Float[Tensor, "4 4"],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """srgb pictures (width, height) over black of one instant, and coverage; not differentiable.

    Cameras stand in the frame of the resting head. Made where the avatar's tensors are.
    """
    splats = avatar.splats
    device = splats.opacities.device
    vertices = avatar.vertices(
        weights[None].to(device), gaze[None].to(device), pose[None].to(device)
    )[0]
    dressed = avatar.dressed(weights.to(device))
    triangles = avatar.rig.topology.triangles.to(device)
    means, factors = posed_factors(dressed.binding, triangles, vertices)
    poses, lenses = world_to_camera.to(device), intrinsics.to(device)
    colors = shaded(dressed.harmonics, means, poses, pose[:3, :3].T)
    return render_factored(means, factors, splats.opacities, colors, poses, lenses, size)
