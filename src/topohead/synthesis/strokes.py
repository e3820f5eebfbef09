"""Short hairs drawn on the skin: brows, and the dark line of the lashes."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.spatial import KDTree
from torch import Tensor

SAMPLE_SPACING = 0.00015
"""Metres between the points that make up a stroke."""


@dataclass(frozen=True)
class Strokes:
    """Hairs as points along them on the template head [N 3], each with the hair's width there."""

    points: Float[Tensor, "N 3"]
    widths: Float[Tensor, " N"]


def brows(landmarks: Float[Tensor, "68 3"], seed: int, count: int = 560) -> Strokes:
    """Both brows: hairs rise at the inner end and lie along the brow at the outer one."""
    random = np.random.default_rng([seed, 41])
    marks = landmarks.double().numpy()
    thickness = random.uniform(0.8, 1.2)
    points, widths = [], []
    for inner_to_outer in (marks[22:27], marks[21:16:-1]):
        curve = CubicSpline(np.linspace(0, 1, 5), inner_to_outer)
        along = np.sort(random.random(count))
        root = curve(along)
        tangent = curve(along, 1)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        up = np.array([0.0, 1.0, 0.25]) - tangent * (tangent @ [0.0, 1.0, 0.25])[:, None]
        half = thickness * 0.0048 * np.sqrt(np.clip(1.15 - along, 0, 1)) * (0.6 + along * 0.4)
        across = random.uniform(-1, 1, count)
        # the landmarks run along the brow's upper edge
        root = root + up * ((across - 0.35) * half)[:, None]
        lift = np.clip(1.1 - 1.5 * along, 0.05, 1) + random.normal(0, 0.18, count) - 0.35 * across
        direction = tangent + lift[:, None] * up
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = random.uniform(0.0045, 0.008, count) * (1 - 0.35 * along)
        _draw(points, widths, root, direction, -0.25 * up, length, 0.00009)
    return Strokes(torch.tensor(np.concatenate(points)), torch.tensor(np.concatenate(widths)))


def lashes(landmarks: Float[Tensor, "68 3"], seed: int, count: int = 130) -> Strokes:
    """The lid margins: very short hairs, close together, denser above."""
    random = np.random.default_rng([seed, 42])
    marks = landmarks.double().numpy()
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
            _draw(points, widths, root - 0.0004 * outward, outward, 0 * outward, length, 0.00016)
    return Strokes(torch.tensor(np.concatenate(points)), torch.tensor(np.concatenate(widths)))


def opacity(strokes: Strokes, surface: Float[Tensor, "N 3"], texel: float) -> Float[Tensor, " N"]:
    """How much of each surface point the hairs cover, 0 to 1.

    Each point of a stroke spreads the area it covers over the nearest texels; overlapping hairs
    add up as optical depth, so the mean does not depend on the texture's size.
    """
    total = np.zeros(len(surface))
    points = strokes.points.numpy()
    places = surface.double().numpy()
    low, high = points.min(0) - 0.012, points.max(0) + 0.012
    near = np.nonzero(((places > low) & (places < high)).all(1))[0]
    if not len(near):
        return torch.zeros(len(surface))
    distance, index = KDTree(places[near]).query(points, k=4)
    # a soft brush, one texel wide at least; far points mean that the template has a gap there
    closest = distance[:, :1]
    weight = np.exp(-(((distance - closest) / (0.7 * texel)) ** 2)) * (closest < 0.008)
    weight /= np.maximum(weight.sum(1, keepdims=True), 1e-9)
    depth = strokes.widths.numpy() * SAMPLE_SPACING / texel**2
    np.add.at(total, near[index], weight * (1.6 * depth)[:, None])
    return torch.from_numpy((1 - np.exp(-total)).astype(np.float32))


def _draw(
    points: list[np.ndarray],
    widths: list[np.ndarray],
    root: Float[np.ndarray, "K 3"],
    direction: Float[np.ndarray, "K 3"],
    bend: Float[np.ndarray, "K 3"],
    length: Float[np.ndarray, " K"],
    width: float,
) -> None:
    """Append the points of curved hairs, thinner towards the tip."""
    for start, along, curl, reach in zip(root, direction, bend, length, strict=True):
        steps = np.arange(0, reach, SAMPLE_SPACING)
        share = (steps / reach)[:, None]
        points.append(start + steps[:, None] * along + reach * share**2 * curl)
        widths.append(width * (1.1 - 0.8 * share[:, 0]))
