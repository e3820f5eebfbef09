"""`scan_system` on a CUDA device, by the tracker's kernels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core.derived import derived
from topohead.geometry.sparse_rows import SparseRows
from topohead.solvers.elasticity import ElasticConfig
from topohead.solvers.kernels import elastic_triton
from topohead.solvers.kernels.sparse_triton import ConjugateGradient, Feeds
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_system import TOLERANCE, FreeSystem, PlanePattern


@dataclass(frozen=True)
class _DevicePattern:
    """A `PlanePattern` on the device."""

    blocks: Feeds
    pull: SparseRows
    diagonal: Int[Tensor, " V"]


def _patterns(pattern: PlanePattern) -> dict[str, _DevicePattern]:
    """By device, filled as they are met."""
    return {}


class DeviceSystem(FreeSystem):
    """The same steps as `FreeSystem`, from float32 kernels."""

    def __init__(
        self,
        surface: ScanHead,
        rest: Float[Tensor, "V 3"],
        precision: Float[Tensor, " V"],
        config: ElasticConfig,
        iterations: int,
    ) -> None:
        super().__init__(surface, rest, precision, config, iterations)
        device, pattern, stiff = rest.device, self.pattern, self.elasticity.matrix
        known = derived(pattern, _patterns)
        if str(device) not in known:
            known[str(device)] = _DevicePattern(
                Feeds.of(pattern.blocks, device),
                pattern.pull.to(device),
                torch.from_numpy(pattern.diagonal).to(device),
            )
        self.there = known[str(device)]
        self.solver = ConjugateGradient(
            (pattern.starts, pattern.columns),
            (stiff.indptr, stiff.indices, stiff.data),
            iterations,
            TOLERANCE,
            device,
        )
        self.rings = tuple(torch.from_numpy(part).to(device) for part in self.elasticity.rings)
        self.ring_weights = torch.from_numpy(self.elasticity.ring_weights).to(device)
        self.bend = torch.from_numpy(self.elasticity.bend.diagonal()).to(device)

    def _solved(
        self, vertices: Tensor, planes: Tensor, pull: Tensor, anchor: Tensor
    ) -> Float[Tensor, "V 3"]:
        rest = self.rest
        starts, columns, membrane = self.rings
        rotations = elastic_triton.local_rotations(
            rest, vertices, starts, columns, self.ring_weights
        )
        uphill = -(self.there.pull @ pull).float()
        rings = starts, columns, membrane
        right = elastic_triton.descent(rest, vertices, rotations, rings, self.bend, anchor, uphill)
        blocks = self.there.blocks.gather(planes.float())
        diagonal = self.there.diagonal[:, None], torch.tensor([0, 3, 5], device=rest.device)
        blocks[diagonal] += anchor[:, None].float()
        return self.solver.solve(right, blocks).double()
