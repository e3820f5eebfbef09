"""What a scan does not show moves with the skin around it: globes, tongue, teeth; lids and lips are
taken apart again."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import HeadModel, Topology
from topohead.core.derived import derived
from topohead.geometry.alignment import apply, rotations
from topohead.geometry.lids import GlobeContact
from topohead.geometry.meshes import connected_parts
from topohead.geometry.slits import Slit, divided
from topohead.solvers.recording import Recordings

ROUNDS = 4
"""Times that lips and lids are taken apart; their surfaces bend while they move."""
SOCKET = 1.6
"""Skin within so many radii of a globe's centre carries it."""
AROUND = 0.015
"""Skin and mouth bag that carry tongue and teeth lie so near, metres."""


@dataclass(frozen=True)
class Followers:
    """The parts that are not skin, with what carries each; and the openings that must not cross."""

    template: Float[Tensor, "V 3"]
    globes: tuple[GlobeContact, ...]
    sockets: tuple[Int[Tensor, " _"], ...]
    parts: tuple[tuple[Int[Tensor, " _"], Int[Tensor, " _"]], ...]
    slits: tuple[Slit, ...]
    recordings: Recordings = field(default_factory=Recordings)

    @staticmethod
    def of(head: HeadModel, device: torch.device | str = "cpu") -> "Followers":
        """Of a head with the reference's regions; made once for each, and each device."""
        known = derived(head, Followers._made)
        name = str(device)
        if name not in known:
            known[name] = known["cpu"]._to(device)
        return known[name]

    def _to(self, device: torch.device | str) -> "Followers":
        return Followers(
            self.template.to(device),
            tuple(globe.to(device) for globe in self.globes),
            tuple(rows.to(device) for rows in self.sockets),
            tuple((own.to(device), around.to(device)) for own, around in self.parts),
            tuple(slit.to(device) for slit in self.slits),
        )

    @staticmethod
    def _made(head: HeadModel) -> "dict[str, Followers]":
        topology, template = head.topology, head.template.float()
        globes, sockets = [], []
        part = connected_parts(topology)
        main = part == 0
        for name in ("eye_left", "eye_right"):
            globe = GlobeContact.of(topology, template, name)
            center = template[globe.globe].mean(0) + globe.offset
            near = (template - center).norm(dim=1) < SOCKET * globe.radius
            globes.append(globe)
            sockets.append((near & topology.region_mask("skin")).nonzero()[:, 0])
        eyes = topology.region_mask("eyes")
        parts = []
        for number in range(1, int(part.max()) + 1):
            own = part == number
            if bool((own & eyes).any()):
                continue
            gap = torch.cdist(template[main], template[own]).amin(1)
            parts.append((own.nonzero()[:, 0], main.nonzero()[:, 0][gap < AROUND]))
        slits = _slits(topology, template)
        made = Followers(template, tuple(globes), tuple(sockets), tuple(parts), slits)
        return {"cpu": made}

    @cached_property
    def crossed(self) -> tuple[Float[Tensor, "1 K"], ...]:
        """How deep each slit's sides lie in each other on the template, metres, at least 0."""
        return tuple(slit.depth(self.template[None]).clamp(min=0) for slit in self.slits)

    def follow(
        self,
        before: Float[Tensor, "V 3"],
        after: Float[Tensor, "V 3"],
        pose: Float[np.ndarray, "4 4"],
    ) -> Float[Tensor, "V 3"]:
        """`after` with its other parts where rigid motions of the skin around carry them, float64.

        Globes become spheres again. Lids are pushed out of the globes, lips and lids apart, no
        farther than on the template. All in the scan's frame, on the device of the followers;
        `pose` is head frame to scan.
        """
        there, back = (torch.from_numpy(m).to(before) for m in (pose, np.linalg.inv(pose)))
        return self.recordings("follow", self._followed, before, after, there, back)[0]

    def _followed(
        self, before: Tensor, after: Tensor, there: Tensor, back: Tensor
    ) -> tuple[Float[Tensor, "V 3"]]:
        old, new = apply(back, before).float(), apply(back, after).float()
        around = [*(carriers for _, carriers in self.parts), *self.sockets]
        motions = _motions([(old[rows], new[rows]) for rows in around])
        for (own, _), motion in zip(self.parts, motions, strict=False):
            new[own] = apply(motion, old[own])
        sockets = motions[len(self.parts) :]
        for globe, motion in zip(self.globes, sockets, strict=True):
            center, size = globe.placed(old[None])
            arms = globe.arms - globe.offset
            new[globe.globe] = apply(motion, center + size * arms)
        new = self.apart(new[None])[0]
        return (apply(there, new.double()),)

    def played(
        self, rest: Float[Tensor, "V 3"], moved: Float[Tensor, "B V 3"]
    ) -> Float[Tensor, "B V 3"]:
        """Shapes of one person, head frame: lips and lids apart as far as at rest, globes covered.

        Globes stay where `rest` has them.
        """
        for slit in self.slits:
            allowed = slit.depth(rest[None]).clamp(min=0).expand(len(moved), -1)
            moved = slit.apart(moved, allowed, ROUNDS)
        still = torch.eye(3)[None]
        for globe in self.globes:
            center, size = globe.placed(rest[None])
            kept = globe.clearance(rest[None], center, size, still)
            needed = torch.minimum(kept, globe.needed).expand(len(moved), -1)
            shape = center.expand(len(moved), -1), size.expand(len(moved))
            moved = globe.outside(moved, *shape, still.expand(len(moved), 3, 3), needed)
        return moved

    def crossing(
        self, vertices: Float[Tensor, "V 3"], pose: Float[np.ndarray, "4 4"]
    ) -> Float[Tensor, "2"]:
        """How deep lips, and lids, lie in each other beyond the template's, metres, at least 0."""
        back = torch.from_numpy(np.linalg.inv(pose)).to(vertices)
        return self.recordings("crossing", self._crossing, vertices, back)[0]

    def _crossing(self, vertices: Tensor, back: Tensor) -> tuple[Float[Tensor, "2"]]:
        own = apply(back, vertices).float()[None]
        beyond = [
            (slit.depth(own) - allowed).clamp(min=0).max()
            for slit, allowed in zip(self.slits, self.crossed, strict=True)
        ]
        return (torch.stack([beyond[-1], torch.stack(beyond[:-1]).max()]),)

    def apart(self, vertices: Float[Tensor, "B V 3"]) -> Float[Tensor, "B V 3"]:
        """Heads in the head frame with lips and lids as far apart as the template's, at least."""
        for slit, allowed in zip(self.slits, self.crossed, strict=True):
            vertices = slit.apart(vertices, allowed, ROUNDS)
        still = torch.eye(3, device=vertices.device)[None]
        for globe in self.globes:
            needed = globe.needed[None]
            vertices = globe.outside(vertices, *globe.placed(vertices), still, needed)
        return vertices


def _motions(
    pairs: list[tuple[Float[Tensor, "_ 3"], Float[Tensor, "_ 3"]]],
) -> list[Float[Tensor, "4 4"]]:
    """The rigid motion of each set of points from where they were to where they are."""
    middles = [tuple(part.double().mean(0) for part in pair) for pair in pairs]
    arms = [
        tuple(part.double() - middle for part, middle in zip(*both, strict=True))
        for both in zip(pairs, middles, strict=True)
    ]
    turns = rotations(torch.stack([now.T @ was for was, now in arms]))
    found = torch.eye(4, dtype=turns.dtype, device=turns.device).repeat(len(pairs), 1, 1)
    found[:, :3, :3] = turns
    found[:, :3, 3] = torch.stack(
        [now - turn @ was for turn, (was, now) in zip(turns, middles, strict=True)]
    )
    return list(found.to(pairs[0][0].dtype))


def _slits(topology: Topology, template: Float[Tensor, "V 3"]) -> tuple[Slit, ...]:
    """Both eyes' lids, and the lips."""
    lids, sockets = (topology.region_mask(name) for name in ("eyelids", "eye_sockets"))
    margin = torch.zeros_like(lids)
    margin[topology.faces[sockets[topology.faces].any(1)]] = True
    margin &= lids
    slits = []
    for name in ("eye_left", "eye_right"):
        side = template[:, 0] * template[topology.regions[name], 0].mean() > 0
        slits.append(Slit.of(topology, *divided(topology, template, margin & side, lids & side)))
    upper, lower = (topology.region_mask(f"lips_{name}") for name in ("upper", "lower"))
    return (*slits, Slit.of(topology, upper, lower))
