"""The tracker's arithmetic on CPU cores, by numba's kernels."""

from collections.abc import Hashable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.geometry.meshes import vertex_normals
from topohead.solvers.engine import FEW, SOLVED, Looks, Noise, SampleTerms, Work
from topohead.solvers.features import FeatureLevel, feature_pyramid
from topohead.solvers.kernels import photometric, sparse
from topohead.solvers.samples import Samples
from topohead.solvers.surface import Surface, TrackConfig, anchored_stiffness, vertex_anchor
from topohead.solvers.visibility import visible_depth


class NumbaEngine:
    """The engine of the CPU; tensors share memory with the kernels' arrays."""

    def __init__(self, surface: Surface, config: TrackConfig) -> None:
        self.surface, self.config = surface, config
        self._few = [samples.subset(FEW) for samples in surface.samples]
        self._rows: dict[int, np.ndarray] = {}
        self._anchor = vertex_anchor(surface.elasticity, config)
        self._stiffness = anchored_stiffness(surface.elasticity, self._anchor)

    def levels(self, views: Views) -> list[FeatureLevel]:
        """Pictures as features, finest first."""
        return feature_pyramid(views, self.surface.origin, self.config.features)

    def whole(self, name: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `work` makes of the inputs."""
        return work(*inputs)

    def depth(
        self, level: FeatureLevel, index: int, vertices: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        return visible_depth(self.surface.topology, vertices, level, index)

    def sampled(
        self, level: FeatureLevel, index: int, vertices: Tensor, depth: Tensor
    ) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
        """Features of every sample in every view and their weights."""
        samples = self.surface.samples[index]
        values, seen = photometric.sample_features(
            *self._placed(vertices),
            samples.corners,
            samples.weights,
            level.cameras.numpy(),
            depth.numpy(),
            level.features.numpy(),
            np.float32(self.config.min_cosine),
            np.float32(self.config.depth_tolerance),
        )
        return torch.from_numpy(values), torch.from_numpy(seen)

    def evidence(
        self,
        level: FeatureLevel,
        index: int,
        vertices: Tensor,
        depth: Tensor,
        looks: Looks,
        noise: Noise,
        few: bool = False,
    ) -> SampleTerms:
        """The pictures' part of the normal equations, of all samples or of the first `FEW`."""
        config = self.config
        samples = (self._few if few else self.surface.samples)[index]
        found = photometric.accumulate(
            *self._placed(vertices),
            samples.corners,
            samples.weights,
            samples.areas,
            level.cameras.numpy(),
            depth.numpy(),
            level.features.numpy(),
            looks.colors.numpy()[: len(samples)],
            looks.trust.numpy()[: len(samples)],
            np.float32(float(noise)),
            np.float32(config.cut),
            np.float32(config.min_cosine),
            np.float32(config.depth_tolerance),
        )
        return SampleTerms(*map(torch.from_numpy, found))

    def learnt(self, noise: Noise, evidence: SampleTerms) -> Noise:
        """The noise that the residuals under `noise` speak of; unchanged when nothing is seen."""
        stats = evidence.stats.numpy()
        seen = stats[:, 2] >= 2
        if not seen.any():
            return noise
        weight = np.maximum(3 * stats[seen, 0] * stats[seen, 3], 1e-12)
        spread = float(np.sqrt(np.median(stats[seen, 1] / weight)))
        return (noise * spread).clamp(0.05, 1.0)

    def reduced(
        self, evidence: SampleTerms, index: int, vertices: Tensor, pose: Float[Tensor, "4 4"]
    ) -> Float[Tensor, "P P+1"]:
        """Normal equations (float64) of pose and expression: matrix and gradient of few samples."""
        samples, basis = self._few[index], self.surface.basis
        jacobian = _pose_jacobian(vertices - self.surface.origin, samples)
        if len(basis):
            if index not in self._rows:
                self._rows[index] = _sample_basis(basis, samples)
            turned = np.einsum("ab,skb->ska", pose[:3, :3].numpy(), self._rows[index])
            jacobian = np.concatenate([jacobian, turned.transpose(0, 2, 1)], 2)
        system = _reduce(evidence.blocks.numpy(), evidence.gradients.numpy(), jacobian)
        return torch.from_numpy(system)

    def stepped(
        self,
        system: Float[Tensor, "P P+1"],
        pose: Tensor,
        expression: Tensor,
        tie: Tensor,
        pace: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, "4 4"], Float[Tensor, " K"]]:
        """Pose and expression after the step that reduced evidence and the priors ask for."""
        spread = self.config.expression_spread**-2
        system = self.config.evidence * system
        diagonal = system.diagonal()
        diagonal[:6] *= 1 + 1e-6
        diagonal[6:] += spread + pace
        system[6:, -1] += spread * expression + pace * (expression - tie)
        found = np.linalg.solve(system[:, :-1].numpy(), system[:, -1].numpy())
        delta = -torch.from_numpy(found)
        return _turned(pose, delta[:6]), (expression + delta[6:]).clamp(-1.0, 1.5)

    def rotations(self, rest: Tensor, vertices: Tensor) -> Float[Tensor, "V 3 3"]:
        """Local rotations from the rest shape."""
        return torch.from_numpy(self.surface.elasticity.rotations(rest.numpy(), vertices.numpy()))

    def move(
        self, evidence: SampleTerms, index: int, rest: Tensor, vertices: Tensor, rotations: Tensor
    ) -> Float[Tensor, "V 3"]:
        """The Gauss–Newton step of all vertices, float32."""
        config, surface = self.config, self.surface
        starts, columns = surface.graph
        samples, now, resting = surface.samples[index], vertices.numpy(), rest.numpy()
        matrix, vector = sparse.scatter(
            evidence.blocks.numpy(),
            evidence.gradients.numpy(),
            samples.corners,
            samples.weights,
            surface.slots[index],
            len(columns),
            len(now),
        )
        pull = surface.elasticity.gradient(resting, now, rotations.numpy())
        pull += self._anchor[:, None] * (now - resting)
        return torch.from_numpy(
            sparse.conjugate_gradient(
                -(config.evidence * vector + pull).astype(np.float32),
                starts,
                columns,
                np.float32(config.evidence) * matrix,
                *self._stiffness,
                config.solver_iterations,
                SOLVED,
            )
        )

    def _placed(self, vertices: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Vertices about the origin and their normals, float32 for the kernels."""
        normals = vertex_normals(vertices, self.surface.topology.triangles)
        return (vertices - self.surface.origin).float().numpy(), normals.float().numpy()


def _sample_basis(basis: Tensor, samples: Samples) -> np.ndarray:
    """Basis displacement at every sample, [S K 3]."""
    rows = basis.numpy()[:, samples.corners]
    return np.einsum("ksic,si->skc", rows, samples.weights)


def _pose_jacobian(vertices: Tensor, samples: Samples) -> np.ndarray:
    """d position / d (rotation about the origin, translation) of every sample, [S 3 6]."""
    points = np.einsum("sic,si->sc", vertices.numpy()[samples.corners], samples.weights)
    jacobian = np.zeros((len(points), 3, 6))
    x, y, z = points.T
    jacobian[:, 0, 1], jacobian[:, 0, 2] = z, -y
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -z, x
    jacobian[:, 2, 0], jacobian[:, 2, 1] = y, -x
    jacobian[:, [0, 1, 2], [3, 4, 5]] = 1
    return jacobian


def _reduce(blocks: np.ndarray, gradients: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Normal equations [P P+1] of few parameters from sample blocks and their Jacobian [S 3 P]."""
    full = blocks[:, [[0, 1, 2], [1, 3, 4], [2, 4, 5]]].astype(np.float64)
    count = jacobian.shape[2]
    weighted = (full @ jacobian).reshape(-1, count)
    flat = jacobian.reshape(-1, count)
    vector = flat.T @ gradients.astype(np.float64).ravel()
    return np.concatenate([flat.T @ weighted, vector[:, None]], 1)


def _turned(pose: Float[Tensor, "4 4"], delta: Float[Tensor, "6"]) -> Float[Tensor, "4 4"]:
    """The pose followed by a small rotation about the head's origin and a shift."""
    x, y, z = delta[:3].unbind()
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    # Rodrigues: I + sin θ/θ K + (1 − cos θ)/θ² K², without a branch at zero
    turns = (x * x + y * y + z * z).sqrt() / torch.pi
    rotation = torch.sinc(turns) * cross + 0.5 * torch.sinc(turns / 2).square() * (cross @ cross)
    step = torch.eye(4, dtype=pose.dtype, device=pose.device)
    step[:3, :3] += rotation
    step[:3, 3] = delta[3:]
    return step @ pose
