"""The tracker's arithmetic on CPU cores, by numba's kernels."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Cameras, Topology, Views
from topohead.geometry.meshes import vertex_normals
from topohead.rendering.mesh import depth_maps
from topohead.solvers.engine import FEW, SOLVED, Looks, Noise, SampleTerms
from topohead.solvers.features import FeatureLevel, feature_pyramid
from topohead.solvers.kernels import photometric, sparse
from topohead.solvers.samples import Samples
from topohead.solvers.surface import Surface, TrackConfig, anchored_stiffness, vertex_anchor


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

    def depth(
        self, views: Views, level: FeatureLevel, index: int, vertices: Tensor
    ) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        return visible_depth(self.surface.topology, vertices, views, level.sizes, index)

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
        return float(np.clip(float(noise) * spread, 0.05, 1.0))

    def reduced(
        self, evidence: SampleTerms, index: int, vertices: Tensor, pose: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations of pose and expression, float64: evidence of few samples, reduced."""
        samples, basis = self._few[index], self.surface.basis
        jacobian = _pose_jacobian(vertices - self.surface.origin, samples)
        if len(basis):
            if index not in self._rows:
                self._rows[index] = _sample_basis(basis, samples)
            turned = np.einsum("ab,skb->ska", pose[:3, :3].numpy(), self._rows[index])
            jacobian = np.concatenate([jacobian, turned.transpose(0, 2, 1)], 2)
        return _reduce(evidence.blocks.numpy(), evidence.gradients.numpy(), jacobian)

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


def level_cameras(cameras: Cameras, sizes: tuple[tuple[int, int], ...], index: int) -> Cameras:
    """The cameras of a level whose pictures have these sizes; odd ones have lost a pixel."""
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2] *= 0.5**index
    return replace(cameras, intrinsics=intrinsics, sizes=torch.tensor(sizes))


def visible_depth(
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    views: Views,
    sizes: tuple[tuple[int, int], ...],
    index: int,
) -> Float[Tensor, "C H W"]:
    """Usable depth of every view at a level whose pictures have these sizes, padded alike."""
    cameras = level_cameras(views.cameras, sizes, index)
    maps = depth_maps(vertices, topology.triangles, cameras)
    focal = cameras.intrinsics[:, 0, 0].float().numpy()
    shape = len(sizes), max(h for _, h in sizes), max(w for w, _ in sizes)
    out = np.full(shape, np.float32(-1))
    for i, depth in enumerate(maps):
        # one pixel of a slanted surface: the neighbours may differ by a few pixels' widths
        pixel = float(depth.numpy()[np.isfinite(depth.numpy())].mean()) if len(maps) else 1.0
        step = np.float32(3 * pixel / focal[i] + 0.001)
        height, width = depth.shape
        reach = 2 if index == 0 else 1
        out[i, :height, :width] = photometric.usable_depth(depth.numpy(), reach, step)
    return torch.from_numpy(out)


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


def _reduce(
    blocks: np.ndarray, gradients: np.ndarray, jacobian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations of few parameters from sample blocks and their Jacobian [S 3 P]."""
    full = blocks[:, [[0, 1, 2], [1, 3, 4], [2, 4, 5]]].astype(np.float64)
    count = jacobian.shape[2]
    weighted = (full @ jacobian).reshape(-1, count)
    flat = jacobian.reshape(-1, count)
    return flat.T @ weighted, flat.T @ gradients.astype(np.float64).ravel()
