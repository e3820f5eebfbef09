"""From light to a stored picture: optics' blur, colour response, vignetting, noise, encoding."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor


@dataclass(frozen=True)
class Sensor:
    """One camera's faults. Blur in pixels; noise as standard deviations of full scale.

    `read_noise` is constant, `shot_noise` grows with the root of the light.
    """

    gain: Float[Tensor, "3"]
    offset: Float[Tensor, "3"]
    vignetting: float
    blur: float = 0.45
    read_noise: float = 0.0015
    shot_noise: float = 0.006


def expose(
    light: Float[Tensor, "H W 3"],
    sensor: Sensor,
    principal_point: tuple[float, float],
    random: np.random.Generator,
) -> Float[Tensor, "H W 3"]:
    """The stored picture, srgb in [0, 1], of linear light that reached the lens."""
    picture = light.numpy().astype(np.float64)
    if sensor.blur > 0:
        picture = gaussian_filter(picture, (sensor.blur, sensor.blur, 0))
    picture = picture * _falloff(*picture.shape[:2], principal_point, sensor.vignetting)[..., None]
    picture = picture * sensor.gain.numpy() + sensor.offset.numpy()
    deviation = np.sqrt(sensor.read_noise**2 + sensor.shot_noise**2 * np.clip(picture, 0, None))
    picture = picture + deviation * random.standard_normal(picture.shape)
    return torch.from_numpy(linear_to_srgb(picture).astype(np.float32))


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """The sRGB curve (IEC 61966-2-1), clipped to [0, 1]."""
    linear = np.clip(linear, 0, 1)
    bright = 1.055 * np.maximum(linear, 1e-12) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, bright)


def _falloff(
    height: int, width: int, principal_point: tuple[float, float], strength: float
) -> np.ndarray:
    """Light lost towards the corners: 1 at the principal point, 1 − strength in the far corner."""
    x = np.arange(width) + 0.5 - principal_point[0]
    y = np.arange(height) + 0.5 - principal_point[1]
    square = x[None, :] ** 2 + y[:, None] ** 2
    return 1 - strength * square / (width**2 / 4 + height**2 / 4)
