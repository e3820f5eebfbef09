"""`solvers.unseen` on a CUDA device: only what is smooth is worked out on the host, small."""

# kernels take plain numbers where they declare constants
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from topohead.rendering.uv_cuda import DeviceTexels, device_texels
from topohead.solvers.kernels import completion_triton
from topohead.solvers.kernels.rows_triton import block_size, cdiv
from topohead.solvers.sightlines import SKIN, triangle_parts
from topohead.solvers.sightlines_cuda import area_resized
from topohead.solvers.unseen import (
    Copy,
    membranes,
    shrink_factor,
    smaller_copy,
    surrounding_colors,
)

Lender = Callable[
    [Int[Tensor, " N"], DeviceTexels, Float[Tensor, "S S 3"], Float[Tensor, "S S"]],
    Float[Tensor, "N 4"],
]
"""Colours for some texels of a texture of any size, and how far each is known."""


def fill_unseen(
    color: Float[Tensor, "S S 3"],
    seen: Float[Tensor, "S S"],
    texels: DeviceTexels,
    skin: Float[Tensor, "S S 3"] | None = None,
) -> None:
    """`unseen.fill_unseen` for tensors on a device, in place."""
    if texels.topology.mirror is not None:
        _lend(_mirrored, color, seen, texels)
    if skin is not None:
        _lend(_reference(skin.to(color)), color, seen, texels)
    colors = surrounding_colors(_shrunk(color, seen, texels))
    _lend(_around(colors), color, seen, texels)


def _lend(
    lender: Lender,
    color: Float[Tensor, "S S 3"],
    seen: Float[Tensor, "S S"],
    texels: DeviceTexels,
) -> None:
    """Put what a source lends beneath what is known, in place; see `unseen`."""
    wanted = ((seen < 1) & (texels.triangle >= 0)).flatten().nonzero()[:, 0]
    if not len(wanted):
        return
    lent = lender(wanted, texels, color, seen)
    copy = _shrunk(color, seen, texels)
    small = len(copy.seen)
    device = color.device
    little = device_texels(texels.topology, small, device)
    everywhere = (little.triangle >= 0).flatten().nonzero()[:, 0]
    source = color.new_zeros(small * small, 4)
    known = (torch.from_numpy(values).to(device) for values in (copy.color, copy.seen))
    source[everywhere] = lender(everywhere, little, *known)
    offsets = membranes(copy, source.reshape(small, small, 4).cpu().numpy())
    parts = torch.from_numpy(triangle_parts(texels.topology)).to(device)
    _launch(
        completion_triton.place_beneath, wanted, lent, texels.triangle, parts,
        torch.from_numpy(offsets).to(device), small, texels.size, color, seen,
    )  # fmt: skip


def _mirrored(
    wanted: Int[Tensor, " N"],
    texels: DeviceTexels,
    color: Float[Tensor, "S S 3"],
    seen: Float[Tensor, "S S"],
) -> Float[Tensor, "N 4"]:
    """The other side of the head, as far as that is known."""
    lent = color.new_empty(len(wanted), 4)
    _launch(
        completion_triton.lend_mirrored, wanted, texels.triangle, texels.size, texels.corners,
        texels.mirrored_corners, color, seen, lent,
    )  # fmt: skip
    return lent


def _reference(skin: Float[Tensor, "S S 3"]) -> Lender:
    """A given texture, for skin only."""

    def lend(
        wanted: Int[Tensor, " N"],
        texels: DeviceTexels,
        color: Float[Tensor, "S S 3"],
        seen: Float[Tensor, "S S"],
    ) -> Float[Tensor, "N 4"]:
        same = area_resized(skin, (texels.size, texels.size)).reshape(-1, 3)
        parts = torch.from_numpy(triangle_parts(texels.topology)).to(color.device)
        known = parts[texels.triangle.flatten()[wanted]] == SKIN
        return torch.cat([same[wanted], known[:, None].to(same)], 1)

    return lend


def _around(vertex_colors: Float32[np.ndarray, "V 3"]) -> Lender:
    """Colours of vertices, everywhere."""

    def lend(
        wanted: Int[Tensor, " N"],
        texels: DeviceTexels,
        color: Float[Tensor, "S S 3"],
        seen: Float[Tensor, "S S"],
    ) -> Float[Tensor, "N 4"]:
        lent = color.new_empty(len(wanted), 4)
        values = torch.from_numpy(np.ascontiguousarray(vertex_colors)).to(color.device)
        _launch(
            completion_triton.lend_interpolated, wanted, texels.triangle, texels.size,
            texels.corners, texels.triangles, values, lent,
        )  # fmt: skip
        return lent

    return lend


def _launch(kernel: Any, wanted: Int[Tensor, " N"], *arguments: Any) -> None:
    """Run a kernel over the wanted texels."""
    with torch.cuda.device_of(wanted):
        block = block_size(256, len(wanted))
        kernel[(cdiv(len(wanted), block),)](wanted, len(wanted), *arguments, BLOCK=block)


def _shrunk(
    color: Float[Tensor, "S S 3"], seen: Float[Tensor, "S S"], texels: DeviceTexels
) -> Copy:
    """The smaller copy, on the host."""
    factor = shrink_factor(texels.size)
    small = texels.size // factor
    packed = color.new_empty(small, small, 5)
    with torch.cuda.device_of(color):
        block = block_size(128, small * small)
        completion_triton.shrink_known[(cdiv(small * small, block),)](
            color, seen, texels.triangle, texels.size, packed, factor, BLOCK=block
        )
    return smaller_copy(packed.cpu().numpy(), texels.topology)
