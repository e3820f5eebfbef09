"""Teeth and gums as a mesh of their own, for head models whose rows of teeth are plain bands.

Each crown is a swept superellipse with the mean sizes of its kind (Nelson, Wheeler's Dental
Anatomy, 11th ed., tables of chapters 6 to 12). Rows follow the head model's bands: an affine map
carries them to a person's rest shape; then the upper row moves rigidly with the upper band, which
is the skull's, the lower one with the lower band, which is the jaw's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import HeadModel, Mesh, Topology
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.crowns import LOWER, UPPER, Kind, crown, gum_profile

BANDS = ("teeth_upper", "teeth_lower")

ARCH_WIDTH, ARCH_SHIFT = (0.77, 0.74), (0.0020, -0.0006)
"""Of upper and lower row: half width as a share of the band's, metres in front of the band."""

OVERBITE, DROP = 0.0024, 0.0011
"""Metres by which upper incisors overlap lower ones, and hang below the bands' middle."""

NEWTON = 9
"""Steps to a rotation: rows of teeth are an arch, no line, and nine leave rounding only."""
CYCLE = ((1, 2), (2, 0), (0, 1))

ENAMEL, NECK = (0.66, 0.62, 0.53), (0.58, 0.48, 0.33)
GUM, DARK_GUM = (0.46, 0.17, 0.155), (0.20, 0.085, 0.080)


@dataclass(frozen=True)
class Band:
    """A row's place in the head model: its `vertices`, their middle and the pseudo-inverse of what
    they are about it on the template."""

    vertices: Int[Tensor, " U"]
    middle: Float[Tensor, "3"]
    inverse: Float[Tensor, "3 U"]

    @staticmethod
    def of(template: Float[Tensor, "V 3"], vertices: Int[Tensor, " U"]) -> "Band":
        """The band that lies at these vertices of the template."""
        own = template[vertices]
        return Band(vertices, own.mean(0), torch.linalg.pinv(own - own.mean(0)))

    def to(self, device: torch.device | str) -> "Band":
        """The same on a device."""
        return Band(self.vertices.to(device), self.middle.to(device), self.inverse.to(device))

    def carried(
        self,
        points: Float[Tensor, "*P N 3"],
        rest: Float[Tensor, "*B V 3"],
        posed: Float[Tensor, "*B V 3"],
    ) -> Float[Tensor, "*B N 3"]:
        """Points of the template in heads: affinely to the rest shape, then as the band turns."""
        own = rest[..., self.vertices, :]
        end = own.mean(-2, keepdim=True)
        shaped = (points - self.middle) @ (self.inverse @ (own - end)) + end
        turn, shift = _rigid(own, posed[..., self.vertices, :])
        return shaped @ turn + shift


@dataclass(frozen=True)
class Teeth:
    """Both rows on the template of a head model, metres; lower ones after the upper.

    `topology` has regions `upper`, `lower`, `crowns` and `gums`, and a square of UV for every
    tooth. Linear albedo and perceptual roughness are those of the vertices, of which there may be
    several sets.
    """

    topology: Topology
    vertices: Float[Tensor, "*B T 3"]
    colors: Float[Tensor, "*B T 3"]
    roughness: Float[Tensor, "*B T"]
    bands: tuple[Band, Band]

    def placed(
        self, rest: Float[Tensor, "*B V 3"], posed: Float[Tensor, "*B V 3"]
    ) -> Float[Tensor, "*B T 3"]:
        """The rows in heads (the head model's vertices at rest and posed), any number at once."""
        above = len(self.topology.regions["upper"])
        rows = (self.vertices[..., :above, :], self.vertices[..., above:, :])
        pairs = zip(self.bands, rows, strict=True)
        return torch.cat([band.carried(row, rest, posed) for band, row in pairs], -2)

    def to(self, device: torch.device | str) -> "Teeth":
        """The same on a device; the topology stays where it is."""
        bands = (self.bands[0].to(device), self.bands[1].to(device))
        return replace(self._each(lambda part: part.to(device)), bands=bands)

    def chosen(self, which: Int[Tensor, " B"]) -> "Teeth":
        """One of several sets for each head of a batch."""
        return self._each(lambda part: part[which])

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Teeth":
        vertices, colors, roughness = map(function, (self.vertices, self.colors, self.roughness))
        return replace(self, vertices=vertices, colors=colors, roughness=roughness)

    @staticmethod
    def several(sets: Sequence["Teeth"]) -> "Teeth":
        """Sets for heads of one model as one."""
        return replace(
            sets[0],
            vertices=torch.stack([one.vertices for one in sets]),
            colors=torch.stack([one.colors for one in sets]),
            roughness=torch.stack([one.roughness for one in sets]),
        )

    def mesh(self, rest: Float[Tensor, "V 3"], posed: Float[Tensor, "V 3"]) -> Mesh:
        """The rows in one head."""
        return Mesh(self.topology, self.placed(rest, posed))


def has_bands(head: HeadModel) -> bool:
    """Whether the head model has the plain rows that these teeth take the place of."""
    return all(name in head.topology.regions for name in BANDS)


def make_teeth(head: HeadModel, parameters: SkinParameters, seed: int) -> Teeth:
    """Rows of 14 teeth above and below, slightly out of line as `tooth_disorder` says."""
    template = head.template.cpu()
    bands = (head.topology.regions[BANDS[0]], head.topology.regions[BANDS[1]])
    above, below = (template[band].double().numpy() for band in bands)
    middle = (above[:, 1].min() + below[:, 1].max()) / 2 - DROP
    random = np.random.default_rng([seed, 61])
    rows = [
        _row(above, UPPER, 1.0, middle - OVERBITE / 2, parameters.tooth_disorder, random),
        _row(below, LOWER, -1.0, middle + OVERBITE / 2, parameters.tooth_disorder, random),
    ]
    return _joined(rows, parameters, random, template, bands)


@dataclass(frozen=True)
class _Part:
    """A grid of vertices [R C 3], closed across its columns; `kind` is None for gums."""

    points: np.ndarray
    height: np.ndarray
    kind: Kind | None


def _row(
    band: np.ndarray, kinds: tuple[Kind, ...], up: float, edge: float, disorder: float,
    random: np.random.Generator,
) -> list[_Part]:  # fmt: skip
    """Crowns and gum of one row; `up` is +1 where roots are above, `edge` the incisors' height."""
    upper = int(up < 0)
    half = np.abs(band[:, 0]).max() * ARCH_WIDTH[upper]
    front, back = band[:, 2].max() + ARCH_SHIFT[upper] - 0.003, band[:, 2].min()
    t = np.linspace(0, np.pi / 2, 400)
    # a half-ellipse, rounder in front
    curve = np.stack([half * np.sin(t), 0 * t, back + (front - back) * np.cos(t) ** 0.9], 1)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    widths = np.array([kind.width for kind in kinds])
    size = min(1.06, 0.92 * length[-1] / widths.sum())
    ends = np.concatenate([[0], np.cumsum(widths * size)])
    parts, stations = [], []
    for side in (1.0, -1.0):
        for k, kind in enumerate(kinds):
            middle = (ends[k] + ends[k + 1]) / 2
            jitter = disorder * random.normal(size=5) * [0.00045, 0.0004, 0.0004, 0.09, 0.05]
            place, outward = _along(curve, length, middle)
            along = np.array([outward[2], 0, -outward[0]])
            # molars meet, incisors overlap
            level = edge + up * (OVERBITE / 2) * min(k / 4, 1.0)
            grid, height = crown(kind, size)
            turn = jitter[3]
            x, z = (grid[..., 0] * np.cos(turn) - grid[..., 2] * np.sin(turn),
                    grid[..., 0] * np.sin(turn) + grid[..., 2] * np.cos(turn))  # fmt: skip
            # roots converge: crowns lean out a little towards the edge
            z = z + (0.10 + jitter[4]) * (1 - height) * kind.height * (k < 3)
            points = place + x[..., None] * along + (z + jitter[0])[..., None] * outward
            points[..., 1] = level + jitter[1] + up * height * kind.height * size
            points[..., 0] *= side
            if side < 0:
                points = points[:, ::-1]
            parts.append(_Part(points if up > 0 else points[:, ::-1], height, kind))
            stations.append((side * middle, level + up * kind.height * size, kind, size))
    parts.append(_gum(curve, length, stations, up))
    return parts


def _along(
    curve: np.ndarray, length: np.ndarray, where: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the arch at distances from its middle, and its outward normals there."""
    step = 2e-4
    at = np.abs(where)
    place = np.stack([np.interp(at, length, curve[:, i]) for i in range(3)], -1)
    ahead = np.stack([np.interp(at + step, length, curve[:, i]) for i in range(3)], -1)
    behind = np.stack([np.interp(at - step, length, curve[:, i]) for i in range(3)], -1)
    tangent = ahead - behind
    tangent[..., 0] = np.where(at < step, 1.0, tangent[..., 0])
    tangent[..., 2] = np.where(at < step, 0.0, tangent[..., 2])
    tangent = tangent / np.linalg.norm(tangent, axis=-1, keepdims=True)
    outward = np.stack([-tangent[..., 2], 0 * tangent[..., 0], tangent[..., 0]], -1)
    return place, outward


def _gum(curve: np.ndarray, length: np.ndarray, stations: list, up: float) -> _Part:
    """A band along the row that climbs between the teeth."""
    stations = sorted(stations, key=lambda s: s[0])
    centers = np.array([s[0] for s in stations])
    where = np.linspace(centers[0] - 0.005, centers[-1] + 0.005, 13 * len(stations))
    margin = np.interp(where, centers, [s[1] for s in stations])
    thick = np.interp(where, centers, [s[2].depth * s[3] / 2 for s in stations])
    half = np.interp(where, centers, [s[2].width * s[3] / 2 for s in stations])
    off = np.abs(where[:, None] - centers).min(1) / half
    papilla = 0.0024 * np.clip(off, 0, 1) ** 2.5
    place, outward = _along(curve, length, where)
    outward[:, 0] *= np.sign(where)
    place[:, 0] *= np.sign(where)
    outside, climb, reach = gum_profile()
    points = place[:, None] + (outside * thick[:, None] + reach)[..., None] * outward[:, None]
    points[..., 1] = margin[:, None] + up * (climb - papilla[:, None] * np.exp(-climb / 0.003))
    points = points if up > 0 else points[:, ::-1]
    return _Part(points, np.broadcast_to(np.clip(climb / 0.004, 0, 1), points.shape[:2]), None)


def _joined(
    rows: list[list[_Part]], parameters: SkinParameters, random: np.random.Generator,
    template: Float[Tensor, "V 3"], bands: tuple[Tensor, Tensor],
) -> Teeth:  # fmt: skip
    """All parts as one mesh, each with its own square of UV."""
    parts = [part for row in rows for part in row]
    cells = int(np.ceil(np.sqrt(len(parts))))
    vertices, faces, uvs, face_uvs, colors, rough = [], [], [], [], [], []
    names: dict[str, list[np.ndarray]] = {"upper": [], "lower": [], "crowns": [], "gums": []}
    first = first_uv = 0
    for number, part in enumerate(parts):
        rings, columns = part.points.shape[:2]
        closed = part.kind is not None
        across = columns if closed else columns - 1
        row, column = np.meshgrid(np.arange(rings - 1), np.arange(across), indexing="ij")
        after = (column + 1) % columns
        corners = [(row, column), (row, after), (row + 1, after), (row + 1, column)]
        faces.append(np.stack([first + r * columns + c for r, c in corners], -1).reshape(-1, 4))
        wide = columns + closed
        corners = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
        face_uvs.append(np.stack([first_uv + r * wide + c for r, c in corners], -1).reshape(-1, 4))
        v, u = np.meshgrid(np.linspace(0.03, 0.97, rings), np.linspace(0.03, 0.97, wide),
                           indexing="ij")  # fmt: skip
        uvs.append((np.stack([u + number % cells, v + number // cells], -1) / cells).reshape(-1, 2))
        vertices.append(part.points.reshape(-1, 3))
        tint, gloss = _look(part, parameters, random)
        colors.append(tint.reshape(-1, 3))
        rough.append(np.full(rings * columns, gloss))
        mine = np.arange(first, first + rings * columns)
        names["upper" if number < len(rows[0]) else "lower"].append(mine)
        names["crowns" if closed else "gums"].append(mine)
        first, first_uv = first + rings * columns, first_uv + rings * wide
    topology = Topology(
        first,
        torch.from_numpy(np.concatenate(faces)),
        torch.from_numpy(np.concatenate(uvs)).float(),
        torch.from_numpy(np.concatenate(face_uvs)),
        {name: torch.from_numpy(np.concatenate(members)) for name, members in names.items()},
        name="topohead-teeth",
    )
    table = [torch.from_numpy(np.concatenate(x)).float() for x in (vertices, colors, rough)]
    made = [Band.of(template.float(), band) for band in bands]
    return Teeth(topology, table[0], table[1], table[2], (made[0], made[1]))


def _look(
    part: _Part, parameters: SkinParameters, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Linear albedo of a part's vertices, and its roughness."""
    height = part.height[..., None] * np.ones((*part.points.shape[:2], 1))
    if part.kind is None:
        dark = min(parameters.melanin / 1.6, 1.0) ** 1.5
        color = np.array(GUM) + dark * 0.8 * (np.array(DARK_GUM) - np.array(GUM))
        return color * (1 - 0.18 * height) * np.ones((1, 1, 3)), 0.24
    shade = parameters.tooth_shade + 0.25 * (part.kind.name == "canine") + 0.1 * random.normal()
    stain = np.exp(-np.clip(shade, 0, 1.3) * np.array([0.14, 0.24, 0.50]))
    # thin enamel at the edge lets the dark of the mouth through; the neck shows the dentine
    neck = np.clip((height - 0.35) / 0.65, 0, 1) ** 1.5
    edge = np.clip(1 - height / 0.16, 0, 1)
    color = np.array(ENAMEL) * (1 - neck) + np.array(NECK) * neck
    return color * stain * (1 - edge * np.array([0.22, 0.17, 0.10])), 0.15


def _rigid(
    first: Float[Tensor, "*B N 3"], second: Float[Tensor, "*B N 3"]
) -> tuple[Float[Tensor, "*B 3 3"], Float[Tensor, "*B 1 3"]]:
    """Rotation and shift of rows, p @ R + t, of least squared distance (Kabsch 1976).

    The polar factor of the covariance by Newton's iteration (Higham 1986), scaled by determinants:
    nothing waits for a GPU. Sets that are near mirror images of each other have none.
    """
    a, b = first.mean(-2, keepdim=True), second.mean(-2, keepdim=True)
    turn = (first - a).mT.double() @ (second - b).double()
    for _ in range(NEWTON):
        cofactor = torch.stack(
            [torch.linalg.cross(turn[..., i, :], turn[..., j, :]) for i, j in CYCLE], -2
        )
        determinant = (turn[..., 0, :] * cofactor[..., 0, :]).sum(-1)[..., None, None]
        scale = determinant.abs().clamp(min=1e-60) ** (-1 / 3)
        turn = (scale * turn + cofactor / (determinant * scale)) / 2
    turn = turn.to(first)
    return turn, b - a @ turn
