"""Single crowns and the gum's profile: mean sizes of the kinds of teeth, and their shapes."""

from dataclasses import dataclass

import numpy as np

AROUND = 20
"""Vertices around a crown."""


@dataclass(frozen=True)
class Kind:
    """A kind of tooth, metres: width along the row, height of the crown, depth cheek to tongue.

    `thin` is the share of the depth that is left at the edge, `cusps` how many points it has.
    """

    name: str
    width: float
    height: float
    depth: float
    thin: float
    cusps: int


UPPER = (
    Kind("central incisor", 0.0085, 0.0105, 0.0070, 0.20, 0),
    Kind("lateral incisor", 0.0065, 0.0090, 0.0060, 0.22, 0),
    Kind("canine", 0.0076, 0.0100, 0.0080, 0.30, 1),
    Kind("first premolar", 0.0071, 0.0085, 0.0090, 0.72, 2),
    Kind("second premolar", 0.0067, 0.0085, 0.0090, 0.75, 2),
    Kind("first molar", 0.0104, 0.0075, 0.0110, 0.82, 4),
    Kind("second molar", 0.0098, 0.0070, 0.0108, 0.82, 4),
)
LOWER = (
    Kind("central incisor", 0.0052, 0.0088, 0.0058, 0.22, 0),
    Kind("lateral incisor", 0.0056, 0.0092, 0.0062, 0.22, 0),
    Kind("canine", 0.0068, 0.0105, 0.0076, 0.30, 1),
    Kind("first premolar", 0.0070, 0.0085, 0.0077, 0.66, 2),
    Kind("second premolar", 0.0071, 0.0080, 0.0082, 0.72, 2),
    Kind("first molar", 0.0112, 0.0075, 0.0104, 0.84, 4),
    Kind("second molar", 0.0106, 0.0070, 0.0100, 0.84, 4),
)


def crown(kind: Kind, size: float) -> tuple[np.ndarray, np.ndarray]:
    """A crown as rings from under the gum to the middle of its edge.

    Offsets [R AROUND 3] along the row, up (0) and outward, metres, and heights [R AROUND], 0 at the
    edge and 1 at the gum.
    """
    levels = np.array([1.18, 1.0, 0.86, 0.70, 0.52, 0.34, 0.18, 0.08, 0.02, 0.0, 0.0, 0.0])
    shrink = np.array([1, 1, 1, 1, 1, 1, 1, 1.0, 0.975, 0.91, 0.5, 0.0])
    angle = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    power = 2 / 2.5  # a superellipse, between an ellipse and a rectangle
    across = np.sign(c) * np.abs(c) ** power
    outward = np.sign(s) * np.abs(s) ** power
    # narrow at the neck, widest where neighbours touch, rounded at the edge
    broad = np.interp(levels, [0, 0.12, 0.35, 1.0, 1.2], [0.97, 1.0, 1.0, 0.80, 0.74])
    deep = np.interp(levels, [0, 0.5, 1.0, 1.2], [kind.thin, 0.5 * (1 + kind.thin), 0.92, 0.85])
    if kind.cusps >= 2:
        deep = np.interp(levels, [0, 0.35, 0.7, 1.2], [kind.thin, 1.0, 0.98, 0.85])
    x = (shrink * broad)[:, None] * across * kind.width * size * 0.5
    z = (shrink * deep)[:, None] * outward * kind.depth * size * 0.5
    # the outer face is the flatter one: incisors are wedges whose edge lies towards the lips
    lean = 0.5 * kind.depth * size * (0.92 - deep) * (0.55 if kind.cusps < 2 else 0.0)
    z = z + lean[:, None]
    height = levels[:, None] + np.zeros_like(x)
    top = np.clip(1 - levels / 0.12, 0, 1)[:, None]
    u, w = x / (kind.width * size * 0.5), (z - lean[:, None]) / (kind.depth * size * 0.5)
    if kind.cusps == 0:
        height = height + top * 0.045 * np.abs(u) ** 3  # rounded corners
    elif kind.cusps == 1:
        height = height + top * 0.22 * np.abs(u) ** 1.2
    else:
        valley = (1 - np.clip(np.abs(w) / 0.7, 0, 1)) * 0.17
        if kind.cusps == 4:
            valley = np.maximum(valley, (1 - np.clip(np.abs(u) / 0.5, 0, 1)) * 0.12)
        height = height + top * valley
    return np.stack([x, 0 * x, z], -1), height


def gum_profile() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Across the gum [9] from cheek to tongue: shares of a tooth's half depth, metres of climb from
    the teeth's necks, metres outward."""
    share = np.array([1.0, 1.0, 0.95, 0.85, 0.0, -0.85, -0.95, -1.0, -1.0])
    climb = np.array([0.0095, 0.0050, 0.0018, -0.0002, 0.0015, -0.0002, 0.0018, 0.0050, 0.0095])
    outward = np.array([0.0016, 0.0016, 0.0010, 0.0002, 0.0, -0.0002, -0.0010, -0.0016, -0.0016])
    return share, climb, outward
