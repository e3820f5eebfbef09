"""Cameras: OpenCV axes (x right, y down, z forward), pixel centres at half-integers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

DistortionModel = Literal["none", "brown", "rational", "fisheye"]

COEFFICIENT_COUNT: dict[str, int] = {"none": 0, "brown": 6, "rational": 8, "fisheye": 4}
"""Coefficients of each lens model: brown k1 k2 k3 k4 p1 p2 (p as OpenCV orders them), rational
k1 k2 p1 p2 k3 k4 k5 k6 (OpenCV's order), fisheye k1 k2 k3 k4 (OpenCV's equidistant model)."""


@dataclass(frozen=True)
class Distortion:
    """A lens: what moves a point of the normalised image plane before the intrinsics apply."""

    model: DistortionModel = "none"
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        expected = COEFFICIENT_COUNT.get(self.model)
        if expected is None:
            known = ", ".join(COEFFICIENT_COUNT)
            raise ValueError(f"unknown lens model '{self.model}'; expected one of {known}")
        if len(self.coefficients) != expected:
            raise ValueError(
                f"lens model '{self.model}' takes {expected} coefficients, "
                f"got {len(self.coefficients)}"
            )

    @property
    def is_identity(self) -> bool:
        """Whether it moves nothing. A fisheye always bends (r → atan r), even with zeros."""
        return self.model != "fisheye" and all(c == 0 for c in self.coefficients)


@dataclass(frozen=True)
class Cameras:
    """C pinhole cameras of one rig, metres.

    `world_to_camera` is float64 [C 4 4], `intrinsics` float64 [C 3 3] in pixels, `sizes` is
    (width, height) in pixels. A camera is known by its name; order is the rig's.
    """

    names: tuple[str, ...]
    world_to_camera: Float[Tensor, "C 4 4"]
    intrinsics: Float[Tensor, "C 3 3"]
    sizes: Int[Tensor, "C 2"]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"camera names must differ, got {list(self.names)}")
        count = len(self.names)
        if not len(self.world_to_camera) == len(self.intrinsics) == len(self.sizes) == count:
            raise ValueError(f"{count} camera names but other numbers of poses or intrinsics")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def centers(self) -> Float[Tensor, "C 3"]:
        """Optical centres in the world."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of one camera's image."""
        return int(self.sizes[index, 0]), int(self.sizes[index, 1])

    def select(self, names: Sequence[str]) -> "Cameras":
        """The cameras with these names, in this order."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"no camera {unknown[0]!r}; the rig has {', '.join(self.names)}")
        index = torch.tensor([self.names.index(name) for name in names], dtype=torch.long)
        return Cameras(
            tuple(names), self.world_to_camera[index], self.intrinsics[index], self.sizes[index]
        )

    def resized(self, sizes: Int[Tensor, "C 2"]) -> "Cameras":
        """The same cameras for images resampled to other sizes (half-integer pixel centres)."""
        factor = sizes.to(self.intrinsics) / self.sizes.to(self.intrinsics)
        intrinsics = self.intrinsics.clone()
        intrinsics[:, :2] *= factor[..., None]
        return replace(self, intrinsics=intrinsics, sizes=sizes)


@dataclass(frozen=True)
class Rig:
    """Calibrated cameras as delivered: pinhole parts plus one lens each."""

    cameras: Cameras
    distortion: tuple[Distortion, ...]

    def __post_init__(self) -> None:
        if len(self.distortion) != len(self.cameras):
            raise ValueError(f"{len(self.cameras)} cameras but {len(self.distortion)} lenses")

    def select(self, names: Sequence[str]) -> "Rig":
        """The cameras with these names, in this order."""
        cameras = self.cameras.select(names)
        lens = dict(zip(self.cameras.names, self.distortion, strict=True))
        return Rig(cameras, tuple(lens[name] for name in names))
