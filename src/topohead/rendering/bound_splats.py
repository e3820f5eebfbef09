"""Render Gaussians whose covariances are M Mᵀ, as a mesh carries them (`geometry.binding`).

A triangle that stretches shears its Gaussians: they have no scales and quaternions of their own, so
`rendering.splats` would need an eigendecomposition, whose gradient has poles. Here the projection
runs in torch from M, and only the blending is the compiled kernels'; a CUDA device takes the
covariances as they are.

Opacity falls by as much as `LOW_PASS` spreads a Gaussian out (Yu et al. 2024, Mip-Splatting): most
here are smaller than a pixel, would else grow the head's outline, and shrink to holes when they are
fitted in small pictures and looked at in large ones.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from topohead.rendering import splats_backward_cpu, splats_cpu, splats_cuda

LOW_PASS = 0.05
"""px² added to projected covariances, less than the classic 0.3: layers of discs seen edge-on at an
outline add up their blur, which grew a staged head by half a pixel (held out, 29.9 → 31.2 dB)."""


def render_factored(
    means: Float[Tensor, "N 3"],
    factors: Float[Tensor, "N 3 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "C N 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
    near: float = 0.01,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """Pictures (width, height) over black of one posed head, and their coverage in [0, 1].

    Covariances are factors · factorsᵀ in the scene's unit squared; colours are those towards each
    camera. Differentiable by the Gaussians and, on the CPU, by the cameras; float32 inside. Numbers
    as `rendering.splats` has them, and CUDA's where it says that those differ.
    """
    if means.device.type == "cuda":
        return splats_cuda.draw_factored(
            means, factors, opacities, colors, world_to_camera, intrinsics, size, near, LOW_PASS
        )
    drawn = [
        _render_one(means, factors, opacities, color, pose, lens, size, near)
        for color, pose, lens in zip(colors, world_to_camera, intrinsics, strict=True)
    ]
    images, alphas = zip(*drawn, strict=True)
    return torch.stack(images), torch.stack(alphas)


def _render_one(means, factors, opacities, colors, pose, lens, size, near):
    pose, lens = pose.float(), lens.float()
    rotation, shift = pose[:3, :3], pose[:3, 3]
    x, y, depth = (means @ rotation.T + shift).unbind(1)
    inverse = 1 / depth.clamp(min=near)
    sx, sy = x * inverse, y * inverse
    # rows of (∂pixel/∂camera point) · rotation
    right = lens[0, 0] * inverse[:, None] * (rotation[0] - sx[:, None] * rotation[2])
    down = lens[1, 1] * inverse[:, None] * (rotation[1] - sy[:, None] * rotation[2])
    a = (right[:, None] @ factors)[:, 0]
    b = (down[:, None] @ factors)[:, 0]
    xx, xy, yy = (a * a).sum(1), (a * b).sum(1), (b * b).sum(1)
    sharp = (xx * yy - xy * xy).clamp(min=1e-12)
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    opacities = opacities * (sharp / (xx * yy - xy * xy)).sqrt()
    center = torch.stack([lens[0, 0] * sx + lens[0, 2], lens[1, 1] * sy + lens[1, 2]], 1)
    conic = torch.stack([yy, -xy, xx], 1) / (xx * yy - xy * xy)[:, None]
    extent = torch.stack([xx, yy], 1).detach()
    return _Drawn.apply(center, conic, opacities, colors, depth.detach(), extent, size, near)


class _Drawn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, center, conic, opacities, colors, depth, extent, size, near):  # pyright: ignore[reportIncompatibleMethodOverride]
        width, height = size
        depth, opacity, color = _array(depth), _array(opacities), _array(colors)
        reach = 2 * np.log(np.maximum(opacity / splats_cpu.ALPHA_MIN, 1e-6, dtype=np.float32))
        ellipses = np.concatenate([_array(center), _array(conic), reach[:, None]], 1)
        seen = (depth > near) & (reach > 0)
        half = np.sqrt(_array(extent) * np.maximum(reach, 0)[:, None])
        seen &= (ellipses[:, 0] + half[:, 0] > 0) & (ellipses[:, 0] - half[:, 0] < width)
        low = np.ceil(np.clip(ellipses[:, 1] - half[:, 1] - 0.5, 0, height))
        high = np.floor(np.clip(ellipses[:, 1] + half[:, 1] - 0.5, -1, height - 1))
        rows = np.stack([np.where(seen, low, 1), np.where(seen, high, 0)], 1).astype(np.int32)
        order = splats_cpu.sort_by_depth(depth, rows)
        bands = splats_cpu.pair_with_bands(order, rows, height)
        black = np.zeros(3, np.float32)
        image, left_over = splats_cpu.draw(
            ellipses, rows, *bands[:2], opacity, color, black, width, height
        )
        ctx.walked = ellipses, rows, bands, opacity, color, image, left_over
        return torch.from_numpy(image), torch.from_numpy(1 - left_over)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_image, d_alpha):  # pyright: ignore[reportIncompatibleMethodOverride]
        ellipses, rows, bands, opacity, color, image, left_over = ctx.walked
        starts, members, pairs, pair_starts = bands
        table = splats_backward_cpu.draw_backward(
            ellipses, rows, starts, members, pairs, opacity, color, image, left_over,
            _array(d_image), _array(d_alpha),
        )  # fmt: skip
        sums = splats_backward_cpu.summed(table, pair_starts)
        center, conic, colors, opacities = torch.from_numpy(sums).split([2, 3, 3, 1], 1)
        return center, conic, opacities[:, 0], colors, None, None, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).numpy())
