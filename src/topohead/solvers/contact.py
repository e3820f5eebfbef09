"""One-sided contact: lids stay outside the globes, lips do not pass through each other.

What touches or overlaps in the first frame may do so later as far: an artist's lid ends inside the
globe, and lips at rest press together. Only what goes beyond is pushed back. Nothing moves where
nothing goes beyond.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.geometry.meshes import neighbour_rings, vertex_normals
from topohead.solvers.eyes import Eyes, Gaze
from topohead.solvers.kernels.contact import overlap

THICKNESS = 1e-4
"""Lids keep this distance from a globe, metres, or what they had in the first frame if less."""
RINGS = 4
"""Edges over which a push fades into the skin around."""
ROUNDS = 4
"""Times that lips are taken apart; their surfaces bend while they move."""
DEEPEST = 6e-3
"""Lips overlapping by more than this, metres, are not a contact but two other sheets."""
SIDEWAYS = 0.2
"""Lip vertices whose normal has less than this cosine to the mouth's closing face no other lip."""


@dataclass(frozen=True)
class Patch:
    """Skin that may move: K `vertices`, and the edges between them as rows of these [E 2]."""

    vertices: Int[Tensor, " K"]
    edges: Int[Tensor, "E 2"]

    def spread(self, push: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
        """No less than `push` (≥ 0) anywhere, fading out over `RINGS` edges."""
        first, second = self.edges.unbind(1)
        count = torch.ones_like(push)
        for row in (first, second):
            count.index_add_(0, row, torch.ones_like(row, dtype=push.dtype))
        smooth = push
        for _ in range(RINGS):
            mean = smooth.clone()
            mean.index_add_(0, first, smooth[second]).index_add_(0, second, smooth[first])
            smooth = torch.maximum(mean / count, push)
        return smooth


@dataclass(frozen=True)
class LidContact:
    """Skin around one eyeball, and the clearance from it that each vertex must keep, metres.

    −inf where it was inside the globe in the first frame or is no lid.
    """

    side: int
    patch: Patch
    needed: Float[Tensor, " K"]


@dataclass(frozen=True)
class LipContact:
    """Both lips: skin that may move, its triangles (rows of it), and who belongs where.

    `allowed` is each vertex's overlap in the first frame, metres; `upright` turns world to head.
    """

    patch: Patch
    triangles: np.ndarray
    upper: Bool[np.ndarray, " K"]
    lower: Bool[np.ndarray, " K"]
    allowed: Float[np.ndarray, " K"]
    upright: Float[Tensor, "3 3"]


def lid_contacts(first: Mesh, eyes: Eyes | None) -> tuple[LidContact, ...]:
    """The lids of both eyes; none where the topology has no lids or no eyes."""
    topology, vertices = first.topology, first.vertices.double()
    if eyes is None or not len(topology.regions.get("eyelids", ())):
        return ()
    lids = topology.region_mask("eyelids")
    free = ~topology.region_mask(*{"eyes", "eye_shells"} & set(topology.regions))
    near = neighbour_rings(topology, lids & free, RINGS) <= RINGS
    found = []
    for side, globe in enumerate(eyes.globes):
        arms = vertices - globe.center
        around = near & free & (arms.norm(dim=1) < 2.2 * globe.radius)
        patch = _patch(topology, around)
        clear = globe.shape.clearance(arms[patch.vertices])
        held = lids[patch.vertices] & (clear > 0)
        found.append(
            LidContact(side, patch, torch.where(held, clear.clamp(max=THICKNESS), -torch.inf))
        )
    return tuple(found)


def lid_depth(
    contact: LidContact,
    eyes: Eyes,
    vertices: Float[Tensor, "V 3"],
    motion: Float[Tensor, "4 4"],
    gaze: Gaze,
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K 3"]]:
    """How far each vertex of a contact is short of its clearance, and its arm about the globe."""
    globe = eyes.globes[contact.side]
    center = motion[:3, :3] @ globe.center + motion[:3, 3]
    arms = vertices[contact.patch.vertices].double() - center
    turn = motion[:3, :3] @ eyes.turns(gaze.angles)[contact.side]
    return contact.needed - globe.shape.clearance(arms @ turn), arms


def lids_outside(
    contacts: tuple[LidContact, ...],
    eyes: Eyes,
    vertices: Float[Tensor, "V 3"],
    motion: Float[Tensor, "4 4"],
    gaze: Gaze,
) -> Float[Tensor, "V 3"]:
    """The vertices with lids pushed out along the globes' radii, to the clearance they need."""
    moved = vertices
    for contact in contacts:
        short, arms = lid_depth(contact, eyes, moved, motion, gaze)
        push = short.clamp(min=0)
        if bool((push > 0).any()):
            step = contact.patch.spread(push)[:, None] * torch.nn.functional.normalize(arms, dim=1)
            moved = moved.index_add(0, contact.patch.vertices, step.to(moved))
    return moved


def lip_contact(first: Mesh, upright: Float[Tensor, "4 4"]) -> LipContact | None:
    """The lips; None where the topology names no upper and lower one."""
    topology = first.topology
    if not all(len(topology.regions.get(name, ())) for name in ("lips_upper", "lips_lower")):
        return None
    upper, lower = (
        neighbour_rings(topology, topology.region_mask(name), RINGS)
        for name in ("lips_upper", "lips_lower")
    )
    patch = _patch(topology, torch.minimum(upper, lower) <= RINGS)
    row = torch.full((topology.vertex_count,), -1)
    row[patch.vertices] = torch.arange(len(patch.vertices))
    triangles = row[topology.triangles]
    triangles = triangles[(triangles >= 0).all(1)].numpy()
    above, below = upper[patch.vertices], lower[patch.vertices]
    contact = LipContact(
        patch,
        triangles,
        (above < below).numpy(),
        (below < above).numpy(),
        np.zeros(len(patch.vertices)),
        upright[:3, :3].double(),
    )
    still = torch.eye(4, dtype=torch.float64)
    allowed = np.maximum(lip_depth(contact, first.vertices, still), 0)
    return replace(contact, allowed=allowed)


def lip_depth(
    contact: LipContact, vertices: Float[Tensor, "V 3"], motion: Float[Tensor, "4 4"]
) -> Float[np.ndarray, " K"]:
    """How much deeper than in the first frame each vertex lies in the other lip, metres.

    Measured along the head's up axis, the mouth's closing direction; −inf away from the other lip.
    """
    places = vertices[contact.patch.vertices].double() - motion[:3, 3]
    places = places @ (contact.upright @ motion[:3, :3].T).T
    triangles = torch.from_numpy(contact.triangles)
    up = vertex_normals(places, triangles)[:, 1].numpy()
    points, depth = places.numpy(), np.full(len(places), -np.inf)
    for own, other, facing in (
        (contact.upper, contact.lower, 1.0),
        (contact.lower, contact.upper, -1.0),
    ):
        sheet = contact.triangles[other[contact.triangles].all(1)]
        chosen = own & (up * facing < -SIDEWAYS)
        depth = np.maximum(depth, overlap(points, chosen, points, sheet, facing))
    depth[depth > DEEPEST] = -np.inf
    return depth - contact.allowed


def lips_apart(
    contact: LipContact, vertices: Float[Tensor, "V 3"], motion: Float[Tensor, "4 4"]
) -> Float[Tensor, "V 3"]:
    """The vertices with each lip moved back by half of what the two overlap."""
    moved = vertices
    up = motion[:3, :3] @ contact.upright[1]
    for _ in range(ROUNDS):
        depth = np.maximum(lip_depth(contact, moved, motion), 0)
        if not (depth > 0).any():
            break
        away = [
            contact.patch.spread(torch.from_numpy(depth * own))
            for own in (contact.upper, contact.lower)
        ]
        step = 0.5 * (away[0] - away[1])[:, None] * up
        moved = moved.index_add(0, contact.patch.vertices, step.to(moved))
    return moved


def _patch(topology: Topology, chosen: Bool[Tensor, " V"]) -> Patch:
    vertices = torch.nonzero(chosen)[:, 0]
    row = torch.full((topology.vertex_count,), -1)
    row[vertices] = torch.arange(len(vertices))
    edges = row[topology.edges]
    return Patch(vertices, edges[(edges >= 0).all(1)])
