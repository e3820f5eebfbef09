"""Registration by learned, iterated look-up: template nodes draw a scan's points towards them.

The idea is ICP's (Besl and McKay 1992), with a network in place of closest point and least
squares: nodes on the template each see their nearest scan points, talk to one another, move, and
look again. Positions are metres in (about) the head frame outside, millimetres inside.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from topohead.core import ARKIT_52
from topohead.geometry.neighbours import gather_rows, nearest
from topohead.models.attention import SelfAttention, exactly, fourier

AWAY_MM = 1e4
"""Where padding goes, so that no node finds it."""

REACH_MM = 50.0
"""Offsets beyond this look alike."""

FIRST_LOG_SIGMA = 1.5
"""Of mm: what the template is off by at first. Far less would make σ's loss drown the others."""

SPREAD = 8
"""Nodes that each vertex listens to."""

SPARE, LAST = 2, 0.004
"""Neighbours looked at beyond those wanted; and the share of the distance between the last of these
and the next by which a neighbour must be nearer to count fully, or farther to count nothing."""

FEATURES = 16
"""Nine, and zeros: matrix products want multiples of eight."""


@dataclass(frozen=True)
class IcpSize:
    """How large the network is; in each round `neighbours` scan points are looked up.

    It is given `points` points; a round looks at every n-th, n from `strides`: far and coarse
    first, then near and fine.
    What a node sees of a point is `point` numbers. Every vertex has `hidden` units, which hear its
    nodes and know a code of `codes` numbers. Rounds have weights of their own unless `shared`.
    """

    points: int = 4096
    nodes: int = 512
    width: int = 192
    heads: int = 3
    blocks: int = 3
    strides: tuple[int, ...] = (4, 2, 1, 1)
    neighbours: int = 12
    point: int = 96
    codes: int = 32
    hidden: int = 128
    shared: bool = True


@dataclass(frozen=True)
class Template:
    """What the network knows of the topology, CPU: rest shape, its nodes, who listens to whom.

    `nodes` are vertices; `near` and `weights` are each vertex's nodes and their first weights.
    """

    vertices: Float[Tensor, "V 3"]
    normals: Float[Tensor, "V 3"]
    nodes: Int[Tensor, " K"]
    near: Int[Tensor, "V 8"]
    weights: Float[Tensor, "V 8"]


class Registered(NamedTuple):
    """A batch of registered heads, metres in the frame of the points.

    `rounds` are the nodes after each round. `log_sigma` is the logarithm of each vertex's standard
    deviation in mm. `inlier` is a logit per point, `coefficients` are ARKit-52 weights.
    """

    rounds: Float[Tensor, "R B K 3"]
    vertices: Float[Tensor, "B V 3"]
    log_sigma: Float[Tensor, "B V"]
    inlier: Float[Tensor, "B N"]
    coefficients: Float[Tensor, "B 52"]


class LearnedIcp(nn.Module):
    """Points near the head frame (some ±10°, ±8 %, ±10 mm) to the template in the head's shape."""

    template: Tensor
    rest: Tensor
    node_normals: Tensor
    nodes: Tensor
    near: Tensor

    def __init__(self, size: IcpSize, template: Template) -> None:
        super().__init__()
        self.size = size
        width, count = size.width, len(template.nodes)
        self.register_buffer("template", template.vertices)
        self.register_buffer("rest", template.vertices[template.nodes])
        self.register_buffer("node_normals", template.normals[template.nodes])
        self.register_buffer("nodes", template.nodes)
        self.register_buffer("near", template.near)
        self.identity = nn.Parameter(torch.randn(count, width) * 0.02)
        self.position = nn.Linear(51, width)
        self.rounds = nn.ModuleList([Round(size)])
        # all begin alike: the first steps teach every round what one of them learns
        while len(self.rounds) < (1 if size.shared else len(size.strides)):
            self.rounds.append(deepcopy(self.rounds[0]))
        self.bend = zeroed(nn.Linear(width, 9))
        self.sigma = zeroed(nn.Linear(width, 1))
        nn.init.constant_(self.sigma.bias, FIRST_LOG_SIGMA)
        self.listen = nn.Parameter(template.weights.clamp(min=1e-4).log())
        self.code = nn.Parameter(torch.randn(len(template.vertices), size.codes) * 0.1)
        self.hear = nn.Linear(width, size.hidden)
        self.know = nn.Linear(size.codes, size.hidden)
        self.last = zeroed(nn.Linear(size.hidden, 3))
        self.seen = nn.Linear(width, 64)
        self.trust = nn.Sequential(nn.Linear(64 + FEATURES, 64), nn.GELU(), nn.Linear(64, 1))
        self.mimic = nn.Linear(width, 8)
        self.express = zeroed(nn.Linear(count * 11, len(ARKIT_52)))
        self.register_load_state_dict_pre_hook(_shared_by_all)

    def forward(
        self,
        points: Float[Tensor, "B N 3"],
        normals: Float[Tensor, "B N 3"],
        valid: Bool[Tensor, "B N"],
    ) -> Registered:
        points = torch.where(valid[..., None], points.float() * 1e3, AWAY_MM)
        rest = self.rest * 1e3
        places = rest.expand(len(points), -1, -1)
        base = self.identity + self.position(fourier(rest / 100, 8))
        state = base.expand(len(points), -1, -1)
        rounds = []
        for number, stride in enumerate(self.size.strides):
            work = self.rounds[number % len(self.rounds)]
            assert isinstance(work, Round)
            seen = self._look_up(work, places.detach(), points[:, ::stride], normals[:, ::stride])
            state, move = work(state, seen, (places - rest) / 30)
            places = places + 10 * move
            rounds.append(places)
        vertices, log_sigma = self._decoded(state, places - rest)
        inlier = self._trusted(state, places.detach(), points, normals)
        moved = ((places - rest) / 30).to(state.dtype)
        coefficients = self.express(torch.cat([self.mimic(state), moved], -1).flatten(1))
        return Registered(
            torch.stack(rounds) / 1e3, vertices / 1e3, log_sigma, inlier, coefficients
        )

    def _look_up(
        self, work: "Round", places: Float[Tensor, "B K 3"], points: Tensor, normals: Tensor
    ) -> Float[Tensor, "B K E"]:
        """What each node sees of its nearest points."""
        count, share = self.size.neighbours, None
        if self.training or points.shape[1] < count + 2 * SPARE:
            # networks do not mind a wrong twelfth neighbour while they learn
            _, index = nearest(places, points, count, quick=self.training)
        else:
            # rounding must not tell which is the twelfth: it would move vertices by 0.07 mm
            distance, index = nearest(places, points, count + 2 * SPARE)
            distance, order = distance.topk(count + SPARE, largest=False)
            index = index.gather(2, order)
            limit = distance[..., count - 1 : count + 1].mean(-1, keepdim=True).clamp(min=1e-6)
            share = (0.5 + (1 - distance / limit) / (2 * LAST)).clamp(0, 1)[..., None]
        offset = gather_rows(points, index) - places[:, :, None]
        normal = gather_rows(normals.float(), index)
        return work.seeing(offset, normal, self.node_normals[:, None], share)

    def _decoded(
        self, state: Float[Tensor, "B K D"], moves: Float[Tensor, "B K 3"]
    ) -> tuple[Float[Tensor, "B V 3"], Float[Tensor, "B V"]]:
        """Every vertex follows an affine mixture of its nodes (Sumner et al. 2007), and a rest.

        Node k carries v to v + A_k (v − n_k) + d_k; the mixture of affine maps is an affine map,
        so one product with the weights does it. The remainder reads the nodes' values.
        """
        weights = self.weights()
        heard = self.hear(state)
        # hearing is linear, so nodes are heard before they are mixed
        hidden = nn.functional.gelu(weights.to(heard.dtype) @ heard + self.know(self.code))
        rest = 10 * exactly(self.last, hidden)
        bend = 0.1 * exactly(self.bend, state).unflatten(-1, (3, 3))
        log_sigma = exactly(self.sigma, state)
        with torch.autocast(state.device.type, enabled=False):
            start = moves - (bend @ (self.rest * 1e3)[..., None])[..., 0]
            parts = torch.cat([bend.flatten(2), start, log_sigma], -1)
            mixed = weights @ parts
            template = self.template * 1e3
            turned = (mixed[..., :9].unflatten(-1, (3, 3)) * template[:, None]).sum(-1)
            return template + turned + mixed[..., 9:12] + rest, mixed[..., 12]

    def weights(self) -> Float[Tensor, "V K"]:
        """How much each vertex listens to each node; rows sum to one."""
        empty = self.listen.new_zeros(len(self.template), len(self.nodes))
        return empty.scatter(1, self.near, self.listen.softmax(-1).to(empty.dtype))

    def _trusted(
        self, state: Tensor, places: Tensor, points: Tensor, normals: Tensor
    ) -> Float[Tensor, "B N"]:
        """A logit for each point, by the node nearest to it."""
        _, index = nearest(points, places, 1)
        index = index[..., 0]
        offset = points - gather_rows(places, index)
        seen = _features(offset, normals.float(), self.node_normals[index])
        near = gather_rows(self.seen(state), index)
        return self.trust(torch.cat([near, seen.to(near.dtype)], -1))[..., 0].float()


class Round(nn.Module):
    """What nodes do with what they see: take it in, talk to one another, move."""

    def __init__(self, size: IcpSize) -> None:
        super().__init__()
        width = size.width
        self.seeing = Seeing(size.point)
        self.glue = nn.Linear(width + 2 * size.point, width)
        self.moved = nn.Linear(3, width)
        self.blocks = nn.ModuleList([SelfAttention(width, size.heads) for _ in range(size.blocks)])
        self.move = zeroed(nn.Linear(width, 3))

    def forward(
        self,
        state: Float[Tensor, "B K D"],
        seen: Float[Tensor, "B K E"],
        moved: Float[Tensor, "B K 3"],
    ) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B K 3"]]:
        """The nodes' new states and their moves in cm, from what they saw and how far they were."""
        taken = self.glue(torch.cat([state.to(seen.dtype), seen], -1))
        state = state + taken + self.moved(moved)
        for block in self.blocks:
            state = block(state)
        return state, exactly(self.move, state)


def _shared_by_all(network: LearnedIcp, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """One round's weights, also under their names of before there were several, serve them all."""
    parts = [name for name, _ in network.rounds[0].named_children()]
    for name in [name for name in state if name.startswith(prefix)]:
        if name.removeprefix(prefix).split(".")[0] in parts:
            state[f"{prefix}rounds.0.{name.removeprefix(prefix)}"] = state.pop(name)
    first = f"{prefix}rounds.0."
    if any(name.startswith(f"{prefix}rounds.1.") for name in state):
        return
    for name in [name for name in state if name.startswith(first)]:
        for number in range(1, len(network.rounds)):
            state[f"{prefix}rounds.{number}.{name.removeprefix(first)}"] = state[name]


class Seeing(nn.Module):
    """Points around a node as one vector: the largest and the mean of what each of them says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, width), nn.GELU(), nn.Linear(width, width))

    def forward(
        self,
        offset: Float[Tensor, "B K P 3"],
        normal: Float[Tensor, "B K P 3"],
        outward: Float[Tensor, "K 1 3"],
        share: Float[Tensor, "B K P 1"] | None = None,
    ) -> Float[Tensor, "B K E"]:
        """`share` in [0, 1] says how much each point counts; without it all do."""
        said = self.layers(_features(offset, normal, outward))
        if share is None:
            return torch.cat([said.amax(2), said.mean(2)], -1)
        share = share.to(said.dtype)
        mean = (share * said).sum(2) / share.sum(2)
        # what counts little says little more than all of them do
        return torch.cat([torch.lerp(mean[:, :, None], said, share).amax(2), mean], -1)


def _features(offset: Tensor, normal: Tensor, outward: Tensor) -> Float[Tensor, "*B 16"]:
    """Offset and distance (cm, cut), normal, whether there is one, how it agrees with the node."""
    distance = offset.norm(dim=-1, keepdim=True)
    offset = offset * (REACH_MM / distance.clamp(min=REACH_MM)) / 10
    known = (normal.square().sum(-1, keepdim=True) > 0.25).to(offset.dtype)
    agreement = (normal * outward).sum(-1, keepdim=True)
    seen = [offset, distance.clamp(max=REACH_MM) / 10, normal, known, agreement]
    return nn.functional.pad(torch.cat(seen, -1), (0, FEATURES - 9))


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A layer that says nothing at first, so that training starts at the template."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
