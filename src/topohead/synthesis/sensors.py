"""From light to a stored picture: optics' blur, colour response, vignetting, noise, encoding."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.rendering import sensor_cpu


@dataclass(frozen=True)
class Sensor:
    """One camera's faults. Blur in pixels; noise as standard deviations of full scale.

    `read_noise` is constant, `shot_noise` grows with the root of the light. `vignetting` is the
    share of light lost in a corner of a picture whose principal point is its centre.
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
    key: int,
) -> Float[Tensor, "H W 3"]:
    """The stored picture, srgb in [0, 1], of linear light that reached the lens, on its device.

    `key`, from `noise_key`, decides the noise, which is the same on every device.
    """
    height, width = light.shape[:2]
    weights = _gaussian(sensor.blur)
    falloff = sensor.vignetting / (width**2 / 4 + height**2 / 4)
    gain, offset = sensor.gain.double().numpy(), sensor.offset.double().numpy()
    if light.is_cuda:
        from topohead.rendering import sensor_triton  # noqa: PLC0415 -- only where CUDA is

        noise = (sensor.read_noise, sensor.shot_noise)
        numbers = torch.tensor([*principal_point, falloff, *gain, *offset, *noise])
        device = light.device
        taps = torch.from_numpy(weights).float().to(device)
        return sensor_triton.expose(light, taps, numbers.float().to(device), key)
    picture = sensor_cpu.expose(
        np.ascontiguousarray(light.numpy()), weights, np.array(principal_point), falloff, gain,
        offset, sensor.read_noise, sensor.shot_noise, np.uint64(key),
    )  # fmt: skip
    return torch.from_numpy(picture)


def noise_key(*parts: int) -> int:
    """A key of `expose`, 2⁶² to 2⁶³ − 1, that numbers such as seed, frame and camera decide."""
    low, high = np.random.SeedSequence(parts).generate_state(2).tolist()
    return 1 << 62 | (high & 0x3FFFFFFF) << 32 | low


def _gaussian(sigma: float) -> Float[np.ndarray, " K"]:
    """Taps of a Gaussian out to four deviations, sum 1."""
    reach = int(4 * sigma + 0.5)
    if reach == 0:
        return np.ones(1)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weight / weight.sum()
