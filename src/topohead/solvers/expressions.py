"""Expression weights and head poses of tracked meshes: what the face does in each frame.

Model of frame t: x_t = R_t (rest + Σ_k c_tk b_k) + s_t. All sums over vertices are taken once;
after that a frame is 53 numbers and a 3×3 matrix for each, whatever the mesh's density.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.core import ARKIT_52, Topology
from topohead.geometry.meshes import triangle_areas

IMPORTANCE = {
    "scalp": 0.5, "ears": 0.3, "lips": 3.0, "eyelids": 4.0, "eyes": 0.0,
    "eye_sockets": 0.0, "eye_shells": 0.0, "mouth_interior": 0.0, "neck": 0.0, "boundary": 0.0,
}  # fmt: skip
"""How much a vertex of a region counts beside its area; later rows win. Unlisted skin counts 1.

Lids and lips are small and say most; the neck bends; what is inside is not tracked. Globes turn
rather than move, and slip in tracked meshes: lids follow the gaze and say it better.
"""

ANTAGONISTS = (
    ("jawLeft", "jawRight"), ("mouthLeft", "mouthRight"), ("mouthFunnel", "mouthRollUpper"),
    ("mouthFunnel", "mouthRollLower"), ("mouthPucker", "mouthStretch*"),
    ("mouthSmile*", "mouthFrown*"), ("eyeBlink*", "eyeWide*"), ("eyeSquint*", "eyeWide*"),
    ("eyeLookIn*", "eyeLookOut*"), ("eyeLookUp*", "eyeLookDown*"), ("browDown*", "browInnerUp"),
    ("browDown*", "browOuterUp*"),
)  # fmt: skip
"""Actions of opposing muscles; `*` stands for each side."""

LARGEST = 1.1
"""Weights reach a little beyond 1: people do more than models think."""

INVISIBLE = 1e-6
"""Metres rms: an action that moves what is seen by less is left at zero."""


@dataclass(frozen=True)
class ExpressionPriors:
    """What is believed of weights beside the data; dimensionless but for `sparsity`.

    Actions are scaled so that each moves the face alike: `ridge` is the share by which a lone
    action is damped, `smoothness` of changes between frames, `opposition` of antagonists together.
    `sparsity` is the motion, metres rms over the face, that is not worth another action.
    """

    ridge: float = 1e-3
    smoothness: float = 2e-3
    opposition: float = 2e-2
    sparsity: float = 1e-5


@dataclass(frozen=True)
class ExpressionTrack:
    """`weights` follow `ARKIT_52`; `poses` move the rest shape's place to each frame's, metres."""

    weights: Float[Tensor, "T 52"]
    poses: Float[Tensor, "T 4 4"]


def vertex_importance(topology: Topology, rest: Float[Tensor, "V 3"]) -> Float[Tensor, " V"]:
    """How much each vertex counts: its share of the area times its region's, summing to 1."""
    area = triangle_areas(rest.double(), topology.triangles) / 3
    weight = rest.new_zeros(len(rest), dtype=torch.float64)
    for corner in range(3):
        weight.index_add_(0, topology.triangles[:, corner], area)
    factor = torch.ones_like(weight)
    for name, value in IMPORTANCE.items():
        if name in topology.regions:
            factor[topology.regions[name]] = value
    weight = weight * factor
    return weight / weight.sum()


def solve_expressions(
    vertices: Float[Tensor, "T V 3"],
    rest: Float[Tensor, "V 3"],
    basis: Float[Tensor, "52 V 3"],
    importance: Float[Tensor, " V"],
    priors: ExpressionPriors | None = None,
    rounds: int = 12,
) -> ExpressionTrack:
    """Bounded least squares: weights in [0, `LARGEST`] and a rigid pose for every frame.

    `rest` is the person's neutral face and `basis` its actions, in one frame; vertices that count
    (`vertex_importance`) must include some that no action moves, else head and jaw are one.
    Alternates between closed-form poses and all frames' weights (projected accelerated gradient).
    """
    problem = _Reduced(vertices, rest, basis, importance)
    priors = priors or ExpressionPriors()
    weights = torch.zeros(len(vertices), len(basis), dtype=torch.float64)
    hessian = problem.hessian(priors)
    for _ in range(rounds):
        rotations, _ = problem.poses(weights)
        weights = problem.solve(weights, rotations, hessian, priors)
    rotations, shifts = problem.poses(weights)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(weights), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotations, shifts
    return ExpressionTrack(weights, poses)


def opposing_actions() -> list[tuple[int, int]]:
    """Index pairs of `ANTAGONISTS`."""
    pairs = []
    for first, second in ANTAGONISTS:
        sides = ("Left", "Right") if "*" in first + second else ("",)
        for side in sides:
            names = (name.replace("*", side) for name in (first, second))
            pairs.append(tuple(ARKIT_52.index(name) for name in names))
    return pairs


class _Reduced:
    """The sums over vertices that the objective needs; index 0 is the rest shape, k action k−1."""

    def __init__(self, vertices: Tensor, rest: Tensor, basis: Tensor, importance: Tensor) -> None:
        share = (importance / importance.sum()).double()
        shapes = torch.cat([rest[None], basis]).double()
        self.means = torch.einsum("v,kvi->ki", share, shapes)
        shapes -= self.means[:, None]
        heavy = (share[:, None] * shapes).permute(1, 0, 2).reshape(len(rest), -1)  # [V, 53·3]
        flat = shapes.reshape(len(shapes), -1)
        self.gram = flat @ heavy.reshape(len(rest), -1, 3).permute(1, 0, 2).reshape(flat.shape).T
        # a slice at a time: frames of a long take do not fit twice
        centers, moments = [], []
        for part in vertices.split(64):
            frames = part.double()
            centers.append(torch.einsum("v,tvi->ti", share, frames))
            rows = frames.transpose(1, 2).reshape(-1, len(rest))
            moments.append((rows @ heavy).reshape(len(part), 3, len(shapes), 3))
        self.centers = torch.cat(centers)
        self.moments = torch.cat(moments).permute(0, 2, 1, 3)  # Σ w x bᵀ, [T 53 3 3]
        rms = self.gram.diagonal()[1:].clamp(min=0).sqrt()
        self.visible = rms > INVISIBLE
        self.scale = torch.where(self.visible, rms, 1.0)
        self.limit = torch.where(self.visible, LARGEST * self.scale, 0.0)

    def poses(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations [T 3 3] and translations [T 3] that best place the shapes of these weights."""
        mixed = torch.cat([torch.ones_like(weights[:, :1]), weights], 1)
        u, _, vt = torch.linalg.svd(torch.einsum("tk,tkij->tij", mixed, self.moments))
        u = torch.cat([u[:, :, :2], u[:, :, 2:] * torch.linalg.det(u @ vt)[:, None, None]], 2)
        rotations = u @ vt
        means = mixed @ self.means
        return rotations, self.centers - (rotations @ means[..., None])[..., 0]

    def hessian(self, priors: ExpressionPriors) -> Tensor:
        """Second derivatives of a frame's energy in scaled weights, halved, [52 52]."""
        matrix = self.gram[1:, 1:] / (self.scale[:, None] * self.scale)
        matrix = matrix + priors.ridge * torch.eye(len(matrix), dtype=matrix.dtype)
        for first, second in opposing_actions():
            matrix[first, second] += priors.opposition
            matrix[second, first] += priors.opposition
        return matrix

    def solve(
        self, weights: Tensor, rotations: Tensor, hessian: Tensor, priors: ExpressionPriors
    ) -> Tensor:
        """All frames' weights for fixed poses: FISTA with restarts (O'Donoghue and Candès 2015)."""
        pull = torch.einsum("tij,tkij->tk", rotations, self.moments[:, 1:]) - self.gram[0, 1:]
        pull = pull / self.scale - priors.sparsity
        top = torch.linalg.eigvalsh(hessian)[-1]
        rate = 1 / (top + 4 * priors.smoothness)
        here = ahead = weights * self.scale
        momentum = 1.0
        for _ in range(ITERATIONS):
            gradient = ahead @ hessian - pull
            step = priors.smoothness * ahead.diff(dim=0)
            gradient[:-1] -= step
            gradient[1:] += step
            there = torch.minimum((ahead - rate * gradient).clamp(min=0), self.limit)
            if ((ahead - there) * (there - here)).sum() > 0:
                momentum = 1.0
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = there + (momentum - 1) / faster * (there - here)
            here, momentum = there, faster
        return here / self.scale


ITERATIONS = 150
"""Gradient steps between two solves of the poses; weights are kept, so they add up."""
