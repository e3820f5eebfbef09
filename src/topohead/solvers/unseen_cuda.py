"""`solvers.unseen` on a CUDA device; the host waits only to learn how many texels want a colour."""

# kernels take plain numbers where they declare constants
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from topohead.core.derived import derived
from topohead.rendering.uv_cuda import DeviceTexels, device_texels
from topohead.solvers.kernels import completion_triton
from topohead.solvers.kernels.rows_triton import block_size, cdiv
from topohead.solvers.sightlines import SKIN
from topohead.solvers.sightlines_cuda import area_resized
from topohead.solvers.surroundings_cuda import DeviceCopy, Surroundings
from topohead.solvers.unseen import REACH, shrink_factor

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
    small = texels.size // shrink_factor(texels.size)
    held = derived(device_texels(texels.topology, small, color.device), Surroundings)
    if texels.topology.mirror is not None:
        _lend(_mirrored, color, seen, texels, held, _shrunk(color, seen, texels, held))
    if skin is not None:
        lender = _reference(skin.to(color), held)
        _lend(lender, color, seen, texels, held, _shrunk(color, seen, texels, held))
    copy = _shrunk(color, seen, texels, held)
    _lend(_around(held.colors(copy)), color, seen, texels, held, copy)


def _lend(
    lender: Lender,
    color: Float[Tensor, "S S 3"],
    seen: Float[Tensor, "S S"],
    texels: DeviceTexels,
    held: Surroundings,
    copy: DeviceCopy,
) -> None:
    """Put what a source lends beneath what is known, in place; see `unseen`."""
    wanted = ((seen < 1) & (texels.triangle >= 0)).flatten().nonzero()[:, 0]
    if not len(wanted):
        return
    lent = lender(wanted, texels, color, seen)
    small = len(copy.seen)
    source = color.new_zeros(small * small, 4)
    source[held.everywhere] = lender(held.everywhere, held.texels, copy.color, copy.seen)
    offsets = _membranes(copy.color, copy.seen, held.part, source.reshape(small, small, 4))
    _launch(
        completion_triton.place_beneath, wanted, lent, texels.triangle, held.parts, offsets, small,
        texels.size, color, seen,
    )  # fmt: skip


def _membranes(
    color: Float[Tensor, "S S 3"],
    seen: Float[Tensor, "S S"],
    part: UInt8[Tensor, "S S"],
    source: Float[Tensor, "S S 4"],
) -> Float[Tensor, "3 S S 3"]:
    """What a source lacks to join what is known, for each part; as `unseen.membranes`."""
    both = torch.stack([torch.where(part == p, seen * source[..., 3], 0.0) for p in range(3)])
    weighted = (color - source[..., :3])[None] * both[..., None]
    levels = [torch.cat([weighted, both[..., None]], -1).permute(0, 3, 1, 2)]
    while min(levels[-1].shape[2:]) > REACH:
        levels.append(_halved(levels[-1]))
    spread = torch.zeros_like(levels[-1][:, :3])
    for index, level in enumerate(reversed(levels)):
        if index:
            spread = _doubled(spread)[..., : level.shape[2], : level.shape[3]]
        trust = (4 * level[:, 3:]).clamp(max=1)
        spread = trust * level[:, :3] / level[:, 3:].clamp(min=1e-6) + (1 - trust) * spread
    return spread.permute(0, 2, 3, 1).contiguous()


def _halved(picture: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K h w"]:
    """Blurred by the binomial (1, 4, 6, 4, 1)/16 and every other pixel taken, as pyrDown does."""
    return _blurred(picture)[:, :, ::2, ::2]


def _doubled(picture: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K h w"]:
    """Interpolated as pyrUp does, but for the last row and column, which differ a little."""
    wide = picture.new_zeros(*picture.shape[:2], 2 * picture.shape[2], 2 * picture.shape[3])
    wide[:, :, ::2, ::2] = 4 * picture
    return _blurred(wide)


def _blurred(picture: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K H W"]:
    taps = _taps(picture.device)
    planes = functional.pad(picture.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
    rows = functional.conv2d(planes, taps.reshape(1, 1, 5, 1))
    return functional.conv2d(rows, taps.reshape(1, 1, 1, 5)).reshape(picture.shape)


@cache
def _taps(device: torch.device) -> Float[Tensor, "5"]:
    """Brought over once: the host would wait for all that is under way."""
    return torch.tensor([1.0, 4, 6, 4, 1], device=device) / 16


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


def _reference(skin: Float[Tensor, "S S 3"], held: Surroundings) -> Lender:
    """A given texture, for skin only."""

    def lend(
        wanted: Int[Tensor, " N"],
        texels: DeviceTexels,
        color: Float[Tensor, "S S 3"],
        seen: Float[Tensor, "S S"],
    ) -> Float[Tensor, "N 4"]:
        same = area_resized(skin, (texels.size, texels.size)).reshape(-1, 3)
        known = held.parts[texels.triangle.flatten()[wanted].long()] == SKIN
        return torch.cat([same[wanted], known[:, None].to(same)], 1)

    return lend


def _around(vertex_colors: Float[Tensor, "V 3"]) -> Lender:
    """Colours of vertices, everywhere."""

    def lend(
        wanted: Int[Tensor, " N"],
        texels: DeviceTexels,
        color: Float[Tensor, "S S 3"],
        seen: Float[Tensor, "S S"],
    ) -> Float[Tensor, "N 4"]:
        lent = color.new_empty(len(wanted), 4)
        _launch(
            completion_triton.lend_interpolated, wanted, texels.triangle, texels.size,
            texels.corners, texels.triangles, vertex_colors, lent,
        )  # fmt: skip
        return lent

    return lend


def _launch(kernel: Any, wanted: Int[Tensor, " N"], *arguments: Any) -> None:
    """Run a kernel over the wanted texels."""
    with torch.cuda.device_of(wanted):
        block = block_size(256, len(wanted))
        kernel[(cdiv(len(wanted), block),)](wanted, len(wanted), *arguments, BLOCK=block)


def _shrunk(
    color: Float[Tensor, "S S 3"],
    seen: Float[Tensor, "S S"],
    texels: DeviceTexels,
    held: Surroundings,
) -> DeviceCopy:
    """The smaller copy; see `unseen.smaller_copy`."""
    factor = shrink_factor(texels.size)
    small = texels.size // factor
    packed = color.new_empty(small, small, 5)
    with torch.cuda.device_of(color):
        block = block_size(128, small * small)
        completion_triton.shrink_known[(cdiv(small * small, block),)](
            color, seen, texels.triangle, texels.size, packed, factor, BLOCK=block
        )
    known = packed[..., 3] / packed[..., 4].clamp(min=1e-9)
    return DeviceCopy(packed[..., :3] / packed[..., 3:4].clamp(min=1e-9), known * held.inside)
