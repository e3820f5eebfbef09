"""What is behind a portrait: walls, gradients and blurred places, a user's pictures, panoramas.

A pool of linear pictures of one size; `rendering.portraits` shows a window of one of them.
"""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from topohead.core import InputError
from topohead.io.images import read_image
from topohead.rendering.shading import srgb_to_linear

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def procedural_backdrops(seed: int, count: int, size: int = 128) -> Float[Tensor, "N S S 3"]:
    """Plain walls, gradients, soft blobs of light and unsharp clutter; number i depends on i."""
    return torch.stack([_picture(np.random.default_rng([seed, 62, i]), size) for i in range(count)])


def _picture(random: np.random.Generator, size: int) -> Float[Tensor, "S S 3"]:
    kind = random.choice(["wall", "gradient", "clutter", "lights"], p=[0.2, 0.25, 0.4, 0.15])
    base = _color(random)
    y, x = np.mgrid[0:size, 0:size] / (size - 1) - 0.5
    angle = random.uniform(0, 2 * math.pi)
    ramp = (x * math.cos(angle) + y * math.sin(angle))[..., None]
    fall = random.normal(0, 0.5 if kind == "wall" else 1.2) + random.normal(0, 0.2, 3)
    picture = base * np.exp(ramp * fall)
    if kind == "gradient":
        share = 1 / (1 + np.exp(-ramp * random.uniform(3, 15)))
        picture = picture * share + _color(random) * (1 - share)
    if kind == "clutter":
        for _ in range(int(random.integers(6, 30))):
            left, top = random.uniform(-0.6, 0.5, 2)
            width, height = np.exp(random.uniform(-3, -0.3, 2))
            inside = (x > left) & (x < left + width) & (y > top) & (y < top + height)
            picture[inside] = _color(random)
    if kind == "lights":
        picture = picture * 0.3
        for _ in range(int(random.integers(5, 25))):
            place, radius = random.uniform(-0.6, 0.6, 2), random.uniform(0.01, 0.08)
            inside = np.hypot(x - place[0], y - place[1]) < radius
            picture[inside] += 4 * _color(random)
    blur = random.uniform(0.5, 6.0) * size / 128
    picture = cv2.GaussianBlur(picture, (0, 0), blur)
    grain = cv2.GaussianBlur(random.standard_normal((size, size)), (0, 0), random.uniform(0.6, 6))
    grain = grain / grain.std() * random.uniform(0, 0.25) ** 2
    return torch.from_numpy(np.maximum(picture * np.exp(grain[..., None]), 0)).float()


def _color(random: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Linear radiance, mostly subdued."""
    value = np.exp(random.uniform(-3.2, 0.3))
    return value * np.exp(random.normal(0, 0.22, 3) * random.uniform(0, 1))


def picture_backdrops(folder: Path, size: int = 512) -> Float[Tensor, "N S S 3"]:
    """The middles of a folder's pictures, linear, in order of their names."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"{folder} holds no picture; expected {', '.join(SUFFIXES)}")
    pictures = []
    for path in paths:
        picture = srgb_to_linear(read_image(path).float())
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = picture[top : top + side, left : left + side].permute(2, 0, 1)[None]
        small = functional.interpolate(square, (size, size), mode="bilinear", antialias=True)
        pictures.append(small[0].permute(1, 2, 0))
    return torch.stack(pictures)


def panorama_backdrop(
    panorama: Float[Tensor, "H W 3"], angle: float, blur: float, size: int = 128
) -> Float[Tensor, "S S 3"]:
    """What is behind a head that looks along `angle` of a panorama: 60° of it, out of focus.

    `blur` is a share of the picture's size.
    """
    height, width = panorama.shape[:2]
    columns = (np.arange(size) + 0.5) / size - 0.5
    turn = angle + math.pi - math.radians(60) * columns
    x = ((0.5 + turn / (2 * math.pi)) % 1.0 * width).astype(np.float32)
    y = ((0.5 + columns * 60 / 180) * height).astype(np.float32)
    places = np.meshgrid(x, y)
    source = np.ascontiguousarray(panorama.numpy(), np.float32)
    picture = cv2.remap(source, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return torch.from_numpy(cv2.GaussianBlur(picture, (0, 0), max(blur * size, 0.3)))
