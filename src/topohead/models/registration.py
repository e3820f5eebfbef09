"""The registration network: pose stage, then learned ICP; scans in, heads in topology out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from topohead.core import ARKIT_52, HeadModel
from topohead.geometry.alignment import rotations
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.neighbours import farthest_points, gather_rows
from topohead.models.learned_icp import SPREAD, IcpSize, LearnedIcp, Registered, Template
from topohead.models.scan_perceiver import PerceiverSize, ScanPerceiver
from topohead.models.scan_pose import (
    HEAD_CENTRE,
    HEAD_RADIUS,
    PoseGuess,
    PoseSize,
    ScanPose,
    normalised,
    quarter_turns,
)

JAW_OPEN = 0.6
"""Nodes are found with the mouth this far open: lips that touch at rest are then apart."""

HIDDEN = ("mouth_interior", "mouth_socket", "eye_sockets", "eyes", "tongue", "teeth")
"""Regions without nodes."""

CLOSER = {1.4: ("face",), 2.0: ("lips", "eyelids", "nose", "ears")}
"""How much closer together nodes are there."""

FACE_CENTRE, FACE_REACH, FACE_SHARE = (0.0, -0.035, 0.02), 0.06, 7.0
"""A Gaussian around any face, head frame, metres: how much denser points are chosen there."""

LAST = 1e30
"""A clock at which points far from the head are drawn, before those that are not there."""

PASSES = 2
"""Runs of the learned ICP, the second from the first one's similarity."""


@dataclass(frozen=True)
class RegistrationSize:
    """Both stages' sizes; that of the second says which network it is."""

    pose: PoseSize = field(default_factory=PoseSize)
    icp: IcpSize | PerceiverSize = field(default_factory=IcpSize)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_plain(values: Mapping[str, Any]) -> "RegistrationSize":
        icp = values["icp"]
        if "strides" in icp:
            second = IcpSize(**{**icp, "strides": tuple(icp["strides"])})
        else:
            second = PerceiverSize(**icp)
        return RegistrationSize(PoseSize(**values["pose"]), second)


class Similarity(NamedTuple):
    """p → scale · rotation · p + shift, one for each of a batch."""

    scale: Float[Tensor, " B"]
    rotation: Float[Tensor, "B 3 3"]
    shift: Float[Tensor, "B 3"]

    def apply(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        turned = points @ self.rotation.transpose(1, 2)
        return self.scale[:, None, None] * turned + self.shift[:, None]

    def then(self, after: "Similarity") -> "Similarity":
        """This one first, `after` second."""
        rotation = after.rotation @ self.rotation
        shift = after.apply(self.shift[:, None])[:, 0]
        return Similarity(self.scale * after.scale, rotation, shift)

    def packed(self) -> Float[Tensor, "B 13"]:
        """Its numbers side by side, so that they travel in one piece."""
        return torch.cat([self.scale[:, None], self.rotation.flatten(1), self.shift], 1)

    @staticmethod
    def unpacked(numbers: Float[Tensor, "B 13"]) -> "Similarity":
        """What `packed` put together."""
        return Similarity(numbers[:, 0], numbers[:, 1:10].unflatten(1, (3, 3)), numbers[:, 10:])

    def inverse(self) -> "Similarity":
        rotation = self.rotation.transpose(1, 2)
        scale = 1 / self.scale
        shift = -scale[:, None] * (rotation @ self.shift[..., None])[..., 0]
        return Similarity(scale, rotation, shift)


class Registration(nn.Module):
    """Both networks; `forward` runs them side by side on inputs of their own, for training."""

    def __init__(self, size: RegistrationSize, template: Template) -> None:
        super().__init__()
        self.size = size
        self.pose = ScanPose(size.pose)
        if isinstance(size.icp, IcpSize):
            self.icp: LearnedIcp | ScanPerceiver = LearnedIcp(size.icp, template)
        else:
            self.icp = ScanPerceiver(size.icp, template)

    def forward(
        self, guessed: Mapping[str, Tensor], near: Mapping[str, Tensor]
    ) -> tuple[PoseGuess, Registered]:
        return self.pose(**guessed), self.icp(**near)


def template_of(head: HeadModel, nodes: int) -> Template:
    """Nodes on the outer surface of a head model, in mirrored pairs, and each vertex's nearest.

    They are closer together on the face. First weights fall with the distance between a vertex and
    a node, mouth open.
    """
    topology = head.topology
    opened = head.template + JAW_OPEN * _action(head, "jawOpen")
    hidden = [name for name in HIDDEN if name in topology.regions]
    outer = (~topology.region_mask(*hidden)).nonzero()[:, 0]
    mirror = None
    if topology.mirror is not None:
        place = torch.full((topology.vertex_count,), -1)
        place[outer] = torch.arange(len(outer))
        mirror = place[topology.mirror[outer]]
        assert (mirror >= 0).all()
    closer = torch.ones(topology.vertex_count)
    for factor, names in CLOSER.items():
        closer[topology.region_mask(*(name for name in names if name in topology.regions))] = factor
    chosen = outer[farthest_points(opened[outer], nodes, mirror, closer[outer])]
    distance, near = torch.cdist(opened, opened[chosen]).topk(SPREAD, largest=False)
    # nodes lie closer in some places, so each vertex has a spacing of its own
    spacing = 0.5 * distance[:, SPREAD // 2, None]
    weights = (-(distance.square() - distance[:, :1].square()) / (2 * spacing**2)).softmax(-1)
    normals = vertex_normals(head.template, topology.triangles)
    return Template(head.template, normals, chosen, near, weights)


def _action(head: HeadModel, name: str) -> Tensor:
    return head.expression_basis[ARKIT_52.index(name)]


# Inference


class Registrations(NamedTuple):
    """Registered heads: vertices in the head frame and how the scan was brought there.

    `found.vertices` are metres if the scan's unit was; `to_head` maps the scan there. `score` is
    the pose stage's logit of its best hypothesis, `chosen` the points that were looked at.
    """

    found: Registered
    to_head: Similarity
    score: Float[Tensor, " B"]
    chosen: Int[Tensor, "B M"]


@torch.no_grad()
def register_points(
    network: Registration,
    points: Float[Tensor, "B N 3"],
    normals: Float[Tensor, "B N 3"],
    valid: Bool[Tensor, "B N"],
    start: Similarity | None = None,
    passes: int = PASSES,
    apart: bool = False,
) -> Registrations:
    """Scans in any pose and unit, registered; with `start` the pose stage is left out.

    Normals are unit or zero where unknown. The pose stage looks at the first `size.pose.points` of
    them, so shuffle what has an order; the learned ICP at `size.icp.points` that `chosen_points`
    says, `apart` if the batch is one scan again and again. `found.inlier` has a logit for each of
    these, `chosen` their numbers.
    """
    if start is None:
        start, score = find_pose(network.pose, points, normals, valid)
    else:
        score = torch.zeros_like(start.scale)
    found, similarity = None, start
    for last in (*[False] * (passes - 1), True):
        placed = similarity.apply(points)
        chosen = chosen_points(placed, valid, network.size.icp.points, apart)
        near, nearby = gather_rows(placed, chosen), valid.gather(1, chosen)
        turned = gather_rows(normals, chosen) @ similarity.rotation.transpose(1, 2)
        nearby &= in_head(near, 1.3)
        # float32 on every device: bfloat16 moved vertices by 0.17 mm
        found = network.icp(near, turned, nearby)
        if not last:
            fix = umeyama(found.vertices, network.icp.template.expand_as(found.vertices))
            similarity = similarity.then(fix)
    assert found is not None
    return Registrations(found, similarity, score, chosen)


def chosen_points(
    placed: Float[Tensor, "B N 3"], valid: Bool[Tensor, "B N"], count: int, apart: bool = False
) -> Int[Tensor, "B M"]:
    """Points of clouds in (about) the head frame that the learned ICP is given, in random order.

    As many as `count` of those around the head, drawn without replacement with chances as
    `face_density` says; the same for the same clouds. Their order hangs on nothing but which they
    are, and a point more or less hardly changes what every second or fourth of them are: another
    device's rounding would else show a network other points.

    If the batch is to look at one cloud, `apart`, each of it has others, so far as they go round:
    the B-th part further on in random numbers and in order.
    """
    batch, many = valid.shape
    random = _chances(1 << max(many - 1, 0).bit_length(), placed.device)[:many]
    number = torch.arange(many, device=placed.device).expand(batch, -1)
    if apart:
        look = torch.arange(batch, device=placed.device)[:, None]
        random = (random + look / batch).frac()
        some = valid.sum(1, keepdim=True).clamp(min=1)
        number = (valid.cumsum(1) - 1 - look * some // batch) % some
    # the first of exponential clocks, each as fast as its point's weight (Efraimidis 2006)
    clock = -torch.log1p(-random) / face_density(placed)
    clock = torch.where(in_head(placed, 1.3), clock, LAST).masked_fill(~valid, torch.inf)
    clock, chosen = clock.topk(min(count, many), largest=False)
    late = many * (clock >= LAST)
    chosen = chosen.gather(1, (number.gather(1, chosen) + late).argsort(dim=1, stable=True))
    # the first quarter goes to every fourth place, the second to those half way between
    place = torch.arange(chosen.shape[1], device=chosen.device)
    some = valid.sum(1, keepdim=True).clamp(max=chosen.shape[1])
    quarter, half = (some + 3) // 4, (some + 3) // 4 + (some + 1) // 4
    rank = torch.where(place % 4 == 2, quarter + place // 4, half + place // 2)
    rank = torch.where(place % 4 == 0, place // 4, rank)
    return chosen.gather(1, torch.where(place < some, rank, place))


@cache
def _chances(count: int, device: torch.device) -> Float[Tensor, " N"]:
    """The same random numbers in [0, 1) on every device; fewer of them are the first of more."""
    return torch.rand(count, generator=torch.Generator().manual_seed(0)).to(device)


def face_density(points: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B"]:
    """How densely points are chosen at places of the head frame, against far from the face."""
    along = zip(points.unbind(-1), FACE_CENTRE, strict=True)
    square = torch.stack([(part - center).square() for part, center in along]).sum(0)
    return 1 + FACE_SHARE * torch.exp(square / (-2 * FACE_REACH**2))


@torch.no_grad()
def find_pose(
    network: ScanPose,
    points: Float[Tensor, "B N 3"],
    normals: Float[Tensor, "B N 3"],
    valid: Bool[Tensor, "B N"],
) -> tuple[Similarity, Float[Tensor, " B"]]:
    """The similarity that brings each scan into the head frame, and the best guess's score.

    All quarter turns are judged at once; the best is refined three times, without the points that
    it puts far from the head.
    """
    looked = slice(network.size.points)
    points, normals, valid = points[:, looked], normals[:, looked], valid[:, looked]
    turns = quarter_turns().to(points)
    judged = [judge(network, points, normals, valid, turn.expand(len(points), 3, 3))
              for turn in turns]  # fmt: skip
    scores = torch.stack([score for _, score in judged])
    best = scores.argmax(0)
    rows = torch.arange(len(points), device=points.device)
    choices = (torch.stack(part)[best, rows] for part in zip(*(s for s, _ in judged), strict=True))
    return settled(network, points, normals, valid, Similarity(*choices))


def settled(
    network: ScanPose,
    points: Float[Tensor, "B N 3"],
    normals: Float[Tensor, "B N 3"],
    valid: Bool[Tensor, "B N"],
    similarity: Similarity,
) -> tuple[Similarity, Float[Tensor, " B"]]:
    """A similarity corrected three times, without the points that it puts far from the head."""
    score = torch.zeros_like(similarity.scale)
    for _ in range(3):
        inside = valid & in_head(similarity.apply(points), 1.0)
        # a wrong unit or a cloud of clutter may leave too few to judge by
        inside = torch.where(inside.sum(1, keepdim=True) >= 100, inside, valid)
        similarity, score = judge(network, points, normals, inside, similarity.rotation)
    return similarity, score


@torch.no_grad()
def judge(
    network: ScanPose,
    points: Float[Tensor, "B N 3"],
    normals: Float[Tensor, "B N 3"],
    valid: Bool[Tensor, "B N"],
    turn: Float[Tensor, "B 3 3"],
) -> tuple[Similarity, Float[Tensor, " B"]]:
    """The similarity that follows from a guess of the orientation, and the guess's score."""
    cloud = normalised(points, valid)
    back = turn.transpose(1, 2)
    guess = network(cloud.points @ back, normals @ back, valid, cloud.radius)
    return corrected(guess, cloud.center, cloud.radius, turn), guess.score


def corrected(
    guess: PoseGuess, center: Float[Tensor, "B 3"], radius: Float[Tensor, " B"], turn: Tensor
) -> Similarity:
    """Scan to head frame, from a guess about the cloud normalised and turned by `turn`."""
    scale = guess.scale / radius
    rotation = guess.rotation @ turn
    shift = guess.shift - scale[:, None] * (rotation @ center[..., None])[..., 0]
    return Similarity(scale, rotation, shift)


def in_head(points: Float[Tensor, "*B 3"], size: float) -> Bool[Tensor, "*B"]:
    """Which points of the head frame lie in the ball around heads, `size` times as large."""
    # axis by axis: a tensor of the centre would be copied to the device in every call
    along = [part - center for part, center in zip(points.unbind(-1), HEAD_CENTRE, strict=True)]
    return torch.stack(along, -1).norm(dim=-1) < size * HEAD_RADIUS


def umeyama(source: Float[Tensor, "B N 3"], target: Float[Tensor, "B N 3"]) -> Similarity:
    """The similarities that bring `source` onto `target`, least squares (Umeyama 1991)."""
    mean_a, mean_b = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    a, b = (source - mean_a).double(), (target - mean_b).double()
    products = b.transpose(1, 2) @ a
    turn = rotations(products)
    rotation = turn.to(source.dtype)
    scale = ((turn * products).sum((1, 2)) / a.square().sum((1, 2))).to(source.dtype)
    shift = mean_b[:, 0] - scale[:, None] * (rotation @ mean_a[:, 0, :, None])[..., 0]
    return Similarity(scale, rotation, shift)
