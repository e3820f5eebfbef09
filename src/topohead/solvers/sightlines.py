"""What each view sees of a known surface, and how far it is to be trusted.

Shared by texture fusion and by the colour solve. Everything is worked out once per view; the
texel loops (`solvers.kernels.fusion`) then only look things up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8
from torch import Tensor

from topohead.core import InputError, Topology, Views
from topohead.core.derived import derived
from topohead.geometry.meshes import triangle_areas, vertex_normals
from topohead.rendering.mesh import projected_pixels
from topohead.rendering.mesh_cpu import rasterize_projected
from topohead.rendering.uv import TexelMap
from topohead.solvers.kernels.fusion import gather_weights, surface_texels

SKIN, EYES, MOUTH = 0, 1, 2
"""Parts of a head whose colours must not mix."""


@dataclass(frozen=True)
class SightConfig:
    """When a view's pixel counts as a look at the surface."""

    minimum_cosine: float = 0.15
    """Views more grazing than this are dropped."""
    depth_tolerance: float = 1.5e-3
    """How far behind the nearest surface a point may lie and still be that surface, metres."""
    edge_jump: float = 2.5e-3
    """A step in depth between neighbouring pixels that makes an occlusion edge, metres."""
    edge_margin: float = 5e-4
    """What lies nearer than this to an occlusion edge is not used: geometry is never exact.
    Metres on the surface; at least `edge_margin_pixels`."""
    edge_margin_pixels: float = 1.5
    feather: float = 5e-3
    """Over this distance beyond the margin a view gains its full weight, metres."""
    depth_size: int = 1536
    """Longer side of the depth maps, at most; pixels."""


@dataclass(frozen=True)
class Sight:
    """One view, ready for the texel loops. Coordinates are relative to `Surface.origin`."""

    image: Float32[np.ndarray, "H W 3"]
    camera: Float32[np.ndarray, " 22"]
    depth: Float32[np.ndarray, "h w"]
    part: UInt8[np.ndarray, "h w"]
    """`SKIN`, `EYES` or `MOUTH` that each pixel of the depth map shows; 255: none."""
    trust: Float32[np.ndarray, "h w"]
    """0 at occlusion edges, outside the mask and where no surface is seen; up to 1."""

    def weights(
        self, patch: "Patch", surface: "Surface", config: SightConfig
    ) -> Float32[np.ndarray, "h w"]:
        """How well this view sees each texel: cos⁴ × pixel density × focus × trust."""
        return gather_weights(
            patch.points,
            patch.normals,
            patch.triangle,
            surface.parts,
            self.camera,
            self.depth,
            self.part,
            self.trust,
            np.float32(config.minimum_cosine),
            np.float32(config.depth_tolerance),
        )


@dataclass(frozen=True)
class Surface:
    """A posed mesh in the form that the texel loops read."""

    triangles: Int32[np.ndarray, "T 3"]
    parts: UInt8[np.ndarray, " T"]
    vertices: Float32[np.ndarray, "V 3"]
    normals: Float32[np.ndarray, "V 3"]
    origin: Float[Tensor, " 3"]
    """Subtracted from the world, so that float32 keeps its precision far from the origin."""

    def patch(
        self, texels: TexelMap, triangle: Int32[np.ndarray, "h w"], top: int, left: int
    ) -> "Patch":
        """The texels of a window whose first texel is (`top`, `left`) of the texture."""
        points, normals = surface_texels(
            triangle, top, left, texels.corners, self.triangles, self.vertices, self.normals
        )
        return Patch(triangle, points, normals)


@dataclass(frozen=True)
class Patch:
    """Triangles (−1: none), points and unit normals of a window of texels."""

    triangle: Int32[np.ndarray, "h w"]
    points: Float32[np.ndarray, "h w 3"]
    normals: Float32[np.ndarray, "h w 3"]


def make_surface(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Surface:
    """A mesh around its own centre, with smooth normals."""
    if not bool(torch.isfinite(vertices).all()):
        bad = int((~torch.isfinite(vertices)).any(1).nonzero()[0])
        raise InputError(f"expected finite vertices, got NaN or infinity at vertex {bad}")
    exact = vertices.detach().double()
    origin = exact.mean(0)
    normals = vertex_normals(exact, topology.triangles)
    return Surface(
        np.ascontiguousarray(topology.triangles.numpy(), np.int32),
        triangle_parts(topology),
        np.ascontiguousarray((exact - origin).float().numpy()),
        np.ascontiguousarray(normals.float().numpy()),
        origin,
    )


def triangle_parts(topology: Topology) -> UInt8[np.ndarray, " T"]:
    """`SKIN`, `EYES` or `MOUTH` of every triangle, from the regions that the topology has."""
    return derived(topology, _triangle_parts)


def _triangle_parts(topology: Topology) -> UInt8[np.ndarray, " T"]:
    parts = np.zeros(len(topology.triangles), np.uint8)
    for part, name in ((EYES, "eyes"), (MOUTH, "mouth_interior")):
        if name in topology.regions:
            member = topology.triangle_mask(name)
            parts[member.numpy()] = part
    return parts


def texel_size(topology: Topology, vertices: Float[Tensor, "V 3"], size: int) -> float:
    """Side of a texel on the surface, metres, on average over the islands."""
    area = triangle_areas(vertices.double(), topology.triangles)
    return float((area.sum() / derived(topology, _uv_area)).sqrt()) / size


def _uv_area(topology: Topology) -> Float[Tensor, ""]:
    """Of all islands, of the texture's square."""
    uv = topology.uv.double()[topology.triangle_uv]
    first, second = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    uv_area = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).abs() / 2
    return uv_area.sum().clamp(min=1e-12)


def make_sights(
    views: Views,
    surface: Surface,
    texel: float,
    config: SightConfig,
) -> list[Sight]:
    """Every view prepared: image no finer than the texels, depth map, trust, focus.

    An image whose pixels are smaller than a texel (`texel` metres) is resampled first, by area,
    so that fine skin does not alias into a coarse texture.
    """
    posed = [
        _make_sight(views, index, surface, texel, config) for index in range(len(views.cameras))
    ]
    focus = np.array([_sharpness(sight) for sight in posed])
    say = relative_weights(views.frame, focus, np.stack([sight.camera for sight in posed]))
    return [
        replace(sight, camera=_with_weight(sight.camera, factor)) if np.isfinite(factor) else sight
        for sight, factor in zip(posed, say, strict=True)
    ]


def relative_weights(
    frame: str, focus: Float[np.ndarray, " C"], cameras: Float32[np.ndarray, "C K"]
) -> Float[np.ndarray, " C"]:
    """What a view's pixel at unit distance weighs, over fx fy; NaN where it sees nothing.

    Grows with focus (NaN: nothing seen); 1 is a typical view's pixel at the middle of the head.
    """
    seen = np.isfinite(focus)
    if not seen.any():
        raise InputError(
            f"frame {frame}: expected the mesh in at least one view, got it in none; check "
            "the units and the pose of the mesh"
        )
    relative = np.clip(focus / np.median(focus[seen]), 0.25, 1.5) ** 2
    distance = np.linalg.norm(cameras[:, 18:21], axis=1)
    reach = cameras[:, 12].astype(float) * cameras[:, 13] / distance**2
    return relative / np.median(reach[seen])


def _with_weight(camera: np.ndarray, factor: float) -> np.ndarray:
    weighted = camera.copy()
    weighted[21] = camera[12] * camera[13] * factor
    return weighted


def _make_sight(
    views: Views,
    index: int,
    surface: Surface,
    texel: float,
    config: SightConfig,
) -> Sight:
    intrinsics = views.cameras.intrinsics[index].double()
    image = np.ascontiguousarray(views.images[index].numpy(), np.float32)
    height, width = image.shape[:2]
    local_pose = pose_around(views.cameras.world_to_camera[index], surface.origin)
    pixel = float(local_pose[2, 3].abs() / intrinsics[0, 0])
    shrunk, small = working_sizes((width, height), pixel, texel, config)
    if shrunk != (width, height):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    (camera,) = camera_numbers(
        local_pose[None], intrinsics[None], [(width, height)], [shrunk], [small]
    )

    fine = intrinsics.clone()
    fine[:2] *= (torch.tensor(small) / torch.tensor([width, height]))[:, None]
    projected = projected_pixels(torch.from_numpy(surface.vertices), local_pose, fine)
    # back faces are drawn too: what lies behind an open surface is hidden all the same
    depth, triangle = rasterize_projected(
        projected, surface.triangles, small[0], small[1], False, np.float64(1e-3)
    )
    part = np.where(triangle >= 0, surface.parts[triangle], 255).astype(np.uint8)
    mask = None if views.masks is None else views.masks[index].numpy()
    trust = _trust(depth, part, mask, pixel * width / small[0], config)
    return Sight(image, camera, depth, part, trust)


def pose_around(
    world_to_camera: Float[Tensor, "*C 4 4"], origin: Float[Tensor, " 3"]
) -> Float[Tensor, "*C 4 4"]:
    """The poses, float64, for points given relative to `origin`."""
    pose = world_to_camera.double().clone()
    pose[..., :3, 3] += pose[..., :3, :3] @ origin
    return pose


def working_sizes(
    size: tuple[int, int], pixel: float, texel: float, config: SightConfig
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) at which an image is read, and of its depth map.

    `pixel` and `texel` are metres on the surface.
    """
    width, height = size
    shrunk = size
    if texel > 1.25 * pixel:
        shrunk = (max(4, round(width * pixel / texel)), max(4, round(height * pixel / texel)))
    factor = min(1.0, config.depth_size / max(width, height))
    return shrunk, (max(2, round(width * factor)), max(2, round(height * factor)))


def camera_numbers(
    local_poses: Float[Tensor, "C 4 4"],
    intrinsics: Float[Tensor, "C 3 3"],
    sizes: Sequence[tuple[int, int]],
    shrunk: Sequence[tuple[int, int]],
    small: Sequence[tuple[int, int]],
) -> Float32[np.ndarray, "C 22"]:
    """The form of cameras that the texel loops read; see `kernels.fusion`."""
    scale = np.array(shrunk) / np.array(sizes)
    lens = intrinsics.numpy()
    rotation, translation = local_poses[:, :3, :3], local_poses[:, :3, 3]
    cameras = np.zeros((len(scale), 22), np.float32)
    cameras[:, :9] = rotation.reshape(-1, 9).numpy()
    cameras[:, 9:12] = translation.numpy()
    cameras[:, 12:14] = lens[:, [0, 1], [0, 1]] * scale
    cameras[:, 14:16] = lens[:, :2, 2] * scale
    cameras[:, 16:18] = np.array(small) / np.array(shrunk)
    for camera, turn, place in zip(cameras, rotation, translation, strict=True):
        camera[18:21] = (-turn.T @ place).numpy()
    cameras[:, 21] = cameras[:, 12] * cameras[:, 13]
    return cameras


def _trust(
    depth: Float32[np.ndarray, "h w"],
    part: UInt8[np.ndarray, "h w"],
    mask: Float32[np.ndarray, "H W"] | None,
    pixel: float,
    config: SightConfig,
) -> Float32[np.ndarray, "h w"]:
    """Feather to occlusion edges (silhouettes, steps in depth, borders of parts) × mask.

    `pixel` is a pixel of the depth map on the surface, metres.
    """
    jump, margin, feather = edge_numbers(pixel, config)
    edge = _edges(depth, part, jump)
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip((distance - margin) / feather, 0, 1)
    trust = np.where(np.isfinite(depth), ramp * ramp * (3 - 2 * ramp), 0).astype(np.float32)
    if mask is None:
        return trust
    mask = cv2.resize(mask, depth.shape[::-1], interpolation=cv2.INTER_AREA)
    solid = cv2.erode((mask > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8))
    return trust * solid * mask


def edge_numbers(pixel: float, config: SightConfig) -> tuple[float, float, float]:
    """The step in depth that makes an edge (metres), margin and feather in pixels of depth maps.

    The step grows with the slope that the steepest usable view allows, so that a grazing cheek is
    no edge. `pixel` is a pixel of the depth map on the surface, metres.
    """
    steepest = np.sqrt(1 / config.minimum_cosine**2 - 1)
    margin = max(config.edge_margin / pixel, config.edge_margin_pixels)
    return max(config.edge_jump, steepest * pixel), margin, max(config.feather / pixel, 1.0)


def _edges(
    depth: Float32[np.ndarray, "h w"], part: UInt8[np.ndarray, "h w"], jump: float
) -> Bool[np.ndarray, "h w"]:
    """Pixels beside a step in depth, a border of the surface or a border between parts."""
    filled = np.where(np.isfinite(depth), depth, 1e6)
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(filled, axis=axis)) > jump
        step |= np.diff(part.astype(np.int16), axis=axis) != 0
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        edge[first] |= step
        edge[second] |= step
    return edge


def _sharpness(sight: Sight) -> float:
    """Share of fine detail where a view sees the surface well; NaN where it hardly does.

    Ratio of the contrast between blurs of 0 and 1 pixel to that between 1.5 and 4: scale and
    exposure cancel, focus and motion blur remain.
    """
    rows, columns = sight.image.shape[:2]
    seen = cv2.resize(sight.trust, (columns, rows), interpolation=cv2.INTER_LINEAR) > 0.5
    if np.count_nonzero(seen) < 64:
        return float("nan")
    gray = sight.image.mean(2)
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(gray, (0, 0), 1.5) - cv2.GaussianBlur(gray, (0, 0), 4.0)
    return sharpness(float((fine[seen] ** 2).mean()), float((coarse[seen] ** 2).mean()))


def sharpness(fine: float, coarse: float) -> float:
    """Share of fine detail from the mean squares of both contrasts."""
    return float(np.sqrt(fine + 1e-8) / np.sqrt(coarse + 1e-6))


def view_count(
    views: Views,
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    texels: TexelMap,
    minimum_cosine: float = 0.3,
    config: SightConfig | None = None,
) -> Int[np.ndarray, "S S"]:
    """How many views see each texel at a cosine of at least `minimum_cosine`.

    The evaluation's mask: texture quality is judged where two views or more see it well.
    """
    config = replace(config or SightConfig(), minimum_cosine=minimum_cosine)
    surface = make_surface(topology, vertices)
    sights = make_sights(views, surface, texel_size(topology, vertices, texels.size), config)
    count = np.zeros(texels.triangle.shape, np.int32)
    rows = max(64, 2**22 // texels.size)
    for top in range(0, texels.size, rows):
        strip = slice(top, min(top + rows, texels.size))
        patch = surface.patch(texels, texels.triangle[strip], top, 0)
        for sight in sights:
            count[strip] += sight.weights(patch, surface, config) > 0
    return count
