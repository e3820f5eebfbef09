"""Small pictures laid onto the template from the front: hairs that are drawn stroke by stroke."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

PIXEL = 0.00004
"""Metres of a decal's finest pixels."""


@dataclass(frozen=True)
class Decal:
    """A picture in a plane x y of the template, projected along z onto what is near.

    `corner` is its lower left, metres; `near` and `far` bound z. `levels` are means of 2×2 pixels
    of the one before, rows upward in y.
    """

    corner: tuple[float, float]
    near: float
    far: float
    levels: tuple[Float[Tensor, "_ _"], ...]

    def at(self, points: Float[Tensor, "N 3"], texel: float) -> Float[Tensor, " N"]:
        """The picture at points of the template, averaged over about a `texel`."""
        height, width = self.levels[0].shape
        out = torch.zeros_like(points[:, 0])
        place = (points[:, :2] - points.new_tensor(self.corner)) / PIXEL
        inside = (place > 0).all(1) & (place < points.new_tensor([width, height])).all(1)
        inside &= (points[:, 2] > self.far) & (points[:, 2] < self.near)
        chosen = inside.nonzero()[:, 0]
        if not len(chosen):
            return out
        # bilinear sampling of a level averages over more than its pixel already
        level = min(max(np.log2(texel / PIXEL) - 0.5, 0.0), len(self.levels) - 1.0)
        grid = place[chosen] / points.new_tensor([width, height]) * 2 - 1
        low, part = int(level), level - int(level)
        value = _sample(self.levels[low], grid)
        if part > 0:
            value = torch.lerp(value, _sample(self.levels[low + 1], grid), part)
        out[chosen] = value
        return out

    def to(self, device: torch.device) -> "Decal":
        """The same decal on another device."""
        return Decal(self.corner, self.near, self.far, tuple(x.to(device) for x in self.levels))


def drawn(
    points: Float[Tensor, "N 3"], areas: Float[Tensor, " N"], reach: tuple[float, float]
) -> Decal:
    """A decal of points that each cover `areas` (m²): opacity 1 − exp(−overlap) at every pixel.

    It holds where z is within `reach` (below, above) of the points' own.
    """
    xy = points[:, :2].double().numpy()
    corner = xy.min(0) - 0.001
    cells = np.ceil((xy.max(0) + 0.001 - corner) / PIXEL / 32).astype(int) * 32
    depth = np.zeros((cells[1] + 1, cells[0] + 1))
    place = (xy - corner) / PIXEL - 0.5
    base = np.floor(place).astype(int)
    part = place - base
    weight = areas.double().numpy() / PIXEL**2
    for dx in (0, 1):
        for dy in (0, 1):
            share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            np.add.at(depth, (base[:, 1] + dy, base[:, 0] + dx), weight * share)
    picture = torch.from_numpy(1 - np.exp(-depth[:-1, :-1])).float()
    levels = [picture]
    while min(levels[-1].shape) >= 2 and len(levels) < 6:
        levels.append(torch.nn.functional.avg_pool2d(levels[-1][None], 2)[0])
    z = points[:, 2]
    return Decal(
        (float(corner[0]), float(corner[1])),
        float(z.max()) + reach[1],
        float(z.min()) - reach[0],
        tuple(levels),
    )


def _sample(picture: Float[Tensor, "H W"], grid: Float[Tensor, "N 2"]) -> Float[Tensor, " N"]:
    values = torch.nn.functional.grid_sample(
        picture[None, None], grid[None, None], "bilinear", "border", False
    )
    return values[0, 0, 0]
