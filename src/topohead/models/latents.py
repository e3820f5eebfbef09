"""What can be done with heads as tokens: between two, part of another, along a meaning, mirrored.

Tokens are `models.head_vae`'s, as its encoder makes them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import Topology
from topohead.models.head_queries import audience
from topohead.models.head_vae import Directions, HeadVae
from topohead.models.registration import umeyama

SOFT = 0.012
"""Width of the border of a swapped region, metres."""


def interpolated(
    first: Float[Tensor, "N C"], second: Float[Tensor, "N C"], shares: Float[Tensor, " S"]
) -> Float[Tensor, "S N C"]:
    """Heads on the straight way from one to another; share 0 is the first."""
    return torch.lerp(first, second, shares[:, None, None])


def mirrored(tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
    """The heads seen in a mirror: tokens of opposite nodes change places."""
    return tokens.roll(tokens.shape[1] // 2, 1)


# Regions


def token_shares(
    network: HeadVae, region: Bool[Tensor, " V"], soft: float = SOFT
) -> Float[Tensor, " N"]:
    """How much of each token belongs to a region of the reference: 1 inside, 0 beyond `soft`
    metres, a half at half of that, smoothly."""
    queries = network.queries
    nodes = queries.places[network.nodes]
    distance = torch.cdist(nodes.double(), queries.places[region].double()).amin(1).float()
    away = (distance / soft).clamp(max=1)
    return 1 - away.square() * (3 - 2 * away)


def reached(network: HeadVae, shares: Float[Tensor, " N"]) -> Bool[Tensor, " V"]:
    """The reference's vertices that hear any token with a share; all others stay as they are."""
    queries = network.queries
    heard = audience(queries.places, queries.places[network.nodes], network.size.heard)
    return ((shares[heard.nodes] > 0) & (heard.weights > 0)).any(1)


@torch.no_grad()
def swapped(
    network: HeadVae,
    head: Float[Tensor, "V 3"],
    other: Float[Tensor, "V 3"],
    region: Bool[Tensor, " V"],
    soft: float = SOFT,
) -> Float[Tensor, "N C"]:
    """Tokens of `head` with a region of `other`, both control vertices in the head frame, metres.

    The other head is first brought to where the region's surroundings agree, by a similarity: a
    nose sits where this head has its nose. Vertices beyond `reached` do not change at all.
    """
    shares = token_shares(network, region, soft)
    around = reached(network, shares) & ~region
    there = umeyama(other[None, around], head[None, around])
    both = network.encode(torch.cat([head[None], there.apply(other[None])])).mean
    return torch.lerp(both[0], both[1], shares[:, None])


def region_of(network: HeadVae, topology: Topology, *names: str) -> Bool[Tensor, " V"]:
    """Named regions of the reference as a mask on the network's device."""
    return topology.region_mask(*names).to(network.rest.device)


# Meanings


def labels_of(
    network: HeadVae, directions: Directions, tokens: Float[Tensor, "B N C"]
) -> Float[Tensor, "B A"]:
    """The labels that tokens speak of."""
    whitened = network.whitened(tokens)
    return torch.einsum("bnc,anc->ba", whitened, directions.readers) + directions.offset


def fit_directions(
    network: HeadVae,
    tokens: Float[Tensor, "B N C"],
    labels: Float[Tensor, "B A"],
    known: Bool[Tensor, "B A"],
    ridge: float = 30.0,
) -> Directions:
    """Ridge regression from whitened tokens to labels, each over the people of whom it is known.

    A regression's weights tell how to read a label, not how heads change with it: that is their
    product with the tokens' covariance (Haufe et al. 2014), here scaled to one deviation.
    """
    white = network.whitened(tokens).flatten(1).double()
    count, numbers = labels.shape[1], white.shape[1]
    readers, patterns = (white.new_zeros(count, numbers) for _ in range(2))
    offset, deviation = (white.new_zeros(count) for _ in range(2))
    for there in known.T.unique(dim=0):
        alike = (known == there[:, None]).all(0)
        x, y = white[there], labels[there][:, alike].double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        # fewer people than numbers: solve for the people
        gram = x @ x.T + ridge * torch.eye(len(x), dtype=x.dtype, device=x.device)
        reader = torch.linalg.solve(gram, y).T @ x
        told = x @ reader.T
        spread = y.square().mean(0).sqrt()
        patterns[alike] = told.T @ x * (spread / told.square().sum(0))[:, None]
        readers[alike], deviation[alike] = reader, spread
        offset[alike] = mean_y - reader @ mean_x
    shape = (count, *tokens.shape[1:])
    steps = patterns.view(shape).to(tokens) * network.latent_deviation
    return Directions(
        steps, readers.view(shape).to(tokens), offset.to(tokens), deviation.to(tokens)
    )


def moved(
    tokens: Float[Tensor, "N C"], directions: Directions, label: int, amounts: Sequence[float]
) -> Float[Tensor, "S N C"]:
    """A head with more or less of a label, by so many of its deviations."""
    amount = torch.tensor(amounts, device=tokens.device)[:, None, None]
    return tokens + amount * directions.steps[label]
