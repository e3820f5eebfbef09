"""What the autoencoder of heads is trained for; lengths in millimetres."""

import torch
from jaxtyping import Float
from torch import Tensor

from topohead.losses.registration import LossSurface, beta_nll, edge_change, normal_change
from topohead.models.head_vae import Decoded, Posterior

FACTORS = {"vertices": 1.0, "between": 0.5, "sigma": 0.1, "normals": 1.0, "edges": 0.5, "kl": 0.03}
"""Weights of the parts.

`kl` is in nats a token. A channel that moves its place (a thirtieth of the head) by a mm for each
unit settles at a posterior deviation of about kl / (256 · 0.8 / 30): with 0.03 some 0.004, which
over the hundred channels that a point hears comes to a few hundredths of a millimetre.
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
        "normals": normal_change(own, vertices, surface),
        "edges": edge_change(own, vertices, surface),
        "kl": divergence(posterior).sum(2).mean(),
    }
    total = torch.stack([FACTORS[name] * part for name, part in parts.items()]).sum()
    return {"loss": total, **parts}


def divergence(posterior: Posterior) -> Float[Tensor, "B N C"]:
    """Of each channel's posterior from a standard normal, nats (Kingma and Welling 2014)."""
    mean, log_deviation = posterior
    return (mean.square() + (2 * log_deviation).exp() - 1) / 2 - log_deviation
