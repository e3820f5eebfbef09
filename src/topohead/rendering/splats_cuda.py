"""Gaussian splats on a CUDA device by gsplat 1.5 (Ye et al. 2024), all views in one call.

Conventions are those of `splats_cpu`: half-integer pixel centres, scales are standard deviations,
0.3 px² added to the projected covariance, α under 1/255 ignored, a pixel is closed before T falls
to 1e-4. Three things differ, none of which a setting can change:

- α is at most 0.999, on the CPU 0.99: at the centre of a Gaussian of opacity above 0.99 the ones
  behind it show with 0.1 % instead of 1 %. Because α may be larger, a pixel may also close earlier:
  the Gaussian that would take T under 1e-4 is left out, and then up to T = 0.1 of the background
  shows, on the CPU up to 0.01. With 400 opaque Gaussians in 37×29 pixels colours differ by 8e-5 on
  average and by 0.03 at most; below opacity 0.99 nothing of this happens.
- Ellipses end at 3.33 standard deviations, on the CPU where α reaches 1/255, which is at 3.329 for
  opacity 1: no difference in the picture.
- The slope of the projection is taken at most 0.3 half-pictures beyond the border, on the CPU at
  the Gaussian itself: those that far outside have other shapes where they reach into the picture.

Sums run in another order and exp is the fast one, which differs by 1e-6 a Gaussian.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.rendering.splats_cpu import LOW_PASS

INSTALL = "python -m pip install gsplat==1.5.3"

TILE = 16
"""Pixels a side of the squares that gsplat draws one after the other."""


def has_gsplat() -> bool:
    """Whether the package gsplat is installed."""
    return find_spec("gsplat") is not None


def require_gsplat() -> ModuleType:
    """The gsplat package. Its first use compiles for some minutes, once a machine."""
    if not has_gsplat():
        raise InputError(
            "expected the package gsplat to draw Gaussians on a CUDA device, found none; "
            f"add it with: {INSTALL}"
        )
    return import_module("gsplat")


def draw(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "N 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
    near: float,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """Pictures (width, height) over black and coverage; float32 tensors of one CUDA device.

    Differentiable by the five arrays of Gaussians and by the poses. Checks nothing: for loops of
    many steps.
    """
    cameras = world_to_camera, intrinsics
    return _drawn(means, (None, quats, scales), opacities, colors, cameras, size, near)


def draw_factored(
    means: Float[Tensor, "N 3"],
    factors: Float[Tensor, "N 3 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "C N 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
    near: float,
    low_pass: float,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """`draw` for covariances factors · factorsᵀ and colours towards each camera.

    `low_pass` px² are added to projected covariances, and opacities fall by what that spreads out.
    """
    x, y, z = factors.unbind(1)
    covariances = [(a * b).sum(1) for a, b in ((x, x), (x, y), (x, z), (y, y), (y, z), (z, z))]
    return draw_covariances(
        means, torch.stack(covariances, 1), opacities, colors, world_to_camera.to(means),
        intrinsics.to(means), size, near, low_pass,
    )  # fmt: skip


def draw_covariances(
    means: Float[Tensor, "N 3"],
    covariances: Float[Tensor, "N 6"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "C N 3"],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
    near: float,
    low_pass: float,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """`draw_factored` for covariances by their upper triangles xx, xy, xz, yy, yz, zz."""
    cameras = world_to_camera, intrinsics
    shape = covariances, None, None
    return _drawn(means, shape, opacities, colors, cameras, size, near, low_pass, fading=True)


def _drawn(
    means: Tensor,
    shape: tuple[Tensor | None, Tensor | None, Tensor | None],
    opacities: Tensor,
    colors: Tensor,
    cameras: tuple[Tensor, Tensor],
    size: tuple[int, int],
    near: float,
    low_pass: float = float(LOW_PASS),
    fading: bool = False,
) -> tuple[Tensor, Tensor]:
    """gsplat's steps one after the other: its `rasterization` would look up and copy more."""
    gsplat, (width, height), views = require_gsplat(), size, len(cameras[0])
    # every Gaussian is seen by most views here, so packing would save little and cost time
    radii, centers, depths, conics, faded = gsplat.fully_fused_projection(
        means, *shape, *cameras, width, height, eps2d=low_pass, near_plane=near,
        calc_compensations=fading, opacities=opacities,
    )  # fmt: skip
    shown = opacities.expand(views, -1)
    tiles = -(-width // TILE), -(-height // TILE)
    _, keys, members = gsplat.isect_tiles(centers, radii, depths, TILE, *tiles)
    starts = gsplat.isect_offset_encode(keys, views, *tiles)
    images, alphas = gsplat.rasterize_to_pixels(
        centers, conics, colors.expand(views, -1, -1), shown * faded if fading else shown, width,
        height, TILE, starts, members,
    )  # fmt: skip
    return images, alphas[..., 0]


def render_views(
    gaussians: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    world_to_camera: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    size: tuple[int, int],
    background: Float[Tensor, "3"] | None,
    near: float,
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """`draw` for tensors of any kind: converted, and put over the background."""
    means, quats, scales, opacities, colors = (t.float() for t in gaussians)
    images, alphas = draw(
        means,
        quats,
        scales,
        opacities,
        colors,
        world_to_camera.to(means),
        intrinsics.to(means),
        size,
        near,
    )
    if background is not None:
        images = images + (1 - alphas[..., None]) * background.to(means)
    return images, alphas


def camera_tensors(
    world_to_camera: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"], device: torch.device
) -> tuple[Float[Tensor, "1 4 4"], Float[Tensor, "1 3 3"]]:
    """One camera as `draw` reads it."""
    return (
        world_to_camera.to(device, torch.float32)[None].contiguous(),
        intrinsics.to(device, torch.float32)[None].contiguous(),
    )
