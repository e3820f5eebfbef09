"""Gauss–Newton on every vertex of a mesh, held together by elasticity about a rest shape."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree

from topohead.core import Topology
from topohead.geometry.alignment import apply, rigid
from topohead.geometry.meshes import connected_parts
from topohead.solvers.elasticity import ElasticConfig, Elasticity, block_slots, vertex_graph
from topohead.solvers.evidence import Evidence
from topohead.solvers.kernels import sparse


@dataclass(frozen=True)
class FreeFormConfig:
    """How a surface may leave its rest shape."""

    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    anchor: float = 0.006
    """Standard deviation of a vertex about the rest shape, metres."""
    step: float = 0.004
    """Longest move of a vertex in one step, metres."""
    solver_iterations: int = 60
    """Conjugate-gradient iterations in a step."""


class FreeForm:
    """A rest shape, its stiffness, and steps that follow evidence away from it."""

    def __init__(
        self, topology: Topology, rest: Float[np.ndarray, "V 3"], config: FreeFormConfig
    ) -> None:
        self.topology, self.rest, self.config = topology, rest, config
        self.elasticity = Elasticity(topology, torch.from_numpy(rest), config.elastic)
        patch = np.pi * (config.elastic.patch / 2) ** 2
        self.anchor = self.elasticity.areas / patch / config.anchor**2
        stiff = self.elasticity.matrix.copy()
        # a vertex of no area (no triangle) would leave the system singular
        stiff.setdiag(stiff.diagonal() + self.anchor + 1e-9 * stiff.diagonal().mean())
        self.stiffness = (
            stiff.indptr.astype(np.int32),
            stiff.indices.astype(np.int32),
            stiff.data.astype(np.float32),
        )
        self.graph = vertex_graph(topology.triangles.numpy(), len(rest))

    def follow(
        self,
        vertices: Float[np.ndarray, "V 3"],
        gather: Callable[[Float[np.ndarray, "V 3"]], Evidence],
        iterations: int,
    ) -> Float[np.ndarray, "V 3"]:
        """The surface after Gauss–Newton steps; `gather` says what the pictures want each time."""
        for _ in range(iterations):
            rotations = self.elasticity.rotations(self.rest, vertices)
            move = self._step(vertices, rotations, gather(vertices))
            length = np.linalg.norm(move, axis=1, keepdims=True)
            vertices = vertices + move * np.minimum(1, self.config.step / np.maximum(length, 1e-12))
        return vertices

    def _step(
        self, vertices: np.ndarray, rotations: np.ndarray, evidence: Evidence
    ) -> Float[np.ndarray, "V 3"]:
        starts, columns = self.graph
        corners = np.ascontiguousarray(evidence.corners, np.int32)
        matrix, vector = sparse.scatter(
            evidence.blocks.astype(np.float32),
            evidence.gradients.astype(np.float32),
            corners,
            evidence.weights.astype(np.float32),
            block_slots(corners, starts, columns),
            len(columns),
            len(vertices),
        )
        pull = self.elasticity.gradient(self.rest, vertices, rotations)
        pull += self.anchor[:, None] * (vertices - self.rest)
        return sparse.conjugate_gradient(
            -(vector + pull).astype(np.float32),
            starts,
            columns,
            matrix,
            *self.stiffness,
            self.config.solver_iterations,
            1e-6,
        )


def carry_loose_parts(
    topology: Topology,
    rest: Float[np.ndarray, "V 3"],
    vertices: Float[np.ndarray, "V 3"],
    neighbours: int = 60,
) -> Float[np.ndarray, "V 3"]:
    """Vertices with every small connected part (eyeballs, teeth) where the skin around it went.

    Each part moves rigidly from `rest`, as its nearest vertices of the largest part did.
    """
    parts = connected_parts(topology).numpy()
    carried = vertices.copy()
    main = np.flatnonzero(parts == 0)
    tree = KDTree(rest[main])
    for part in range(1, parts.max() + 1):
        own = np.flatnonzero(parts == part)
        distance, found = tree.query(rest[own])
        nearest = np.asarray(found)[np.argsort(distance)[: 4 * neighbours]]
        near = main[np.unique(nearest)[:neighbours]]
        if len(near) < 3:
            continue
        motion = rigid(torch.from_numpy(rest[near]), torch.from_numpy(vertices[near]))
        carried[own] = apply(motion, torch.from_numpy(rest[own])).numpy()
    return carried
