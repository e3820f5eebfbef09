"""Hair as curves: what growing, drawing and files exchange."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core.topology import SurfacePoints


@dataclass(frozen=True)
class Strands:
    """S polylines of P points, root first, in the head frame; heads are leading axes.

    `widths` are diameters in metres, zero all along a strand that is not there (a head has S slots,
    so that heads of any hair batch). `colors` are linear. The root lies on triangle `root_triangle`
    of the topology that grew it, at `root_barycentrics`.
    """

    points: Float[Tensor, "*B S P 3"]
    widths: Float[Tensor, "*B S P"]
    colors: Float[Tensor, "*B S P 3"]
    root_triangle: Int[Tensor, "*B S"]
    root_barycentrics: Float[Tensor, "*B S 3"]

    @property
    def present(self) -> torch.Tensor:
        """Which slots hold a strand, bool [*B S]."""
        return self.widths[..., 0] > 0

    @property
    def roots(self) -> SurfacePoints:
        """Where the strands of one head stand."""
        return SurfacePoints(self.root_triangle, self.root_barycentrics)

    def head(self, index: int) -> "Strands":
        """One head of a batch, without its empty slots."""
        return Strands(*(part[index] for part in self.parts)).packed()

    def packed(self) -> "Strands":
        """The strands of a single head without its empty slots."""
        kept = self.present
        return Strands(*(part[kept] for part in self.parts))

    def to(self, device: torch.device | str) -> "Strands":
        """The same strands on another device."""
        return Strands(*(part.to(device) for part in self.parts))

    @classmethod
    def loose(
        cls,
        points: Float[Tensor, "*B S P 3"],
        widths: Float[Tensor, "*B S P"],
        colors: Float[Tensor, "*B S P 3"],
    ) -> "Strands":
        """Strands that only are to be drawn: all are said to stand on the first triangle."""
        roots = torch.zeros(points.shape[:-2], dtype=torch.long, device=points.device)
        return cls(points, widths, colors, roots, points.new_zeros(*roots.shape, 3))

    @classmethod
    def joined(cls, *several: "Strands") -> "Strands":
        """The strands of several growths on one head: scalp, brows, beard. P must agree."""
        parts = zip(*(one.parts for one in several), strict=True)
        depths = (3, 2, 3, 1, 2)  # axes from the end that count strands
        return cls(*(torch.cat(part, -depth) for part, depth in zip(parts, depths, strict=True)))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The five tensors, in the order of the fields."""
        return (
            self.points,
            self.widths,
            self.colors,
            self.root_triangle,
            self.root_barycentrics,
        )
