"""Pictures of avatars."""

from importlib import import_module
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.geometry.avatars import Avatar
from topohead.geometry.binding import posed_factors
from topohead.rendering.bound_splats import LOW_PASS, render_factored
from topohead.rendering.harmonics import shaded
from topohead.rendering.splats_cuda import draw_covariances

NEAR = 0.01
"""Metres before a camera that are not drawn."""


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

    Cameras stand in the frame of the resting head. Made where the avatar's tensors are; many
    instants are made faster by a `Player`.
    """
    return Player(avatar).draw(weights, gaze, pose, world_to_camera, intrinsics, size)


class Player:
    """Draws one avatar again and again, where its tensors are.

    What stays is worked out once. On a CUDA device expression, pose and view become Gaussians in
    two kernels (`posing_triton`).
    """

    def __init__(self, avatar: Avatar) -> None:
        self.avatar = avatar
        self.device = avatar.splats.opacities.device
        self.triangles = avatar.rig.topology.triangles.to(self.device)
        self._kernels = _kernels() if self.device.type == "cuda" else None
        self._prepared = self._kernels.prepared(avatar) if self._kernels else None

    @torch.no_grad()
    def draw(
        self,
        weights: Float[Tensor, " 52"],
        gaze: Float[Tensor, "2 2"],
        pose: Float[Tensor, "4 4"],
        world_to_camera: Float[Tensor, "C 4 4"],
        intrinsics: Float[Tensor, "C 3 3"],
        size: tuple[int, int],
    ) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
        """`render_avatar`'s pictures. Inputs may lie anywhere; on the device they need no wait."""
        avatar, device = self.avatar, self.device
        if self._kernels is not None:
            instant = self._kernels.instant_of(weights, gaze, pose, world_to_camera, device)
            made = self._kernels.pose(self._prepared, instant, len(world_to_camera))
            means, covariances, colors = made
            poses, lenses = (t.to(device, torch.float32) for t in (world_to_camera, intrinsics))
            return draw_covariances(
                means, covariances, avatar.splats.opacities, colors, poses, lenses, size, NEAR,
                LOW_PASS,
            )  # fmt: skip
        weights, gaze, pose = (t.to(device, torch.float32) for t in (weights, gaze, pose))
        poses, lenses = (t.to(device, torch.float32) for t in (world_to_camera, intrinsics))
        vertices = avatar.vertices(weights[None], gaze[None], pose[None])[0]
        dressed = avatar.dressed(weights)
        means, factors = posed_factors(dressed.binding, self.triangles, vertices)
        colors = shaded(dressed.harmonics, means, poses, pose[:3, :3].T)
        return render_factored(means, factors, dressed.opacities, colors, poses, lenses, size, NEAR)


def _kernels() -> ModuleType:
    """Triton comes with CUDA's torch alone."""
    return import_module("topohead.rendering.posing_triton")
