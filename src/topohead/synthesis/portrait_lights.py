"""Light for portraits: random rooms, studios and skies, and panoramas brought down to both.

A light is a sky of real spherical harmonics to degree 3 and some ball lamps, as
`rendering.portraits.SceneBatch` takes them: world metres, y up, linear radiance.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError
from topohead.rendering.portrait_light import harmonics

LAMPS = 3
"""Lamps of a portrait; those that a light does not need have radius 0."""

FAR_LAMP = 6.0
"""Metres to lamps that stand for a piece of a panorama: parallel light to about 1°."""

SPREAD = math.radians(14)
"""A piece of a panorama that becomes a lamp reaches this far from its brightest point."""


def panorama_directions(height: int, width: int) -> Float[Tensor, "H W 3"]:
    """Unit directions of the pixels of an equirectangular picture, y up, top row above.

    The middle column looks along +z (what a face sees ahead), columns run clockwise from above.
    """
    latitude = math.pi * (0.5 - (torch.arange(height, dtype=torch.float64) + 0.5) / height)
    turn = 2 * math.pi * ((torch.arange(width, dtype=torch.float64) + 0.5) / width - 0.5)
    up, ring = latitude.sin()[:, None], latitude.cos()[:, None]
    parts = (-turn.sin() * ring, up.expand(height, width), turn.cos() * ring)
    return torch.stack(torch.broadcast_tensors(*parts), -1)


def panorama_light(
    panorama: Float[Tensor, "H W 3"], lamps: int = LAMPS
) -> tuple[Float[Tensor, "16 3"], Float[Tensor, "L 7"]]:
    """Sky and lamps of an equirectangular picture of linear radiance.

    The brightest pieces become lamps while they send more than a twentieth of all light; the rest
    is projected on harmonics, bands damped against ringing (Sloan 2008). Together they send as
    much light as the picture.
    """
    if panorama.ndim != 3 or panorama.shape[1] != 2 * panorama.shape[0]:
        shape = "x".join(map(str, panorama.shape[1::-1]))
        raise InputError(f"expected a panorama twice as wide as high, got {shape}")
    small = _shrunk(panorama.double().clamp(min=0))
    height, width = small.shape[:2]
    ways = panorama_directions(height, width)
    ring = ways[..., :2].new_tensor(math.pi * 2 * math.pi / (height * width))
    solid = (ring * (1 - ways[..., 1] ** 2).sqrt())[..., None]
    rows = []
    rest = small.clone()
    for _ in range(lamps):
        piece = _bright_piece(rest, ways, solid)
        rows.append(piece[0])
        rest = rest - piece[1]
    basis = harmonics(ways)
    sky = torch.einsum("hwk,hwc->kc", basis * solid, rest)
    degree = torch.tensor([0] + [1] * 3 + [2] * 5 + [3] * 7)
    damping = 1 / (1 + 0.012 * (degree * (degree + 1)).double() ** 2)
    return (sky * damping[:, None]).float(), torch.stack(rows).float()


def _shrunk(panorama: Float[Tensor, "H W 3"], rows: int = 128) -> Float[Tensor, "h w 3"]:
    factor = len(panorama) // rows
    if factor < 2:
        return panorama
    height, width = len(panorama) // factor, panorama.shape[1] // factor
    cut = panorama[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, 3).mean((1, 3))


def _bright_piece(
    rest: Tensor, ways: Tensor, solid: Tensor
) -> tuple[Float[Tensor, "7"], Float[Tensor, "H W 3"]]:
    """A lamp of the brightest piece, and the radiance that it takes out of the picture."""
    light = rest.mean(-1)
    whole = (rest * solid).sum((0, 1))
    peak = int(light.argmax())
    near = (ways @ ways.reshape(-1, 3)[peak]) > math.cos(SPREAD)
    level = torch.quantile(light.flatten(), 0.9)
    taken = torch.where((near & (light > 4 * level))[..., None], rest - level, 0.0).clamp(min=0)
    flux = (taken * solid).sum((0, 1))
    if float(flux.sum()) < 0.05 * float(whole.sum()):
        return rest.new_tensor([0, 0, FAR_LAMP, 0, 0, 0, 0]), torch.zeros_like(rest)
    weight = taken.mean(-1, keepdim=True) * solid
    way = torch.nn.functional.normalize((ways * weight).sum((0, 1)), dim=0)
    spread = ((1 - (ways @ way)[..., None]).clamp(min=0) * weight).sum() / weight.sum()
    # an even disk of angular radius a has mean 1 − cos of a²/4
    angle = float((4 * spread).sqrt().clamp(0.01, 0.35))
    radius = FAR_LAMP * math.sin(angle)
    share = (radius / FAR_LAMP) ** 2  # of a hemisphere, cosine-weighted
    return torch.cat([way * FAR_LAMP, way.new_tensor([radius]), flux / (math.pi * share)]), taken


def turned(
    sky: Float[Tensor, "16 3"], lamps: Float[Tensor, "L 7"], angle: float
) -> tuple[Float[Tensor, "16 3"], Float[Tensor, "L 7"]]:
    """The same light turned about the vertical axis, radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).double()
    # harmonics turn among themselves: solve for the turned ones on a few directions
    index = torch.arange(64, dtype=torch.float64) + 0.5
    height, around = 1 - 2 * index / 64, math.pi * (1 + math.sqrt(5)) * index
    ring = (1 - height**2).sqrt()
    ways = torch.stack([ring * around.cos(), height, ring * around.sin()], 1)
    values = harmonics(ways @ turn) @ sky.double()
    there = torch.linalg.lstsq(harmonics(ways), values).solution
    moved = torch.cat([lamps[:, :3].double() @ turn.T, lamps[:, 3:].double()], 1)
    return there.float(), moved.float()


def random_light(
    random: np.random.Generator,
) -> tuple[Float[Tensor, "16 3"], Float[Tensor, "L 7"]]:
    """A sunny day, an overcast one, a room, a studio or a stage."""
    kind = random.choice(
        ["sun", "overcast", "room", "studio", "stage"], p=[0.2, 0.2, 0.3, 0.2, 0.1]
    )
    wall = random.uniform(0.5, 1.0)
    if kind == "sun":
        sky = _sky(random, 0.35 * _white(random.uniform(-0.5, -0.1)), 0.5, 0.12)
        lamps = [_lamp(random, random.uniform(6, 16), (0.02, 0.06), (0.2, 1.1), 0.3)]
    elif kind == "overcast":
        sky = _sky(random, 0.9 * _white(random.uniform(-0.3, 0.15)), 0.6, 0.2)
        lamps = []
    elif kind == "room":
        sky = _sky(random, 0.4 * wall * _white(random.uniform(-0.1, 0.6)), 0.2, 0.3)
        count = int(random.integers(1, 4))
        lamps = [_lamp(random, random.uniform(0.4, 2.0), (0.08, 0.35), (-0.2, 1.3), 0.6)
                 for _ in range(count)]  # fmt: skip
    elif kind == "studio":
        sky = _sky(random, 0.25 * wall * _white(0), 0.1, 0.1)
        lamps = [_lamp(random, random.uniform(1.0, 2.5), (0.15, 0.4), (0.0, 0.9), 0.12)
                 for _ in range(LAMPS)]  # fmt: skip
    else:
        sky = _sky(random, 0.06 * _white(random.uniform(-0.6, 0.6)), 0.3, 0.3)
        lamps = [_lamp(random, random.uniform(0.7, 3.0), (0.03, 0.2), (-0.4, 1.3), 1.2)
                 for _ in range(int(random.integers(2, LAMPS + 1)))]  # fmt: skip
    while len(lamps) < LAMPS:
        lamps.append(np.array([0, 0, FAR_LAMP, 0, 0, 0, 0]))
    return torch.from_numpy(sky).float(), torch.from_numpy(np.stack(lamps)).float()


def _white(warmth: float) -> Float[np.ndarray, "3"]:
    """A white between the blue of a sky (−1) and a candle (1), luminance about 1."""
    color = np.array([1 + 0.35 * warmth, 1.0, 1 - 0.5 * warmth])
    return color / (color @ [0.2126, 0.7152, 0.0722])


def _sky(
    random: np.random.Generator, mean: np.ndarray, lift: float, unrest: float
) -> Float[np.ndarray, "16 3"]:
    """Harmonics of a mean radiance, lighter above by `lift`, uneven by `unrest`."""
    sky = np.zeros((16, 3))
    sky[0] = mean / 0.282095
    # radiance m (1 + lift y) has the coefficient m lift / 0.488603 · (1/3) · 4π · 0.488603²
    sky[1] = lift * mean * (4 * math.pi / 3) * 0.488603
    deviation = unrest * np.repeat([0, 0.5, 0.25, 0.15], [1, 3, 5, 7])[:, None] * mean / 0.282095
    common, own = random.standard_normal((16, 1)), random.standard_normal((16, 3))
    return sky + deviation * (0.9 * common + 0.2 * own)


def _lamp(
    random: np.random.Generator,
    irradiance: float,
    angle: tuple[float, float],
    elevation: tuple[float, float],
    colorful: float,
) -> Float[np.ndarray, "7"]:
    """A lamp of an irradiance on the head, from about the front (never from below the chin)."""
    around = random.normal(0, 1.1)
    up = random.uniform(*elevation)
    distance = random.uniform(1.2, 4.0)
    place = distance * np.array(
        [math.sin(around) * math.cos(up), math.sin(up), math.cos(around) * math.cos(up)]
    )
    radius = distance * math.sin(random.uniform(*angle))
    share = (radius / distance) ** 2
    color = _white(random.normal(0, 0.35)) * np.exp(colorful * 0.4 * random.standard_normal(3))
    return np.concatenate([place, [radius], irradiance * color / (math.pi * share)])


def irradiance(
    sky: Float[Tensor, "16 3"], lamps: Float[Tensor, "L 7"], normals: Float[Tensor, "*B 3"]
) -> Float[Tensor, "*B 3"]:
    """Light on unshadowed surfaces at the origin (Ramamoorthi & Hanrahan 2001)."""
    band = torch.tensor([math.pi] + [2 * math.pi / 3] * 3 + [math.pi / 4] * 5 + [0.0] * 7)
    from_sky = (harmonics(normals) @ (band.to(sky)[:, None] * sky)).clamp(min=0)
    distance = lamps[:, :3].norm(dim=-1, keepdim=True).clamp(min=1e-6)
    facing = (normals @ (lamps[:, :3] / distance).T).clamp(min=0)
    each = math.pi * lamps[:, 4:] * (lamps[:, 3:4] / distance) ** 2
    return from_sky + facing @ each
