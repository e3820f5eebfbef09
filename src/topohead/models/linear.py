"""A head that is a template plus two linear bases."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, Mesh, Topology


@dataclass(frozen=True)
class LinearHead:
    """A `HeadModel` held in memory: head frame, metres; identity standard normal, ARKit-52."""

    topology: Topology
    template: Float[Tensor, "V 3"]
    identity_basis: Float[Tensor, "I V 3"]
    expression_basis: Float[Tensor, "52 V 3"]

    def __post_init__(self) -> None:
        count = self.topology.vertex_count
        for name in ("template", "identity_basis", "expression_basis"):
            shape = tuple(getattr(self, name).shape)
            if shape[-2:] != (count, 3):
                raise ValueError(f"{name} is {shape} for a topology of {count} vertices")
        if len(self.expression_basis) != len(ARKIT_52):
            raise ValueError(
                f"expression_basis has {len(self.expression_basis)} rows, expected {len(ARKIT_52)}"
            )

    def vertices(
        self, identity: Float[Tensor, "*B I"], expression: Float[Tensor, "*B 52"]
    ) -> Float[Tensor, "*B V 3"]:
        """Template + identity · identity_basis + expression · expression_basis, metres."""
        shape = torch.tensordot(identity, self.identity_basis, dims=1)
        return self.template + shape + torch.tensordot(expression, self.expression_basis, dims=1)

    def neutral(self, identity: Float[Tensor, " I"] | None = None) -> Mesh:
        """One person (by default the mean one) at rest."""
        if identity is None:
            return Mesh(self.topology, self.template)
        rest = self.template.new_zeros(len(ARKIT_52))
        return Mesh(self.topology, self.vertices(identity, rest))

    def expressions(self, **weights: float) -> Float[Tensor, " 52"]:
        """Coefficients by ARKit name: `head.expressions(jawOpen=0.5)`."""
        coefficients = self.template.new_zeros(len(ARKIT_52))
        for name, value in weights.items():
            if name not in ARKIT_52:
                raise ValueError(f"unknown expression {name!r}; names are those of ARKIT_52")
            coefficients[ARKIT_52.index(name)] = value
        return coefficients
