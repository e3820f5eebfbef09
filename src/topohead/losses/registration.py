"""What the registration network is trained for; lengths in millimetres."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from topohead.core import SurfacePoints, Topology
from topohead.geometry.meshes import face_normals
from topohead.models.learned_icp import Registered
from topohead.models.scan_pose import PoseGuess

FOLLOWED = math.radians(75)
"""Guesses worse than this are not to be corrected, only recognised. Of all quarter turns one is
always within 63°."""

WELL = math.radians(30)
"""Guesses better than this are as good as any; between the two the score falls."""

EARLIER = 0.6
"""A round counts this much of the one after it."""

FACE, DETAILED, INNER = 3.0, 3.5, 0.3
"""Weights of the face, of lips, lids and ears, and of what lies inside; of other vertices 1."""


@dataclass(frozen=True)
class LossSurface:
    """What the loss knows of the topology: vertex weights (mean 1), edges, landmarks, nodes."""

    weights: Float[Tensor, " V"]
    edges: Int[Tensor, "E 2"]
    triangles: Int[Tensor, "T 3"]
    landmark_corners: Int[Tensor, "L 3"]
    landmark_weights: Float[Tensor, "L 3"]

    def to(self, device: torch.device | str) -> "LossSurface":
        parts = (self.weights, self.edges, self.triangles, self.landmark_corners,
                 self.landmark_weights)  # fmt: skip
        return LossSurface(*(part.to(device) for part in parts))


class Truth(NamedTuple):
    """What is true of a batch: heads in the frame of the learned ICP's points, metres.

    `guess` is the error of the pose stage's guess (radians); `turned` are the truth's nodes in
    that guess's normalised frame, `upright` the same nodes in the head frame.
    """

    vertices: Float[Tensor, "B V 3"]
    inlier: Bool[Tensor, "B N"]
    valid: Bool[Tensor, "B N"]
    coefficients: Float[Tensor, "B 52"]
    guess: Float[Tensor, " B"]
    turned: Float[Tensor, "B K 3"]
    upright: Float[Tensor, "B K 3"]


def loss_surface(topology: Topology, landmarks: SurfacePoints) -> LossSurface:
    """Weights by region: the face counts thrice, details a little more, what is hidden a third."""
    weights = torch.ones(topology.vertex_count)
    groups = {
        FACE: ("face",),
        DETAILED: ("lips", "eyelids", "ears"),
        INNER: ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth"),
    }
    for weight, names in groups.items():
        known = [name for name in names if name in topology.regions]
        weights[topology.region_mask(*known)] = weight
    corners = topology.triangles[landmarks.triangles]
    return LossSurface(
        weights / weights.mean(),
        topology.edges,
        topology.triangles,
        corners,
        landmarks.barycentrics.float(),
    )


def landmark_places(
    vertices: Float[Tensor, "B V 3"], surface: LossSurface
) -> Float[Tensor, "B L 3"]:
    """The landmarks of heads."""
    return (vertices[:, surface.landmark_corners] * surface.landmark_weights[..., None]).sum(2)


def registration_loss(
    guess: PoseGuess, found: Registered, truth: Truth, surface: LossSurface, nodes: Tensor
) -> dict[str, Float[Tensor, ""]]:
    """The weighted sum under `loss`, then its parts, unweighted."""
    error = (found.vertices - truth.vertices) * 1e3
    rounds = (found.rounds - truth.vertices[:, nodes]).abs().mean((1, 2, 3)) * 1e3
    fade = EARLIER ** torch.arange(len(rounds) - 1, -1, -1, device=rounds.device)
    parts = {
        "vertices": (error.abs().mean(2) * surface.weights).mean(),
        "nodes": (fade * rounds).sum(),
        "sigma": beta_nll(error, found.log_sigma),
        "normals": _normals(found.vertices, truth.vertices, surface),
        "edges": edge_change(found.vertices, truth.vertices, surface),
        "landmarks": (landmark_places(error, surface)).abs().mean(),
        "expression": (found.coefficients.float() - truth.coefficients).abs().mean(),
        "inliers": _inliers(found.inlier, truth),
        "pose": _pose(guess, truth),
        "score": functional.binary_cross_entropy_with_logits(
            guess.score, ((FOLLOWED - truth.guess) / (FOLLOWED - WELL)).clamp(0, 1)
        ),
    }
    factors = {"vertices": 1.0, "nodes": 0.3, "sigma": 0.3, "normals": 0.2, "edges": 0.1,
               "landmarks": 0.1, "expression": 1.0, "inliers": 0.1, "pose": 0.3,
               "score": 0.3}  # fmt: skip
    total = torch.stack([factors[name] * part for name, part in parts.items()]).sum()
    return {"loss": total, **parts}


def beta_nll(error: Float[Tensor, "B V 3"], log_sigma: Float[Tensor, "B V"]) -> Float[Tensor, ""]:
    """Gaussian likelihood, each term times σ (β = ½), so that large errors still teach the mean.

    Seitzer et al. 2022. Isotropic: σ is the deviation along each axis, mm.
    """
    log_sigma = log_sigma.clamp(-4, 4)
    term = error.square().mean(2) / 2 * torch.exp(-2 * log_sigma) + log_sigma
    return (term * log_sigma.detach().exp()).mean()


def _normals(a: Tensor, b: Tensor, surface: LossSurface) -> Float[Tensor, ""]:
    """One minus the cosine between triangles' normals."""
    agree = face_normals(a, surface.triangles) * face_normals(b, surface.triangles)
    return 1 - agree.sum(-1).mean()


def edge_change(a: Tensor, b: Tensor, surface: LossSurface) -> Float[Tensor, ""]:
    """Mean change of edge lengths, mm."""

    def lengths(vertices: Tensor) -> Tensor:
        first, second = surface.edges.unbind(1)
        return (vertices[:, first] - vertices[:, second]).square().sum(-1).clamp(min=1e-12).sqrt()

    return (lengths(a) - lengths(b)).abs().mean() * 1e3


def _inliers(logits: Float[Tensor, "B N"], truth: Truth) -> Float[Tensor, ""]:
    each = functional.binary_cross_entropy_with_logits(
        logits, truth.inlier.float(), reduction="none"
    )
    # each scan counts alike, so the mean over a batch is that over its parts
    return ((each * truth.valid).sum(1) / truth.valid.sum(1).clamp(min=1)).mean()


def _pose(guess: PoseGuess, truth: Truth) -> Float[Tensor, ""]:
    """Where the corrected guess puts the nodes against where they belong, mm; 0 for bad guesses."""
    turned = truth.turned @ guess.rotation.transpose(1, 2)
    placed = guess.scale[:, None, None] * turned + guess.shift[:, None]
    apart = (placed - truth.upright).abs().mean((1, 2)) * 1e3
    return (apart * (truth.guess < FOLLOWED)).mean()
