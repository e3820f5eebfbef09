"""Blend what several views say of the same texels, without ghosts, seams or highlights."""

import cv2
import numpy as np
from jaxtyping import Float32

from topohead.solvers.kernels.fusion import (
    add_band,
    best_two,
    known_mean,
    pack_difference,
    reject_outliers,
    weighted_mean,
)

APRON = 64
"""Texels around a tile that its pyramid of five bands can feel (2·(1+2+4+8+16) = 62), in whole
coarsest texels; so the result does not depend on the tiles."""


def blend(
    colors: Float32[np.ndarray, "C h w 3"],
    weights: Float32[np.ndarray, "C h w"],
    bands: int,
    outlier_floor: float,
    outlier_spread: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blended colours, total weights and effective numbers of views; changes `weights`."""
    shape = weights.shape[1:]
    mean = np.zeros((*shape, 3), np.float32)
    total, effective = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    if len(colors) == 0:
        return mean, total, effective
    reject_outliers(colors, weights, np.float32(outlier_floor), np.float32(outlier_spread))
    weighted_mean(colors, weights, mean, total, effective)
    kept = weights.any((1, 2))
    if bands > 1 and kept.sum() > 1:
        colors, weights = (colors, weights) if kept.all() else (colors[kept], weights[kept])
        mean += _band_correction(colors, weights, mean, bands)
    mean[total == 0] = 0
    return mean, total, effective


def _band_correction(
    colors: Float32[np.ndarray, "C h w 3"],
    weights: Float32[np.ndarray, "C h w"],
    mean: Float32[np.ndarray, "h w 3"],
    bands: int,
) -> Float32[np.ndarray, "h w 3"]:
    """What a multi-band blend of the views adds to their weighted mean.

    Pyramids hold each view's difference from the mean, which is zero where the view sees nothing
    and small near its borders, so no view has to be extrapolated. Levels hold (difference × how
    far known, how far known), so blurring never mixes in what is not known. The finest band takes
    the two best views only, the others all, with weights as smooth as the band is coarse.
    """
    threshold = best_two(weights)
    height, width = threshold.shape
    sums = [np.zeros((height >> level, width >> level, 4), np.float32) for level in range(bands)]
    for color, weight in zip(colors, weights, strict=True):
        rows, columns = _window(weight)
        level_weight = np.ascontiguousarray(weight[rows, columns])
        packed = pack_difference(color[rows, columns], mean[rows, columns], level_weight)
        share = np.where(level_weight >= threshold[rows, columns], level_weight, np.float32(0))
        for level in range(bands):
            window = (
                slice(rows.start >> level, rows.stop >> level),
                slice(columns.start >> level, columns.stop >> level),
            )
            if level < bands - 1:
                coarser = cv2.pyrDown(packed)
                blurred = cv2.pyrUp(known_mean(coarser), dstsize=packed.shape[1::-1])
                add_band(packed, blurred, share, sums[level][window])
                level_weight = share = cv2.pyrDown(level_weight)
                packed = coarser
            else:
                add_band(packed, np.zeros_like(packed[..., :3]), share, sums[level][window])
    correction = known_mean(sums[-1])
    for total in reversed(sums[:-1]):
        correction = known_mean(total) + cv2.pyrUp(correction, dstsize=total.shape[1::-1])
    return correction


def _window(weight: Float32[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Rows and columns that hold a view's weights and all that its pyramid can feel."""
    ranges = []
    for axis in (1, 0):
        used = np.flatnonzero(weight.any(axis))
        # whole coarsest texels, so that the pyramid keeps the tile's grid
        start = max((used[0] - APRON) // 16 * 16, 0)
        stop = min(-(-(used[-1] + 1 + APRON) // 16) * 16, weight.shape[1 - axis])
        ranges.append(slice(int(start), int(stop)))
    return ranges[0], ranges[1]
