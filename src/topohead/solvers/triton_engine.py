"""The tracker's arithmetic on a CUDA device, by Triton's kernels.

Each chain of steps is a CUDA graph that never waits for the host; every sum comes in one order, so
that a resumed run gives the same bytes.
"""

from collections.abc import Hashable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import Views
from topohead.solvers.device_features import DevicePyramid
from topohead.solvers.engine import FEW, SOLVED, Looks, Noise, SampleTerms, Work
from topohead.solvers.features import FeatureLevel
from topohead.solvers.kernels import elastic_triton, photometric_triton, pose_triton
from topohead.solvers.kernels.noise_triton import learnt_noise
from topohead.solvers.kernels.sparse_triton import ConjugateGradient, Feeds
from topohead.solvers.recording import Recording
from topohead.solvers.samples import Samples
from topohead.solvers.surface import Surface, TrackConfig, anchored_stiffness, vertex_anchor
from topohead.solvers.visibility import device_visible_depth

_RIGS = 2
"""Sets of picture sizes that are kept ready: views may lack a camera for some frames."""


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


class _Rig:
    """What is kept for views of given sizes: their pyramid, and the work recorded on it."""

    def __init__(self, pyramid: DevicePyramid) -> None:
        self.pyramid = pyramid
        self.recordings: dict[Hashable, Recording] = {}


class TritonEngine:
    """The engine of a CUDA device (or of Triton's interpreter, on the CPU)."""

    def __init__(self, surface: Surface, config: TrackConfig, device: torch.device) -> None:
        self.surface, self.config, self.device = surface.to(device), config, device
        self._origin = surface.origin
        self._rigs: dict[Hashable, _Rig] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
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
        """Pictures as features, finest first; the next call overwrites them."""
        key = DevicePyramid.key(views)
        rig = self._rigs.pop(key, None)
        if rig is None:
            rig = _Rig(DevicePyramid(views, self.config.features, self.device))
        self._rigs[key] = rig  # the last is the present one
        while len(self._rigs) > _RIGS:
            del self._rigs[next(iter(self._rigs))]
        rig.pyramid.load(views.to(self.device), self._origin)
        self.whole("levels", rig.pyramid.make)
        return rig.pyramid.levels

    def whole(self, name: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What `work` makes of the inputs, recorded under its name for views of these sizes."""
        if self._pool is None:
            return work(*inputs)
        recordings = next(reversed(self._rigs.values())).recordings
        if name not in recordings:
            recordings[name] = Recording(work, inputs, self._pool)
        return recordings[name](*inputs)

    def depth(
        self, level: FeatureLevel, index: int, vertices: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        return device_visible_depth(self._triangles, vertices, level, index)

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
        """The noise that the residuals under `noise` speak of; unchanged when nothing is seen."""
        return learnt_noise(noise, evidence.stats, 0.05, 1.0)

    def reduced(
        self, evidence: SampleTerms, index: int, vertices: Tensor, pose: Float[Tensor, "4 4"]
    ) -> Float[Tensor, "P P+1"]:
        """Normal equations (float64) of pose and expression: matrix and gradient of few samples."""
        samples = self._samples[index]
        return pose_triton.normal_equations(
            vertices,
            self.surface.origin,
            pose,
            samples.corners[: samples.few],
            samples.weights[: samples.few],
            samples.few_basis,
            evidence.blocks,
            evidence.gradients,
        )

    def stepped(
        self,
        system: Float[Tensor, "P P+1"],
        pose: Tensor,
        expression: Tensor,
        tie: Tensor,
        pace: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, "4 4"], Float[Tensor, " K"]]:
        """Pose and expression after the step that reduced evidence and the priors ask for."""
        config = self.config
        return pose_triton.step(
            system, pose, expression, tie, pace, config.evidence, config.expression_spread**-2
        )

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
