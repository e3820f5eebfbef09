"""The tracker's arithmetic on a CUDA device, by Triton's kernels.

Nothing between two normal equations on the host waits for the device; every sum comes in one order,
so that a resumed run gives the same bytes.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.device_features import device_pyramid
from topohead.solvers.engine import FEW, SOLVED, Looks, Noise, SampleTerms
from topohead.solvers.features import FeatureLevel
from topohead.solvers.kernels import elastic_triton, photometric_triton
from topohead.solvers.kernels.sparse_triton import ConjugateGradient, Feeds
from topohead.solvers.numba_engine import visible_depth
from topohead.solvers.samples import Samples
from topohead.solvers.surface import Surface, TrackConfig, anchored_stiffness, vertex_anchor


class _Samples:
    """A level's samples on the device, what they feed, and the first few alone."""

    def __init__(self, surface: Surface, index: int, device: torch.device) -> None:
        samples, (starts, columns) = surface.samples[index], surface.graph
        self.corners = torch.from_numpy(samples.corners).to(device)
        self.weights = torch.from_numpy(samples.weights).to(device)
        self.areas = torch.from_numpy(samples.areas).to(device)
        few = samples.subset(FEW)
        self.few = len(few)
        self.few_areas = torch.from_numpy(few.areas).to(device)
        self.few_basis = _sampled_basis(surface.basis, few, device)
        pairs = (samples.weights[:, :, None] * samples.weights[:, None, :]).reshape(-1, 9)
        self.blocks = Feeds(surface.slots[index], pairs, len(columns), device)
        self.vertices = Feeds(samples.corners, samples.weights, len(starts) - 1, device)


class TritonEngine:
    """The engine of a CUDA device (or of Triton's interpreter, on the CPU)."""

    def __init__(self, surface: Surface, config: TrackConfig, device: torch.device) -> None:
        self.surface, self.config, self.device = surface.to(device), config, device
        self._origin = surface.origin
        triangles = surface.topology.triangles.numpy()
        self._triangles = torch.from_numpy(triangles.astype(np.int32)).to(device)
        self._around = Feeds(triangles, np.ones(triangles.shape), len(surface.vertices), device)
        self._samples = [_Samples(surface, i, device) for i in range(len(surface.samples))]
        elasticity = surface.elasticity
        anchor = vertex_anchor(elasticity, config)
        starts, columns, membrane = (torch.from_numpy(a).to(device) for a in elasticity.rings)
        self._rings = starts, columns, membrane
        self._ring_weights = torch.from_numpy(elasticity.ring_weights).to(device)
        self._bend = torch.from_numpy(elasticity.bend.diagonal()).to(device)
        self._anchor = torch.from_numpy(anchor).to(device)
        self._solver = ConjugateGradient(
            surface.graph,
            anchored_stiffness(elasticity, anchor),
            config.solver_iterations,
            SOLVED,
            device,
        )

    def levels(self, views: Views) -> list[FeatureLevel]:
        """Pictures as features, finest first."""
        return device_pyramid(views, self._origin, self.config.features, self.device)

    def depth(
        self, views: Views, level: FeatureLevel, index: int, vertices: Tensor
    ) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere; rasterised on the CPU."""
        found = visible_depth(self.surface.topology, vertices.cpu(), views, level.sizes, index)
        return found.to(self.device)

    def sampled(
        self, level: FeatureLevel, index: int, vertices: Tensor, depth: Tensor
    ) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
        """Features of every sample in every view and their weights."""
        samples = self._samples[index]
        return photometric_triton.sample_features(
            *self._placed(vertices),
            samples.corners,
            samples.weights,
            level.cameras,
            depth,
            level.features,
            self.config.min_cosine,
            self.config.depth_tolerance,
        )

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
        config, samples = self.config, self._samples[index]
        count = samples.few if few else len(samples.corners)
        if not isinstance(noise, Tensor):
            noise = torch.full((), noise, device=self.device)
        return SampleTerms(
            *photometric_triton.accumulate(
                *self._placed(vertices),
                samples.corners[:count],
                samples.weights[:count],
                samples.few_areas if few else samples.areas,
                level.cameras,
                depth,
                level.features,
                looks.colors[:count],
                looks.trust[:count],
                noise,
                config.cut,
                config.min_cosine,
                config.depth_tolerance,
            )
        )

    def learnt(self, noise: Noise, evidence: SampleTerms) -> Noise:
        """The noise that the residuals under `noise` speak of; it stays on the device."""
        total, energy, views, robust = evidence.stats.unbind(1)
        seen = views >= 2
        spread = energy / (3 * total * robust).clamp(min=1e-12)
        # the median of those seen: the others are sorted behind them
        ordered = torch.where(seen, spread, torch.inf).sort().values
        count = seen.sum()
        middle = torch.stack([count - 1, count]).clamp(min=0) // 2
        median = ordered.gather(0, middle).mean()
        fresh = (noise * median.sqrt()).clamp(0.05, 1.0)
        return torch.where(count > 0, fresh, noise)

    def reduced(
        self, evidence: SampleTerms, index: int, vertices: Tensor, pose: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal equations of pose and expression, float64: evidence of few samples, reduced."""
        samples = self._samples[index]
        few = samples.few
        corners, weights = samples.corners[:few], samples.weights[:few].double()
        offsets = (vertices - self.surface.origin)[corners.long()]
        x, y, z = (offsets * weights[:, :, None]).sum(1).unbind(1)
        zero = torch.zeros_like(x)
        turn = torch.stack([zero, z, -y, -z, zero, x, y, -x, zero], 1).view(-1, 3, 3)
        shift = torch.eye(3, dtype=torch.float64, device=self.device).expand(few, 3, 3)
        motion = pose[:3, :3].to(self.device) @ samples.few_basis
        jacobian = torch.cat([turn, shift, motion], 2)
        picked = torch.tensor([0, 1, 2, 1, 3, 4, 2, 4, 5], device=self.device)
        full = evidence.blocks[:, picked].double().view(-1, 3, 3)
        flat = jacobian.reshape(3 * few, -1)
        wanted = torch.cat([full @ jacobian, evidence.gradients.double()[:, :, None]], 2)
        both = (flat.T @ wanted.reshape(3 * few, -1)).cpu().numpy()
        return both[:, :-1].copy(), both[:, -1].copy()

    def rotations(self, rest: Tensor, vertices: Tensor) -> Float[Tensor, "V 3 3"]:
        """Local rotations from the rest shape."""
        return elastic_triton.local_rotations(rest, vertices, *self._rings[:2], self._ring_weights)

    def move(
        self, evidence: SampleTerms, index: int, rest: Tensor, vertices: Tensor, rotations: Tensor
    ) -> Float[Tensor, "V 3"]:
        """The Gauss–Newton step of all vertices, float32; the next call overwrites it."""
        samples, share = self._samples[index], self.config.evidence
        matrix = samples.blocks.gather(evidence.blocks, share)
        vector = samples.vertices.gather(evidence.gradients, share)
        descent = elastic_triton.descent(
            rest, vertices, rotations, self._rings, self._bend, self._anchor, vector
        )
        return self._solver.solve(descent, matrix)

    def _placed(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices about the origin and their normals, float32 for the kernels."""
        return photometric_triton.placed_surface(
            vertices, self._triangles, self._around.starts, self._around.sources,
            self.surface.origin,
        )  # fmt: skip


def _sampled_basis(basis: Tensor, samples: Samples, device: torch.device) -> Tensor:
    """Basis displacements at samples, one column an expression: float64 [S 3 K]."""
    corners, weights = torch.from_numpy(samples.corners).long(), torch.from_numpy(samples.weights)
    rows = (basis[:, corners] * weights.double()[:, :, None]).sum(2)
    return rows.permute(1, 2, 0).contiguous().to(device)
