"""Rasterise triangle meshes: which triangle a pixel sees, where on it, how far away.

Tensors in, tensors out, on the device of the vertices: compiled loops on CPU cores (`mesh_cpu`),
Triton kernels on a CUDA device (`mesh_triton`). Both decide coverage, depth order and ties with the
same numbers, so that their pictures differ only where a projection rounds differently. Nothing here
is differentiable.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

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
    homogeneous = _homogeneous(vertices, world_to_camera, intrinsics)
    return _rasterize_homogeneous(homogeneous, triangles, size, cull, near)


def rasterize_uv(
    uv: Float[Tensor, "U 2"], triangle_uv: Int[Tensor, "T 3"], size: tuple[int, int]
) -> Raster:
    """The triangle under every texel of a (width, height) map; row 0 is v = 1, the top.

    Both windings are drawn; where charts overlap the first triangle wins. Depth is 1.
    """
    width, height = size
    u, v = uv.detach().to(torch.float64).unbind(1)
    homogeneous = torch.stack([u * width, (1.0 - v) * height, torch.ones_like(u)], 1)
    return _rasterize_homogeneous(homogeneous, triangle_uv, size, cull=False, near=0.5)


def interpolate(
    values: Float[Tensor, "V K"], triangles: Int[Tensor, "T 3"], raster: Raster
) -> Float[Tensor, "H W K"]:
    """Corner values carried to pixels; zero where nothing is seen. Not differentiable."""
    if _on_cuda(values):
        return _triton().interpolate_corners(
            values, _whole(triangles, values.device), raster.triangle, raster.barycentrics
        )
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
    seen_by = cameras if sizes is None else cameras.resized(sizes)
    if _on_cuda(vertices):
        stack = depth_stack(vertices, triangles, seen_by, cull=cull, near=near)
        return [stack[i, :h, :w] for i, (w, h) in enumerate(seen_by.sizes.tolist())]
    projections = _projections(seen_by.world_to_camera, seen_by.intrinsics)
    return list(_cpu_depths(vertices, triangles, projections, seen_by.sizes, cull, near))


def depth_stack(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    cameras: Cameras,
    sizes: Int[Tensor, "C 2"] | None = None,
    cull: bool = True,
    near: float = 1e-3,
) -> Float[Tensor, "C H W"]:
    """`depth_maps` as one tensor of the largest height and width, inf beyond a smaller picture."""
    seen_by = cameras if sizes is None else cameras.resized(sizes)
    width, height = seen_by.sizes.amax(0).tolist()
    return projected_depths(
        vertices,
        triangles,
        _projections(seen_by.world_to_camera, seen_by.intrinsics).to(vertices.device),
        seen_by.sizes.to(vertices.device, torch.int32),
        (width, height),
        cull,
        near,
    )


def projected_depths(
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
    projections: Float[Tensor, "C 3 4"],
    sizes: Int[Tensor, "C 2"],
    size: tuple[int, int],
    cull: bool = True,
    near: float = 1e-3,
) -> Float[Tensor, "C H W"]:
    """`depth_stack` of cameras that are on the vertices' device already, all tensors there.

    `projections` (float64) take world points to (u z, v z, z); `sizes` holds every picture's own
    (width, height), at most `size`. On CUDA nothing waits for the device.
    """
    if _on_cuda(vertices):
        corners = _whole(triangles, vertices.device)
        return _triton().depth_stack(vertices, corners, projections, sizes, size, cull, near)
    stack = torch.full((len(sizes), size[1], size[0]), float("inf"))
    for i, depth in enumerate(_cpu_depths(vertices, triangles, projections, sizes, cull, near)):
        stack[i, : depth.shape[0], : depth.shape[1]] = depth
    return stack


def _cpu_depths(
    vertices: Tensor, triangles: Tensor, projections: Tensor, sizes: Tensor, cull: bool, near: float
) -> Iterator[Tensor]:
    corners = np.ascontiguousarray(triangles.numpy(), np.int32)
    places = vertices.detach().to(torch.float64)
    for projection, (width, height) in zip(projections, sizes.tolist(), strict=True):
        projected = _divided((places @ projection[:, :3].T + projection[:, 3]).numpy())
        depth, _ = mesh_cpu.rasterize_projected(projected, corners, width, height, cull, near)
        yield torch.from_numpy(depth)


def projected_pixels(
    vertices: Float[Tensor, "V 3"],
    world_to_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
) -> np.ndarray:
    """(u, v, depth) of each vertex as float32 [V 3], the form that the compiled kernels read."""
    return _divided(_homogeneous(vertices, world_to_camera, intrinsics).numpy())


def _homogeneous(vertices: Tensor, world_to_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """(u z, v z, z) of each vertex, float64, on the vertices' device."""
    projection = _projections(world_to_camera, intrinsics).to(vertices.device)
    return vertices.detach().to(torch.float64) @ projection[:, :3].T + projection[:, 3]


def _projections(world_to_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """Matrices float64 [* 3 4] that take world points to (u z, v z, z)."""
    pose = world_to_camera.detach().to(torch.float64)
    return intrinsics.detach().to(pose) @ pose[..., :3, :]


def _divided(homogeneous: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    return np.concatenate([pixels, homogeneous[:, 2:]], axis=1).astype(np.float32)


def _rasterize_homogeneous(
    homogeneous: Tensor, triangles: Tensor, size: tuple[int, int], cull: bool, near: float
) -> Raster:
    width, height = size
    if not (0 < width <= CLIP_PIXELS and 0 < height <= CLIP_PIXELS):
        raise InputError(
            f"expected a picture of 1 to {CLIP_PIXELS:.0f} pixels a side, got {width}x{height}"
        )
    if _on_cuda(homogeneous):
        corners = _whole(triangles, homogeneous.device)
        return Raster(
            *_triton().rasterize_homogeneous(homogeneous, corners, size, cull, near, CLIP_PIXELS)
        )
    places, corners = homogeneous.numpy(), _whole(triangles, homogeneous.device).numpy()
    clipped, pieces, sources = mesh_cpu.clip_triangles(places, corners, near, CLIP_PIXELS)
    projected = _divided(clipped)
    # half the near distance: clipped corners lie on the plane itself and must not be left out
    _, piece_map = mesh_cpu.rasterize_projected(
        projected, pieces, width, height, cull, np.float64(0.5 * near)
    )
    triangle_map = np.where(piece_map >= 0, sources[piece_map], np.int32(-1))
    barycentrics, depth = mesh_cpu.barycentrics_of(places, corners, triangle_map)
    return Raster(
        torch.from_numpy(triangle_map), torch.from_numpy(barycentrics), torch.from_numpy(depth)
    )


def _whole(triangles: Tensor, device: torch.device) -> Tensor:
    """Triangles as the kernels read them: contiguous int32."""
    return triangles.to(device, torch.int32).contiguous()


def _on_cuda(tensor: Tensor) -> bool:
    """Whether the Triton kernels are to work; refuses what is neither there nor on the CPU."""
    if tensor.device.type not in ("cpu", "cuda"):
        raise InputError(f"expected tensors on the CPU or a CUDA device, got {tensor.device}")
    return tensor.is_cuda


def _triton() -> ModuleType:
    try:
        from topohead.rendering import mesh_triton  # noqa: PLC0415 -- only where CUDA is
    except ImportError as error:
        raise InputError(
            "expected Triton for tensors on a CUDA device, found none: pip install triton, or run "
            "with --device cpu"
        ) from error
    return mesh_triton
