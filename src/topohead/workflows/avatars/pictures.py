"""Stills of an avatar."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52
from topohead.geometry.avatars import Avatar
from topohead.rendering.avatars import render_avatar
from topohead.rendering.shading import portrait_camera

CELLS: tuple[tuple[float, float, dict[str, float]], ...] = (
    (0.0, 0.0, {}),
    (40.0, 5.0, {}),
    (-85.0, 0.0, {}),
    (180.0, 5.0, {}),
    (0.0, 0.0, {"jawOpen": 0.7}),
    (25.0, 0.0, {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "jawOpen": 0.15}),
    (0.0, 0.0, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0, "mouthPucker": 0.8}),
    (-30.0, -20.0, {"browInnerUp": 1.0, "eyeWideLeft": 1.0, "eyeWideRight": 1.0}),
)
"""Yaw and pitch of the camera in degrees, and what the face does."""


def over(
    image: Float[Tensor, "*B 3"], alpha: Float[Tensor, "*B"], background: tuple[float, float, float]
) -> Float[Tensor, "*B 3"]:
    """A picture over black put over a colour, in [0, 1]."""
    behind = image.new_tensor(background)
    return (image + (1 - alpha[..., None]) * behind).clamp(0, 1)


def preview(avatar: Avatar, edge: int = 320) -> Float[Tensor, "H W 3"]:
    """Eight views in two rows: around the resting head, then expressions."""
    cells = []
    for yaw, pitch, actions in CELLS:
        weights = torch.zeros(52)
        for name, value in actions.items():
            weights[ARKIT_52.index(name)] = value
        pose, lens = portrait_camera(
            avatar.rig.neutral, (edge, edge), math.radians(yaw), math.radians(pitch)
        )
        image, alpha = render_avatar(
            avatar, weights, torch.zeros(2, 2), torch.eye(4), pose[None], lens[None], (edge, edge)
        )
        cells.append(over(image[0], alpha[0], (1.0, 1.0, 1.0)))
    half = len(cells) // 2
    return torch.cat([torch.cat(cells[:half], 1), torch.cat(cells[half:], 1)], 0)
