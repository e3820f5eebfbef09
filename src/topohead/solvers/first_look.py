"""What the tracker remembers of the first frame: its surface, and what every spot looked like."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Mesh, Topology, Views
from topohead.solvers.engine import Engine, Looks
from topohead.solvers.numba_engine import NumbaEngine
from topohead.solvers.samples import Samples
from topohead.solvers.surface import Surface, TrackConfig, take_surface


@dataclass(frozen=True)
class Reference:
    """The first frame as the tracker remembers it, and the engine that compares others with it.

    All tensors lie on the engine's device. `shares` hold, for each level, the area (m²) of every
    sample that belongs to each `watched` region and was seen, zero for the others.
    """

    engine: Engine
    looks: tuple[Looks, ...]
    neutral: Float[Tensor, " K"]
    strides: dict[str, Float[Tensor, "J K"]]
    watched: tuple[str, ...]
    shares: tuple[Float[Tensor, "R _"], ...]
    likeness: dict[str, float]
    """How well each watched region of the first frame explains its pictures, on a coarse level,"""
    agreement: dict[str, float]
    """and on the finest."""

    @property
    def surface(self) -> Surface:
        """The surface in the first frame, on the engine's device."""
        return self.engine.surface


def look(
    views: Views,
    first: Mesh,
    basis: Float[Tensor, "K V 3"],
    config: TrackConfig,
    neutral: Float[Tensor, " K"] | None = None,
    strides: Mapping[str, Float[Tensor, "J K"]] | None = None,
    device: torch.device | None = None,
) -> Reference:
    """Learn what every sample looks like in the first frame.

    `basis` holds expression displacements at the first frame's place and size (K may be 0);
    `neutral` are the coefficients that bring the first frame's face to rest (default: it is);
    `strides` name changes of expression that a region may make within a frame. `device` is where
    frames are then solved (default: the CPU).
    """
    engine = make_engine(take_surface(first, basis, config), config, device or torch.device("cpu"))
    surface = engine.surface
    where = surface.vertices.device
    watched = tuple(name for name in config.watched if name in surface.topology.regions)
    looks, shares = [], []
    for index, level in enumerate(engine.levels(views)):
        depth = engine.depth(level, index, surface.vertices)
        values, seen = engine.sampled(level, index, surface.vertices, depth)
        color, agreement = _robust_mean(values.cpu().numpy(), seen.cpu().numpy())
        trust = np.where(agreement > 0, config.trust, 0).astype(np.float32)
        looks.append(Looks(torch.from_numpy(color).to(where), torch.from_numpy(trust).to(where)))
        known = _region_areas(surface.topology, watched, surface.samples[index]) * (trust > 0)
        shares.append(torch.from_numpy(known).to(where))
    return Reference(
        engine,
        tuple(looks),
        (torch.zeros(len(basis)) if neutral is None else neutral).to(where, torch.float64),
        {
            name: steps.to(where, torch.float64)
            for name, steps in (strides or {}).items()
            if len(basis)
        },
        watched,
        tuple(shares),
        likeness={},
        agreement={},
    )


def make_engine(surface: Surface, config: TrackConfig, device: torch.device) -> Engine:
    """The engine of a device; fails where CUDA or Triton is asked for and missing."""
    if device.type == "cpu":
        return NumbaEngine(surface, config)
    if not torch.cuda.is_available():
        raise InputError(
            f"device {device}: torch finds no CUDA device; leave it out to compute on the CPU "
            "(`topohead doctor` says what is missing)"
        )
    try:
        # Triton comes with torch for CUDA alone
        from topohead.solvers.triton_engine import TritonEngine  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            f"device {device}: expected Triton, which torch for CUDA brings: {error}"
        ) from error
    return TritonEngine(surface, config, device)


def _region_areas(topology: Topology, names: tuple[str, ...], samples: Samples) -> np.ndarray:
    """Area of every sample whose whole triangle is in a region, float64 [R S], else zero."""
    inside = [topology.region_mask(name).numpy()[samples.corners].all(1) for name in names]
    return np.array(inside).reshape(len(names), len(samples)) * samples.areas.astype(np.float64)


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
