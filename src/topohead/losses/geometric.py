"""What keeps Gaussians on a mesh together: the losses of Topo4D (Li et al. 2024).

Physics after Luiten et al. 2023, topology after Eqs. 12–13. `pairs` lists every pair of vertices
that share a triangle, in both directions, so a mean over pairs is Σ_i Σ_j / (2 n_e). Lengths are
the scene's unit. All are differentiable, with a gradient of zero where a root reaches zero.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROOT_FLOOR = 1e-20
"""Added under square roots, so that a length of zero has the gradient zero."""


def neighbour_pairs(triangles: Int[Tensor, "T 3"]) -> Int[Tensor, "K 2"]:
    """Vertices that share a triangle, both directions, sorted by the first then the second."""
    sides = torch.cat([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return torch.unique(torch.cat([sides, sides.flip(1)]), dim=0)


def hinges_of(triangles: Int[Tensor, "T 3"]) -> Int[Tensor, "E 2"]:
    """Triangles that meet at an edge. Open edges and edges of more than two are left out."""
    sides = torch.stack([triangles, triangles.roll(-1, 1)], -1).reshape(-1, 2).sort(1).values
    owner = torch.arange(len(triangles)).repeat_interleave(3)
    _, edge, count = torch.unique(sides, dim=0, return_inverse=True, return_counts=True)
    order = edge.argsort(stable=True)
    return owner[order[(count == 2)[edge[order]]]].reshape(-1, 2)


def edge_weights(
    rest: Float[Tensor, "V 3"], pairs: Int[Tensor, "K 2"], falloff: float
) -> Float[Tensor, " K"]:
    """w = exp(-λ ‖μ_j - μ_i‖²) in the first frame (Eq. 9); λ in 1/unit²."""
    return torch.exp(-falloff * _offsets(rest, pairs).square().sum(1))


def rotation_coherence(
    quats: Float[Tensor, "V 4"],
    last_quats: Float[Tensor, "V 4"],
    pairs: Int[Tensor, "K 2"],
    weights: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    """Mean √w ‖Δq_j - Δq_i‖, Δq the turn since the last frame (Eq. 8).

    The weight stands inside the root, as in the released code. Quaternions wxyz, any length.
    """
    turn = relative_turn(quats, last_quats)
    return _weighted_length(turn[pairs[:, 1]] - turn[pairs[:, 0]], weights)


def rigidity(
    means: Float[Tensor, "V 3"],
    quats: Float[Tensor, "V 4"],
    last_means: Float[Tensor, "V 3"],
    last_quats: Float[Tensor, "V 4"],
    pairs: Int[Tensor, "K 2"],
    weights: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    """Mean √w ‖o_ij of the last frame - Δq_i⁻¹ o_ij‖: neighbours follow each vertex's turn.

    In the released code, not in the paper.
    """
    turn = relative_turn(quats, last_quats)[pairs[:, 0]]
    back = turn * turn.new_tensor([1.0, -1, -1, -1])
    turned_back = _rotate(back, _offsets(means, pairs))
    return _weighted_length(_offsets(last_means, pairs) - turned_back, weights)


def isometry(
    means: Float[Tensor, "V 3"],
    rest_lengths: Float[Tensor, " K"],
    pairs: Int[Tensor, "K 2"],
    weights: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    """Mean √w |‖μ_j - μ_i‖ - length in the first frame| (Eq. 10)."""
    lengths = (_offsets(means, pairs).square().sum(1) + ROOT_FLOOR).sqrt()
    return _weighted_length((lengths - rest_lengths)[:, None], weights)


def neighbour_mean_distance(
    means: Float[Tensor, "V 3"], pairs: Int[Tensor, "K 2"], weights: Float[Tensor, " V"]
) -> Float[Tensor, ""]:
    """Mean of w_i ‖μ_i - mean of its neighbours‖² over vertices (Eq. 12), unit²."""
    first, second = pairs.unbind(1)
    degree = torch.bincount(first, minlength=len(means)).clamp(min=1).to(means)
    around = torch.zeros_like(means).index_add(0, first, means[second]) / degree[:, None]
    return (weights * (means - around).square().sum(1)).mean()


def hinge_cosines(
    means: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"], hinges: Int[Tensor, "E 2"]
) -> Float[Tensor, " E"]:
    """Cosine of the angle between the normals of triangles that meet at an edge."""
    a, b, c = means[triangles].unbind(1)
    area = torch.linalg.cross(b - a, c - a)
    normals = area / (area.square().sum(1, keepdim=True) + ROOT_FLOOR).sqrt()
    return (normals[hinges[:, 0]] * normals[hinges[:, 1]]).sum(1)


def hinge_change(
    cosines: Float[Tensor, " E"], rest_cosines: Float[Tensor, " E"], floor: float = 1e-6
) -> Float[Tensor, ""]:
    """Σ 1 - cos(θ - θ_0) over edges (Eq. 13); angles unsigned, as in the released code.

    sin θ is √(1 - cos²θ + floor): without a floor its slope is infinite at flat edges.
    """

    def sine(cosine: Tensor) -> Tensor:
        return (1 - cosine.square() + floor).clamp(min=floor).sqrt()

    change = cosines * rest_cosines + sine(cosines) * sine(rest_cosines)
    return (1 - change).sum()


def scale_excess(
    scales: Float[Tensor, "V 3"], initial: Float[Tensor, "V 3"], growth: float
) -> Float[Tensor, ""]:
    """Σ thinnest axis + growth past a multiple of the initial size (Eq. 5), unit."""
    thinnest = scales.min(1).values.sum()
    return thinnest + (scales - growth * initial).clamp(min=0).sum()


def relative_turn(
    quats: Float[Tensor, "V 4"], last_quats: Float[Tensor, "V 4"]
) -> Float[Tensor, "V 4"]:
    """q̂ q̂_last⁻¹, unit quaternions wxyz."""
    now = torch.nn.functional.normalize(quats, dim=1)
    last = torch.nn.functional.normalize(last_quats, dim=1)
    return _product(now, last * last.new_tensor([1.0, -1, -1, -1]))


def _product(p: Tensor, q: Tensor) -> Tensor:
    scalar = p[:, :1] * q[:, :1] - (p[:, 1:] * q[:, 1:]).sum(1, keepdim=True)
    cross = torch.linalg.cross(p[:, 1:], q[:, 1:])
    return torch.cat([scalar, p[:, :1] * q[:, 1:] + q[:, :1] * p[:, 1:] + cross], 1)


def _rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    twice = 2 * torch.linalg.cross(quats[:, 1:], vectors)
    return vectors + quats[:, :1] * twice + torch.linalg.cross(quats[:, 1:], twice)


def _offsets(means: Tensor, pairs: Tensor) -> Tensor:
    return means[pairs[:, 1]] - means[pairs[:, 0]]


def _weighted_length(vectors: Tensor, weights: Tensor) -> Tensor:
    return (weights * vectors.square().sum(1) + ROOT_FLOOR).sqrt().mean()
