"""What is filmed but belongs to no head model: a plug that closes the neck, teeth and gums."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.synthesis.subjects import Subject, Surfaces
from topohead.synthesis.teeth import Teeth

PLUG = (0.06, 0.06, 0.065)
"""Linear albedo: the dark cloth of a neck rest."""


@dataclass(frozen=True)
class Props:
    """A triangle mesh of plain vertex colours (linear albedo) and roughness, world metres."""

    vertices: Float[Tensor, "P 3"]
    triangles: Int[Tensor, "Q 3"]
    colors: Float[Tensor, "P 3"]
    roughness: Float[Tensor, " P"]


def joined(parts: Sequence[Props]) -> Props:
    """Several props as one, in their order."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.vertices))
    return Props(
        torch.cat([part.vertices for part in parts]),
        torch.cat([part.triangles + start for part, start in zip(parts, starts, strict=False)]),
        torch.cat([part.colors for part in parts]),
        torch.cat([part.roughness for part in parts]),
    )


def dentures(teeth: Teeth, subject: Subject, surfaces: Surfaces) -> Props:
    """Both rows of teeth with their gums, where the subject's skull and jaw are."""
    vertices = teeth.placed(subject.rest, surfaces.vertices)
    return Props(vertices, teeth.topology.triangles, teeth.colors, teeth.roughness)


def neck_plug(subject: Subject, surfaces: Surfaces) -> Props:
    """A dark disk across the open rim of the neck, so that no camera looks into the head."""
    edges = subject.rim
    used, index = torch.unique(edges, return_inverse=True)
    points = surfaces.surface[used]
    center = points.mean(0, keepdim=True)
    middle = torch.full((len(edges), 1), len(used))
    # the rim runs with the neck's faces; the plug's outside is the other way round
    triangles = torch.cat([index[:, [1]], index[:, [0]], middle], 1)
    vertices = torch.cat([points, center])
    colors = torch.tensor(PLUG).expand(len(vertices), 3)
    return Props(vertices, triangles, colors, torch.full((len(vertices),), 0.8))
