"""Pictures of avatars."""

from dataclasses import dataclass
from importlib import import_module

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.geometry.avatars import Avatar
from topohead.geometry.binding import posed_factors, turns
from topohead.rendering.bound_splats import LOW_PASS, render_factored
from topohead.rendering.harmonics import shaded
from topohead.rendering.portrait_light import eyes
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


@dataclass(frozen=True)
class _Prepared:
    """What no pose changes, as the kernel on the device takes it."""

    corners: Int[Tensor, "N 3"]
    local: Float[Tensor, "N 3 3"]
    offset_change: Float[Tensor, "N R 3"]
    color_change: Float[Tensor, "N R 3"]


class Player:
    """Draws one avatar again and again, where its tensors are.

    What stays is worked out once. On a CUDA device expression, pose and view become Gaussians in
    one kernel (`posing_triton`).
    """

    def __init__(self, avatar: Avatar) -> None:
        self.avatar = avatar
        self.device = avatar.splats.opacities.device
        self.triangles = avatar.rig.topology.triangles.to(self.device)
        self._prepared = _prepared(avatar, self.triangles) if self.device.type == "cuda" else None

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
        weights, gaze, pose = (t.to(device, torch.float32) for t in (weights, gaze, pose))
        poses = world_to_camera.to(device, torch.float32)
        lenses = intrinsics.to(device, torch.float32)
        vertices = avatar.vertices(weights[None], gaze[None], pose[None])[0]
        turn = pose[:3, :3].T
        if self._prepared is None:
            dressed = avatar.dressed(weights)
            means, factors = posed_factors(dressed.binding, self.triangles, vertices)
            colors = shaded(dressed.harmonics, means, poses, turn)
            return render_factored(
                means, factors, dressed.opacities, colors, poses, lenses, size, NEAR
            )
        gaussians = posed_on_device(self._prepared, avatar, vertices, weights, turn, poses)
        means, covariances, colors = gaussians
        return draw_covariances(
            means, covariances, avatar.splats.opacities, colors, poses, lenses, size, NEAR, LOW_PASS
        )


def _prepared(avatar: Avatar, triangles: Int[Tensor, "T 3"]) -> _Prepared:
    binding, change = avatar.splats.binding, avatar.change
    local = turns(binding.quats) * binding.scales[:, None]
    corners = triangles[binding.triangles].int().contiguous()
    return _Prepared(
        corners, local.contiguous(), change.offsets.contiguous(), change.colors.contiguous()
    )


def posed_on_device(
    prepared: _Prepared, avatar: Avatar, vertices: Float[Tensor, "V 3"],
    weights: Float[Tensor, " 52"], turn: Float[Tensor, "3 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 6"], Float[Tensor, "C N 3"]]:  # fmt: skip
    """Means, covariances and colours of a posed avatar by the kernel."""
    splats = avatar.splats
    return import_module("topohead.rendering.posing_triton").pose(
        vertices.contiguous(), prepared.corners, splats.binding.barycentrics.contiguous(),
        splats.binding.offsets.contiguous(), prepared.local, splats.harmonics.contiguous(),
        avatar.change.codes(weights).contiguous(), (prepared.offset_change, prepared.color_change),
        turn.contiguous(), eyes(world_to_camera).contiguous(),
    )  # fmt: skip
