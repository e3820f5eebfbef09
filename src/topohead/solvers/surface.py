"""The surface that a tracker follows: where it is compared, and what holds it together."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, Topology
from topohead.solvers.elasticity import ElasticConfig, Elasticity, block_slots, vertex_graph
from topohead.solvers.features import FeatureConfig
from topohead.solvers.samples import Samples, surface_samples


@dataclass(frozen=True)
class TrackConfig:
    """Numbers of the tracker; lengths in metres, energies dimensionless."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    spacing: float = 0.0012
    """Distance between surface samples."""
    coarse_iterations: tuple[int, ...] = (0, 3, 4, 6)
    """Steps of pose and expression on each level, finest first."""
    free_iterations: tuple[int, ...] = (5, 4, 3, 0)
    """Steps of all vertices on each level, finest first."""
    trust: float = 3.0
    """How many views' worth the first frame's colour weighs against the present views."""
    cut: float = 2.5
    """Residuals this many times the noise count a quarter (Geman–McClure)."""
    evidence: float = 0.08
    """Share of the pixels that count as independent observations."""
    noise: float = 0.35
    """Feature noise assumed at a frame's start; adapted while iterating."""
    min_cosine: float = 0.25
    """Steeper views of a sample are ignored."""
    depth_tolerance: float = 0.004
    """A sample this far behind the visible surface is hidden."""
    expression_spread: float = 0.5
    """Prior standard deviation of expression coefficients."""
    expression_step: float = 0.25
    """Prior standard deviation of their change in a frame."""
    anchor: float = 0.02
    """Prior standard deviation of a vertex about the head model's prediction."""
    memory: float = 0.5
    """Share of the last frame's deviation from the head model that this frame's rest shape has."""
    visibility_period: int = 3
    """Steps between renewals of the depth maps."""
    solver_iterations: int = 40
    """Conjugate-gradient steps in a Gauss–Newton step."""
    jump_below: float = 0.75
    """Share of a region's likeness in the first frame under which a jump is thought of."""
    jump_margin: float = 0.005
    """How much better (mean over regions) the pictures must fit a face that has jumped."""
    hidden: float = 0.5
    """What a hidden sample counts then: more than one that looks wrong, less than one that fits."""
    watched: tuple[str, ...] = ("face", "lips", "eyelids", "nose", "brows")
    """Regions whose agreement with the first frame is watched."""
    agreement_noise: float = 0.12
    """Feature noise under which that agreement is judged."""
    least_agreement: float = 0.4
    """Share of a region's agreement in the first frame under which a frame is called doubtful."""
    untracked: tuple[str, ...] = ("eyes", "mouth_interior")
    """Regions that move on their own and are carried by the model and the surface around them."""


@dataclass(frozen=True)
class Surface:
    """A surface in the first frame; tensors float64, on the device that tracks it.

    `basis` holds expression displacements, `origin` is the vertices' mean. `samples` and `slots`
    (see `elasticity.block_slots`) have one entry a picture level; they and `graph`, the CSR of
    vertices that share a triangle, are arrays on the host.
    """

    topology: Topology
    vertices: Float[Tensor, "V 3"]
    basis: Float[Tensor, "K V 3"]
    origin: Float[Tensor, " 3"]
    samples: tuple[Samples, ...]
    slots: tuple[np.ndarray, ...]
    graph: tuple[np.ndarray, np.ndarray]
    elasticity: Elasticity

    def to(self, device: torch.device) -> "Surface":
        """The same with its tensors elsewhere."""
        return replace(
            self,
            vertices=self.vertices.to(device),
            basis=self.basis.to(device),
            origin=self.origin.to(device),
        )

    def shaped(
        self,
        pose: Float[Tensor, "4 4"],
        expression: Float[Tensor, " K"],
        deviation: Float[Tensor, "V 3"],
    ) -> Float[Tensor, "V 3"]:
        """World vertices of an expression and a deviation in a pose."""
        shape = self.vertices + deviation
        if len(expression):
            shape = shape + torch.einsum("k,kvc->vc", expression, self.basis)
        return (shape - self.origin) @ pose[:3, :3].T + pose[:3, 3] + self.origin

    def deviation(
        self,
        vertices: Float[Tensor, "V 3"],
        pose: Float[Tensor, "4 4"],
        expression: Float[Tensor, " K"],
    ) -> Float[Tensor, "V 3"]:
        """What `shaped` needs besides a pose and an expression to make these vertices."""
        upright = (vertices - self.origin - pose[:3, 3]) @ pose[:3, :3] + self.origin
        return upright - (self.vertices + torch.einsum("k,kvc->vc", expression, self.basis))


def take_surface(first: Mesh, basis: Float[Tensor, "K V 3"], config: TrackConfig) -> Surface:
    """The first frame's mesh, sampled and tied together, on the host."""
    topology = first.topology
    vertices = first.vertices.double()
    excluded = torch.zeros(len(vertices), dtype=torch.bool)
    for region in config.untracked:
        if region in topology.regions:
            excluded[topology.regions[region]] = True
    samples = surface_samples(topology, vertices, config.spacing, excluded)
    graph = vertex_graph(topology.triangles.numpy(), len(vertices))
    subsets = [
        samples.subset(max(len(samples) // 3**index, 4000))
        for index in range(config.features.levels)
    ]
    return Surface(
        topology,
        vertices,
        basis.double(),
        vertices.mean(0),
        tuple(subsets),
        tuple(block_slots(subset.corners, *graph) for subset in subsets),
        graph,
        Elasticity(topology, vertices, config.elastic),
    )


def vertex_anchor(elasticity: Elasticity, config: TrackConfig) -> np.ndarray:
    """Stiffness [V] of every vertex about the rest shape, area over anchor²."""
    patch = np.pi * (config.elastic.patch / 2) ** 2
    return elasticity.areas / patch / config.anchor**2


def anchored_stiffness(
    elasticity: Elasticity, anchor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elastic stiffness with the anchor on its diagonal, CSR (starts, columns, float32 values)."""
    stiff = elasticity.matrix.copy()
    stiff.setdiag(stiff.diagonal() + anchor)
    return (
        stiff.indptr.astype(np.int32),
        stiff.indices.astype(np.int32),
        stiff.data.astype(np.float32),
    )
