"""A calibrated multi-view take, its images read on demand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor

from topohead.core.cameras import Rig


@dataclass(frozen=True)
class Capture:
    """Frames × cameras of one take, metres.

    `read_image(frame, camera)` gives srgb float32 [H W 3] in [0, 1] as stored (distorted, not
    turned); `read_mask(frame, camera)` gives the subject's coverage [H W] in [0, 1], or is None
    when the take has no masks. `read_stored` and `read_stored_mask` are the same, but leave what is
    8 bits deep as codes, uint8; None where there is no such thing. `read_jpeg` gives the bytes of a
    JPEG file that is whole and not turned, None of a picture in another format. `landmarks` are
    iBUG-68 pixels by frame, camera and index.
    """

    rig: Rig
    frames: tuple[str, ...]
    read_image: Callable[[str, str], Float[Tensor, "H W 3"]]
    read_mask: Callable[[str, str], Float[Tensor, "H W"]] | None = None
    start_mesh: Path | None = None
    landmarks: dict[str, dict[str, dict[int, tuple[float, float]]]] | None = None
    frames_per_second: float = 30.0
    read_stored: Callable[[str, str], Float[Tensor, "H W 3"] | UInt8[Tensor, "H W 3"]] | None = None
    read_jpeg: Callable[[str, str], bytes | None] | None = None
    read_stored_mask: Callable[[str, str], Float[Tensor, "H W"] | UInt8[Tensor, "H W"]] | None = (
        None
    )
