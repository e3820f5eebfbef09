"""What the tracker remembers of the first frame: its surface, and what every spot looked like."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import InputError, Mesh, Views
from topohead.solvers.engine import Engine, Looks
from topohead.solvers.numba_engine import NumbaEngine
from topohead.solvers.surface import Surface, TrackConfig, take_surface


@dataclass(frozen=True)
class Reference:
    """The first frame as the tracker remembers it, and the engine that compares others with it.

    `neutral` and `strides` are small and on the host; `looks` lie on the engine's device.
    """

    engine: Engine
    looks: tuple[Looks, ...]
    neutral: Float[Tensor, " K"]
    strides: dict[str, Float[Tensor, "J K"]]
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
    looks = []
    for index, level in enumerate(engine.levels(views)):
        depth = engine.depth(views, level, index, surface.vertices)
        values, seen = engine.sampled(level, index, surface.vertices, depth)
        color, agreement = _robust_mean(values.cpu().numpy(), seen.cpu().numpy())
        trust = np.where(agreement > 0, config.trust, 0).astype(np.float32)
        where = surface.vertices.device
        looks.append(Looks(torch.from_numpy(color).to(where), torch.from_numpy(trust).to(where)))
    return Reference(
        engine,
        tuple(looks),
        torch.zeros(len(basis), dtype=torch.float64) if neutral is None else neutral.double(),
        {name: steps.double() for name, steps in (strides or {}).items() if len(basis)},
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
