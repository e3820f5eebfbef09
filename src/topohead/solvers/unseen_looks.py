"""Colours of what no picture shows: from across the face and from around, in its own light."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import cg
from scipy.spatial import KDTree
from torch import Tensor

TWIN = 0.006
"""Metres within which a point on the other side of the face stands for another."""

SURE = 0.09
"""Of cos⁴ over all pictures, from where on a colour is what pictures say (cos 0.55)."""

ACROSS = 0.03
"""How much a twin's colour counts against a seen one."""

NEIGHBOURS = 8

APART = 1e-4
"""How much neighbours of another part of the head count: hair ends where skin begins."""

NEAR = 0.002
"""Metres to which distances between neighbours are bounded below."""

SKIN = 0.3
"""Difference in log colour beyond which a pair is not one skin in two lights."""


def sidelight(
    colors: Float[Tensor, "N 3"],
    sure: Float[Tensor, " N"],
    normals: Float[Tensor, "N 3"],
    twin: Int[Tensor, " N"],
    rounds: int = 5,
) -> Float[Tensor, "3"]:
    """Slope of log colours along x of the normals, head frame, that makes both sides differ.

    A face is nearly symmetric: what tells its sides apart is mostly light. `twin` is −1 for none.
    """
    rows = ((twin >= 0) & (sure > 0)).nonzero()[:, 0]
    other = twin[rows]
    weight = (sure[rows] * sure[other]).double()
    if not bool((weight > 0.01).any()):
        return torch.zeros(3)
    light = colors.clamp(min=0.02).double().log()
    gap = light[rows] - light[other]
    apart = (normals[rows, 0] - normals[other, 0]).double()
    slope = torch.zeros(3, dtype=torch.float64)
    for _ in range(rounds):
        wrong = (gap - apart[:, None] * slope).square().mean(1)
        trust = weight / (1 + wrong / SKIN**2).square()
        square = (trust * apart.square()).sum() + 0.02 * trust.sum()
        slope = (trust[:, None] * apart[:, None] * gap).sum(0) / square
    return slope.float()


def filled(
    colors: Float[Tensor, "N 3"],
    seen: Float[Tensor, " N"],
    places: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    parts: Int[Tensor, " N"],
    least: float,
) -> Float[Tensor, "N 3"]:
    """Colours of all points: seen ones their own, the others as their twins and neighbours have it.

    `places` and `normals` are of the resting head in the head frame, whose x = 0 is the plane of
    symmetry. `seen` is Σ cos⁴: from `least` to `SURE` a colour counts more and more. Light from one
    side is taken off before, and put back. Solves one Laplacian over nearest neighbours, in which
    other `parts` hardly count.
    """
    sure = ((seen - least) / (SURE - least)).clamp(0, 1)
    if bool((sure >= 1).all()) or not bool((sure > 0).any()):
        return colors
    points = places.double().numpy()
    tree = KDTree(points)
    distance, nearest = tree.query(points * np.array([-1.0, 1.0, 1.0]))
    twin = torch.from_numpy(nearest).long()
    mine = (torch.from_numpy(distance) < TWIN) & (parts[twin] == parts)
    slope = sidelight(colors, sure, normals, torch.where(mine, twin, -1))
    light = normals[:, :1] * slope
    plain = colors.clamp(min=0.02).log() - light
    across = ACROSS * mine * sure[twin] * (1 - sure)
    data = (sure[:, None] * plain + across[:, None] * plain[twin]).double().numpy()
    weight = (sure + across).double().numpy()
    smooth = _laplacian(points, tree, parts.numpy())
    # seen colours are nearly kept, and what is far from them still has a value
    system = smooth + diags(100 * weight + 1e-7)
    mean = (sure[:, None] * plain).sum(0) / sure.sum()
    columns = [
        cg(system, 100 * data[:, c] + 1e-7 * float(mean[c]), x0=np.full(len(data), float(mean[c])),
           rtol=1e-5, maxiter=1000, M=diags(1 / system.diagonal()))[0]
        for c in range(3)
    ]  # fmt: skip
    found = torch.from_numpy(np.stack(columns, 1)).float()
    found = (found + light).exp().clamp(0, 1)
    return torch.lerp(found, colors, sure[:, None])


def _laplacian(points: np.ndarray, tree: KDTree, parts: np.ndarray) -> csr_matrix:
    """Of the graph of nearest neighbours, closer ones and those of one part more."""
    count = min(NEIGHBOURS + 1, len(points))
    found = tree.query(points, k=count)
    distance, around = (np.asarray(part) for part in found)
    rows = np.repeat(np.arange(len(points)), count - 1)
    columns = around[:, 1:].reshape(-1)
    near = np.maximum(distance[:, 1:].reshape(-1), NEAR)
    values = (NEAR / near) ** 2 * np.where(parts[rows] == parts[columns], 1.0, APART)
    edges = coo_matrix((values, (rows, columns)), shape=(len(points), len(points))).tocsr()
    edges = edges + edges.T
    return diags(np.asarray(edges.sum(1)).ravel()) - edges


def whitest(
    colors: Float[Tensor, "N 3"], seen: Float[Tensor, " N"], eyes: Bool[Tensor, " N"], least: float
) -> Float[Tensor, "3"] | None:
    """The srgb colour of the eyes' whites, None where no picture shows them.

    The mean of the lightest fifth of what is seen of the eyes, highlights left out.
    """
    rows = (eyes & (seen > least)).nonzero()[:, 0]
    if len(rows) < 20:
        return None
    order = colors[rows].mean(1).argsort()
    chosen = rows[order[int(0.75 * len(rows)) : max(int(0.95 * len(rows)), 1)]]
    return colors[chosen].mean(0)
