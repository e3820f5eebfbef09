"""Lines that expression folds into skin: where they run on the template, and how deep they are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Mesh, Topology
from topohead.geometry.correspondence import closest_points
from topohead.rendering.fields import Fields
from topohead.synthesis.complexions import SkinParameters
from topohead.synthesis.facial_areas import template_landmarks

ACTIONS: Mapping[str, tuple[tuple[str, float], ...]] = {
    "forehead": (("browInnerUp", 0.7), ("browOuterUp*", 0.7)),
    "glabella": (("browDown*", 1.0),),
    "crow": (("eyeSquint*", 0.7), ("cheekSquint*", 0.5), ("mouthSmile*", 0.5)),
    "under_eye": (("eyeSquint*", 0.6), ("cheekSquint*", 0.7)),
    "nasolabial": (("mouthSmile*", 0.8), ("noseSneer*", 0.5), ("mouthUpperUp*", 0.6)),
    "marionette": (("mouthFrown*", 0.8), ("mouthStretch*", 0.5)),
    "bunny": (("noseSneer*", 1.0),),
    "lip": (("mouthPucker", 0.9), ("mouthFunnel", 0.4)),
    "neck": (("jawOpen", 0.3), ("mouthStretch*", 0.3)),
}
"""Which actions fold the lines of a group; * is the side."""

DEPTH: Mapping[str, tuple[float, float]] = {
    "forehead": (0.26, 0.30), "glabella": (0.24, 0.35), "crow": (0.22, 0.26),
    "under_eye": (0.17, 0.16), "nasolabial": (0.46, 0.50), "marionette": (0.38, 0.32),
    "bunny": (0.05, 0.22), "lip": (0.13, 0.20), "neck": (0.30, 0.20),
}  # fmt: skip
"""Millimetres of a group's lines: in the oldest face at rest, and what full action adds."""

WIDTH: Mapping[str, float] = {
    "forehead": 1.3, "glabella": 1.2, "crow": 0.9, "under_eye": 1.0, "nasolabial": 2.8,
    "marionette": 2.2, "bunny": 1.0, "lip": 0.6, "neck": 1.8,
}  # fmt: skip
"""Millimetres from a line's bottom to where its flank is steepest, times √2."""

STEPS = 28
"""Points of a line."""


@dataclass(frozen=True)
class Fold:
    """A line on the template, metres [P 3]; `side` is "Left", "Right" or "" for both."""

    group: str
    side: str
    points: Float[Tensor, "P 3"]
    strength: float


def fold_lines(head: HeadModel) -> tuple[Fold, ...]:
    """All lines of a face, the same for every person, snapped to the template's skin."""
    marks = template_landmarks(head).double().numpy()
    sides = [fold for right in (False, True) for fold in _side(marks, right)]
    folds = [*_middle(marks), *sides]
    topology = head.topology
    hidden = [n for n in ("eyes", "mouth_interior", "teeth", "eye_sockets", "eye_shells", "tongue")
              if n in topology.regions]  # fmt: skip
    kept = ~topology.region_mask(*hidden)[topology.triangles].any(1)
    curves = np.concatenate([points for _, _, points, _ in folds])
    template = head.template.cpu().double()
    skin = _only(topology.triangles[kept], template)
    found, _ = closest_points(torch.from_numpy(curves), skin)
    corners = skin.vertices[skin.topology.triangles[found.triangles]]
    snapped = (corners * found.barycentrics[..., None]).sum(1).reshape(len(folds), STEPS, 3)
    return tuple(
        Fold(group, side, line.float(), strength)
        for (group, side, _, strength), line in zip(folds, snapped, strict=True)
    )


def fold_depths(
    folds: tuple[Fold, ...], parameters: SkinParameters, expression: Float[Tensor, " 52"] | None
) -> list[float]:
    """Metres of every line: what age has left, and what the actions that fold it add."""
    strength = {
        "forehead": parameters.forehead_lines, "glabella": parameters.glabella_lines,
        "crow": parameters.crows_feet, "under_eye": parameters.under_eye_lines,
        "nasolabial": parameters.nasolabial_folds, "marionette": parameters.marionette_lines,
        "bunny": parameters.age, "lip": parameters.lip_lines, "neck": parameters.neck_lines,
    }  # fmt: skip
    played = dict(zip(ARKIT_52, [0.0] * 52 if expression is None else expression.tolist(),
                      strict=True))  # fmt: skip
    depths = []
    for fold in folds:
        still, moved = DEPTH[fold.group]
        act = 0.0
        for name, weight in ACTIONS[fold.group]:
            if not name.endswith("*"):
                act += weight * played[name]
            elif fold.side:
                act += weight * played[name[:-1] + fold.side]
            else:
                act += weight * (played[name[:-1] + "Left"] + played[name[:-1] + "Right"]) / 2
        own = strength[fold.group]
        depth = still * own + moved * (0.5 + 0.5 * own) * min(act, 1.2)
        depths.append(depth * fold.strength / 1000)
    return depths


def fold_height(
    points: Float[Tensor, "N 3"], folds: tuple[Fold, ...], depths: list[float], fields: Fields
) -> Float[Tensor, " N"]:
    """Metres of height at points of the template: furrows with softly raised banks."""
    total = torch.zeros_like(points[:, 0])
    if not len(points):
        return total
    low, high = points.amin(0), points.amax(0)
    near: list[tuple[Fold, float, Tensor]] = []
    touched = torch.zeros_like(total, dtype=torch.bool)
    for fold, depth in zip(folds, depths, strict=True):
        line = fold.points.to(points.device)
        reach = 4.5 * WIDTH[fold.group] / 1000
        bottom, top = line.amin(0) - reach, line.amax(0) + reach
        if depth < 2e-6 or bool(((bottom > high) | (top < low)).any()):
            continue
        box = ((points > bottom) & (points < top)).all(1)
        near.append((fold, depth, box))
        touched |= box
    if not near:
        return total
    p = points[touched]
    wobble = torch.stack([fields.octaves(p, 0.020, 0.008, f"fold{k}", 0.4) for k in range(3)], 1)
    uneven = (1 + 0.25 * fields.octaves(p, 0.018, 0.009, "fold-depth")).clamp(0.2, 1.8)
    bent, added = p + 0.0007 * wobble, torch.zeros_like(p[:, 0])
    for fold, depth, box in near:
        chosen = box[touched].nonzero()[:, 0]
        distance, along = _to_line(bent[chosen], fold.points.to(points.device))
        taper = torch.sin(torch.pi * along).clamp(min=0) ** 0.6
        away = distance / (WIDTH[fold.group] / 1000)
        profile = -torch.exp(-(away**2)) + 0.30 * torch.exp(-(((away - 1.9) / 0.9) ** 2))
        added[chosen] += depth * taper * uneven[chosen] * profile
    total[touched] = added
    return total


def _to_line(
    points: Float[Tensor, "N 3"], line: Float[Tensor, "P 3"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Distance to a polyline, and the share of its length at the nearest point."""
    best = torch.full_like(points[:, 0], 1e9)
    share = torch.zeros_like(best)
    count = len(line) - 1
    for k in range(count):
        step = line[k + 1] - line[k]
        arm = points - line[k]
        t = ((arm @ step) / (step @ step).clamp(min=1e-16)).clamp(0, 1)
        square = (arm - t[:, None] * step).square().sum(1)
        nearer = square < best
        best = torch.where(nearer, square, best)
        share = torch.where(nearer, (k + t) / count, share)
    return best.sqrt(), share


def _only(triangles: Tensor, vertices: Tensor) -> Mesh:
    """A mesh of some triangles."""
    faces = torch.cat([triangles, triangles[:, 2:]], 1)
    uv = torch.zeros(len(vertices), 2)
    return Mesh(Topology(len(vertices), faces, uv, faces), vertices)


_Line = tuple[str, str, np.ndarray, float]


def _curve(*corners: tuple[float, float, float] | np.ndarray) -> np.ndarray:
    """A smooth curve through points, `STEPS` points of it."""
    through = np.array(corners, float)
    return CubicSpline(np.arange(len(through)), through)(np.linspace(0, len(through) - 1, STEPS))


def _middle(marks: np.ndarray) -> list[_Line]:
    """Lines that cross or lie in the symmetry plane."""
    lines: list[_Line] = []
    brow = (marks[19, 1] + marks[24, 1]) / 2
    z = marks[27, 2]
    for k, (rise, half, bow, strength) in enumerate(
        ((0.013, 0.030, 0.004, 0.8), (0.021, 0.036, 0.003, 1.0), (0.030, 0.038, 0.002, 0.9),
         (0.040, 0.033, 0.000, 0.6))
    ):  # fmt: skip
        y, slip = brow + rise, 0.003 * (-1) ** k
        lines.append(("forehead", "", _curve(
            (-half + slip, y - bow, z - 0.012), (-half / 2, y + bow, z), (0, y - 0.3 * bow, z),
            (half / 2, y + bow, z), (half + slip, y - bow, z - 0.012)), strength))  # fmt: skip
    lip = (marks[33, 1] + marks[51, 1]) / 2
    for k in range(11):
        x = (k - 5) * 0.0037 + 0.0006 * (-1) ** k
        if abs(x) < 0.002:
            continue
        top = lip - 0.0005 - 0.0012 * (k % 3) - 0.15 * abs(x)
        bottom = marks[51, 1] + 0.001 - 0.22 * abs(x)
        z_lip = marks[51, 2]
        lines.append(
            (
                "lip",
                "",
                _curve(
                    (0.9 * x, top, z_lip), (x, (top + bottom) / 2, z_lip), (1.04 * x, bottom, z_lip)
                ),
                0.7 + 0.3 * (k % 2),
            )
        )
    chin = marks[8]
    for drop, half, strength in ((0.016, 0.045, 1.0), (0.034, 0.050, 0.8)):
        y, back = chin[1] - drop, chin[2] - 0.035
        lines.append(("neck", "", _curve((-half, y + 0.010, back - 0.03), (-half / 2, y, back),
                                         (0, y - 0.002, back + 0.005), (half / 2, y, back),
                                         (half, y + 0.010, back - 0.03)), strength))  # fmt: skip
    return lines


def _side(marks: np.ndarray, right: bool) -> list[_Line]:
    """Lines of one side, described on the person's left (+x)."""
    flip = np.array([-1.0, 1, 1]) if right else np.ones(3)
    index = (36, 39, 48, 31, 21) if right else (45, 42, 54, 35, 22)
    outer, inner, mouth, wing, brow = (marks[i] * flip for i in index)
    side = "Right" if right else "Left"

    def at(mark: np.ndarray, x: float, y: float, z: float = 0.0) -> np.ndarray:
        return mark + np.array([x, y, z]) / 1000

    found: list[tuple[str, np.ndarray, float]] = []
    for slope, start, length, strength in ((0.55, 6, 13, 0.7), (0.2, 7, 17, 1.0),
                                           (-0.15, 7, 17, 0.9), (-0.55, 6, 15, 0.8)):  # fmt: skip
        first = at(outer, start, slope * 5, -2)
        found.append(
            (
                "crow",
                _curve(
                    first,
                    at(first, length / 2, slope * length / 2 - 0.6, -5),
                    at(first, length, slope * length * 0.8 - 2.0, -12),
                ),
                strength,
            )
        )
    middle = (outer + inner) / 2
    for drop, strength in ((9, 1.0), (13, 0.8), (17, 0.5)):
        found.append(
            (
                "under_eye",
                _curve(
                    at(inner, 3, -drop * 0.6, 2),
                    at(middle, -3, -drop, 6),
                    at(middle, 8, -drop * 0.95, 3),
                    at(outer, 1, -drop * 0.55, -1),
                ),
                strength,
            )
        )
    found.append(
        (
            "glabella",
            _curve(at(brow, -6.2, -4, 0), at(brow, -6.8, 3, 1), at(brow, -5.6, 11, 1)),
            1.0,
        )
    )
    found.append(
        ("glabella", _curve(at(brow, -3.2, 0, 0), at(brow, -2.8, 6, 0), at(brow, -1.5, 12, 0)), 0.5)
    )
    found.append(
        (
            "nasolabial",
            _curve(
                at(wing, 5.5, 7, -4),
                at(wing, 12, 0, -4),
                at(mouth, 5.5, 8, 0),
                at(mouth, 8.5, 0, -3),
                at(mouth, 7.5, -7, -4),
            ),
            1.0,
        )
    )
    found.append(
        (
            "marionette",
            _curve(at(mouth, 3.2, -2.5, 0), at(mouth, 4.5, -9, -2), at(mouth, 4.2, -19, -5)),
            1.0,
        )
    )
    nose = (marks[28] + marks[29]) / 2
    for rise in (0, 4.5):
        found.append(
            (
                "bunny",
                _curve(
                    at(nose, 3.5, 7 + rise, 0),
                    at(nose, 6.5, 5 + rise, -3),
                    at(nose, 10, 1 + rise, -8),
                ),
                0.8,
            )
        )
    return [(group, side, points * flip, strength) for group, points, strength in found]
