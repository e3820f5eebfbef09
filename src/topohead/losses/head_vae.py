"""What the autoencoder of heads is trained for; lengths in millimetres."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.geometry.meshes import face_normals
from topohead.losses.registration import LossSurface, beta_nll, edge_change
from topohead.models.head_vae import Decoded, Posterior

FACTORS = {"vertices": 1.0, "between": 0.5, "sigma": 0.1, "normals": 2.0, "edges": 0.5, "kl": 0.003}
"""Weights of the parts.

Normals are in radians, so that three degrees weigh as much as a tenth of a millimetre: a surface
may lie well and look like a golf ball. `kl` is in nats a token. Between heads a token knows some 40
nats; at 0.03 the posterior drowns detail in noise (a draw is 0.5 mm off after 370 steps), at 0.003
the noise stays below the error.
"""


def head_vae_loss(
    posterior: Posterior,
    found: Decoded,
    vertices: Float[Tensor, "B V 3"],
    between: Float[Tensor, "B Q 3"],
    surface: LossSurface,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted sum under `loss`, then its parts, unweighted.

    `found` are the reference's vertices, then the points `between` them.
    """
    count = vertices.shape[1]
    truth = torch.cat([vertices, between], 1)
    error = (found.points - truth) * 1e3
    own = found.points[:, :count]
    parts = {
        "vertices": (error[:, :count].abs().mean(2) * surface.weights).mean(),
        "between": error[:, count:].abs().mean(),
        "sigma": beta_nll(error, found.log_sigma),
        "normals": normal_step(own, vertices, surface),
        "edges": edge_change(own, vertices, surface),
        "kl": divergence(posterior).sum(2).mean(),
    }
    total = torch.stack([FACTORS[name] * part for name, part in parts.items()]).sum()
    return {"loss": total, **parts}


def normal_step(
    a: Float[Tensor, "B V 3"], b: Float[Tensor, "B V 3"], surface: LossSurface
) -> Float[Tensor, ""]:
    """Mean distance between triangles' unit normals: their angle in radians, when it is small."""
    apart = face_normals(a, surface.triangles) - face_normals(b, surface.triangles)
    return (apart.square().sum(-1) + 1e-12).sqrt().mean()


def divergence(posterior: Posterior) -> Float[Tensor, "B N C"]:
    """Of each channel's posterior from a standard normal, nats (Kingma and Welling 2014)."""
    mean, log_deviation = posterior
    return (mean.square() + (2 * log_deviation).exp() - 1) / 2 - log_deviation
