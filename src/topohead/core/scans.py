"""A scan as it was read, and the reference head that was found in it."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Scan:
    """A measured surface in the frame of its file: triangles, or points alone.

    `triangles` has no rows when there are only points. Normals, where given, point out of the head.
    `colors` are sRGB values per point, 0 to 1; `uv` has its origin at the bottom left.
    """

    points: Float[Tensor, "N 3"]
    triangles: Int[Tensor, "F 3"]
    normals: Float[Tensor, "N 3"] | None = None
    colors: Float[Tensor, "N 3"] | None = None
    uv: Float[Tensor, "U 2"] | None = None
    triangle_uv: Int[Tensor, "F 3"] | None = None

    def to(self, device: torch.device | str) -> "Scan":
        """The same on a device."""
        parts = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved = {name: part.to(device) for name, part in parts.items() if part is not None}
        return replace(self, **moved)


@dataclass(frozen=True)
class ScanFit:
    """The reference head in the shape of a scan, in the scan's frame (metres).

    `sigma` is the expected error of each vertex along each axis in metres, `pose` the similarity
    that takes the reference head's frame to the scan's, `expression` the ARKit-52 coefficients
    that the scan shows, `inliers` the points that belong to the head and not to hair or clothes.
    """

    vertices: Float[Tensor, "V 3"]
    sigma: Float[Tensor, " V"]
    pose: Float[Tensor, "4 4"]
    expression: Float[Tensor, " 52"]
    inliers: Bool[Tensor, " N"]

    def to(self, device: torch.device | str) -> "ScanFit":
        """The same on a device."""
        return ScanFit(*(getattr(self, entry.name).to(device) for entry in fields(self)))
