"""Things that people wear: shirts, glasses and caps, fitted to any head of one topology.

Simple parametric meshes whose triangles never change, so that heads of a batch share them; what a
head does not wear has all its vertices in one place. They follow the head's landmarks, and so its
pose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from topohead.core import Topology
from topohead.synthesis.draws import normals, uniforms
from topohead.synthesis.stumps import neck_rim

RIM, RIM_SIDES, TEMPLE = 28, 6, 10
"""Points round a rim of glasses, sides of its wire, points along a temple."""

CAP_ROWS, CAP_COLUMNS, VISOR_ROWS = 12, 40, 6

SHIRT_ROWS = 14


@dataclass(frozen=True)
class Outfits:
    """What heads of a batch wear. Colours are linear albedo and roughness.

    `lens` says whether the glasses are sunglasses; `frame` holds half the width and half the height
    of a lens, its squareness (2: ellipse) and the wire's radius, millimetres but for the third.
    `worn` is shirt, glasses, cap.
    """

    worn: Bool[Tensor, "B 3"]
    lens: Bool[Tensor, " B"]
    frame: Float[Tensor, "B 4"]
    shirt: Float[Tensor, "B 4"]
    glasses: Float[Tensor, "B 4"]
    cap: Float[Tensor, "B 4"]


def draw_outfits(seed: int, indices: Sequence[int], caps: float = 0.08) -> Outfits:
    """What people wear, a function of the seed and each index: nearly all a shirt."""
    numbers = np.asarray(indices, dtype=np.int64)
    even = uniforms(seed, numbers, "outfit", 14)
    normal = normals(seed, numbers, "cloth", 9)
    frame = np.array([22, 15, 2, 0.6]) + np.array([7, 9, 3, 1.4]) * even[:, 4:8]
    materials = []
    for k, (least, most) in enumerate(((0.7, 0.95), (0.15, 0.5), (0.7, 0.95))):
        tone = -3.5 + 3.1 * even[:, 8 + k, None] + 0.25 * normal[:, 3 * k : 3 * k + 3]
        rough = least + (most - least) * even[:, 11 + k, None]
        materials.append(np.concatenate([np.exp(tone).clip(0, 0.8), rough], 1))
    worn = torch.from_numpy(even[:, :3] < [0.97, 0.25, caps])
    parts = (torch.from_numpy(part).float() for part in (frame, *materials))
    return Outfits(worn, torch.from_numpy(even[:, 3] < 0.2), *parts)


@dataclass(frozen=True)
class Wardrobe:
    """What fits heads of a topology, on a device; `triangles` number its vertices from 0."""

    topology: Topology
    device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> "Wardrobe":
        """The same for heads on another device."""
        return Wardrobe(self.topology, device)

    @cached_property
    def rim(self) -> Int[Tensor, " R"]:
        """See `neck_rim`."""
        return neck_rim(self.topology)

    @cached_property
    def _rows(self) -> dict[str, Int[Tensor, " N"]]:
        """Vertices that things are fitted to, where the heads are: asked for once."""
        names = ("eye_left", "eye_right", "ears", "rigid", "brows")
        rows = {name: self.topology.regions[name].to(self.device) for name in names}
        return rows | {"rim": self.rim.to(self.device)}

    @cached_property
    def triangles(self) -> Int[Tensor, "T 3"]:
        """Of shirt, two rims, two lenses, a bridge, two temples, cap and visor."""
        sides, parts, start = RIM_SIDES, [], 0
        pieces = [_grid(SHIRT_ROWS, len(self.rim), True)]
        pieces += [_grid(RIM, sides, True, True)] * 2
        pieces += [torch.tensor([[RIM, k, (k + 1) % RIM] for k in range(RIM)])] * 2
        pieces += [_grid(TEMPLE, sides, True)] * 3
        pieces += [_grid(CAP_ROWS, CAP_COLUMNS, True), _grid(VISOR_ROWS, CAP_COLUMNS, True)]
        for piece, count in zip(pieces, self.sizes, strict=True):
            parts.append(piece + start)
            start += count
        return torch.cat(parts)

    @property
    def sizes(self) -> list[int]:
        """Vertices of every piece."""
        wire, bar = RIM * RIM_SIDES, TEMPLE * RIM_SIDES
        return [SHIRT_ROWS * len(self.rim), wire, wire, RIM + 1, RIM + 1, bar, bar, bar,
                CAP_ROWS * CAP_COLUMNS, VISOR_ROWS * CAP_COLUMNS]  # fmt: skip

    def wear(
        self, vertices: Float[Tensor, "B V 3"], outfits: Outfits
    ) -> tuple[Float[Tensor, "B Q 3"], Float[Tensor, "B Q 4"]]:
        """Vertices of everything on these heads, and their colours and roughness."""
        axes, eyes = self._axes(vertices)
        rim = vertices[:, self._rows["rim"]]
        hidden = rim.mean(1)[:, None]
        pieces = [_shirt(rim, axes)]
        shown = [outfits.worn[:, 0]]
        ears = self._ears(vertices, axes)
        pieces += _glasses(outfits.frame, axes, eyes, ears)
        shown += [outfits.worn[:, 1]] * 2 + [outfits.worn[:, 1] & outfits.lens] * 2
        shown += [outfits.worn[:, 1]] * 3
        pieces += self._cap(vertices, axes, eyes)
        shown += [outfits.worn[:, 2]] * 2
        whole = [
            torch.where(worn[:, None, None], piece, hidden)
            for worn, piece in zip(shown, pieces, strict=True)
        ]
        dark = _row(vertices.device, 0.012, 0.012, 0.014, 0.08).expand_as(outfits.shirt)
        colors = [outfits.shirt, *[outfits.glasses] * 2, dark, dark, *[outfits.glasses] * 3]
        colors += [outfits.cap, 0.8 * outfits.cap]
        tint = [
            color[:, None].expand(-1, count, 4)
            for color, count in zip(colors, self.sizes, strict=True)
        ]
        return torch.cat(whole, 1), torch.cat(tint, 1).contiguous()

    def _axes(self, vertices: Tensor) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 2 3"]]:
        """Rows: to the head's left, up, ahead; the middles of the left and the right eye."""
        rows = self._rows
        eyes = torch.stack([vertices[:, rows[x]].mean(1) for x in ("eye_left", "eye_right")], 1)
        side = functional.normalize(eyes[:, 0] - eyes[:, 1], dim=-1)
        ahead = eyes.mean(1) - vertices[:, rows["ears"]].mean(1)
        ahead = ahead - 0.027 / 0.075 * ahead.norm(dim=-1, keepdim=True) * _row(
            vertices.device, 0, 1, 0
        )
        ahead = functional.normalize(ahead - (ahead * side).sum(-1, keepdim=True) * side, dim=-1)
        up = torch.linalg.cross(ahead, side)
        return torch.stack([side, up, ahead], 1), eyes

    def _ears(self, vertices: Tensor, axes: Tensor) -> Float[Tensor, "B 2 3"]:
        """Where temples rest: in front of the top of either ear."""
        local = vertices[:, self._rows["ears"]] @ axes.transpose(1, 2)
        across = local[0, :, 0] - local[0, :, 0].mean()  # the same side on every head
        places = []
        for sign in (1.0, -1.0):
            own = (across * sign > 0)[None, :, None]
            low = torch.where(own, local, torch.inf).amin(1)
            high = torch.where(own, local, -torch.inf).amax(1)
            inner = low[:, 0] + 0.012 if sign > 0 else high[:, 0] - 0.012
            places.append(torch.stack([inner, high[:, 1] - 0.010, (low[:, 2] + high[:, 2]) / 2], 1))
        return torch.stack(places, 1) @ axes

    def _cap(self, vertices: Tensor, axes: Tensor, eyes: Tensor) -> list[Float[Tensor, "B N 3"]]:
        """A dome clear of the head's convex hull, and a visor from its front edge."""
        skull, face = vertices[:, self._rows["rigid"]], vertices[:, self._rows["brows"]]
        local = torch.cat([skull, face], 1) @ axes.transpose(1, 2)
        low, high = local.amin(1), local.amax(1)
        middle = (low + high) / 2
        brow = (eyes.mean(1, keepdim=True) @ axes.transpose(1, 2))[:, 0, 1] + 0.038
        middle = torch.stack([middle[:, 0], brow, middle[:, 2]], 1)
        away = local - middle[:, None]
        device = vertices.device
        angle = 2 * math.pi * torch.arange(CAP_COLUMNS, device=device) / CAP_COLUMNS
        rise = (math.pi / 2) * torch.arange(CAP_ROWS, device=device) / (CAP_ROWS - 1)
        ways = torch.stack(
            [
                rise.cos()[:, None] * angle.sin(),
                rise.sin()[:, None].expand(-1, CAP_COLUMNS),
                rise.cos()[:, None] * angle.cos(),
            ],
            -1,
        ).reshape(-1, 3)  # fmt: skip
        # a hull's support function is never less than its radius, and smooth
        reach = (away @ ways.T).amax(1) + 0.008
        dome = middle[:, None] + reach[..., None] * ways
        edge = dome[:, :CAP_COLUMNS]
        front = angle.cos().clamp(min=0) ** 1.5
        depth = torch.linspace(0, 1, VISOR_ROWS, device=device)[:, None] * front * 0.062
        fall = torch.stack([torch.zeros_like(depth), -0.35 * depth - 2 * depth**2, depth], -1)
        visor = edge[:, None] + fall
        return [dome @ axes, visor.flatten(1, 2) @ axes]


@cache
def _row(device: torch.device, *values: float) -> Float[Tensor, " N"]:
    """A constant on a device: sending it there anew would wait for all that runs there."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _grid(rows: int, columns: int, around: bool, closed: bool = False) -> Int[Tensor, "T 3"]:
    """Triangles of rows × columns points; `around` joins the last column to the first."""
    r = torch.arange(rows if closed else rows - 1)[:, None]
    c = torch.arange(columns if around else columns - 1)
    below, beside = (r + 1) % rows, (c + 1) % columns
    a, b = r * columns + c, below * columns + c
    d, e = r * columns + beside, below * columns + beside
    quads = torch.stack(torch.broadcast_tensors(a, b, e, d), -1).reshape(-1, 4)
    return torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _shirt(rim: Float[Tensor, "B R 3"], axes: Tensor) -> Float[Tensor, "B N 3"]:
    """A collar round the neck, shoulders, and a trunk that leaves the picture below."""
    local = rim @ axes.transpose(1, 2)
    center = local.mean(1, keepdim=True)
    away = local - center
    level = _row(rim.device, 1, 0, 1)
    way = functional.normalize(away * level, dim=-1)[:, None]
    part = torch.linspace(0, 1, SHIRT_ROWS, device=rim.device)[:, None]
    over = (part / 0.6).clamp(max=1)  # from the neck to the edge of the shoulders
    trunk = (part - 0.6).clamp(min=0) / 0.4
    wide = over**1.3
    # half an ellipse of 0.21 m to a side and 0.11 m front to back, standing a little behind
    reach = _row(rim.device, 0.21, 0, 0.11) * way
    ring = 1.08 * (away * level)[:, None] * (1 - wide)[..., None] + reach * wide[..., None]
    ring = ring + _row(rim.device, 0, 0, 0.012) * wide[..., None]
    slope = 0.05 + 0.045 * way[..., 2].abs()
    drop = slope * over + 0.03 * over**4 + 0.30 * trunk
    height = away[:, None, :, 1] * (1 - over) + 0.010 - drop
    place = torch.stack([ring[..., 0], height, ring[..., 2]], -1) + center[:, None]
    return place.flatten(1, 2) @ axes


def _glasses(
    frame: Float[Tensor, "B 4"], axes: Tensor, eyes: Tensor, ears: Tensor
) -> list[Float[Tensor, "B N 3"]]:
    """Two rims, two lenses, a bridge and two temples."""
    local = eyes @ axes.transpose(1, 2)
    rest = ears @ axes.transpose(1, 2)
    across, high, square, wire = (frame[:, k, None] for k in range(4))
    wire = wire / 1000
    angle = 2 * math.pi * torch.arange(RIM, device=frame.device) / RIM
    cosine, sine = angle.cos(), angle.sin()
    x = cosine.sign() * cosine.abs() ** (2 / square) * across / 1000
    y = sine.sign() * sine.abs() ** (2 / square) * high / 1000
    rims, lenses, bars = [], [], []
    for index, sign in enumerate((1.0, -1.0)):
        center = local[:, index, None]
        # a little outward and down from the eye, 2.6 cm before its middle, wrapped back at the side
        away = x + sign * 0.002
        place = [center[..., 0] + away, center[..., 1] + y - 0.004,
                 center[..., 2] + 0.027 - 2.0 * (away * sign).clamp(min=0) ** 2]  # fmt: skip
        path = torch.stack(place, -1)
        rims.append(_wire(path, wire, closed=True) @ axes)
        lenses.append(torch.cat([path, path.mean(1, keepdim=True)], 1) @ axes)
        outer = path[:, 0 if sign > 0 else RIM // 2]
        bars.append(_wire(_line(outer, rest[:, index]), 1.2 * wire, closed=False) @ axes)
    part = torch.linspace(-1, 1, TEMPLE, device=frame.device)
    left, right = (
        local[:, 0, 0] - across[:, 0] / 1000 + 0.002, local[:, 1, 0] + across[:, 0] / 1000 - 0.002
    )  # fmt: skip
    middle = (left + right)[:, None] / 2 + part * (left - right)[:, None] / 2
    arch = local.mean(1)
    rise = arch[:, 1, None] + 0.004 + 0.003 * (1 - part**2)
    bridge = torch.stack([middle, rise, arch[:, 2, None] + 0.027 + 0.002 * (1 - part**2)], -1)
    return [*rims, *lenses, _wire(bridge, wire, closed=False) @ axes, *bars]


def _line(start: Float[Tensor, "B 3"], end: Float[Tensor, "B 3"]) -> Float[Tensor, "B N 3"]:
    part = torch.linspace(0, 1, TEMPLE, device=start.device)[:, None]
    return start[:, None] * (1 - part) + end[:, None] * part


def _wire(
    path: Float[Tensor, "B N 3"], radius: Float[Tensor, "B 1"], closed: bool
) -> Float[Tensor, "B K 3"]:
    """A tube round a path."""
    if closed:
        along = path.roll(-1, 1) - path.roll(1, 1)
    else:
        along = torch.cat([path[:, 1:2] - path[:, :1], path[:, 2:] - path[:, :-2],
                           path[:, -1:] - path[:, -2:-1]], 1)  # fmt: skip
    along = functional.normalize(along, dim=-1, eps=1e-9)
    hint = _row(path.device, 0, 0, 1).expand_as(along)
    hint = torch.where(along[..., 2:].abs() > 0.8, hint.roll(1, -1), hint)
    first = functional.normalize(torch.linalg.cross(along, hint), dim=-1)
    second = torch.linalg.cross(along, first)
    angle = 2 * math.pi * torch.arange(RIM_SIDES, device=path.device) / RIM_SIDES
    around = first[:, :, None] * angle.cos()[:, None] + second[:, :, None] * angle.sin()[:, None]
    return (path[:, :, None] + radius[..., None, None] * around).flatten(1, 2)
