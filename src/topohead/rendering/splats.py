"""Render 3D Gaussians to pictures, differentiably (Kerbl et al. 2023).

`render` and `render_views` are the tensor interface with gradients. Tensors on a CUDA device go
to gsplat (`splats_cuda`, which says where its pictures differ), those on the CPU to compiled
loops (`splats_cpu`). `forward` and `backward` are the CPU's passes on numpy arrays, without
autograd, for loops that take thousands of steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from topohead.core import InputError
from topohead.rendering import splats_backward_cpu, splats_cpu, splats_cuda


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians as contiguous float32 arrays; quaternions wxyz of any length above zero."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray


@dataclass(frozen=True)
class ForwardPass:
    """A finished picture and what backward needs to walk the same way again."""

    image: np.ndarray
    """[H W 3], background included."""
    transmittance: np.ndarray
    """[H W], the share of the background that shows."""
    splats: np.ndarray
    rows: np.ndarray
    bands: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def render(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "N 3"],
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
    background: Float[Tensor, "3"] | None = None,
    near: float = 0.01,
) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Picture (width, height) over the background (default black), and its coverage in [0, 1].

    Scales are standard deviations in the scene's unit, opacities in [0, 1]. Differentiable by the
    five arrays of Gaussians and by the background, not by the camera. Float32 inside. The result
    jumps where a Gaussian enters at α = 1/255, where a pixel closes, and where two swap depth.
    """
    if means.device.type != "cpu":
        images, alphas = render_views(
            means, quats, scales, opacities, colors,
            world_to_camera[None], intrinsics[None], size, background, near,
        )  # fmt: skip
        return images[0], alphas[0]
    if background is None:
        background = torch.zeros(3)
    camera = pack_camera(world_to_camera, intrinsics)
    image, alpha = _Splats.apply(
        means, quats, scales, opacities, colors, background, camera, size, near
    )  # pyright: ignore[reportGeneralTypeIssues]
    return image, alpha


def render_views(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "N 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
    background: Float[Tensor, "3"] | None = None,
    near: float = 0.01,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """What `render` gives, for C cameras with pictures of one size: one call on a CUDA device.

    Cameras may lie on another device than the Gaussians, whose device the pictures are on.
    """
    if means.device.type not in ("cpu", "cuda"):
        raise InputError(f"expected tensors on the CPU or a CUDA device, got {means.device}")
    if means.device.type == "cuda":
        _refuse_skew(intrinsics)
        gaussians = means, quats, scales, opacities, colors
        return splats_cuda.render_views(
            gaussians, world_to_camera, intrinsics, size, background, near
        )
    views = [
        render(means, quats, scales, opacities, colors, pose, lens, size, background, near)
        for pose, lens in zip(world_to_camera, intrinsics, strict=True)
    ]
    images, alphas = zip(*views, strict=True)
    return torch.stack(images), torch.stack(alphas)


def pack_camera(
    world_to_camera: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"]
) -> np.ndarray:
    """The camera as the kernels read it: rotation, translation, fx, fy, cx, cy; float32 [16]."""
    _refuse_skew(intrinsics)
    pose, lens = world_to_camera.detach().double(), intrinsics.detach().double()
    parts = [pose[:3, :3].reshape(-1), pose[:3, 3], lens.diagonal()[:2], lens[:2, 2]]
    return torch.cat(parts).numpy().astype(np.float32)


def forward(
    gaussians: Gaussians,
    camera: np.ndarray,
    size: tuple[int, int],
    background: np.ndarray,
    near: float = 0.01,
) -> ForwardPass:
    """Draw a picture of (width, height) pixels; `camera` comes from `pack_camera`."""
    width, height = size
    splats, depth, rows = splats_cpu.project(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        camera,
        width,
        height,
        near,
    )
    order = splats_cpu.sort_by_depth(depth, rows)
    bands = splats_cpu.pair_with_bands(order, rows, height)
    image, transmittance = splats_cpu.draw(
        splats,
        rows,
        *bands[:2],
        gaussians.opacities,
        gaussians.colors,
        background,
        width,
        height,
    )
    return ForwardPass(image, transmittance, splats, rows, bands)


def backward(
    gaussians: Gaussians,
    camera: np.ndarray,
    drawn: ForwardPass,
    image_gradient: np.ndarray,
    alpha_gradient: np.ndarray,
) -> np.ndarray:
    """∂L/∂parameters, float32 [N 14]: mean 0:3, quaternion 3:7, scale 7:10, colour 10:13,
    opacity 13."""
    starts, members, pairs, pair_starts = drawn.bands
    table = splats_backward_cpu.draw_backward(
        drawn.splats,
        drawn.rows,
        starts,
        members,
        pairs,
        gaussians.opacities,
        gaussians.colors,
        drawn.image,
        drawn.transmittance,
        image_gradient,
        alpha_gradient,
    )
    return splats_backward_cpu.project_backward(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        camera,
        drawn.splats,
        pair_starts,
        table,
    )


class _Splats(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, background, camera, size, near):  # pyright: ignore[reportIncompatibleMethodOverride]
        arrays = [_array(tensor) for tensor in (means, quats, scales, opacities, colors)]
        gaussians = Gaussians(*arrays)
        drawn = forward(gaussians, camera, size, _array(background), near)
        ctx.inputs = gaussians, camera, drawn
        ctx.dtypes = [t.dtype for t in (means, quats, scales, opacities, colors, background)]
        return torch.from_numpy(drawn.image), torch.from_numpy(1 - drawn.transmittance)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_image, d_alpha):  # pyright: ignore[reportIncompatibleMethodOverride]
        gaussians, camera, drawn = ctx.inputs
        by_pixel = _array(d_image)
        table = backward(gaussians, camera, drawn, by_pixel, _array(d_alpha))
        parts = torch.from_numpy(table).split([3, 4, 3, 3, 1], dim=1)
        d_background = torch.from_numpy(
            np.einsum("hwk,hw->k", by_pixel, drawn.transmittance, optimize=True)
        )
        means, quats, scales, colors, opacities = parts
        gradients = (means, quats, scales, opacities[:, 0], colors, d_background)
        typed = [g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)]
        return (*typed, None, None, None)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).numpy())


def _refuse_skew(intrinsics: Tensor) -> None:
    skew = float(intrinsics[..., 0, 1].abs().max())
    if skew != 0:
        raise InputError(
            f"expected intrinsics without skew, got {skew:g} pixels; fold it into the undistortion"
        )
