"""What a head model lacks: two rows of teeth, and a plug that closes the neck."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.synthesis.subjects import Subject, Surfaces, jaw_transform

ENAMEL, GUM = (0.66, 0.58, 0.46), (0.42, 0.14, 0.12)
PLUG = (0.06, 0.06, 0.065)

TOOTH_WIDTHS = (8.5, 6.5, 7.6, 7.0, 6.8, 9.5, 9.0)
"""Millimetres, from the middle outwards: two incisors, canine, two premolars, two molars."""


@dataclass(frozen=True)
class Props:
    """A triangle mesh of plain vertex colours (linear albedo) and roughness, world metres."""

    vertices: Float[Tensor, "P 3"]
    triangles: Int[Tensor, "Q 3"]
    colors: Float[Tensor, "P 3"]
    roughness: Float[Tensor, " P"]


@dataclass(frozen=True)
class Dentures:
    """Teeth in the head frame at rest; `lower` marks the vertices that move with the jaw."""

    vertices: Float[Tensor, "D 3"]
    triangles: Int[Tensor, "E 3"]
    colors: Float[Tensor, "D 3"]
    lower: Tensor


def make_dentures(subject: Subject) -> Dentures | None:
    """Two rows of teeth behind the lips; None when the head model brings its own."""
    topology = subject.head.topology
    if "teeth" in topology.regions:
        return None
    points = topology.landmarks["ibug68"]
    corners = subject.rest[topology.triangles[points.triangles]]
    marks = (corners * points.barycentrics[..., None]).sum(1)
    width = float((marks[54] - marks[48]).norm())
    # the biting line: where the lips meet, a lip's thickness behind the front of the mouth
    bite = (marks[[61, 62, 63]].mean(0) + marks[[65, 66, 67]].mean(0)) / 2
    bite = bite - torch.tensor([0.0, 0.0, 0.0065])
    scale = width / 0.050
    rows = [_row(bite.numpy(), scale, upper) for upper in (True, False)]
    count = len(rows[0][0])
    vertices = np.concatenate([row[0] for row in rows])
    triangles = np.concatenate([rows[0][1], rows[1][1] + count])
    colors = np.concatenate([row[2] for row in rows])
    lower = torch.arange(len(vertices)) >= count
    return Dentures(
        torch.tensor(vertices).float(), torch.tensor(triangles), torch.tensor(colors).float(), lower
    )


def props_at(
    subject: Subject,
    dentures: Dentures | None,
    surfaces: Surfaces,
    coefficients: Float[Tensor, " 52"],
    pose: Float[Tensor, "4 4"],
) -> Props:
    """The props in one instant; `pose` moves the first frame's head to this one."""
    parts = [_neck_plug(subject.rim, surfaces)]
    if dentures is not None:
        rotation, shift = jaw_transform(subject, coefficients)
        moved = dentures.vertices @ rotation.T + shift
        local = torch.where(dentures.lower[:, None], moved, dentures.vertices)
        place = (pose @ subject.place).float()
        world = local @ place[:3, :3].T + place[:3, 3]
        rough = torch.full((len(world),), 0.22)
        parts.append(Props(world, dentures.triangles, dentures.colors, rough))
    shifts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Props(
        torch.cat([part.vertices for part in parts]),
        torch.cat([part.triangles + int(s) for part, s in zip(parts, shifts, strict=False)]),
        torch.cat([part.colors for part in parts]),
        torch.cat([part.roughness for part in parts]),
    )


def _neck_plug(edges: Int[Tensor, "E 2"], surfaces: Surfaces) -> Props:
    """A dark disk across the open rim of the neck, so that no camera looks into the head."""
    used, index = torch.unique(edges, return_inverse=True)
    points = surfaces.surface[used]
    center = points.mean(0, keepdim=True)
    middle = torch.full((len(edges), 1), len(used))
    # the rim runs with the neck's faces; the plug's outside is the other way round
    triangles = torch.cat([index[:, [1]], index[:, [0]], middle], 1)
    vertices = torch.cat([points, center])
    colors = torch.tensor(PLUG).expand(len(vertices), 3)
    return Props(vertices, triangles, colors, torch.full((len(vertices),), 0.8))


def _row(bite: np.ndarray, scale: float, upper: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row of teeth as a bent strip: crowns bulge, necks narrow, gum above."""
    sign = 1.0 if upper else -1.0
    widths = np.array(TOOTH_WIDTHS) * (1.0 if upper else 0.88) * scale / 1000
    edges = np.concatenate([[0], np.cumsum(widths)])
    along = np.linspace(-edges[-1], edges[-1], 225)
    which = np.clip(np.searchsorted(edges, np.abs(along), side="right") - 1, 0, len(widths) - 1)
    across = (np.abs(along) - edges[which]) / widths[which] * 2 - 1  # −1…1 within a tooth
    # rows of the strip: inside top, biting edge, crown, neck, gum
    heights = np.array([2.0, 0.0, 0.4, 3.0, 6.5, 8.0, 9.0, 13.0]) * scale / 1000
    depths = np.array([-4.5, -1.5, -0.2, 0.5, 0.0, -0.3, 0.2, -0.5]) * scale / 1000
    enamel = np.array([1, 1, 1, 1, 1, 0.6, 0, 0])
    angle, place = _arch(along, (0.025 if upper else 0.0235) * scale)
    normal = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], 1)
    bulge = np.sqrt(np.clip(1 - across**2, 0, 1))
    crown = np.where(which < 3, 1.0, 0.85) - 0.06 * (which == 1)
    vertices = np.zeros((len(along), len(heights), 3))
    for k, (height, depth, hard) in enumerate(zip(heights, depths, enamel, strict=True)):
        out = depth + hard * (bulge - 0.7) * 0.0011 * scale
        tip = (1 - crown) * 0.008 * scale + (1 - bulge) * 0.0009 * scale
        rise = height if height > 0.004 * scale else height + tip
        overlap = 0.0012 * scale if upper else -0.0002  # upper incisors bite over the lower
        behind = 0.0 if upper else -0.0025 * scale
        vertices[:, k] = place + normal * (out + behind)[:, None]
        vertices[:, k, 1] += sign * (rise) - overlap
    gap = np.clip((1 - np.abs(across)) / 0.12, 0, 1)[:, None, None]
    color = np.array(GUM) + (np.array(ENAMEL) - np.array(GUM)) * enamel[None, :, None]
    color = color * np.where(enamel[None, :, None] > 0, 0.45 + 0.55 * gap, 1.0)
    return (
        (vertices + bite).reshape(-1, 3),
        _strip(*vertices.shape[:2], upper),
        color.reshape(-1, 3),
    )


def _arch(along: np.ndarray, half_width: float) -> tuple[np.ndarray, np.ndarray]:
    """Direction outward and place on a half ellipse, by arc length from its front."""
    t = np.linspace(-np.pi / 2, np.pi / 2, 2001)
    x, z = half_width * np.sin(t), 1.55 * half_width * (np.cos(t) - 1)
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    length -= length[1000]
    at = np.interp(along, length, t)
    place = np.stack(
        [half_width * np.sin(at), np.zeros_like(at), 1.55 * half_width * (np.cos(at) - 1)], 1
    )
    return np.arctan2(1.55 * np.sin(at), np.cos(at)), place


def _strip(columns: int, rows: int, upper: bool) -> np.ndarray:
    """Triangles of a grid, facing away from the arch's inside."""
    i, k = np.meshgrid(np.arange(columns - 1), np.arange(rows - 1), indexing="ij")
    a = (i * rows + k).ravel()
    b, c, d = a + rows, a + rows + 1, a + 1
    quads = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return quads if upper else quads[:, ::-1].copy()
