"""Photo-consistency: a surface is right where all cameras see the same colour on it.

Nothing is known of the subject's looks. Each surface sample's colour is eliminated in closed form,
so that what remains is how much the views of it disagree, and where it should move to end that.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from topohead.core import Topology, Views
from topohead.solvers.evidence import Evidence
from topohead.solvers.features import FeatureConfig, feature_pyramid
from topohead.solvers.kernels import photometric
from topohead.solvers.samples import surface_samples
from topohead.solvers.visibility import visible_depth

_FREE_COLOR = np.float32(1e-3)
"""Views' worth of the reference colour: next to nothing, it only keeps divisions defined."""


@dataclass(frozen=True)
class AgreementConfig:
    """Numbers of the photo-consistency term; lengths in metres."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    spacing: float = 0.0012
    """Distance between surface samples."""
    cut: float = 2.5
    """A view this many times the noise off the others' colour counts a quarter."""
    evidence: float = 0.25
    """Share of the pixels that count as independent observations."""
    noise: float = 0.35
    """Feature noise assumed at first; learnt from residuals."""
    min_cosine: float = 0.25
    """Steeper views of a sample are ignored."""
    depth_tolerance: float = 0.004
    """A sample this far behind the visible surface is hidden."""
    visibility_period: int = 3
    """Steps between renewals of the depth maps."""
    unseen: tuple[str, ...] = ("eyes", "mouth_interior")
    """Regions whose looks mislead: gloss on eyes, darkness in mouths."""


class Agreement:
    """What the views of one instant say about a surface, level by level (0 is the finest)."""

    def __init__(
        self,
        views: Views,
        topology: Topology,
        vertices: Float[torch.Tensor, "V 3"],
        config: AgreementConfig,
    ) -> None:
        self.topology, self.config = topology, config
        self.origin = vertices.double().mean(0)
        self.levels = feature_pyramid(views, self.origin, config.features)
        excluded = torch.zeros(topology.vertex_count, dtype=torch.bool)
        for name in config.unseen:
            if name in topology.regions:
                excluded[topology.regions[name]] = True
        samples = surface_samples(topology, vertices, config.spacing, excluded)
        self.samples = [
            samples.subset(max(len(samples) // 3**index, 4000)) for index in range(len(self.levels))
        ]
        self.noise = [config.noise] * len(self.levels)
        self.residual = config.noise
        self._depth: tuple[int, np.ndarray] | None = None
        self._age = 0

    def evidence(
        self,
        vertices: Float[np.ndarray, "V 3"],
        normals: Float[np.ndarray, "V 3"],
        index: int,
        limit: int | None = None,
    ) -> Evidence:
        """Where the samples (at most `limit` of them) should move at a level; learns the noise."""
        level, config = self.levels[index], self.config
        samples = self.samples[index] if limit is None else self.samples[index].subset(limit)
        surface = torch.from_numpy(vertices)
        depth = self._visible_depth(surface, index)
        place = (surface - self.origin).float().numpy(), normals.astype(np.float32)
        where = samples.corners, samples.weights
        limits = np.float32(config.min_cosine), np.float32(config.depth_tolerance)
        cameras, features = level.cameras.numpy(), level.features.numpy()
        values, seen = photometric.sample_features(
            *place, *where, cameras, depth, features, *limits
        )
        color = _robust_mean(values, seen, self.noise[index] * config.cut)
        trust = np.where((seen > 0).sum(1) >= 2, _FREE_COLOR, np.float32(0))
        blocks, gradients, stats = photometric.accumulate(
            *place,
            *where,
            samples.areas,
            cameras,
            depth,
            features,
            color,
            trust,
            np.float32(self.noise[index]),
            np.float32(config.cut),
            *limits,
        )
        self._learn_noise(index, stats)
        return Evidence(*where, config.evidence * blocks, config.evidence * gradients)

    def _learn_noise(self, index: int, stats: np.ndarray) -> None:
        seen = stats[:, 2] >= 2
        if not seen.any():
            return
        weight = np.maximum(3 * stats[seen, 0] * stats[seen, 3], 1e-12)
        # residuals about a mean of n views are smaller than the noise by √((n − 1) / n)
        views = stats[seen, 2]
        spread = float(np.sqrt(np.median(stats[seen, 1] / weight * views / (views - 1))))
        self.noise[index] = float(np.clip(self.noise[index] * spread, 0.03, 1.0))
        self.residual = self.noise[index]

    def _visible_depth(self, vertices: torch.Tensor, index: int) -> np.ndarray:
        """Depth maps of a level, renewed every `visibility_period` calls."""
        stale = self._age >= self.config.visibility_period
        if self._depth is None or self._depth[0] != index or stale:
            maps = visible_depth(self.topology, vertices, self.levels[index], index)
            self._depth, self._age = (index, maps.numpy()), 0
        self._age += 1
        return self._depth[1]


def _robust_mean(values: np.ndarray, seen: np.ndarray, knee: float) -> np.ndarray:
    """Mean of the views' values [S 3]; views beyond `knee` of it count a quarter and less."""
    weight = seen
    for _ in range(3):
        total = np.maximum(weight.sum(1), 1e-9)
        mean = np.einsum("scv,sc->sv", values, weight) / total[:, None]
        error = np.square(values - mean[:, None]).sum(2)
        weight = seen / np.square(1 + error / knee**2)
    return mean.astype(np.float32)
