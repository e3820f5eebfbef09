"""Iterative back-projection: what a texture, rendered into the views, still gets wrong.

A gathered texture is blurred by the pixels it came from. Rendering it back with the pixels'
own footprint and returning the difference undoes that blur (Irani & Peleg 1991), as far as the
geometry lets views agree.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from topohead.rendering.mesh_cpu import rasterize_projected
from topohead.rendering.uv import TexelMap
from topohead.solvers.kernels.fusion import gather_colors
from topohead.solvers.kernels.sharpening import (
    accumulate_residual,
    smooth_texels,
    texture_residual,
)
from topohead.solvers.sightlines import Sight, SightConfig, Surface

SUBSAMPLES = 3
"""Samples across a pixel's footprint."""

BAND_ROWS = 256
"""Pixel rows rendered at a time."""

LARGEST_RESIDUAL = 0.15
"""A larger difference is another surface or a highlight, not blur; it is left alone."""

_SAME = np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], np.float32)


def back_project(
    color: Float32[np.ndarray, "S S 3"],
    weight: Float32[np.ndarray, "S S"],
    texels: TexelMap,
    surface: Surface,
    sights: Sequence[Sight],
    corrections: Sequence[Float32[np.ndarray, " 18"]],
    rounds: int,
    smoothness: float,
    config: SightConfig,
) -> None:
    """Sharpen a gathered texture in place; texels of zero `weight` stay as they are.

    `smoothness` λ moves texels towards their neighbours' mean after each round, against noise.
    """
    rows = max(64, 2**22 // texels.size)
    for _ in range(rounds):
        texels.dilate(color)  # pixels at an island's border look beyond it
        residuals = [
            _residual(color, texels, surface, sight, correction)
            for sight, correction in zip(sights, corrections, strict=True)
        ]
        for top in range(0, texels.size, rows):
            strip = slice(top, min(top + rows, texels.size))
            patch = surface.patch(texels, texels.triangle[strip], top, 0)
            total = np.zeros((*patch.triangle.shape, 4), np.float32)
            found = np.empty(patch.points.shape, np.float32)
            for sight, residual in zip(sights, residuals, strict=True):
                weights = sight.weights(patch, surface, config)
                if weights.any():
                    gather_colors(residual, patch.points, sight.camera, _SAME, weights, found)
                    accumulate_residual(found, weights, np.float32(LARGEST_RESIDUAL), total)
            seen = (total[..., 3] > 0) & (weight[strip] > 0)
            color[strip][seen] += total[seen, :3] / total[seen, 3:]
        smooth_texels(color, weight, np.float32(smoothness))


def _residual(
    color: Float32[np.ndarray, "S S 3"],
    texels: TexelMap,
    surface: Surface,
    sight: Sight,
    correction: Float32[np.ndarray, " 18"],
) -> Float32[np.ndarray, "H W 3"]:
    """Corrected image minus rendered texture; zero where a pixel is not wholly on the surface."""
    height, width = sight.image.shape[:2]
    rotation, translation = sight.camera[:9].reshape(3, 3), sight.camera[9:12]
    local = surface.vertices @ rotation.T + translation
    fine = np.empty_like(local)
    fine[:, :2] = local[:, :2] / local[:, 2:] * sight.camera[12:14] + sight.camera[14:16]
    fine[:, :2] *= SUBSAMPLES
    fine[:, 2] = local[:, 2]
    residual = np.zeros_like(sight.image)
    for top in range(0, height, BAND_ROWS):
        count = min(BAND_ROWS, height - top)
        band = fine - np.array([0, top * SUBSAMPLES, 0], np.float32)
        _, triangle = rasterize_projected(
            band,
            surface.triangles,
            width * SUBSAMPLES,
            count * SUBSAMPLES,
            False,
            np.float64(1e-3),
        )
        if (triangle >= 0).any():
            texture_residual(
                sight.image[top : top + count], top, correction, triangle, band,
                surface.triangles, texels.corners, color, SUBSAMPLES, residual[top : top + count],
            )  # fmt: skip
    return residual
