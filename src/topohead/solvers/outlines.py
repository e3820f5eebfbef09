"""Outlines: where a surface's silhouette should lie in pictures that have masks."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int

from topohead.core import Cameras, InputError, Topology, Views
from topohead.geometry.meshes import boundary_edges
from topohead.rendering.mesh import depth_maps
from topohead.solvers.evidence import (
    Evidence,
    image_evidence,
    join,
    project_with_jacobian,
    surface_positions,
)


@dataclass(frozen=True)
class OutlineConfig:
    """How far outlines are trusted; pixels are those of the reduced masks."""

    height: int = 192
    """Masks are compared at most this high."""
    noise: float = 0.75
    """Standard deviation of an outline, pixels."""
    spacing: float = 5.0
    """Outline points nearer than this (pixels) do not count as independent."""
    reach: float = 0.12
    """Outlines further apart than this share of the mask's height are not compared."""
    agreement: float = 0.7
    """Least cosine between the outward directions of surface and mask."""
    visibility_period: int = 3
    """Steps between renewals of what hides what."""
    hair: float = 0.1
    """Weight of the scalp's outline where the mask reaches beyond it: that may be hair."""


@dataclass(frozen=True)
class MaskField:
    """Signed distance (px, positive outside) from one mask's outline, and where it counts."""

    distance: Float[np.ndarray, "H W"]
    slope: Float[np.ndarray, "H W 2"]
    camera: int


class Outlines:
    """Masks of one instant as distance fields, and cameras for their reduced size."""

    def __init__(self, views: Views, topology: Topology, config: OutlineConfig) -> None:
        if views.masks is None:
            raise InputError("expected views with masks to fit outlines, got none")
        self.topology, self.config = topology, config
        heights = [mask.shape[0] for mask in views.masks]
        sizes = [
            _reduced(mask.shape[1], mask.shape[0], min(1.0, config.height / height))
            for mask, height in zip(views.masks, heights, strict=True)
        ]
        self.cameras: Cameras = views.cameras.resized(torch.tensor(sizes))
        self.masks = [
            cv2.resize(mask.numpy(), size, interpolation=cv2.INTER_AREA) > 0.5
            for mask, size in zip(views.masks, sizes, strict=True)
        ]
        for name, mask in zip(views.cameras.names, self.masks, strict=True):
            if not mask.any():
                raise InputError(
                    f"expected a head in the mask of camera {name!r}, got an empty one"
                )
        self.fields = [_field(mask, camera) for camera, mask in enumerate(self.masks)]
        self.open_rim = np.zeros(topology.vertex_count, bool)
        self.open_rim[boundary_edges(topology).ravel().numpy()] = True
        if "boundary" in topology.regions:
            self.open_rim[topology.regions["boundary"].numpy()] = True
        self.scalp = np.zeros(topology.vertex_count, bool)
        if "scalp" in topology.regions:
            self.scalp[topology.regions["scalp"].numpy()] = True

        self._covers: list[np.ndarray] = []
        self._calls = 0

    def evidence(
        self,
        vertices: Float[np.ndarray, "V 3"],
        normals: Float[np.ndarray, "V 3"],
        reach: float | None = None,
    ) -> Evidence:
        """Pull of every view's mask on the surface's own silhouette, along its normal."""
        if self._calls % self.config.visibility_period == 0:
            surface = torch.from_numpy(vertices)
            maps = depth_maps(surface, self.topology.triangles, self.cameras)
            self._covers = [np.isfinite(cover.numpy()) for cover in maps]
        self._calls += 1
        parts = []
        for field in self.fields:
            corners, weights, outward = self._silhouette(vertices, normals, field.camera)
            seen = self._covers[field.camera]
            part = self._compare(vertices, corners, weights, outward, field, seen, reach)
            parts.append(part)
        return join(parts)

    def overlap(self, vertices: Float[np.ndarray, "V 3"]) -> float:
        """Intersection over union of surface and masks, all views together."""
        covers = depth_maps(torch.from_numpy(vertices), self.topology.triangles, self.cameras)
        both = either = 0
        for mask, cover in zip(self.masks, covers, strict=True):
            seen = np.isfinite(cover.numpy())
            both += int((mask & seen).sum())
            either += int((mask | seen).sum())
        return both / max(either, 1)

    def _silhouette(
        self, vertices: np.ndarray, normals: np.ndarray, camera: int
    ) -> tuple[Int[np.ndarray, "N 3"], Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
        """Points where the surface turns from the camera: on each such triangle, where the
        interpolated normal is at right angles to the line of sight; and the normals there.
        """
        center = self.cameras.centers[camera].double().numpy()
        facing = np.einsum("vd,vd->v", normals, center - vertices)
        triangles = self.topology.triangles.numpy()
        sign = facing[triangles] > 0
        rim = triangles[sign.any(1) & ~sign.all(1)]
        rim = rim[~self.open_rim[rim].any(1)]
        value = facing[rim]
        # two edges cross zero: the middle of the two crossings
        weights = np.zeros((len(rim), 3))
        for first, second in ((0, 1), (1, 2), (2, 0)):
            crosses = (value[:, first] > 0) != (value[:, second] > 0)
            share = value[:, first] / np.where(crosses, value[:, first] - value[:, second], 1.0)
            weights[:, first] += np.where(crosses, (1 - share) / 2, 0)
            weights[:, second] += np.where(crosses, share / 2, 0)
        outward = surface_positions(normals, rim, weights)
        return rim, weights, outward

    def _compare(
        self,
        vertices: np.ndarray,
        corners: np.ndarray,
        weights: np.ndarray,
        outward: np.ndarray,
        field: MaskField,
        seen: np.ndarray,
        reach: float | None,
    ) -> Evidence:
        config = self.config
        spot = surface_positions(vertices, corners, weights)
        pixels, depth, jacobian = project_with_jacobian(self.cameras, field.camera, spot)
        flat = np.einsum("nij,nj->ni", jacobian, outward)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        height, width = field.distance.shape
        inside = (
            (depth > 0)
            & (pixels > 3).all(1)
            & (pixels[:, 0] < width - 3)
            & (pixels[:, 1] < height - 3)
        )
        # a true silhouette has nothing of the surface just outside of it
        beyond = np.clip(pixels + 2.5 * flat, 0, [width - 1, height - 1]).astype(int)
        inside &= ~seen[beyond[:, 1], beyond[:, 0]]
        place = np.clip(pixels - 0.5, 0, [width - 1.001, height - 1.001]).astype(np.float32)
        distance = _read(field.distance, place)
        slope = np.stack([_read(field.slope[..., k], place) for k in range(2)], 1)
        length = np.linalg.norm(slope, axis=1)
        slope /= np.maximum(length, 1e-6)[:, None]
        agree = np.einsum("ni,ni->n", slope, flat)
        limit = (reach if reach is not None else config.reach) * height
        inside &= (np.abs(distance) < limit) & (length > 0.5) & (agree > config.agreement)

        chosen = np.flatnonzero(inside)
        distance, slope, pixels = distance[chosen], slope[chosen], pixels[chosen]
        weight = _thinned(pixels, config.spacing) / config.noise**2
        hairy = self.scalp[corners[chosen]].any(1) & (distance < 0)
        weight = np.where(hairy, config.hair * weight, weight)
        weight /= 1 + (distance / (4 * config.noise)) ** 2 / 4
        precision = weight[:, None, None] * slope[:, :, None] * slope[:, None, :]
        return image_evidence(
            corners[chosen],
            weights[chosen],
            jacobian[chosen],
            distance[:, None] * slope,
            precision,
        )


def _reduced(width: int, height: int, factor: float) -> tuple[int, int]:
    return max(1, round(width * factor)), max(1, round(height * factor))


def _field(mask: Float[np.ndarray, "H W"] | np.ndarray, camera: int) -> MaskField:
    """Signed distance with gradients; slope zero where the picture's border cuts the subject."""
    inside = mask.astype(np.uint8)
    out = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    within = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    distance = (out - within).astype(np.float32)
    # half a pixel lies between the last pixel inside and the outline
    distance -= np.float32(0.5) * np.sign(distance)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1.0)
    slope = np.stack([np.gradient(smooth, axis=1), np.gradient(smooth, axis=0)], -1)
    return MaskField(distance, slope, camera)


def _read(field: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Bilinear values at (x, y) array positions."""
    found = cv2.remap(
        field.astype(np.float32),
        place[:, 0].reshape(-1, 1),
        place[:, 1].reshape(-1, 1),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return found.ravel().astype(np.float64)


def _thinned(pixels: np.ndarray, spacing: float) -> np.ndarray:
    """Weights that count the points of one `spacing`-sized cell of the picture as one."""
    if not len(pixels):
        return np.zeros(0)
    cell = np.floor(pixels / spacing).astype(int)
    _, inverse, count = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    return 1.0 / count[inverse.ravel()]
