"""`scan_system` on a CUDA device: a step is the tracker's kernels, and can be recorded."""

from math import pi
from threading import get_ident

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from topohead.core import Topology
from topohead.core.derived import derived
from topohead.geometry.sparse_rows import SparseRows
from topohead.solvers.elasticity import ElasticConfig, Pattern
from topohead.solvers.kernels import elastic_triton
from topohead.solvers.kernels.sparse_triton import ConjugateGradient, Feeds
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_samples import median
from topohead.solvers.scan_system import TOLERANCE, FreeSystem, PlanePattern, Rest


class _Material:
    """`Elasticity` of any rest shape, worked out on a device."""

    def __init__(self, topology: Topology, config: ElasticConfig, device: torch.device) -> None:
        pattern, self.config = derived(topology, Pattern), config
        (i, j), triangles, count = pattern.edges, pattern.triangles, topology.vertex_count
        self.triangles = torch.from_numpy(triangles).long().to(device)
        self.edges = torch.from_numpy(np.stack([i, j])).long().to(device)
        self.degree = torch.from_numpy(pattern.degree).double().to(device)
        self.corners, self.ends = (
            SparseRows(sparse.csr_matrix((np.full(rows.size, share),
                       (rows.ravel(), np.repeat(np.arange(len(rows)), rows.shape[1]))),
                       (count, len(rows))), device)
            for rows, share in ((triangles, 1 / 3), (np.stack([i, j], 1), 1.0))
        )  # fmt: skip
        self.products = SparseRows(pattern.products, device)
        self.ring_edges = torch.from_numpy(pattern.ring_edges).long().to(device)

    def __call__(self, rest: Float[Tensor, "V 3"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Membrane and weights of rotations along rings, bending, and the stiffness matrix."""
        config, (i, j) = self.config, self.edges
        a, b, c = (rest[self.triangles[:, k]] for k in range(3))
        area = self.corners @ (0.5 * torch.linalg.cross(b - a, c - a).norm(dim=1))
        length = (rest[i] - rest[j]).norm(dim=1)
        length = torch.maximum(length, 0.05 * median(length))
        patch, share = pi * (config.patch / 2) ** 2, area / self.degree
        membrane = (share[i] + share[j]) / patch / (config.strain * length) ** 2
        local = (self.ends @ length) / self.degree
        bend = area / patch / (config.bending * local.clamp(min=1e-9)) ** 2
        ring = membrane[self.ring_edges]
        stiffness = (self.products @ torch.cat([membrane, bend])).float()
        return ring, ring / ring.mean(), bend, stiffness


class _Steps:
    """What steps on one topology share: patterns and the solver's buffers."""

    def __init__(self, system: "DeviceSystem", device: torch.device) -> None:
        planes, topology = system.pattern, system.surface.topology
        self.material = _Material(topology, system.config, device)
        self.blocks = Feeds.of(planes.blocks, device)
        self.pull = planes.pull.to(device)
        self.diagonal = torch.from_numpy(planes.diagonal).to(device)[:, None]
        self.own = torch.tensor([0, 3, 5], device=device)
        pattern = derived(topology, Pattern)
        rings = pattern.ring_starts, pattern.ring_columns
        self.starts, self.columns = (torch.from_numpy(part).to(device) for part in rings)
        stiff = pattern.matrix
        self.solver = ConjugateGradient(
            (planes.starts, planes.columns),
            (stiff.indptr, stiff.indices, stiff.data),
            system.iterations,
            TOLERANCE,
            device,
        )

    def __call__(
        self, rest: Rest, vertices: Tensor, planes: Tensor, pull: Tensor, anchor: Tensor
    ) -> Float[Tensor, "V 3"]:
        """The step from `vertices`."""
        membrane, ring_weights, bend, stiffness = rest.elasticity
        rings, still = (self.starts, self.columns, membrane), rest.vertices
        turns = elastic_triton.local_rotations(still, vertices, *rings[:2], ring_weights)
        uphill = -(self.pull @ pull).float()
        right = elastic_triton.descent(still, vertices, turns, rings, bend, anchor, uphill)
        blocks = self.blocks.gather(planes.float())
        blocks[self.diagonal, self.own] += anchor[:, None].float()
        self.solver.stiffen(stiffness)
        return self.solver.solve(right, blocks).double()


def _known(pattern: PlanePattern) -> dict[tuple[str, ElasticConfig, int, int], _Steps]:
    """By device, config, iterations and thread (their buffers serve one at a time)."""
    return {}


class DeviceSystem(FreeSystem):
    """The same steps as `FreeSystem`, from float32 kernels."""

    def __init__(self, surface: ScanHead, config: ElasticConfig, iterations: int) -> None:
        super().__init__(surface, config, iterations)
        known = derived(self.pattern, _known)
        key = str(surface.device), config, iterations, get_ident()
        if key not in known:
            known[key] = _Steps(self, surface.device)
        self.steps = known[key]

    def about(self, vertices: Float[Tensor, "V 3"], precision: Float[Tensor, " V"]) -> Rest:
        """A rest shape that vertices are held to."""
        return Rest(vertices, precision, self.steps.material(vertices))

    def _solved(
        self, rest: Rest, vertices: Tensor, planes: Tensor, pull: Tensor, anchor: Tensor
    ) -> Float[Tensor, "V 3"]:
        return self.steps(rest, vertices, planes, pull, anchor)
