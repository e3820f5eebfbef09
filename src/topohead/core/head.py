"""What a head model is: identity and ARKit-52 expression to vertices."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from topohead.core.topology import Topology

ARKIT_52: tuple[str, ...] = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft",
    "eyeSquintLeft", "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight",
    "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight", "jawForward",
    "jawRight", "jawLeft", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRight",
    "mouthLeft", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft",
    "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
    "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft",
    "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
    "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The public expression vocabulary, in the order of Live Link Face."""


@runtime_checkable
class HeadModel(Protocol):
    """A linear head in its own frame: y up, face along +z, the person's left is +x, metres.

    v = template + Σ identity_i · identity_basis_i + Σ expression_j · expression_basis_j.
    Identity coefficients are standard normal over the population; expression is ARKit-52 in [0, 1]
    (a zero basis row is a shape that the head cannot make).
    """

    @property
    def topology(self) -> Topology: ...
    @property
    def template(self) -> Float[Tensor, "V 3"]: ...
    @property
    def identity_basis(self) -> Float[Tensor, "I V 3"]: ...
    @property
    def expression_basis(self) -> Float[Tensor, "52 V 3"]: ...
    def vertices(
        self, identity: Float[Tensor, "*B I"], expression: Float[Tensor, "*B 52"]
    ) -> Float[Tensor, "*B V 3"]: ...
