"""All the ways in which made heads differ, as one linear space on the reference topology."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.spectrum import laplace_eigenvectors
from topohead.models.carrying import CarriedHead
from topohead.models.controls import ShapeControls, skull_weights, without_motion
from topohead.models.linear import LinearHead

FIELDS = 64
"""Laplace eigenvectors of the reference; the last has a wavelength of 97 mm."""

REACH = 0.012
"""Skin so near in space moves alike in the fields: both lips, both lids, the folds of an ear."""


@dataclass(frozen=True)
class ShapeSpace:
    """Heads mean + Σ weight · row in the head frame, metres, eyeballs always round.

    `names` begin with a group: `control` (MakeHuman's), `stretch` (along x, y, z; weight 1
    doubles), `asymmetry` (1 is extreme), `ict` (first the step from `mean` to that family's mean,
    then its modes), `field` (each eigenvector along x, y, z; rms 1 m over the skin).
    `wavelength` [64] is that of the fields, metres; `even` tells fields whose motion is symmetric.
    """

    names: tuple[str, ...]
    mean: Float[Tensor, "V 3"]
    rows: Float[Tensor, "K V 3"]
    wavelength: Float[Tensor, " F"]
    even: Int[Tensor, "F 3"]

    @cached_property
    def groups(self) -> dict[str, slice]:
        """Where each group's rows are; a group that is not there is left out."""
        found: dict[str, slice] = {}
        for row, name in enumerate(self.names):
            group = name.split(":")[0]
            found[group] = slice(found[group].start if group in found else row, row + 1)
        return found

    def named(self, group: str) -> tuple[str, ...]:
        """The names of a group's rows without the group's."""
        return tuple(name.split(":", 1)[1] for name in self.names[self.groups[group]])


def build_space(
    head: LinearHead,
    controls: ShapeControls,
    asymmetry: Float[Tensor, "A V 3"],
    carried: CarriedHead | None,
) -> ShapeSpace:
    """The space of one reference head; `carried` adds another family's identities."""
    topology, template = head.topology, head.template.double()
    weights = skull_weights(topology, template)
    fields, eigenvalues = laplace_eigenvectors(topology, template, FIELDS, REACH)
    fields = _with_parts(topology, fields)
    axes = torch.eye(3).double()
    stretched = (template - weights @ template)[None] * axes[:, None]
    moved = (fields[:, None, :, None] * axes[None, :, None]).reshape(-1, len(template), 3)
    groups = {
        "control": (controls.names, controls.deltas.double()),
        "stretch": ("xyz", stretched),
        "asymmetry": (range(len(asymmetry)), asymmetry.double()),
        "field": ((f"{k}{axis}" for k in range(FIELDS) for axis in "xyz"), moved),
    }
    if carried is not None:
        step = (carried.mean - controls.base).double()[None]
        modes = ("mean", *(str(k) for k in range(len(carried.identity))))
        groups["ict"] = (modes, torch.cat([step, carried.identity.double()]))
    names = [f"{group}:{name}" for group, (rows, _) in groups.items() for name in rows]
    deltas = {name: rows for name, (_, rows) in groups.items()}
    for name in ("asymmetry", "field"):
        deltas[name] = without_motion(deltas[name], template, weights)
    rows = torch.cat(list(deltas.values()))
    assert topology.mirror is not None
    parity = (fields * fields[:, topology.mirror]).sum(1).sign()
    return ShapeSpace(
        tuple(names),
        controls.base + _round_globes(topology, head.template, controls.base[None])[0],
        (rows + _round_globes(topology, template, rows)).float(),
        (2 * torch.pi / eigenvalues.sqrt()).float(),
        (parity[:, None] * torch.tensor([-1, 1, 1]) > 0).long(),
    )


def _with_parts(topology: Topology, fields: Float[Tensor, "F V"]) -> Float[Tensor, "F V"]:
    """Fields known on skin and sockets, constant on each part inside: the mean around it."""
    around = {
        "tongue": "mouth_socket",
        "teeth_upper": "mouth_socket",
        "teeth_lower": "mouth_socket",
    }
    fields = fields.clone()
    for part, socket in around.items():
        fields[:, topology.regions[part]] = fields[:, topology.regions[socket]].mean(1, True)
    return fields


def _round_globes(
    topology: Topology, template: Float[Tensor, "V 3"], rows: Float[Tensor, "K V 3"]
) -> Float[Tensor, "K V 3"]:
    """Corrections that leave each globe only the translation and size nearest to its motion.

    Fields know nothing of globes: those move with the lids around them.
    """
    out = torch.zeros_like(rows)
    lids = topology.regions["eyelids"]
    for side in ("eye_left", "eye_right"):
        globe = topology.regions[side]
        near = lids[template[lids, 0] * template[globe, 0].mean() > 0]
        own = rows[:, globe]
        still = (own == 0).flatten(1).all(1)
        shift = torch.where(still[:, None], rows[:, near].mean(1), own.mean(1))
        arms = template[globe] - template[globe].mean(0)
        size = ((own - own.mean(1, keepdim=True)) * arms).sum((1, 2)) / arms.square().sum()
        out[:, globe] = shift[:, None] + size[:, None, None] * arms - own
    return out


def encoded(names: Iterable[str]) -> Tensor:
    """Names as bytes for a file of tensors; `decoded` reads them."""
    return torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)


def decoded(tensor: Tensor) -> tuple[str, ...]:
    """The names that `encoded` wrote."""
    return tuple(bytes(tensor.tolist()).decode().split("\n"))
