"""The linear system of a step of all vertices: where the scan pulls, and what elasticity allows.

Its pattern is the topology's: it is worked out once. The solvers are the tracker's, in float32.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from topohead.core import Topology
from topohead.core.derived import derived
from topohead.geometry.sparse_rows import SparseRows
from topohead.solvers.elasticity import ElasticConfig, Elasticity, weighted_squares
from topohead.solvers.kernels.sparse import conjugate_gradient
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import Matches

TOLERANCE = 1e-6
"""Share of the squared preconditioned residual at which a system counts as solved."""


@dataclass(frozen=True)
class PlanePattern:
    """How planes at the finer surface's vertices fill the control mesh's normal equations.

    Vertices (CSR `starts` [V + 1], `columns` [P]) share a 3×3 block where a finer vertex hangs on
    both; `blocks` [P S] holds the products of their weights, `pull` [V S] the weights.
    """

    starts: Int[np.ndarray, " W"]
    columns: Int[np.ndarray, " P"]
    blocks: sparse.csr_matrix
    pull: SparseRows

    @staticmethod
    def of(topology: Topology) -> "PlanePattern":
        """Made once for each topology."""
        return derived(topology, PlanePattern._made)

    @staticmethod
    def _made(topology: Topology) -> "PlanePattern":
        matrix = ScanHead.of(topology).matrix.matrix
        graph, blocks = weighted_squares(matrix)
        return PlanePattern(graph.indptr, graph.indices, blocks, SparseRows(matrix.T.tocsr()))

    @cached_property
    def diagonal(self) -> Int[np.ndarray, " V"]:
        """Where each vertex's own block stands."""
        rows = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return np.flatnonzero(rows == self.columns)


@dataclass(frozen=True)
class Rest:
    """The shape [V 3] that vertices are held to, with `precision` [V], 1/m², and its elasticity."""

    vertices: Float[Tensor, "V 3"]
    precision: Float[Tensor, " V"]
    elasticity: Any


class FreeSystem:
    """Steps of all vertices about a rest shape, float64, on the device of a surface."""

    def __init__(self, surface: ScanHead, config: ElasticConfig, iterations: int) -> None:
        self.surface, self.config, self.iterations = surface, config, iterations
        self.pattern = PlanePattern.of(surface.topology)

    def about(self, vertices: Float[Tensor, "V 3"], precision: Float[Tensor, " V"]) -> Rest:
        """A rest shape that vertices are held to."""
        return Rest(vertices, precision, Elasticity(self.surface.topology, vertices, self.config))

    def step(
        self,
        rest: Rest,
        vertices: Float[Tensor, "V 3"],
        found: Matches,
        weight: Float[Tensor, " M"],
        stiffness: float,
    ) -> Float[Tensor, "V 3"]:
        """The Gauss–Newton step from `vertices`.

        Solves (SᵀN W NᵀS + stiffness K + prior) x = −½ gradient, all divided by the stiffness.
        """
        planes, pull = self._planes(found, weight / stiffness)
        return self._solved(rest, vertices, planes, pull, rest.precision / stiffness)

    def _planes(
        self, found: Matches, weight: Float[Tensor, " M"]
    ) -> tuple[Float[Tensor, "S 6"], Float[Tensor, "S 3"]]:
        """What the matches at every finer vertex want: upper half of w n nᵀ, and w gap n."""
        x, y, z = found.normals.unbind(1)
        products = torch.stack([x * x, x * y, x * z, y * y, y * z, z * z], 1)
        wanted = torch.cat([products, found.gap[:, None] * found.normals], 1) * weight[:, None]
        every = wanted.new_zeros(len(self.surface.skin), 9)
        # unlike index_add this adds in the same order every time
        every = every.index_put((found.rows,), wanted, accumulate=True)
        return every[:, :6], every[:, 6:]

    def _solved(
        self, rest: Rest, vertices: Tensor, planes: Tensor, pull: Tensor, anchor: Tensor
    ) -> Float[Tensor, "V 3"]:
        pattern, still, now = self.pattern, rest.vertices.numpy(), vertices.numpy()
        elasticity: Elasticity = rest.elasticity
        rotations = elasticity.rotations(still, now)
        right = (pattern.pull @ pull).numpy() - elasticity.gradient(still, now, rotations)
        right -= anchor.numpy()[:, None] * (now - still)
        blocks = pattern.blocks @ planes.numpy()
        blocks[pattern.diagonal[:, None], [0, 3, 5]] += anchor.numpy()[:, None]
        stiff = elasticity.matrix
        found = conjugate_gradient(
            right.astype(np.float32),
            pattern.starts,
            pattern.columns,
            blocks.astype(np.float32),
            stiff.indptr.astype(np.int32),
            stiff.indices.astype(np.int32),
            stiff.data.astype(np.float32),
            self.iterations,
            TOLERANCE,
        )
        return torch.from_numpy(found).double()


def free_system(surface: ScanHead, config: ElasticConfig, iterations: int) -> FreeSystem:
    """The system on the device of a surface."""
    if surface.device.type != "cuda":
        return FreeSystem(surface, config, iterations)
    from topohead.solvers.scan_system_cuda import DeviceSystem  # noqa: PLC0415 -- needs Triton

    return DeviceSystem(surface, config, iterations)
