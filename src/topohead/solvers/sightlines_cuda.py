"""`solvers.sightlines` on a CUDA device: every view prepared for the texel kernels.

Pictures stay as they are stored, one machine word a pixel, and lenses are undone where a texel is
looked up, so a photograph is resampled once. Depth maps, trust and masks are those of the pinhole
cameras.
"""

# kernels take plain numbers where they declare constants
# pyright: reportArgumentType=false, reportCallIssue=false

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from topohead.core import Distortion, InputError, Photographs, Rig, Views
from topohead.geometry.cameras import fold_radius
from topohead.rendering.mesh_triton import draw
from topohead.solvers.kernels import fusion_triton, sightlines_triton
from topohead.solvers.kernels.fusion_triton import SIDE
from topohead.solvers.kernels.rows_triton import block_size, cdiv
from topohead.solvers.sightlines import (
    SightConfig,
    Surface,
    camera_numbers,
    edge_numbers,
    pose_around,
    relative_weights,
    sharpness,
    working_sizes,
)

_LAST_ID = 0x7FFFFFFF
_BLURS = ((1.0, 9), (1.5, 13), (4.0, 33))
"""Gaussians (standard deviation, taps) whose differences tell how sharp a picture is."""


@dataclass(frozen=True)
class DeviceSurface:
    """A posed mesh and its texture's side as the kernels read them: `arguments` in their order."""

    corners: Float[Tensor, "T 3 2"]
    triangles: Int[Tensor, "T 3"]
    vertices: Float[Tensor, "V 3"]
    normals: Float[Tensor, "V 3"]
    parts: UInt8[Tensor, " T"]

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.corners, self.triangles, self.vertices, self.normals, self.parts


@dataclass(frozen=True)
class DeviceSights:
    """All views of an instant; maps are stacks of the largest size.

    `cameras` float32 [C 40] is described in `kernels.fusion_triton`. `pixels` holds all pictures
    one after another from `starts`; `shapes` are their (width, height) as read. `sizes` int32 is
    each view's part of the maps.
    """

    cameras: Float[Tensor, "C 40"]
    pixels: Int[Tensor, " P"]
    starts: Int[Tensor, " C"]
    shapes: tuple[tuple[int, int], ...]
    depth: Float[Tensor, "C h w"]
    part: UInt8[Tensor, "C h w"]
    trust: Float[Tensor, "C h w"]
    sizes: Int[Tensor, "C 2"]
    has_lenses: bool

    @property
    def arguments(self) -> tuple[Tensor | int, ...]:
        """What the texel kernels need to tell whether a view sees a texel, in their order."""
        height, width = self.depth.shape[1:]
        maps = (self.depth, self.part, self.trust, self.sizes)
        return self.cameras, *maps, width, height * width


def make_device_sights(
    views: Views | Photographs,
    surface: Surface,
    on_device: DeviceSurface,
    texel: float,
    config: SightConfig,
) -> DeviceSights:
    """Every view prepared as `sightlines.make_sights` does; waits for the device once."""
    device = views.images[0].device
    cameras = views.cameras
    intrinsics = cameras.intrinsics.double().clone()
    skews = intrinsics[:, 0, 1].tolist()
    intrinsics[:, 0, 1] = 0
    poses = pose_around(cameras.world_to_camera, surface.origin)
    full = [(image.shape[1], image.shape[0]) for image in views.images]
    metres = (poses[:, 2, 3].abs() / intrinsics[:, 0, 0]).tolist()
    working = [working_sizes(*one, texel, config) for one in zip(full, metres, strict=True)]
    shapes, smalls = [shrunk for shrunk, _ in working], [small for _, small in working]
    numbers = camera_numbers(poses, intrinsics, full, shrunk=shapes, small=smalls)
    edges = [
        edge_numbers(pixel * size[0] / small[0], config)
        for pixel, size, small in zip(metres, full, smalls, strict=True)
    ]
    sizes = torch.tensor(smalls)
    scale = sizes / torch.tensor(full)
    intrinsics[:, :2] *= scale.double()[..., None]
    projections = (intrinsics @ poses[:, :3]).to(device)
    on_maps = sizes.to(device, torch.int32)
    limits = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
    depth, part = _depth_and_part(projections, on_device, on_maps, limits)
    masks = None if views.masks is None else _fitted_masks(views.masks, smalls, limits)
    trust = _trust(depth, part, on_maps, edges, masks)
    pixels, starts = _packed(views.images, shapes)
    focus = _focus(pixels, starts, shapes, trust, smalls)
    say = relative_weights(views.frame, focus, numbers)
    known = np.isfinite(say)
    numbers[known, 21] = numbers[known, 12] * numbers[known, 13] * say[known]
    rig = views.rig if isinstance(views, Photographs) else None
    lenses = [
        _lens_numbers(rig, index, camera, shapes[index], skews[index])
        for index, camera in enumerate(numbers)
    ]
    return DeviceSights(
        torch.from_numpy(np.concatenate([numbers, np.stack(lenses)], 1)).to(device),
        pixels,
        torch.tensor(starts, device=device),
        tuple(shapes),
        depth,
        part,
        trust,
        on_maps,
        rig is not None and not (all(d.is_identity for d in rig.distortion) and not any(skews)),
    )


def _lens_numbers(
    rig: Rig | None, index: int, camera: np.ndarray, shape: tuple[int, int], skew: float
) -> np.ndarray:
    """Numbers 22 to 39 of a camera."""
    lens = Distortion() if rig is None else rig.distortion[index]
    numbers = np.zeros(18, np.float32)
    numbers[:2] = shape
    numbers[2:6] = camera[12:16]
    numbers[7] = np.inf if lens.is_identity else fold_radius(lens) ** 2
    if rig is not None:
        numbers[6] = skew * shape[0] / rig.cameras.size(index)[0]
    if lens.model == "brown":
        numbers[8:12] = lens.coefficients[:4]
        numbers[15:17] = lens.coefficients[4:]
    elif lens.model == "rational":
        k1, k2, p1, p2, k3, *below = lens.coefficients
        numbers[8:11] = k1, k2, k3
        numbers[12:15] = below
        numbers[15:17] = p1, p2
    elif lens.model == "fisheye":
        raise InputError(
            f"camera {rig.cameras.names[index] if rig else index!r} has a fisheye lens; expected "
            "its picture undistorted (Views), or a brown or rational lens"
        )
    return numbers


def _depth_and_part(
    projections: Float[Tensor, "C 3 4"],
    surface: DeviceSurface,
    sizes: Int[Tensor, "C 2"],
    limits: tuple[int, int],
) -> tuple[Float[Tensor, "C h w"], UInt8[Tensor, "C h w"]]:
    """Depth (inf: none) and part (255: none) of every view."""
    vertices = surface.vertices.double()
    placed = vertices @ projections[:, :, :3].transpose(1, 2) + projections[:, None, :, 3]
    projected = torch.cat([placed[..., :2] / placed[..., 2:], placed[..., 2:]], -1).float()
    ids = torch.arange(len(surface.triangles), dtype=torch.int32, device=vertices.device)
    # back faces are drawn too: what lies behind an open surface is hidden all the same
    keys = draw(projected.contiguous(), surface.triangles, ids, sizes, limits, False, 1e-3)
    inverse = (keys >> 32).int().view(torch.float32)
    depth = inverse.reciprocal_()  # of zero: infinite
    triangle = keys.bitwise_and(_LAST_ID).bitwise_xor_(_LAST_ID).clamp_(max=len(ids) - 1)
    part = surface.parts[triangle].masked_fill_(depth.isinf(), 255)
    return depth, part


def _trust(
    depth: Float[Tensor, "C h w"],
    part: UInt8[Tensor, "C h w"],
    sizes: Int[Tensor, "C 2"],
    edge_numbers: list[tuple[float, float, float]],
    masks: Float[Tensor, "C h w"] | None,
) -> Float[Tensor, "C h w"]:
    """Feather to occlusion edges × mask; see `sightlines`."""
    views, height, width = depth.shape
    jumps, margins, feathers = torch.tensor(edge_numbers, device=depth.device).T.contiguous()
    reach = math.ceil(max(margin + feather for _, margin, feather in edge_numbers))
    edges = torch.empty_like(part)
    distance = torch.empty(depth.shape, dtype=torch.int16, device=depth.device)
    trust = torch.empty_like(depth)
    block = block_size(256, height * width)
    grid = (cdiv(height * width, block), views)
    with torch.cuda.device_of(depth):
        sightlines_triton.find_edges[grid](
            depth, part, sizes, jumps, edges, height, width, BLOCK=block
        )
        sightlines_triton.column_distance[grid](
            edges, sizes, distance, height, width, reach, BLOCK=block
        )
        sightlines_triton.feather[grid](
            distance, depth, sizes, margins, feathers, depth if masks is None else masks, trust,
            height, width, reach, MASKED=masks is not None, BLOCK=block,
        )  # fmt: skip
    return trust


def _fitted_masks(
    masks: tuple[Tensor, ...], smalls: list[tuple[int, int]], limits: tuple[int, int]
) -> Float[Tensor, "C h w"]:
    """Masks at the maps' sizes, their outermost pixel taken away."""
    stack = torch.zeros(len(masks), limits[1], limits[0], device=masks[0].device)
    kinds = [(mask.shape, small) for mask, small in zip(masks, smalls, strict=True)]
    for kind in dict.fromkeys(kinds):  # those of one size together
        rows, (width, height) = [i for i, own in enumerate(kinds) if own == kind], kind[1]
        fitted = area_resized(torch.stack([masks[i].float() for i in rows], -1), (width, height))
        fitted = fitted.permute(2, 0, 1)
        hollow = functional.max_pool2d((fitted <= 0.5).float(), 3, 1, 1)
        stack[torch.tensor(rows, device=stack.device), :height, :width] = fitted * (1 - hollow)
    return stack


def _packed(
    images: tuple[Tensor, ...], shapes: list[tuple[int, int]]
) -> tuple[Int[Tensor, " P"], list[int]]:
    """All pictures, a word a pixel, and where each begins: int32 if all are uint8, else int64."""
    device = images[0].device
    exact = [
        image if (image.shape[1], image.shape[0]) == shape else area_resized(_unit(image), shape)
        for image, shape in zip(images, shapes, strict=True)
    ]
    wide = any(image.dtype != torch.uint8 for image in exact)
    counts = [width * height for width, height in shapes]
    starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    pixels = torch.empty(starts[-1], dtype=torch.int64 if wide else torch.int32, device=device)
    with torch.cuda.device_of(pixels):
        for image, start, count in zip(exact, starts, counts, strict=False):
            source = (_unit(image) if wide else image).contiguous()
            block = block_size(1024, count)
            sightlines_triton.pack_pixels[(cdiv(count, block),)](
                source, count, pixels[start:], WIDE=wide, BLOCK=block
            )
    return pixels, starts[:-1]


def _unit(image: Tensor) -> Float[Tensor, "H W K"]:
    """Values in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def area_resized(image: Float[Tensor, "H W K"], size: tuple[int, int]) -> Float[Tensor, "h w K"]:
    """The image at (width, height), each pixel the mean of the area that it covers."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    rows = _area_means(image, size[1])
    return _area_means(rows.transpose(0, 1), size[0]).transpose(0, 1).contiguous()


def _area_means(picture: Float[Tensor, "N *K"], target: int) -> Float[Tensor, "n *K"]:
    """Each target row the mean of the rows that it covers, in whole or in part."""
    count = len(picture)
    step = count / target
    begin = torch.arange(target, dtype=torch.float64, device=picture.device) * step
    total = picture.new_zeros(target, *picture.shape[1:])
    for offset in range(math.ceil(step) + 1):
        source = begin.floor() + offset
        overlap = torch.minimum(source + 1, begin + step) - torch.maximum(source, begin)
        share = (overlap.clamp(min=0) / step).to(picture).reshape(-1, *[1] * (picture.ndim - 1))
        total += share * picture[source.long().clamp(max=count - 1)]
    return total


def _focus(
    pixels: Int[Tensor, " P"],
    starts: list[int],
    shapes: list[tuple[int, int]],
    trust: Float[Tensor, "C h w"],
    smalls: list[tuple[int, int]],
) -> np.ndarray:
    """Each view's share of fine detail where it sees the surface well; NaN where it hardly does."""
    taps = np.zeros((3, 33), np.float32)
    for row, (deviation, count) in zip(taps, _BLURS, strict=True):
        row[16 - count // 2 : 17 + count // 2] = cv2.getGaussianKernel(count, deviation)[:, 0]
    weights = torch.from_numpy(taps).to(pixels.device)
    largest = max(width * height for width, height in shapes)
    rows = torch.empty(3 * largest, device=pixels.device)
    wide = pixels.dtype == torch.int64
    sums = []
    with torch.cuda.device_of(pixels):
        for index, ((width, height), start) in enumerate(zip(shapes, starts, strict=True)):
            block = block_size(256, width * height)
            grid = (cdiv(width * height, block),)
            found = torch.zeros(3, grid[0], device=pixels.device)
            source = pixels[start:]
            sightlines_triton.blur_rows[grid](
                source, height, width, weights, rows, WIDE=wide, BLOCK=block
            )
            small_width, small_height = smalls[index]
            sightlines_triton.contrast[grid](
                source, rows, height, width, weights, trust[index], small_height, small_width,
                trust.shape[2], found, WIDE=wide, BLOCK=block,
            )  # fmt: skip
            sums.append(found.double().sum(1))
    return np.array(
        [
            sharpness(fine / count, coarse / count) if count >= 64 else np.nan
            for fine, coarse, count in torch.stack(sums).tolist()
        ]
    )


def seen_cells(
    sights: DeviceSights, surface: DeviceSurface, triangle: Int[Tensor, "S S"], config: SightConfig
) -> Bool[Tensor, "n n C"]:
    """Which views see any texel of each 64×64 cell."""
    size, views = len(triangle), len(sights.cameras)
    cells = cdiv(size, 64)
    flags = torch.zeros(cells, cells, views, dtype=torch.uint8, device=triangle.device)
    blocks = cdiv(size, SIDE)
    with torch.cuda.device_of(triangle):
        fusion_triton.mark_cells[(blocks, blocks)](
            triangle, size, *surface.arguments, *sights.arguments,
            config.minimum_cosine, config.depth_tolerance, flags, views,
        )  # fmt: skip
    return flags > 0
