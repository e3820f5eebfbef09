"""What a solver sees of an instant, and what it says of it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core.cameras import Cameras, Rig
from topohead.core.transfer import brought


@dataclass(frozen=True)
class Views:
    """Undistorted pictures of one instant and their pinhole cameras (no skew).

    `images` are srgb float32 [H W 3] in [0, 1], each of its camera's size. `masks` are [H W] in
    [0, 1]: the subject's coverage, zero also where the lens saw nothing; None without masks.
    """

    frame: str
    cameras: Cameras
    images: tuple[Float[Tensor, "_ _ 3"], ...]
    masks: tuple[Float[Tensor, "_ _"], ...] | None = None

    def to(self, device: torch.device | str) -> "Views":
        """The same with pictures and masks on a device; see `transfer.brought`."""
        masks = None if self.masks is None else brought(self.masks, device)
        return replace(self, images=brought(self.images, device), masks=masks)


@dataclass(frozen=True)
class Photographs:
    """Stored pictures of one instant, lenses not undone: they can be read without resampling.

    `images` are srgb uint8 [H W 3], each of its camera's size; lenses are brown or rational.
    `masks` are as in `Views`, of pinhole cameras without skew but of any size: the subject's
    coverage in [0, 1], zero also where the lens saw nothing.
    """

    frame: str
    rig: Rig
    images: tuple[UInt8[Tensor, "_ _ 3"], ...]
    masks: tuple[Float[Tensor, "_ _"], ...] | None = None

    @property
    def cameras(self) -> Cameras:
        """The rig's cameras."""
        return self.rig.cameras

    def to(self, device: torch.device | str) -> "Photographs":
        """The same with pictures and masks on a device; see `transfer.brought`."""
        masks = None if self.masks is None else brought(self.masks, device)
        return replace(self, images=brought(self.images, device), masks=masks)


@dataclass(frozen=True)
class TrackedFrame:
    """A solver's answer for one instant.

    `vertices` are float32 world metres. `pose` moves the first frame's head to this frame's.
    `gains` scale each camera's reference colour. `residual` is the robust colour residual in
    [0, 1] units; `doubtful` says that the solver does not trust this frame.
    """

    frame: str
    vertices: Float[Tensor, "V 3"]
    pose: Float[Tensor, "4 4"]
    gains: Float[Tensor, "C 3"]
    residual: float
    doubtful: bool
    seconds: float
