"""Nearest neighbours between batches of point sets, on the device of the points."""

from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK, CACHED = 1 << 28, 1 << 18
"""Distances held at once (float32: 1 GiB), and on the CPU: as many as its cache holds are twice as
quick as 16 MiB, which come from the system anew each time."""

STRIPE = 8
"""Points of which the CPU first asks whether any of them is among the nearest."""

ON_DEVICE = 8192
"""Largest set that the CUDA kernel takes."""


def nearest(
    queries: Float[Tensor, "B Q 3"],
    points: Float[Tensor, "B N 3"],
    count: int,
    quick: bool = False,
) -> tuple[Float[Tensor, "B Q K"], Int[Tensor, "B Q K"]]:
    """Distances and indices of the `count` nearest points of each query, nearest first.

    Not differentiable. Found are the nearest to rounding: |p|² − 2 q·p in float32 decides, good to
    a thousandth of the points' spread; on CUDA, where it should be `quick`, a thousandth of the
    distance.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        queries, points = queries.float(), points.float()
        fits = queries.is_cuda and count > 1 and points.shape[1] <= ON_DEVICE
        if quick and fits and _compiler():
            from topohead.geometry.neighbours_triton import nearest_indices  # noqa: PLC0415

            index = nearest_indices(queries, points, count)
            return (gather_rows(points, index) - queries[:, :, None]).norm(dim=-1), index
        held = CHUNK if queries.is_cuda else CACHED
        rows = max(1, held // max(1, len(queries) * points.shape[1]))
        squares = points.square().sum(-1)[:, None]
        found = []
        for part in queries.split(rows, 1):
            # ‖q‖² is the same for all points of a query: ordering does without
            partial = torch.baddbmm(squares, part, points.transpose(1, 2), alpha=-2)
            found.append(_least(partial, count))
        index = torch.cat(found, 1)
        gathered = gather_rows(points, index)
        return (gathered - queries[:, :, None]).norm(dim=-1), index


def _least(values: Float[Tensor, "B Q N"], count: int) -> Int[Tensor, "B Q K"]:
    """Indices of each row's least values, least first."""
    stripes, rest = divmod(values.shape[-1], STRIPE)
    if values.is_cuda or rest or stripes < 4 * count:
        return _sorted(values, count)
    # the least lie in the stripes with the least minima, and minima are found quickly
    stripe = _sorted(values.unflatten(-1, (STRIPE, stripes)).amin(-2), count)
    index = torch.cat([stripe + stripes * k for k in range(STRIPE)], -1)
    return index.gather(-1, _sorted(values.gather(-1, index), count))


def _sorted(values: Float[Tensor, "B Q N"], count: int) -> Int[Tensor, "B Q K"]:
    if count == 1:  # much quicker
        return values.argmin(-1, keepdim=True)
    return values.topk(count, dim=-1, largest=False).indices


@cache
def _compiler() -> bool:
    return find_spec("triton") is not None


def gather_rows(values: Float[Tensor, "B N D"], index: Int[Tensor, "B *Q"]) -> Tensor:
    """Rows of each batch element by index, [B *Q D]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


def farthest_points(
    points: Float[Tensor, "N D"],
    count: int,
    mirror: Int[Tensor, " N"] | None = None,
    weights: Float[Tensor, " N"] | None = None,
) -> Int[Tensor, " K"]:
    """`count` points each as far as can be from those before it; with `mirror`, in pairs.

    A point's distance counts `weights` times: twice the weight, points twice as close.

    Greedy (Gonzalez 1985), starting from the first point. A point and its mirror come together
    (one on the plane alone), so with `mirror` the set is closed under it; it may then have one
    point less than `count`.
    """
    chosen: list[int] = []
    distance = torch.full((len(points),), torch.inf)
    candidate = 0
    while len(chosen) < count:
        pair = [candidate] if mirror is None else sorted({candidate, int(mirror[candidate])})
        if len(chosen) + len(pair) > count:
            break
        for index in pair:
            chosen.append(index)
            distance = torch.minimum(distance, (points - points[index]).norm(dim=-1))
        candidate = int((distance if weights is None else distance * weights).argmax())
    return torch.tensor(chosen)
