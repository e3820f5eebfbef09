"""Random heads by the thousand: rest shapes and their faces in motion, on CPU or CUDA.

Everything is batched tensor algebra on the reference topology at level 0, in the head frame. A head
is a function of (seed, index); on the CPU its bytes depend on neither the batch around it nor the
run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.anthropometry import Callipers
from topohead.geometry.globes import gaze_rotation
from topohead.geometry.gradients import GradientOperator
from topohead.geometry.lids import GlobeContact
from topohead.geometry.skinning import relaxed_head_share
from topohead.geometry.slits import Slit, divided
from topohead.io.assets import reference_head, shape_space
from topohead.models.linear import LinearHead
from topohead.models.shape_space import ShapeSpace
from topohead.synthesis.mixture import Draw, Families, Population, draw_weights, shares
from topohead.synthesis.performances import euler

SMOOTHINGS = 10
"""Of deformation gradients, along edges: a lip's own shape counts, a wrinkle's does not."""
WHOLE = ("tongue", "teeth_upper", "teeth_lower")
"""Parts that follow one gradient each."""
ROUNDS = 4
"""Times that lips and lids are taken apart; their surfaces bend while they move."""
CPU_BLOCK, CUDA_BLOCK = 8, 512
"""Heads at a time. On the CPU every block is filled up to this size: then neither the kernels that
are chosen nor the order of their sums depend on how many heads are asked for."""


@dataclass(frozen=True)
class Shapes:
    """A population on a device: `head` and `space` lie there; `draw` makes people of it.

    Only those of `families`.
    """

    head: LinearHead
    space: ShapeSpace
    gradients: GradientOperator
    lips: Slit
    lids: tuple[Slit, Slit]
    globes: tuple[GlobeContact, GlobeContact]
    callipers: Callipers
    neck: Int[Tensor, " N"]
    neck_share: Float[Tensor, " N"]
    pivot: Float[Tensor, "3"]
    families: Families = "all"

    @property
    def topology(self) -> Topology:
        """The reference topology at level 0."""
        return self.head.topology

    def draw(self, seed: int, indices: Int[Tensor, " B"] | Sequence[int]) -> "Heads":
        """The people with these numbers; see `synthesis.splits` for which seeds are whose."""
        drawn = self.people(seed, indices)
        return self.made(drawn, torch.from_numpy(drawn.weights).float())

    def made(self, drawn: Draw, weights: Float[Tensor, "B K"]) -> "Heads":
        """The heads of a draw; `weights`, its own in float32, may have been sent ahead."""
        rest = _in_blocks(self._rest, weights.to(self.space.rows.device))
        return Heads(self, rest, weights, torch.from_numpy(drawn.source), drawn.attempts)

    def people(self, seed: int, indices: Int[Tensor, " B"] | Sequence[int]) -> Draw:
        """Who has these numbers, as weights of the space: what `draw` begins with, on the CPU."""
        numbers = np.asarray(indices, dtype=np.int64)
        return draw_weights(self._population, seed, numbers, self.families)

    @cached_property
    def _population(self) -> Population:
        space = self.space
        parts = (t.cpu() for t in (space.mean, space.rows, space.wavelength, space.even))
        return Population(ShapeSpace(space.names, *parts), self.callipers)

    def _rest(self, weights: Float[Tensor, "B K"]) -> Float[Tensor, "B V 3"]:
        """Neutral faces: linear shapes whose lids lie outside the globes and lips outside lips."""
        moved = (weights @ self.space.rows.flatten(1)).unflatten(1, (-1, 3))
        rest = self.space.mean + moved
        still = torch.eye(3, device=rest.device).expand(len(rest), 3, 3)
        for contact in self.globes:
            needed = contact.needed.expand(len(rest), -1)
            rest = contact.outside(rest, *contact.placed(rest), still, needed)
        for slit in (self.lips, *self.lids):
            allowed = slit.depth(self.head.template[None]).clamp(min=0)
            rest = slit.apart(rest, allowed.expand(len(rest), -1), ROUNDS)
        return rest


@dataclass(frozen=True)
class Heads:
    """People at rest: `rest` in the head frame, metres.

    `weights` of the shape space's rows; `source` indexes `mixture.SOURCES`; `attempts` counts the
    implausible people drawn before each.
    """

    shapes: Shapes
    rest: Float[Tensor, "B V 3"]
    weights: Float[Tensor, "B K"]
    source: Int[Tensor, " B"]
    attempts: Int[np.ndarray, " B"]

    def __len__(self) -> int:
        return len(self.rest)

    @cached_property
    def centers(self) -> Float[Tensor, "B 2 3"]:
        """Where the globes turn, left first, metres."""
        return torch.stack([c.placed(self.rest)[0] for c in self.shapes.globes], 1)

    @cached_property
    def radii(self) -> Float[Tensor, "B 2"]:
        """Of the globes' spheres, left first, metres."""
        return torch.stack([c.radius * c.placed(self.rest)[1] for c in self.shapes.globes], 1)

    @cached_property
    def gradients(self) -> Float[Tensor, "B V 3 3"]:
        """What carries a motion of the reference's vertex to each person's."""
        return _in_blocks(self.shapes.gradients, self.rest)

    def posed(
        self,
        coefficients: Float[Tensor, "B 52"],
        gaze: Float[Tensor, "B 2 2"] | None = None,
        neck: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B V 3"]:
        """Faces in motion, head frame, metres.

        Each action is carried by the person's deformation gradient (Sumner and Popović 2004).
        Globes turn by `gaze`: yaw to the person's left and pitch up of the left, then the right
        eye, radians. Lids are kept outside the globes; lips and lids do not pass through each other
        further than at rest. `neck` is the head's yaw, pitch and roll (about +y, +x, +z, radians)
        against the shoulders: the head keeps its frame, the neck's rim turns the other way.
        """
        device, count = self.rest.device, len(self.rest)
        gaze = torch.zeros(count, 2, 2, device=device) if gaze is None else gaze
        neck = torch.zeros(count, 3, device=device) if neck is None else neck
        inputs = (t.to(device, torch.float32) for t in (coefficients, gaze, neck))
        return _in_blocks(self._posed, self.rest, self.gradients, *inputs)

    def _posed(
        self, rest: Tensor, gradients: Tensor, coefficients: Tensor, gaze: Tensor, neck: Tensor
    ) -> Float[Tensor, "B V 3"]:
        shapes = self.shapes
        moved = rest + carried(shapes.head.expression_basis, gradients, coefficients)
        turns = gaze_rotation(gaze)
        placed = [contact.placed(rest) for contact in shapes.globes]
        for contact, (center, _), turn in zip(shapes.globes, placed, turns.unbind(1), strict=True):
            arms = rest[:, contact.globe] - center[:, None]
            moved[:, contact.globe] = rest[:, contact.globe] + _turned(arms, turn - _eye(turn))
        for slit in (*shapes.lids, shapes.lips):
            moved = slit.apart(moved, slit.depth(rest).clamp(min=0), ROUNDS)
        for contact, (center, size), turn in zip(
            shapes.globes, placed, turns.unbind(1), strict=True
        ):
            kept = contact.clearance(rest, center, size, _eye(turn))
            needed = torch.minimum(kept, contact.needed)
            moved = contact.outside(moved, center, size, turn, needed)
        arms = moved[:, shapes.neck] - shapes.pivot
        # each vertex by its own angle, so that a turned neck keeps its girth
        turn = euler(-shapes.neck_share[:, None] * neck[:, None]) - torch.eye(3, device=rest.device)
        step = (turn * arms[..., None, :]).sum(-1)
        return moved.index_add(1, shapes.neck, step)


def carried(
    basis: Float[Tensor, "52 V 3"],
    gradients: Float[Tensor, "B V 3 3"],
    coefficients: Float[Tensor, "B 52"],
) -> Float[Tensor, "B V 3"]:
    """The motion of each person's vertices: gradient · Σ coefficient · action."""
    motion = (coefficients @ basis.flatten(1)).unflatten(1, (-1, 3))
    x, y, z = motion[..., None, :].unbind(-1)
    return gradients[..., 0] * x + gradients[..., 1] * y + gradients[..., 2] * z


def load_shapes(
    device: torch.device | str = "cpu",
    ict: str | Path | None = None,
    families: Families = "all",
) -> Shapes:
    """The population of the reference head; ICT-FaceKit's identities join where it is given.

    `ict` is a path to ict_face_model.npz or its folder, by default that in TOPOHEAD_ICT. InputError
    if no people of `families` are known.
    """
    head, space = reference_head(0), shape_space(ict)
    shares(space, families)
    topology, template = head.topology, head.template
    share = 1 - relaxed_head_share(topology).float()
    neck = (share > 1e-4).nonzero()[:, 0]
    rim = topology.regions["boundary"]
    lids = topology.region_mask("eyelids")
    sockets = topology.region_mask("eye_sockets")
    margin = torch.zeros_like(lids)
    mixed = topology.faces[sockets[topology.faces].any(1)]
    margin[mixed] = True
    margin &= lids
    slits = []
    for name in ("eye_left", "eye_right"):
        side = template[:, 0] * template[topology.regions[name], 0].mean() > 0
        slits.append(Slit.of(topology, *divided(topology, template, margin & side, lids & side)))
    lips = Slit.of(topology, *(topology.region_mask(f"lips_{name}") for name in ("upper", "lower")))
    globes = [GlobeContact.of(topology, template, name) for name in ("eye_left", "eye_right")]
    moved = (t.to(device) for t in (space.mean, space.rows, space.wavelength, space.even))
    bases = (t.to(device) for t in (template, head.identity_basis, head.expression_basis))
    return Shapes(
        LinearHead(topology, *bases),
        ShapeSpace(space.names, *moved),
        GradientOperator.of(topology, template, SMOOTHINGS, WHOLE).to(device),
        lips.to(device),
        (slits[0].to(device), slits[1].to(device)),
        (globes[0].to(device), globes[1].to(device)),
        Callipers.of(topology, template),
        neck.to(device),
        share[neck].to(device),
        template[rim].mean(0).to(device),
        families,
    )


def _in_blocks(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The function of inputs with one row a head, some at a time, each block equally large."""
    count, device = len(inputs[0]), inputs[0].device
    size = CPU_BLOCK if device.type == "cpu" else CUDA_BLOCK
    parts = []
    for start in range(0, count, size):
        block = [t[start : start + size] for t in inputs]
        short = size - len(block[0])
        if short and device.type == "cpu":
            block = [torch.cat([t, t[:1].expand(short, *t.shape[1:])]) for t in block]
        parts.append(function(*block)[: size - short])
    return torch.cat(parts)


def _turned(arms: Float[Tensor, "B N 3"], turn: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B N 3"]:
    return (turn[:, None] * arms[..., None, :]).sum(-1)


def _eye(like: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
    return torch.eye(3, device=like.device).expand_as(like)
