"""Light for portraits: random rooms, studios and skies, and panoramas brought down to both.

A light is a sky of real spherical harmonics to degree 3 and some ball lamps, as
`rendering.portraits.SceneBatch` takes them: world metres, y up, linear radiance.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import InputError
from topohead.rendering.portrait_light import harmonics
from topohead.synthesis.draws import normals, uniforms

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


@dataclass(frozen=True)
class _Kind:
    """A kind of light; pairs are least and most.

    `level` times a white of some `warmth` is the sky's mean radiance, `walled` by how bright the
    walls are; the sky is lighter above by `lift`, uneven by `unrest`. Lamps: how many, the
    irradiance of each, half its angle seen from the head and its elevation (radians), how
    `colorful` it is.
    """

    share: float
    level: float
    warmth: tuple[float, float]
    lift: float
    unrest: float
    lamps: tuple[int, int]
    irradiance: tuple[float, float] = (1.0, 1.0)
    angle: tuple[float, float] = (0.1, 0.1)
    elevation: tuple[float, float] = (0.0, 0.0)
    colorful: float = 0.0
    walled: bool = False


KINDS = (
    _Kind(0.2, 0.35, (-0.5, -0.1), 0.5, 0.12, (1, 1), (6, 16), (0.02, 0.06), (0.2, 1.1), 0.3),
    _Kind(0.2, 0.90, (-0.3, 0.15), 0.6, 0.2, (0, 0)),
    _Kind(0.3, 0.40, (-0.1, 0.6), 0.2, 0.3, (1, 3), (0.4, 2), (0.08, 0.35), (-0.2, 1.3), 0.6, True),
    _Kind(0.2, 0.25, (0.0, 0.0), 0.1, 0.1, (3, 3), (1, 2.5), (0.15, 0.4), (0.0, 0.9), 0.12, True),
    _Kind(0.1, 0.06, (-0.6, 0.6), 0.3, 0.3, (2, 3), (0.7, 3), (0.03, 0.2), (-0.4, 1.3), 1.2),
)
"""A sunny day, an overcast one, a room, a studio, a stage."""


def random_lights(
    seed: int, numbers: Int[np.ndarray, " B"]
) -> tuple[Float[np.ndarray, "B 16 3"], Float[np.ndarray, "B L 7"]]:
    """Sky and lamps of numbered portraits: one of `KINDS`, all of its numbers varied."""
    even, count = uniforms(seed, numbers, "light", 4), len(numbers)
    drawn = np.searchsorted(np.cumsum([kind.share for kind in KINDS])[:-1], even[:, 0], "right")

    def of(name: str) -> np.ndarray:
        return np.array([getattr(kind, name) for kind in KINDS])[drawn]

    def between(name: str, part: np.ndarray) -> np.ndarray:
        low, high = of(name).T[..., None]
        return low + (high - low) * part

    walls = np.where(of("walled"), 0.5 + 0.5 * even[:, 1], 1.0)
    mean = (of("level") * walls)[:, None] * _white(between("warmth", even[:, 2:3])[:, 0])
    sky = _skies(seed, numbers, mean, of("lift"), of("unrest"))
    part = uniforms(seed, numbers, "lamps", 3 * LAMPS + LAMPS)
    normal = normals(seed, numbers, "lamps", 5 * LAMPS)
    around = 1.1 * normal[:, :LAMPS]
    up = between("elevation", part[:, :LAMPS])
    distance = 1.2 + 2.8 * part[:, LAMPS : 2 * LAMPS]
    sine = np.sin(between("angle", part[:, 2 * LAMPS : 3 * LAMPS]))
    light = between("irradiance", part[:, 3 * LAMPS :])
    tint = normal[:, 2 * LAMPS :].reshape(count, LAMPS, 3)
    color = _white(0.35 * normal[:, LAMPS : 2 * LAMPS])
    color = color * np.exp(0.4 * of("colorful")[:, None, None] * tint)
    way = [np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)]
    place = distance[..., None] * np.stack(way, -1)
    radiance = (light / (math.pi * sine**2))[..., None] * color
    lamps = np.concatenate([place, (distance * sine)[..., None], radiance], -1)
    few, many = of("lamps").T
    lit = few + np.floor((many - few + 1) * even[:, 3])
    absent = np.array([0, 0, FAR_LAMP, 0, 0, 0, 0])
    return sky, np.where((np.arange(LAMPS) < lit[:, None])[..., None], lamps, absent)


def _white(warmth: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B 3"]:
    """A white between the blue of a sky (−1) and a candle (1), luminance about 1."""
    red, blue = 1 + 0.35 * warmth, 1 - 0.5 * warmth
    luminance = 0.2126 * red + 0.7152 + 0.0722 * blue
    return np.stack([red, np.ones_like(red), blue], -1) / luminance[..., None]


def _skies(
    seed: int, numbers: np.ndarray, mean: np.ndarray, lift: np.ndarray, unrest: np.ndarray
) -> Float[np.ndarray, "B 16 3"]:
    """Harmonics of a mean radiance, lighter above by `lift`, uneven by `unrest`."""
    sky = np.zeros((len(numbers), 16, 3))
    sky[:, 0] = mean / 0.282095
    # radiance m (1 + lift y) has the coefficient m lift / 0.488603 · (1/3) · 4π · 0.488603²
    sky[:, 1] = lift[:, None] * mean * (4 * math.pi / 3) * 0.488603
    bands = np.repeat([0, 0.5, 0.25, 0.15], [1, 3, 5, 7])[:, None]
    deviation = unrest[:, None, None] * bands * mean[:, None] / 0.282095
    drawn = normals(seed, numbers, "sky", 64).reshape(len(numbers), 16, 4)
    return sky + deviation * (0.9 * drawn[..., :1] + 0.2 * drawn[..., 1:])


def irradiance(
    sky: Float[Tensor, "*B 16 3"], lamps: Float[Tensor, "*B L 7"], normals: Float[Tensor, "*B K 3"]
) -> Float[Tensor, "*B K 3"]:
    """Light on unshadowed surfaces at the origin (Ramamoorthi & Hanrahan 2001)."""
    band = torch.tensor([math.pi] + [2 * math.pi / 3] * 3 + [math.pi / 4] * 5 + [0.0] * 7)
    # plain sums: a matrix product may round a light of a batch and a light alone differently
    sent = harmonics(normals)[..., None] * (band.to(sky)[:, None] * sky)[..., None, :, :]
    distance = lamps[..., :3].norm(dim=-1, keepdim=True).clamp(min=1e-6)
    ways = lamps[..., :3] / distance
    facing = (normals[..., :, None, :] * ways[..., None, :, :]).sum(-1).clamp(min=0)
    each = math.pi * lamps[..., 4:] * (lamps[..., 3:4] / distance) ** 2
    return sent.sum(-2).clamp(min=0) + (facing[..., None] * each[..., None, :, :]).sum(-2)
