"""What closes a frame: eyeballs and teeth as rigid bodies, lids and lips that do not cross them.

Comes after the surface is solved and changes nothing that the next frame's solution starts from.
"""

import time
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Mesh, TrackedFrame, Views
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.regions import whole_parts
from topohead.solvers.contact import (
    LidContact,
    LipContact,
    lid_contacts,
    lids_outside,
    lip_contact,
    lips_apart,
)
from topohead.solvers.eyes import (
    EyeConfig,
    Eyes,
    Gaze,
    find_eyes,
    look_at_eyes,
    turned_globes,
)
from topohead.solvers.gaze import solve_gaze
from topohead.solvers.mouth_wall import MouthWall, mouth_wall, wall_behind


@dataclass(frozen=True)
class Interiors:
    """What a first frame has of eyes, lids, lips and teeth; a mesh need not have any.

    `teeth` are the vertices of the upper and of the lower arch, empty where there are none.
    """

    first: Float[Tensor, "V 3"]
    eyes: Eyes | None
    lids: tuple[LidContact, ...]
    lips: LipContact | None
    wall: MouthWall | None
    teeth: tuple[Int[Tensor, " N"], Int[Tensor, " M"]]


def find_interiors(
    views: Views, first: Mesh, upright: Float[Tensor, "4 4"], config: EyeConfig | None = None
) -> Interiors:
    """Learn the first frame's interiors; `upright` moves the world to the head's y-up frame."""
    config = config or EyeConfig()
    eyes = find_eyes(first, upright, config)
    if eyes is not None:
        eyes = look_at_eyes(views, eyes, first.vertices, config)
    return Interiors(
        first.vertices.double(),
        eyes,
        lid_contacts(first, eyes),
        lip_contact(first, upright),
        mouth_wall(first.topology, first.vertices),
        (whole_parts(first.topology, "teeth_upper"), whole_parts(first.topology, "teeth_lower")),
    )


def finish_frame(
    views: Views,
    interiors: Interiors,
    answer: TrackedFrame,
    last: Gaze,
    config: EyeConfig | None = None,
) -> tuple[TrackedFrame, Gaze]:
    """A solved frame with its interiors in place, on the host, and where its eyes look.

    Upper teeth go with the skull. Lower teeth go where the head model's jaw has carried them, as
    the rigid body that they were.
    """
    started = time.perf_counter()
    vertices, motion = answer.vertices.double(), answer.pose.double()
    gaze, eyes = last, interiors.eyes
    if eyes is not None:
        gaze = solve_gaze(views, eyes, vertices, motion, last, config or EyeConfig())
        vertices = turned_globes(eyes, vertices, motion, gaze)
        vertices = lids_outside(interiors.lids, eyes, vertices, motion, gaze)
    if interiors.lips is not None:
        vertices = lips_apart(interiors.lips, vertices, motion)
    if interiors.wall is not None:
        vertices = wall_behind(interiors.wall, vertices)
    for arch, moves_with_skull in zip(interiors.teeth, (True, False), strict=True):
        if len(arch) >= 3:
            then = interiors.first[arch]
            way = motion if moves_with_skull else rigid(then, vertices[arch])
            vertices[arch] = apply(way, then)
    seconds = answer.seconds + time.perf_counter() - started
    return replace(answer, vertices=vertices.float(), seconds=seconds), gaze
