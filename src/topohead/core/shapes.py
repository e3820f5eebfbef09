"""What a source of heads is: people by number, and each of them in any expression."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from topohead.core.topology import Topology


@runtime_checkable
class Heads(Protocol):
    """Some people, in the head frame, metres: y up, face along +z, the subject's left is +x."""

    @property
    def rest(self) -> Float[Tensor, "B V 3"]:
        """Neutral control vertices."""
        ...

    def posed(
        self,
        coefficients: Float[Tensor, "B 52"],
        gaze: Float[Tensor, "B 2 2"],
        neck: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B V 3"]:
        """Control vertices under ARKit-52 weights; gaze is yaw, pitch of left and right eye."""
        ...


@runtime_checkable
class ShapeSource(Protocol):
    """People as a pure function of seed and number."""

    @property
    def topology(self) -> Topology: ...
    def draw(self, seed: int, indices: Int[Tensor, " B"]) -> Heads: ...


@runtime_checkable
class ExpressionSource(Protocol):
    """ARKit-52 weights and the gaze (yaw, pitch of left and right eye) of numbered samples."""

    def __call__(
        self, seed: int, indices: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 52"], Float[Tensor, "B 2 2"]]: ...
