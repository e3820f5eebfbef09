"""`scan_system` on a CUDA device: a step is the tracker's kernels, recorded once and replayed."""

from threading import get_ident

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.derived import derived
from topohead.solvers.elasticity import ElasticConfig, Elasticity
from topohead.solvers.kernels import elastic_triton
from topohead.solvers.kernels.sparse_triton import ConjugateGradient, Feeds
from topohead.solvers.recording import Recording
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_system import TOLERANCE, FreeSystem, PlanePattern


class _Steps:
    """What steps on one topology share: patterns, the solver's buffers, the recorded work."""

    def __init__(
        self, pattern: PlanePattern, elasticity: Elasticity, iterations: int, device: torch.device
    ) -> None:
        self.blocks = Feeds.of(pattern.blocks, device)
        self.pull = pattern.pull.to(device)
        self.diagonal = torch.from_numpy(pattern.diagonal).to(device)[:, None]
        self.own = torch.tensor([0, 3, 5], device=device)
        self.starts, self.columns = (torch.from_numpy(t).to(device) for t in elasticity.rings[:2])
        stiff = elasticity.matrix
        self.solver = ConjugateGradient(
            (pattern.starts, pattern.columns),
            (stiff.indptr, stiff.indices, stiff.data),
            iterations,
            TOLERANCE,
            device,
        )
        self.recording: Recording | None = None

    def __call__(self, *inputs: Tensor) -> Float[Tensor, "V 3"]:
        """The step that `_step` makes of its inputs."""
        if not inputs[0].is_cuda:  # Triton's interpreter records nothing
            return self._step(*inputs)[0]
        if self.recording is None:
            self.recording = Recording(self._step, inputs, torch.cuda.graph_pool_handle())
        return self.recording(*inputs)[0]

    def _step(
        self,
        rest: Float[Tensor, "V 3"],
        vertices: Float[Tensor, "V 3"],
        planes: Float[Tensor, "S 6"],
        pull: Float[Tensor, "S 3"],
        anchor: Float[Tensor, " V"],
        membrane: Float[Tensor, " E"],
        ring_weights: Float[Tensor, " E"],
        bend: Float[Tensor, " V"],
        stiffness: Float[Tensor, " K"],
    ) -> tuple[Tensor]:
        rings = self.starts, self.columns, membrane
        turns = elastic_triton.local_rotations(rest, vertices, *rings[:2], ring_weights)
        uphill = -(self.pull @ pull).float()
        right = elastic_triton.descent(rest, vertices, turns, rings, bend, anchor, uphill)
        blocks = self.blocks.gather(planes.float())
        blocks[self.diagonal, self.own] += anchor[:, None].float()
        self.solver.stiffen(stiffness)
        return (self.solver.solve(right, blocks).double(),)


def _known(pattern: PlanePattern) -> dict[tuple[str, int, int], _Steps]:
    """By device, iterations and thread (their buffers serve one at a time), filled as met."""
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
        device, known = rest.device, derived(self.pattern, _known)
        key = str(device), iterations, get_ident()
        if key not in known:
            known[key] = _Steps(self.pattern, self.elasticity, iterations, device)
        self.steps = known[key]
        parts = (
            self.elasticity.rings[2],
            self.elasticity.ring_weights,
            self.elasticity.bend.diagonal(),
            self.elasticity.matrix.data.astype(np.float32),
        )
        self.elastic = tuple(torch.from_numpy(part).to(device) for part in parts)

    def _solved(
        self, vertices: Tensor, planes: Tensor, pull: Tensor, anchor: Tensor
    ) -> Float[Tensor, "V 3"]:
        return self.steps(self.rest, vertices, planes, pull, anchor, *self.elastic)
