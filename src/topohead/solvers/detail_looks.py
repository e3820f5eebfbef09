"""What pictures say of points on a surface, on the CPU or a CUDA device, for relief."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topohead.core import InputError, Topology, Views
from topohead.solvers.features import FeatureConfig, FeatureLevel, feature_pyramid
from topohead.solvers.kernels import photometric
from topohead.solvers.visibility import device_visible_depth, visible_depth

Places = tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"], Int[Tensor, "S 3"], Float[Tensor, "S 3"]]
"""Vertices about the origin, their normals, and the samples' corners and weights."""

Limits = tuple[float, float]
"""The least cosine of a view, and how far behind the visible surface (m) is still visible."""


@runtime_checkable
class Looks(Protocol):
    """The picture work of one device; see `kernels.photometric` for the arrays."""

    def levels(self, views: Views, origin: Tensor, config: FeatureConfig) -> list[FeatureLevel]:
        """Pictures as features, finest first."""
        ...

    def depth(self, level: FeatureLevel, index: int, vertices: Tensor) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        ...

    def sampled(
        self, places: Places, level: FeatureLevel, depth: Tensor, limits: Limits
    ) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
        """Features of every sample in every view and their weights."""
        ...

    def accumulated(
        self,
        places: Places,
        areas: Tensor,
        level: FeatureLevel,
        depth: Tensor,
        colors: Tensor,
        trust: Tensor,
        noise: Tensor,
        cut: float,
        limits: Limits,
    ) -> tuple[Float[Tensor, "S 6"], Float[Tensor, "S 3"], Float[Tensor, "S 4"]]:
        """Normal equations of the samples' positions, and statistics."""
        ...


class HostLooks:
    """Looks on CPU cores, by numba's kernels."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def levels(self, views: Views, origin: Tensor, config: FeatureConfig) -> list[FeatureLevel]:
        """Pictures as features, finest first."""
        return feature_pyramid(views, origin, config)

    def depth(self, level: FeatureLevel, index: int, vertices: Tensor) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        return visible_depth(self._topology, vertices, level, index)

    def sampled(
        self, places: Places, level: FeatureLevel, depth: Tensor, limits: Limits
    ) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
        """Features of every sample in every view and their weights."""
        tensors = (*places, level.cameras, depth, level.features)
        arrays = [tensor.numpy() for tensor in tensors]
        arrays += [np.float32(limit) for limit in limits]
        values, seen = photometric.sample_features(*arrays)
        return torch.from_numpy(values), torch.from_numpy(seen)

    def accumulated(
        self,
        places: Places,
        areas: Tensor,
        level: FeatureLevel,
        depth: Tensor,
        colors: Tensor,
        trust: Tensor,
        noise: Tensor,
        cut: float,
        limits: Limits,
    ) -> tuple[Float[Tensor, "S 6"], Float[Tensor, "S 3"], Float[Tensor, "S 4"]]:
        """Normal equations of the samples' positions, and statistics."""
        tensors = (*places, areas, level.cameras, depth, level.features, colors, trust)
        arrays = [tensor.numpy() for tensor in tensors]
        arrays += [np.float32(number) for number in (noise, cut, *limits)]
        blocks, gradients, stats = photometric.accumulate(*arrays)
        return torch.from_numpy(blocks), torch.from_numpy(gradients), torch.from_numpy(stats)


class DeviceLooks:
    """Looks on a CUDA device, by Triton's kernels (or their interpreter, on the CPU)."""

    def __init__(self, topology: Topology, device: torch.device) -> None:
        self._device = device
        self._triangles = topology.triangles.to(device, torch.int32)

    def levels(self, views: Views, origin: Tensor, config: FeatureConfig) -> list[FeatureLevel]:
        """Pictures as features, finest first."""
        # blur kernels want Triton, which torch for CUDA alone brings
        from topohead.solvers.device_features import DevicePyramid  # noqa: PLC0415

        pyramid = DevicePyramid(views, config, self._device)
        pyramid.load(views.to(self._device), origin.cpu())
        pyramid.make()
        return pyramid.levels

    def depth(self, level: FeatureLevel, index: int, vertices: Tensor) -> Float[Tensor, "C H W"]:
        """Depth where a picture may be used, −1 elsewhere."""
        return device_visible_depth(self._triangles, vertices, level, index)

    def sampled(
        self, places: Places, level: FeatureLevel, depth: Tensor, limits: Limits
    ) -> tuple[Float[Tensor, "S C 3"], Float[Tensor, "S C"]]:
        """Features of every sample in every view and their weights."""
        from topohead.solvers.kernels import photometric_triton  # noqa: PLC0415

        return photometric_triton.sample_features(
            *places, level.cameras, depth, level.features, *limits
        )

    def accumulated(
        self,
        places: Places,
        areas: Tensor,
        level: FeatureLevel,
        depth: Tensor,
        colors: Tensor,
        trust: Tensor,
        noise: Tensor,
        cut: float,
        limits: Limits,
    ) -> tuple[Float[Tensor, "S 6"], Float[Tensor, "S 3"], Float[Tensor, "S 4"]]:
        """Normal equations of the samples' positions, and statistics."""
        from topohead.solvers.kernels import photometric_triton  # noqa: PLC0415

        return photometric_triton.accumulate(
            *places, areas, level.cameras, depth, level.features, colors, trust, noise, cut, *limits
        )


def make_looks(topology: Topology, device: torch.device) -> Looks:
    """The looks of a device; fails where CUDA is asked for and missing."""
    if device.type == "cpu":
        return HostLooks(topology)
    if not torch.cuda.is_available():
        raise InputError(
            f"device {device}: torch finds no CUDA device; leave it out to compute on the CPU "
            "(`topohead doctor` says what is missing)"
        )
    return DeviceLooks(topology, device)
