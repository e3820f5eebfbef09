"""Short hairs drawn on the skin: brows, and the dark line of the lashes."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

SAMPLE_SPACING = 0.00003
"""Metres between the points that make up a stroke."""


@dataclass(frozen=True)
class Strokes:
    """Hairs as points along them on the template head [N 3], each with the hair's width there."""

    points: Float[Tensor, "N 3"]
    widths: Float[Tensor, " N"]

    @property
    def areas(self) -> Float[Tensor, " N"]:
        """m² that every point covers."""
        return self.widths * SAMPLE_SPACING


def brows(landmarks: Float[Tensor, "68 3"], seed: int, density: float, width: float) -> Strokes:
    """Both brows: hairs rise at the inner end and lie along the brow at the outer one.

    `density` and `width` from 0 to 1; towards the inner end and the tail hairs get fewer.
    """
    random = np.random.default_rng([seed, 41])
    marks = landmarks.double().numpy()
    count = int(280 + 620 * density)
    points, widths = [], []
    for inner_to_outer in (marks[22:27], marks[21:16:-1]):
        curve = CubicSpline(np.linspace(0, 1, 5), inner_to_outer)
        along = np.sort(random.beta(1.25, 1.3, count) * 1.06 - 0.03)
        root = curve(along)
        tangent = curve(along, 1)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        up = np.array([0.0, 1.0, 0.25]) - tangent * (tangent @ [0.0, 1.0, 0.25])[:, None]
        slender = np.sqrt(np.clip(1.08 - along, 0.02, 1)) * (0.55 + 0.45 * np.clip(3 * along, 0, 1))
        half = (0.0032 + 0.0024 * width) * slender
        # more hairs in the middle of the band than at its edges
        across = np.clip(random.normal(0, 0.5, count), -1.25, 1.25)
        # the landmarks run along the brow's upper edge
        root = root + up * ((across - 0.45) * half)[:, None]
        lift = np.clip(1.25 - 2.3 * along, -0.1, 1.3) - 0.55 * across * (along > 0.15)
        lift = lift + random.normal(0, 0.22, count)
        direction = tangent + lift[:, None] * up
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = random.uniform(0.0040, 0.0085, count) * (1 - 0.40 * along)
        bend = (-0.22 + 0.15 * random.normal(size=count))[:, None] * up + 0.12 * tangent
        width_of = 0.000075 * random.uniform(0.6, 1.25, count)
        _draw(points, widths, root, direction, bend, length, width_of)
    return Strokes(torch.tensor(np.concatenate(points)), torch.tensor(np.concatenate(widths)))


def lashes(landmarks: Float[Tensor, "68 3"], seed: int, density: float) -> Strokes:
    """The lid margins: very short hairs, close together, denser above."""
    random = np.random.default_rng([seed, 42])
    marks = landmarks.double().numpy()
    count = int(60 + 110 * density)
    points, widths = [], []
    for first in (36, 42):
        ring = marks[first : first + 6]
        middle = ring.mean(0)
        for corners, number in ((ring[:4], count), (ring[[3, 4, 5, 0]], count // 3)):
            curve = CubicSpline(np.linspace(0, 1, 4), corners)
            root = curve(random.uniform(0.04, 0.96, number))
            outward = root - middle
            outward /= np.linalg.norm(outward, axis=1, keepdims=True)
            length = random.uniform(0.0008, 0.0022, number)
            thick = np.full(number, 0.00013)
            _draw(points, widths, root - 0.0004 * outward, outward, 0 * outward, length, thick)
    return Strokes(torch.tensor(np.concatenate(points)), torch.tensor(np.concatenate(widths)))


def _draw(
    points: list[np.ndarray],
    widths: list[np.ndarray],
    root: Float[np.ndarray, "K 3"],
    direction: Float[np.ndarray, "K 3"],
    bend: Float[np.ndarray, "K 3"],
    length: Float[np.ndarray, " K"],
    width: Float[np.ndarray, " K"],
) -> None:
    """Append the points of curved hairs, thinner towards the tip."""
    for start, along, curl, reach, wide in zip(root, direction, bend, length, width, strict=True):
        steps = np.arange(0, reach, SAMPLE_SPACING)
        share = (steps / reach)[:, None]
        points.append(start + steps[:, None] * along + reach * share**2 * curl)
        widths.append(wide * (1.1 - 0.8 * share[:, 0]))
