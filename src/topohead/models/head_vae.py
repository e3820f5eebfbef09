"""The autoencoder of registered heads: vertices ↔ tokens that sit on the reference's surface.

A variational autoencoder (Kingma and Welling 2014) of many small ones: each token sees the
vertices around its node and speaks to the points around it, nothing else. So a token is the shape
of a place; what it may change lies within a known distance; and a mirrored head has its tokens
swapped, exactly, because the right half's nodes see the world through a mirror. How places belong
together is for the prior that samples tokens to know.

Metres in the head frame outside, millimetres inside. All in float32: bfloat16 would round 30 mm
to an eighth of one.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topohead.core import HeadModel
from topohead.models.attention import fourier
from topohead.models.head_queries import (
    PARTS,
    Nodes,
    Queries,
    audience,
    nodes_of,
    queries_of,
)

FIRST_LOG_SIGMA = 0.5
"""Of mm: about what the template is off by near a node, first weights being what they are."""

FIRST_NOISE = -3.0
"""Of the posterior's log standard deviation: more would hide the shape at first."""

SPREAD_MM = 10.0
"""Displacements are divided by this on their way in, and multiplied on their way out."""

ROWS = 8
"""Functions of a place that log σ is mixed from."""

MANY = 32
"""Heads from which on a GPU sums over all nodes, which is one product of matrices."""


@dataclass(frozen=True)
class VaeSize:
    """How large the autoencoder is: `nodes` tokens of `channels` numbers each.

    A token sees `patch` vertices; a point hears `heard` nodes, each of which moves it by an affine
    map and a mixture of `functions` displacement fields, learned as functions of place (`hidden`
    units). Tokens are made and read by `blocks` residual layers `width` wide. `labels` is how many
    meanings have directions that come with the weights.
    """

    nodes: int = 256
    channels: int = 16
    patch: int = 72
    width: int = 128
    blocks: int = 3
    heard: int = 8
    functions: int = 48
    hidden: int = 320
    codes: int = 32
    labels: int = 0

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_plain(values: Mapping[str, Any]) -> "VaeSize":
        return VaeSize(**values)


class Posterior(NamedTuple):
    """Mean and log standard deviation of each head's tokens."""

    mean: Float[Tensor, "B N C"]
    log_deviation: Float[Tensor, "B N C"]


class Decoded(NamedTuple):
    """Points of heads, metres in the head frame, and the logarithm of each one's σ in mm."""

    points: Float[Tensor, "B Q 3"]
    log_sigma: Float[Tensor, "B Q"]


class Basis(NamedTuple):
    """What each point does with what it hears, the same for every head.

    `fields` are displacements in the head frame, `rows` of log σ, both already weighted.
    """

    rest: Float[Tensor, "Q 3"]
    nodes: Tensor
    fields: Float[Tensor, "Q H 3 F"]
    rows: Float[Tensor, "Q H R"]


class Directions(NamedTuple):
    """For each label how tokens change with it: `steps` for one deviation more of it.

    `readers` and `offset` tell labels from whitened tokens; `deviation` is that of the labels.
    """

    steps: Float[Tensor, "A N C"]
    readers: Float[Tensor, "A N C"]
    offset: Float[Tensor, " A"]
    deviation: Float[Tensor, " A"]


class HeadVae(nn.Module):
    """Heads of the reference's control mesh to tokens, and tokens to any points of the reference.

    Tokens are given as the encoder makes them; `whitened` ones have mean 0 and deviation 1 over
    the training people, once `latent_mean` and `latent_deviation` have been measured. So must
    `directions` have been.
    """

    rest: Tensor
    opened: Tensor
    normals: Tensor
    fields: Tensor
    parts: Tensor
    nodes: Tensor
    patches: Tensor
    parity: Tensor
    latent_mean: Tensor
    latent_deviation: Tensor
    label_steps: Tensor
    label_readers: Tensor
    label_offset: Tensor
    label_deviation: Tensor

    def __init__(self, size: VaeSize, queries: Queries, nodes: Nodes) -> None:
        super().__init__()
        self.size = size
        for name, part in vars(queries).items():
            self.register_buffer(name, part)
        self.register_buffer("nodes", nodes.vertices)
        self.register_buffer("patches", nodes.patches)
        self.register_buffer("parity", nodes.parity)
        shape = (size.nodes, size.channels)
        self.register_buffer("latent_mean", torch.zeros(shape))
        self.register_buffer("latent_deviation", torch.ones(shape))
        for name in ("steps", "readers"):
            self.register_buffer(f"label_{name}", torch.zeros(size.labels, *shape))
        for name in ("offset", "deviation"):
            self.register_buffer(f"label_{name}", torch.zeros(size.labels))
        pairs, width = size.nodes // 2, size.width
        self.look = _PerPair(pairs, 3 * size.patch, width)
        self.place = nn.Parameter(torch.randn(pairs, width) * 0.02)
        self.reading = nn.ModuleList([_Residual(width) for _ in range(size.blocks)])
        self.mean = nn.Linear(width, size.channels)
        self.mean_straight = _PerPair(pairs, width, size.channels)
        self.deviation = _constant(nn.Linear(width, size.channels), FIRST_NOISE)
        spoken = 12 + size.functions + ROWS
        self.hear = _PerPair(pairs, size.channels, width)
        self.place_out = nn.Parameter(torch.randn(pairs, width) * 0.02)
        self.writing = nn.ModuleList([_Residual(width) for _ in range(size.blocks)])
        # training starts near the template, where every gradient points the right way
        self.speak = _scaled(nn.Linear(width, spoken), 0.1)
        self.speak_straight = _scaled(_PerPair(pairs, size.channels, spoken), 0.1)
        self.code = nn.Parameter(torch.randn(pairs, size.codes))
        known = 33 + 27 + 3 + len(nodes.parity) + 1 + len(PARTS) + size.codes
        self.basis_of_place = nn.Sequential(
            nn.Linear(known, size.hidden),
            nn.GELU(),
            nn.Linear(size.hidden, size.hidden),
            nn.GELU(),
            nn.Linear(size.hidden, 3 * size.functions + ROWS),
        )

    @property
    def queries(self) -> Queries:
        """The reference's own vertices."""
        return Queries(self.rest, self.opened, self.normals, self.fields, self.parts)

    @property
    def directions(self) -> Directions:
        """Of the labels that the weights' configuration names."""
        return Directions(
            self.label_steps, self.label_readers, self.label_offset, self.label_deviation
        )

    def set_directions(self, directions: Directions) -> None:
        for name, value in directions._asdict().items():
            getattr(self, f"label_{name}").copy_(value)

    @property
    def side(self) -> Float[Tensor, " K"]:
        """1 for nodes on the left, −1 for those that see the world through a mirror."""
        left = torch.ones(self.size.nodes // 2, device=self.rest.device)
        return torch.cat([left, -left])

    def encode(self, vertices: Float[Tensor, "B V 3"]) -> Posterior:
        """Tokens of heads: control vertices, metres, in the head frame."""
        with torch.autocast(vertices.device.type, enabled=False):
            moved = (vertices.float() - self.rest) * (1e3 / SPREAD_MM)
            patch = moved[:, self.patches] * _mirrored(self.side)[:, None]
            seen = self.look(patch.flatten(2))
            state = torch.nn.functional.gelu(seen + self.place.repeat(2, 1))
            for block in self.reading:
                state = block(state)
            mean = self.mean(state) + self.mean_straight(seen)
            return Posterior(mean, self.deviation(state).clamp(-10, 2))

    def decode(
        self, tokens: Float[Tensor, "B N C"], queries: "Queries | Basis | None" = None
    ) -> Decoded:
        """Points of heads, by default the reference's vertices; each as if it were asked alone.

        A `basis` instead of queries saves the part that does not depend on the heads.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            if not isinstance(queries, Basis):
                queries = self.basis(self.queries if queries is None else queries)
            state = self.hear(tokens.float()) + self.place_out.repeat(2, 1)
            state = torch.nn.functional.gelu(state)
            for block in self.writing:
                state = block(state)
            told = self.speak(state) + self.speak_straight(tokens.float())
            spoken, rows = told[..., :-ROWS], told[..., -ROWS:]
            heard = multiplied if spoken.is_cuda and len(spoken) >= MANY else gathered
            moved, log_sigma = heard(queries, spoken, rows)
            points = queries.rest + moved * (SPREAD_MM / 1e3)
            return Decoded(points, log_sigma + FIRST_LOG_SIGMA)

    def forward(
        self,
        vertices: Float[Tensor, "B V 3"],
        noise: Float[Tensor, "B N C"],
        between: Mapping[str, Tensor],
    ) -> tuple[Posterior, Decoded]:
        """For training: the reference's vertices, then queries `between`, of drawn tokens.

        Queries come by their fields' names, as what wraps a network knows to handle.
        """
        posterior = self.encode(vertices)
        tokens = posterior.mean + noise * posterior.log_deviation.exp()
        own = vars(self.queries)
        both = {name: torch.cat([part, between[name]]) for name, part in own.items()}
        return posterior, self.decode(tokens, Queries(**both))

    def basis(self, queries: Queries) -> Basis:
        """What points do with what they hear."""
        with torch.autocast(queries.rest.device.type, enabled=False):
            places = queries.places
            heard = audience(places, self.queries.places[self.nodes], self.size.heard)
            side = self.side[heard.nodes]
            flip = _mirrored(side)
            center = self.opened[self.nodes][heard.nodes]
            offset = (queries.opened[:, None] - center) * flip * (1e3 / 20)
            odd = torch.where(self.parity < 0, side[..., None], 1.0)
            pairs = self.code.repeat(2, 1)[heard.nodes]
            shape = (*heard.nodes.shape, -1)
            known = [
                fourier(offset, 5),
                fourier(queries.opened[:, None] * flip * 10, 4),
                queries.normals[:, None] * flip,
                queries.fields[:, None] * odd,
                queries.parts[:, None].expand(shape),
                pairs,
            ]
            learned = self.basis_of_place(torch.cat(known, -1))
            fields = learned[..., :-ROWS].unflatten(-1, (3, -1))
            linear = torch.cat([torch.ones_like(offset[..., :1]), offset], -1)
            affine = torch.einsum("ij,qhk->qhijk", torch.eye(3, device=side.device), linear)
            fields = torch.cat([affine.flatten(3), fields], -1)
            fields = fields * (flip * heard.weights[..., None])[..., None]
            rows = learned[..., -ROWS:] * heard.weights[..., None]
            return Basis(queries.rest, heard.nodes, fields, rows)

    def whitened(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Mean 0 and deviation 1 in every channel of every token: what a prior is trained on."""
        return (tokens - self.latent_mean) / self.latent_deviation

    def unwhitened(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """The inverse of `whitened`."""
        return tokens * self.latent_deviation + self.latent_mean


def head_vae(size: VaeSize, head: HeadModel) -> HeadVae:
    """The autoencoder on a head model's topology, which must have a mirror map; first weights."""
    queries = queries_of(head)
    return HeadVae(size, queries, nodes_of(head.topology, queries, size.nodes, size.patch))


def empty_head_vae(size: VaeSize, tensors: Mapping[str, Tensor]) -> HeadVae:
    """The autoencoder that a weights file holds; buffers say what it knows of the reference."""
    queries = Queries(*(tensors[name].float() for name in
                        ("rest", "opened", "normals", "fields", "parts")))  # fmt: skip
    nodes = Nodes(tensors["nodes"].long(), tensors["patches"].long(), tensors["parity"].float())
    network = HeadVae(size, queries, nodes)
    state = {name: value.float() if value.is_floating_point() else value.long()
             for name, value in tensors.items()}  # fmt: skip
    network.load_state_dict(state)
    return network.eval()


def gathered(
    basis: Basis, spoken: Float[Tensor, "B K F"], rows: Float[Tensor, "B K R"]
) -> tuple[Float[Tensor, "B Q 3"], Float[Tensor, "B Q"]]:
    """Σ over heard nodes of fields · what they say, and of rows · what they say of σ."""
    moved = torch.einsum("qhcf,bqhf->bqc", basis.fields, spoken[:, basis.nodes])
    return moved, torch.einsum("qhr,bqhr->bq", basis.rows, rows[:, basis.nodes])


def multiplied(
    basis: Basis, spoken: Float[Tensor, "B K F"], rows: Float[Tensor, "B K R"]
) -> tuple[Float[Tensor, "B Q 3"], Float[Tensor, "B Q"]]:
    """What `gathered` finds, by one product with the whole, mostly empty matrix.

    It has 32 times the terms and is quicker by far where there are many heads and a GPU, and its
    gradient needs no scattered sums.
    """
    count, nodes = len(basis.rest), spoken.shape[1]
    point = torch.arange(count, device=spoken.device)[:, None]
    fields = basis.fields.new_zeros(count, 3, nodes, spoken.shape[2])
    axis = torch.arange(3, device=spoken.device)
    where = (point[..., None], axis, basis.nodes[..., None])
    fields = fields.index_put(where, basis.fields).flatten(2).flatten(0, 1)
    weights = basis.rows.new_zeros(count, nodes, ROWS).index_put((point, basis.nodes), basis.rows)
    moved = (spoken.flatten(1) @ fields.T).unflatten(1, (-1, 3))
    return moved, rows.flatten(1) @ weights.flatten(1).T


def _mirrored(side: Float[Tensor, "*B"]) -> Float[Tensor, "*B 3"]:
    """Factors of x, y, z that look through the mirror where `side` is −1."""
    return torch.stack([side, torch.ones_like(side), torch.ones_like(side)], -1)


class _PerPair(nn.Module):
    """A linear layer for each pair of mirrored nodes."""

    def __init__(self, pairs: int, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randn(pairs, inputs, outputs) / math.sqrt(inputs)
        self.weight = nn.Parameter(weight)

    def forward(self, tokens: Float[Tensor, "B K I"]) -> Float[Tensor, "B K O"]:
        batch, pairs = len(tokens), len(self.weight)
        # both nodes of a pair in one product: [pairs, 2 B, I]
        grouped = tokens.unflatten(1, (2, pairs)).permute(2, 0, 1, 3).flatten(1, 2)
        out = torch.bmm(grouped, self.weight).unflatten(1, (batch, 2))
        return out.permute(1, 2, 0, 3).flatten(1, 2)


class _Residual(nn.Module):
    """Norm, twice as wide, back again, added. The norm has no weights: the next layer's do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width, elementwise_affine=False),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, state: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
        return state + self.layers(state)


def _scaled(layer: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(factor)
    return layer


def _constant(layer: nn.Linear, value: float) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer
