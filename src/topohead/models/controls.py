"""The reference head's raw shape controls as one basis: people beyond what its modes span.

The linear modes of `models.anny` are what a population has in common. Here every target of
MakeHuman keeps a weight of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Topology
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.meshes import vertex_areas
from topohead.models.anny import BaseMesh, ReferenceHead, head_vertices
from topohead.models.population import SHAPES, Phenotypes, phenotype_weights


@dataclass(frozen=True)
class ShapeControls:
    """Heads base + Σ weight · delta in the head frame, metres; without rigid motion of the skull.

    `names` are MakeHuman's macro targets and head shapes, then both ends of each two-ended control
    as `NAME-` and `NAME+`, all with weights in [0, 1].
    """

    names: tuple[str, ...]
    base: Float[Tensor, "V 3"]
    deltas: Float[Tensor, "K V 3"]

    @property
    def sliders(self) -> tuple[str, ...]:
        """The two-ended controls, in the order of their first ends."""
        return tuple(name[:-1] for name in self.names if name.endswith("-"))


def build_controls(base: BaseMesh, reference: ReferenceHead) -> ShapeControls:
    """All head controls of adults, symmetric, as deltas on the reference topology.

    A target that lifts or tilts the head (body height does) loses that motion: translation and
    small rotation are projected out, area-weighted over the skull of the mean head. Lengths change
    by less than the square of a tilt, a few tenths of a per cent.
    """
    kept, topology = head_vertices(base), reference.head.topology
    named: dict[str, tuple[str, ...]] = {name: (name,) for name in _macro(_average())}
    named |= {f"head/head-{shape}": (f"head/head-{shape}",) for shape in SHAPES}
    for name, (low, high) in base.sliders.items():
        named |= {f"{name}-": low, f"{name}+": high}
    deltas = torch.stack([_symmetric(base, topology, kept, names) for names in named.values()])
    template = reference.head.template.double()
    weights = skull_weights(topology, template)
    usual = _macro(_average())
    amounts = torch.tensor([usual.get(name, 0.0) for name in named]).double()
    middle = base.vertices[kept].double() + torch.tensordot(amounts, deltas, 1)
    pose = rigid(middle, template, weights)
    deltas = without_motion(deltas @ pose[:3, :3].T, template, weights)
    start = apply(pose, middle) - torch.tensordot(amounts, deltas, 1)
    return ShapeControls(tuple(named), start.float(), deltas.float())


def _average() -> Phenotypes:
    """The one person in the middle of everything."""
    half = np.full(1, 0.5)
    return Phenotypes(half, 0.7 * half, half, half, half, np.full((1, 3), 1 / 3))


def _macro(who: Phenotypes) -> dict[str, float]:
    return {name: float(value[0]) for name, value in phenotype_weights(who).items()}


def _symmetric(
    base: BaseMesh, topology: Topology, kept: Tensor, names: Sequence[str]
) -> Float[Tensor, "V 3"]:
    delta = torch.stack([base.target(name)[kept] for name in names]).sum(0)
    assert topology.mirror is not None
    return (delta + delta[topology.mirror] * torch.tensor([-1.0, 1, 1])) / 2


def skull_weights(topology: Topology, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, " V"]:
    """Area around each vertex of face and scalp, elsewhere zero; sums to one."""
    weights = vertex_areas(vertices, topology.triangles)
    weights[~topology.region_mask("face", "scalp")] = 0
    return weights / weights.sum()


def without_motion(
    deltas: Float[Tensor, "K V 3"], vertices: Float[Tensor, "V 3"], weights: Float[Tensor, " V"]
) -> Float[Tensor, "K V 3"]:
    """The deltas less the translation and small rotation that fit them best, weighted."""
    shift = torch.einsum("v,kvc->kc", weights, deltas)
    arms = vertices - weights @ vertices
    # Σ w (|a|² I − a aᵀ) ω = Σ w a × d
    square = arms.square().sum(1)[:, None, None] * torch.eye(3).to(arms)
    inertia = (weights[:, None, None] * (square - arms[:, :, None] * arms[:, None, :])).sum(0)
    torque = torch.einsum(
        "v,kvc->kc", weights, torch.linalg.cross(arms[None].expand_as(deltas), deltas)
    )
    turn = torch.linalg.solve(inertia, torque.T).T
    rotation = torch.linalg.cross(turn[:, None].expand_as(deltas), arms[None].expand_as(deltas))
    return deltas - shift[:, None] - rotation
