"""Faces of any number of corners as quads and triangles."""

import numpy as np


def fans(sizes: np.ndarray) -> np.ndarray:
    """Corner rows of quads [F 4] in file order; faces of five and more corners become triangles."""
    starts, count = np.cumsum(sizes) - sizes, pieces(sizes)
    first = np.repeat(starts, count)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    last = np.where(np.repeat(sizes, count) == 4, 3, 2)
    return first[:, None] + np.stack([0 * step, step + 1, step + 2, step + last], 1)


def pieces(sizes: np.ndarray) -> np.ndarray:
    """How many rows of `fans` each face becomes."""
    return np.where(sizes > 4, sizes - 2, 1)


def fan_triangles(sizes: np.ndarray) -> np.ndarray:
    """Corner rows of triangles [T 3] in file order; faces of fewer than three corners have none."""
    starts = np.cumsum(sizes) - sizes
    pieces = np.maximum(sizes - 2, 0)
    first = np.repeat(starts, pieces)
    step = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return first[:, None] + np.stack([0 * step, step + 1, step + 2], 1)
