"""Gaussian splatting the slow way: every Gaussian at every pixel, float64, gradients by autograd.

Written from the equations (Kerbl et al. 2023; Zwicker et al. 2001), not from the kernels.
"""

import torch


def matrices(quats):
    """Rotation matrices [N 3 3] of quaternions wxyz: (s² - v·v) I + 2 v vᵀ + 2 s [v]×."""
    q = quats / quats.norm(dim=1, keepdim=True)
    scalar, vector = q[:, 0], q[:, 1:]
    zero = torch.zeros_like(scalar)
    x, y, z = vector.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    outer = vector[:, :, None] * vector[:, None, :]
    identity = torch.eye(3, dtype=quats.dtype)
    square = (scalar**2 - (vector**2).sum(1))[:, None, None]
    return square * identity + 2 * outer + 2 * scalar[:, None, None] * cross


def screen_ellipses(means, quats, scales, world_to_camera, intrinsics):
    """(centres [N 2], covariances [N 2 2], depth [N]) on the screen."""
    camera = means @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    x, y, z = camera.unbind(1)
    fx, fy = intrinsics[0, 0], intrinsics[1, 1]
    centers = torch.stack([fx * x / z + intrinsics[0, 2], fy * y / z + intrinsics[1, 2]], 1)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * x / z**2, zero, fy / z, -fy * y / z**2], 1)
    jacobian = jacobian.reshape(-1, 2, 3)
    turned = matrices(quats)
    covariance = turned @ torch.diag_embed(scales**2) @ turned.transpose(1, 2)
    to_screen = jacobian @ world_to_camera[:3, :3]
    flat = to_screen @ covariance @ to_screen.transpose(1, 2)
    return centers, flat + 0.3 * torch.eye(2, dtype=means.dtype), z


def render_ref(
    means, quats, scales, opacities, colors, world_to_camera, intrinsics, size, background
):
    """(image [H W 3], alpha [H W]) of float64 tensors."""
    width, height = size
    centers, covariance, depth = screen_ellipses(means, quats, scales, world_to_camera, intrinsics)
    inverse = torch.linalg.inv(covariance)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=means.dtype) + 0.5,
        torch.arange(width, dtype=means.dtype) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([x, y], -1)
    through = torch.ones(height, width, dtype=means.dtype)
    is_open = torch.ones(height, width, dtype=torch.bool)
    image = torch.zeros(height, width, 3, dtype=means.dtype)
    for i in torch.argsort(depth, stable=True).tolist():
        if depth[i] <= 0.01:
            continue
        offset = pixels - centers[i]
        distance = torch.einsum("hwi,ij,hwj->hw", offset, inverse[i], offset)
        alpha = (opacities[i] * torch.exp(-0.5 * distance)).clamp(max=0.99)
        alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
        after = through * (1 - alpha)
        is_open = is_open & (after > 1e-4)
        weight = torch.where(is_open, through * alpha, torch.zeros_like(alpha))
        image = image + weight[..., None] * colors[i]
        through = torch.where(is_open, after, through)
    return image + through[..., None] * background, 1 - through
