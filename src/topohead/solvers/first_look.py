"""What the tracker remembers of the first frame: its surface, and what every spot looked like."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Mesh, Topology, Views
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import depth_maps
from topohead.solvers.elasticity import ElasticConfig, Elasticity, block_slots, vertex_graph
from topohead.solvers.features import FeatureConfig, FeatureLevel, feature_pyramid
from topohead.solvers.kernels import photometric
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
class Reference:
    """The first frame as the tracker remembers it."""

    topology: Topology
    vertices: Float[Tensor, "V 3"]
    basis: Float[Tensor, "K V 3"]
    neutral: Float[Tensor, " K"]
    strides: dict[str, Float[Tensor, "J K"]]
    origin: Float[Tensor, " 3"]
    samples: tuple[Samples, ...]
    colors: tuple[np.ndarray, ...]
    trust: tuple[np.ndarray, ...]
    slots: tuple[np.ndarray, ...]
    graph: tuple[np.ndarray, np.ndarray]
    elasticity: Elasticity
    likeness: dict[str, float]
    """How well each watched region of the first frame explains its pictures, on a coarse level,"""
    agreement: dict[str, float]
    """and on the finest."""


def look(
    views: Views,
    first: Mesh,
    basis: Float[Tensor, "K V 3"],
    config: TrackConfig,
    neutral: Float[Tensor, " K"] | None = None,
    strides: Mapping[str, Float[Tensor, "J K"]] | None = None,
) -> Reference:
    """Learn what every sample looks like in the first frame.

    `basis` holds expression displacements at the first frame's place and size (K may be 0);
    `neutral` are the coefficients that bring the first frame's face to rest (default: it is);
    `strides` name changes of expression that a region may make within a frame.
    """
    topology = first.topology
    vertices = first.vertices.double()
    origin = vertices.mean(0)
    excluded = torch.zeros(len(vertices), dtype=torch.bool)
    for region in config.untracked:
        if region in topology.regions:
            excluded[topology.regions[region]] = True
    samples = surface_samples(topology, vertices, config.spacing, excluded)
    graph = vertex_graph(topology.triangles.numpy(), len(vertices))
    levels = feature_pyramid(views, origin, config.features)
    subsets, colors, trusts, slots = [], [], [], []
    for index, level in enumerate(levels):
        subset = samples.subset(max(len(samples) // 3**index, 4000))
        values, seen = photometric.sample_features(
            *geometry(topology, vertices, origin),
            subset.corners,
            subset.weights,
            level.cameras,
            visible_depth(topology, vertices, views, level, index),
            level.features,
            np.float32(config.min_cosine),
            np.float32(config.depth_tolerance),
        )
        color, agreement = _robust_mean(values, seen)
        subsets.append(subset)
        colors.append(color)
        trusts.append(np.where(agreement > 0, config.trust, 0).astype(np.float32))
        slots.append(block_slots(subset.corners, *graph))
    return Reference(
        topology,
        vertices,
        basis.double(),
        torch.zeros(len(basis), dtype=torch.float64) if neutral is None else neutral.double(),
        {name: steps.double() for name, steps in (strides or {}).items() if len(basis)},
        origin,
        tuple(subsets),
        tuple(colors),
        tuple(trusts),
        tuple(slots),
        graph,
        Elasticity(topology, vertices, config.elastic),
        likeness={},
        agreement={},
    )


def geometry(
    topology: Topology, vertices: torch.Tensor, origin: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices about the origin and their normals, float32 for the kernels."""
    normals = vertex_normals(vertices, topology.triangles)
    return (vertices - origin).float().numpy(), normals.float().numpy()


def visible_depth(
    topology: Topology,
    vertices: torch.Tensor,
    views: Views,
    level: FeatureLevel,
    index: int,
) -> np.ndarray:
    """Usable depth of every view at a level [C H W], padded like the features."""
    sizes = torch.tensor(level.sizes)
    scale = 0.5**index
    intrinsics = views.cameras.intrinsics.clone()
    intrinsics[:, :2] *= scale
    cameras = replace(views.cameras, intrinsics=intrinsics, sizes=sizes)
    maps = depth_maps(vertices, topology.triangles, cameras)
    out = np.full(level.features.shape[:3], np.float32(-1))
    for i, depth in enumerate(maps):
        # one pixel of a slanted surface: the neighbours may differ by a few pixels' widths
        pixel = float(depth.numpy()[np.isfinite(depth.numpy())].mean()) if len(maps) else 1.0
        step = np.float32(3 * pixel / level.cameras[i, 12] + 0.001)
        height, width = depth.shape
        reach = 2 if index == 0 else 1
        out[i, :height, :width] = photometric.usable_depth(depth.numpy(), reach, step)
    return out


def _robust_mean(values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over views [S 3], views far from it counting less, and the weight's sum [S]."""
    weight = seen
    for _ in range(3):
        total = weight.sum(1)
        mean = np.einsum("scv,sc->sv", values, weight) / np.maximum(total, 1e-9)[:, None]
        error = np.square(values - mean[:, None]).sum(2)
        scale = np.maximum(np.median(error[seen > 0]) if (seen > 0).any() else 1.0, 1e-6)
        weight = seen / np.square(1 + error / (6 * scale))
    return mean.astype(np.float32), total
