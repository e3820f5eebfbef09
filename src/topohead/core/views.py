"""What a solver sees of an instant, and what it says of it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core.cameras import Cameras


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

    def on(self, device: torch.device | str) -> "Views":
        """The same with pictures and masks on a device, ready when this returns.

        To a CUDA device they go through pinned memory, on a stream of their own: a thread may bring
        the next pictures over while others compute on the default stream.
        """
        device = torch.device(device)
        if device.type != "cuda":
            return replace(
                self,
                images=tuple(image.to(device) for image in self.images),
                masks=self.masks and tuple(mask.to(device) for mask in self.masks),
            )
        stream = torch.cuda.Stream(device)

        def bring(pictures: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            brought = tuple(p.pin_memory().to(device, non_blocking=True) for p in pictures)
            for picture in brought:
                picture.record_stream(torch.cuda.default_stream(device))
            return brought

        with torch.cuda.stream(stream):
            images, masks = bring(self.images), self.masks and bring(self.masks)
        stream.synchronize()
        return replace(self, images=images, masks=masks)


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
