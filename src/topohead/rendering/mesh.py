"""Rasterise triangle meshes: which triangle a pixel sees, where on it, how far away.

Tensors in, tensors out. The work is done by compiled loops on CPU cores (`mesh_cpu`); tensors on
a CUDA device are refused, because that backend is not part of this version. Nothing here is
differentiable.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Cameras, InputError
from topohead.rendering import mesh_cpu

CLIP_PIXELS = 32768.0
"""Triangles are clipped at this distance from the image origin; pictures must be smaller."""


@dataclass(frozen=True)
class Raster:
    """What each pixel centre sees of a mesh.

    `triangle` is -1, `barycentrics` zero and `depth` (along the optical axis, the scene's unit)
    infinite where nothing is seen. Barycentrics are perspective-correct: they hold on the surface.
    """

    triangle: Int[Tensor, "H W"]
    barycentrics: Float[Tensor, "H W 3"]
    depth: Float[Tensor, "H W"]

    @property
    def covered(self) -> torch.Tensor:
        """Where a triangle is seen, bool [H W]."""
        return self.triangle >= 0


def rasterize(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
    cull: bool = True,
    near: float = 1e-3,
) -> Raster:
    """The nearest triangle at every pixel centre of a (width, height) picture.

    `intrinsics` may hold a skew. `cull` leaves out triangles seen from behind (clockwise).
    Triangles are clipped at depth `near`. Shared edges leave no crack and count no pixel twice;
    equal depths go to the first triangle.
    """
    _require_cpu(vertices)
    homogeneous = _homogeneous(vertices, world_to_camera, intrinsics)
    corners = np.ascontiguousarray(triangles.numpy(), np.int32)
    return _rasterize_homogeneous(homogeneous, corners, size, cull, near)


def rasterize_uv(
    uv: Float[Tensor, "U 2"], triangle_uv: Int[Tensor, "T 3"], size: tuple[int, int]
) -> Raster:
    """The triangle under every texel of a (width, height) map; row 0 is v = 1, the top.

    Both windings are drawn; where charts overlap the first triangle wins. Depth is 1.
    """
    _require_cpu(uv)
    width, height = size
    place = uv.detach().to(torch.float64).numpy()
    homogeneous = np.stack(
        [place[:, 0] * width, (1.0 - place[:, 1]) * height, np.ones(len(place))], axis=1
    )
    corners = np.ascontiguousarray(triangle_uv.numpy(), np.int32)
    return _rasterize_homogeneous(homogeneous, corners, size, cull=False, near=0.5)


def interpolate(
    values: Float[Tensor, "V K"], triangles: Int[Tensor, "T 3"], raster: Raster
) -> Float[Tensor, "H W K"]:
    """Corner values carried to pixels; zero where nothing is seen. Not differentiable."""
    _require_cpu(values)
    picture = mesh_cpu.interpolate_corners(
        np.ascontiguousarray(values.detach().numpy()),
        np.ascontiguousarray(triangles.numpy(), np.int32),
        raster.triangle.numpy(),
        raster.barycentrics.numpy(),
    )
    return torch.from_numpy(picture)


def depth_maps(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    cameras: Cameras,
    sizes: Int[Tensor, "C 2"] | None = None,
    cull: bool = True,
    near: float = 1e-3,
) -> list[Float[Tensor, "H W"]]:
    """Depth of the mesh in every camera (inf: nothing seen), float32.

    `sizes` (width, height) asks for resampled pictures of the same cameras. Triangles that reach
    nearer than `near` are left out, not clipped.
    """
    _require_cpu(vertices)
    seen_by = cameras if sizes is None else cameras.resized(sizes)
    corners = np.ascontiguousarray(triangles.numpy(), np.int32)
    maps = []
    for index in range(len(seen_by)):
        width, height = seen_by.size(index)
        projected = projected_pixels(
            vertices, seen_by.world_to_camera[index], seen_by.intrinsics[index]
        )
        depth, _ = mesh_cpu.rasterize_projected(projected, corners, width, height, cull, near)
        maps.append(torch.from_numpy(depth))
    return maps


def projected_pixels(
    vertices: Float[Tensor, "V 3"],
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
) -> np.ndarray:
    """(u, v, depth) of each vertex as float32 [V 3], the form that the compiled kernels read."""
    homogeneous = _homogeneous(vertices, world_to_camera, intrinsics)
    return _divided(homogeneous)


def _homogeneous(vertices: Tensor, world_to_camera: Tensor, intrinsics: Tensor) -> np.ndarray:
    """(u z, v z, z) of each vertex, float64."""
    pose = world_to_camera.detach().to(torch.float64)
    projection = intrinsics.detach().to(torch.float64) @ pose[:3]
    points = vertices.detach().to(torch.float64)
    return (points @ projection[:, :3].T + projection[:, 3]).numpy()


def _divided(homogeneous: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    return np.concatenate([pixels, homogeneous[:, 2:]], axis=1).astype(np.float32)


def _rasterize_homogeneous(
    homogeneous: np.ndarray, triangles: np.ndarray, size: tuple[int, int], cull: bool, near: float
) -> Raster:
    width, height = size
    if not (0 < width <= CLIP_PIXELS and 0 < height <= CLIP_PIXELS):
        raise InputError(
            f"expected a picture of 1 to {CLIP_PIXELS:.0f} pixels a side, got {width}x{height}"
        )
    clipped, pieces, sources = mesh_cpu.clip_triangles(homogeneous, triangles, near, CLIP_PIXELS)
    projected = _divided(clipped)
    # half the near distance: clipped corners lie on the plane itself and must not be left out
    _, piece_map = mesh_cpu.rasterize_projected(
        projected, pieces, width, height, cull, np.float64(0.5 * near)
    )
    triangle_map = np.where(piece_map >= 0, sources[piece_map], np.int32(-1))
    barycentrics, depth = mesh_cpu.barycentrics_of(homogeneous, triangles, triangle_map)
    return Raster(
        torch.from_numpy(triangle_map), torch.from_numpy(barycentrics), torch.from_numpy(depth)
    )


def _require_cpu(tensor: Tensor) -> None:
    if tensor.device.type != "cpu":
        raise InputError(
            f"expected tensors on the CPU, got {tensor.device}: the CUDA rasteriser is not part "
            "of this version; run with --device cpu"
        )
