"""σ of people unlike those that a network was trained on: it cannot know, their shape can tell."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import HeadModel, ScanFit, Topology
from topohead.core.derived import derived
from topohead.solvers.scan_modes import EXPRESSION

SHARE = 400.0
"""So many independent measurements a face's vertices count as: neighbours miss alike."""
NOISE = 1e-4
"""What the people's modes are fitted with, metres: nearly all that they can explain, they do."""
EXPECTED = 0.75
"""Share of σ that the modes leave unexplained of people like those of training; of tuning people
(seed 150: clean, coarse meshes) it is 0.5 to 0.78, of those of an unseen family 0.87 to 1.22."""
GROWTH = 3.0
"""By how much σ grows with what is beyond that."""
EVERY = 3
"""Of the face's vertices, one in so many is looked at."""


@dataclass(frozen=True)
class KnownPeople:
    """The population that a network was trained on: mean [R 3] and principal modes [K R 3], one
    deviation each, of some vertices `rows` of the face; head frame, metres, on the CPU."""

    rows: Int[Tensor, " R"]
    mean: Float[Tensor, "R 3"]
    modes: Float[Tensor, "K R 3"]

    @staticmethod
    def of(
        topology: Topology, mean: Float[Tensor, "V 3"], modes: Float[Tensor, "K V 3"]
    ) -> "KnownPeople":
        """Of modes of all vertices."""
        rows = topology.region_mask("face").nonzero()[::EVERY, 0]
        return KnownPeople(rows, mean[rows], modes[:, rows])

    def remainder(self, fit: ScanFit, head: HeadModel) -> float:
        """Root mean square of what neither people, expressions nor pose explain of a fit's face,
        metres of the head frame."""
        pose, shape = fit.pose.double().cpu(), fit.vertices.cpu()[self.rows].double()
        shape = (shape - pose[:3, 3]) @ torch.linalg.inv(pose[:3, :3]).T
        known = derived(self, _factored)
        if id(head) not in known:
            known[id(head)] = (head, *self._explaining(head))
        _, columns, back = known[id(head)]
        wanted = (shape - self.mean.double()).flatten()
        left = wanted - columns @ (back @ wanted)
        return float((left.square().sum() / len(self.rows)).sqrt())

    def _explaining(self, head: HeadModel) -> tuple[Float[Tensor, "N P"], Float[Tensor, "P N"]]:
        """How the unknowns move the rows, and the unknowns that follow from moved rows."""
        columns, precision = self._columns(head)
        # neighbours miss alike: all of them together count as `SHARE` measurements
        weight = SHARE / len(self.rows) / NOISE**2
        system = weight * columns.T @ columns + precision.diag()
        return columns, torch.linalg.solve(system, weight * columns.T)

    def _columns(self, head: HeadModel) -> tuple[Float[Tensor, "N P"], Float[Tensor, " P"]]:
        """How modes, expressions and a similarity move the rows; and what holds each at nought."""
        mean, axes = self.mean.double(), torch.eye(3).double()
        turns = torch.linalg.cross(axes[:, None].expand(-1, *mean.shape), mean.expand(3, -1, -1))
        shifts = axes[:, None].expand(-1, *mean.shape)
        actions = head.expression_basis.cpu()[:, self.rows].double()
        parts = (self.modes.double(), actions, shifts, turns, mean[None])
        holds = (1.0, EXPRESSION**-2, 0.0, 0.0, 0.0)
        precision = [torch.full((len(p),), h) for p, h in zip(parts, holds, strict=True)]
        return torch.cat(parts).flatten(1).T, torch.cat(precision).double()


def _factored(known: KnownPeople) -> dict[int, tuple[HeadModel, Tensor, Tensor]]:
    """By head, which is kept so that no other gets its number; filled as they are met."""
    return {}


def widened(found: ScanFit, start: ScanFit, head: HeadModel, known: KnownPeople) -> ScanFit:
    """A refined fit with the σ that its people deserve; no smaller one.

    Refining brings a head's true surface. Of people like those of training their modes explain all
    of it but a share of the start's σ (`EXPECTED`); more is left of others, and σ, which knows
    nothing of them, grows by √(1 + `GROWTH`² (left² − expected²)), lengths in σ.
    """
    size = torch.linalg.det(start.pose[:3, :3].double().cpu()) ** (1 / 3)
    face = head.topology.region_mask("face")
    sigma = start.sigma.double().cpu()[face].median() / size
    beyond = (known.remainder(found, head) / sigma) ** 2 - EXPECTED**2
    factor = float((1 + GROWTH**2 * beyond.clamp(min=0)).sqrt())
    return replace(found, sigma=factor * found.sigma)
