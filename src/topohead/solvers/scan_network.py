"""A scan of any size, unit and orientation through the registration network.

The pose stage judges all quarter turns. The likely ones are registered in turn until the network is
sure of one; else the one that it is surest of wins. Where it sees no head in the whole scan it
looks at parts of it: a bust is mostly shoulders. Points are chosen evenly from the whole scan
first, then from around the head that was found; the answer is the mean of looks at different ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Scan, ScanFit
from topohead.core.derived import derived
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.point_tree import PointTree
from topohead.models.registration import (
    Registration,
    Similarity,
    in_head,
    judge,
    register_points,
    settled,
    umeyama,
)
from topohead.models.scan_pose import quarter_turns
from topohead.solvers.network_samples import (
    SAMPLES,
    NetworkSamples,
    draw_samples,
    estimated_normals,
)
from topohead.solvers.recording import USUAL, Recordings, done, filled, fixed
from topohead.solvers.scan_parts import PARTS, parts_of

MOST = 6
"""Hypotheses that are registered at most."""

LIKELY = 10.0
"""Guesses whose logit is further below the best one's are not registered."""

SURE = 1.3e-3
"""Below this σ (geometric mean on the face, metres) no other hypothesis is tried. On tuning scans
with faults right ones have 0.5 to 1.5 mm, wrong ones 2.5 mm and more."""

UNSEEN = 2e-3
"""Above this σ there is no head in the scan as a whole: its parts are looked at."""

ASKED = 3
"""How many parts of a scan, those that the pose stage likes best, are registered."""

LIKE_HEAD = -1.0
"""The least logit of what `shows_head` registers: whole heads have 6, ones cut out of a room about
0, most walls less than -1. What has more and is none costs time alone: σ tells it apart."""

DIFFERENT = 0.35, 0.15
"""Radians, and share of the size, by which two hypotheses differ."""

CROPPED = 0.8
"""If less of a scan lies around the head, points are drawn again from what does."""

TURNED = 0.25, 0.8
"""Share of normals that point outwards: below the first all are taken for flipped, below the
second each is turned by itself."""

INNER = ("mouth_interior", "mouth_socket", "eye_sockets", "tongue", "teeth")
"""Regions that scanners rarely see."""

OTHER_SIDE = [
    ARKIT_52.index(name.replace("Left", "*").replace("Right", "Left").replace("*", "Right"))
    for name in ARKIT_52
]
"""The action that each becomes in a mirror."""

LOOKS = 4
"""Answers of which a fit is the mean, every other one to the scan's mirror image. On 60 good tuning
scans (seeds 150 and 165) two at the same points are 0.67 mm off on the face, two at different ones
0.64, four 0.63."""

CELL = 0.004
"""Points of a scan within so many metres of the head frame are inliers together."""


@dataclass(frozen=True)
class Hypothesis:
    """A way in which a scan may be a head.

    `pose` takes the head frame to the scan's; `score` is the pose stage's logit; `sigma` what the
    network expects to be off by on the face, metres of the head frame.
    """

    pose: Float[Tensor, "4 4"]
    score: float
    sigma: float


def network_fit(scan: Scan, network: Registration, head: HeadModel, seed: int = 0) -> ScanFit:
    """The reference head in the shape of a scan, as the network sees it.

    The scan may lie, be turned and be sized in any way, its normals flipped or missing. The fit is
    in the scan's frame and unit and on its device; the same seed gives the same fit. ValueError if
    there are fewer than 100 points.
    """
    return judged_fit(scan, network, head, seed)[0]


def judged_fit(
    scan: Scan, network: Registration, head: HeadModel, seed: int = 0
) -> tuple[ScanFit, list[Hypothesis]]:
    """`network_fit`, and the hypotheses that were registered, the one with the least σ first.

    Others are tried only where that is above `SURE`. A second one with about the same σ means that
    the network cannot tell which way the head faces, a first one of 2.5 mm and more that there may
    be no head, or none that it can see.
    """
    if len(scan.points) < 100:
        raise ValueError(f"a scan needs 100 points, got {len(scan.points)}")
    device = network.icp.template.device
    generator = np.random.default_rng(seed)
    points = scan.points.detach().to(device, torch.float32)
    samples = draw_samples(scan, None, generator, device)
    found = _hypotheses(samples, network, head)
    for radius, count in PARTS:
        if found[0].hypothesis.sigma > UNSEEN:
            parts = parts_of(scan, samples, radius, count, network.size.pose.points, generator)
            found = sorted([*found, *_in_parts(parts, samples, network, head)], key=_sigma)
    best = found[0]
    start = Similarity.unpacked(best.to_head)
    if best.near < CROPPED:
        samples = draw_samples(scan, _around(start, points), generator, device)
    if not bool(samples.normals.any()):
        samples = replace(samples, normals=estimated_normals(samples.points))
    samples = samples.padded()
    inputs = (best.to_head, best.vertices, *samples.parts)
    *parts, looked_at, on_head = _recorded(network, samples)(
        "looks", partial(_mean_of_looks, network, _Mirror.of(head, device)), *inputs
    )
    points = filled(points, USUAL, torch.inf)
    usual = fixed(points) and len(points) == USUAL
    inputs = (best.to_head, points, looked_at, on_head)
    recorded = derived(network, _recordings) if usual else done
    inliers = recorded("inliers", partial(_inliers, usual), *inputs)[0][: len(scan.points)]
    there = scan.points.device
    fit = ScanFit(*(part.to(there) for part in (*parts, inliers)))
    return fit, [each.hypothesis for each in found]


def shows_head(scan: Scan, network: Registration, head: HeadModel, seed: int = 0) -> bool:
    """Whether the network is sure of a head in the scan or in a part of it. Asks the pose stage
    about every part, which is quick, and registers those alone that it takes for heads."""
    generator = np.random.default_rng(seed)
    samples = draw_samples(scan, None, generator, network.icp.template.device)
    fewest, turns = network.size.pose.points, quarter_turns().to(samples.points)
    if len(samples.points) < fewest:
        return False
    for radius, count in ((1.0, 1), *PARTS):
        for part in parts_of(scan, samples, radius, count, fewest, generator):
            scores = _turns(network, turns, *part.first(fewest).parts)[0][:, 0]
            if float(scores.max()) > LIKE_HEAD:
                found = _hypotheses(part, network, head)[0].hypothesis
                if found.sigma < SURE:
                    return True
    return False


class _Found(NamedTuple):
    """A hypothesis, the similarity to the head frame, vertices there, samples' share near it."""

    hypothesis: Hypothesis
    to_head: Float[Tensor, "1 13"]
    vertices: Float[Tensor, "V 3"]
    near: float


def _recorded(network: Registration, samples: NetworkSamples) -> Callable[..., tuple[Tensor, ...]]:
    """Records work on as many samples as most scans have."""
    return derived(network, _recordings) if len(samples.points) == SAMPLES else done


def _recordings(network: Registration) -> Recordings:
    return Recordings()


def _hypotheses(samples: NetworkSamples, network: Registration, head: HeadModel) -> list[_Found]:
    """Those that the pose stage finds likely, registered until one is sure, the surest first."""
    samples = samples.padded()
    recorded, device = _recorded(network, samples), samples.points.device
    looked = samples.first(network.size.pose.points).parts
    told = recorded("turns", partial(_turns, network, quarter_turns().to(device)), *looked)[0].cpu()
    likely = _different(told)
    if samples.points.is_cuda:  # as many as there may be, so that they are recorded once
        likely = (likely + likely[-1:] * MOST)[:MOST]
    told = recorded("settled", partial(_settled, network), told[likely].to(device), *looked)[0]
    told = told.cpu()
    found: list[_Found] = []
    work = partial(_registered, network, derived(head, shown_face).to(device))
    for number in _different(told):
        start = told[number, None, 1:].to(device)
        to_head, vertices, sure = recorded("one", work, start, *samples.parts)
        sigma, near, *numbers = torch.cat([sure, to_head[0]]).tolist()
        pose = _matrix(Similarity.unpacked(torch.tensor([numbers])).inverse())
        hypothesis = Hypothesis(pose, float(told[number, 0]), sigma)
        found.append(_Found(hypothesis, to_head, vertices, near))
        if sigma < SURE:
            break
    return sorted(found, key=_sigma)


def _turns(
    network: Registration, turns: Float[Tensor, "24 3 3"], *looked: Tensor
) -> tuple[Float[Tensor, "24 14"]]:
    """The score of each turn, and the similarity that follows from it."""
    points, normals, valid = (part.expand(len(turns), *part.shape) for part in looked)
    return (_told(*judge(network.pose, points, normals, valid, turns)),)


def _settled(
    network: Registration, guesses: Float[Tensor, "B 14"], *looked: Tensor
) -> tuple[Float[Tensor, "B 14"]]:
    points, normals, valid = (part.expand(len(guesses), *part.shape) for part in looked)
    start = Similarity.unpacked(guesses[:, 1:])
    return (_told(*settled(network.pose, points, normals, valid, start)),)


def _told(similarity: Similarity, score: Float[Tensor, " B"]) -> Float[Tensor, "B 14"]:
    return torch.cat([score[:, None], similarity.packed()], 1)


def _registered(
    network: Registration, face: Int[Tensor, " M"], start: Float[Tensor, "1 13"], *cloud: Tensor
) -> tuple[Float[Tensor, "1 13"], Float[Tensor, "V 3"], Float[Tensor, "2"]]:
    """The similarity to the head frame; vertices there; σ on the face, and samples' share near."""
    points, normals, valid = (part[None] for part in cloud)
    similarity = Similarity.unpacked(start)
    found = register_points(network, points, normals, valid, similarity, 1).found
    fix = umeyama(found.vertices, network.icp.template[None])
    closer = similarity.then(fix)
    sigma = found.log_sigma[0, face].mean().exp() / 1e3
    near = (_around(closer, cloud[0]) & cloud[2]).sum() / cloud[2].sum()
    return closer.packed(), fix.apply(found.vertices)[0], torch.stack([sigma, near])


def _sigma(found: _Found) -> float:
    return found.hypothesis.sigma


def _in_parts(
    parts: list[NetworkSamples], samples: NetworkSamples, network: Registration, head: HeadModel
) -> list[_Found]:
    """The surest hypothesis of those parts of a scan that look most like a head."""
    count, turns = network.size.pose.points, quarter_turns().to(samples.points)
    scores = [_turns(network, turns, *part.first(count).parts)[0][:, 0] for part in parts]
    order = sorted(range(len(parts)), key=lambda k: -float(scores[k].max()))
    found = [_hypotheses(parts[k], network, head)[0] for k in order[:ASKED]]
    best = sorted(found, key=_sigma)[:1]
    return [each._replace(near=_share_around(each.to_head, samples.points)) for each in best]


def shown_face(head: HeadModel) -> Int[Tensor, " N"]:
    """Vertices of the face that a scanner sees."""
    regions = head.topology.regions
    inner = head.topology.region_mask(*(name for name in INNER if name in regions))
    return (head.topology.region_mask("face") & ~inner).nonzero()[:, 0]


def _different(told: Float[Tensor, "B 14"]) -> list[int]:
    """Numbers of the likely similarities, best first, without what another one says too."""
    score, similarity = told[:, 0], Similarity.unpacked(told[:, 1:])
    kept: list[int] = []
    for number in score.argsort(descending=True).tolist():
        if len(kept) == MOST or score[number] < score.max() - LIKELY:
            break
        turn = similarity.rotation[kept] @ similarity.rotation[number].T
        cosine = (turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
        angle = torch.acos(cosine.clamp(-1, 1))
        size = (similarity.scale[kept] / similarity.scale[number]).log().abs()
        if ((angle > DIFFERENT[0]) | (size > DIFFERENT[1])).all():
            kept.append(number)
    return kept


class _Mirror(NamedTuple):
    """What a head is in a mirror, its triangles, and axes as they are and mirrored in turn."""

    vertices: Int[Tensor, " V"]
    actions: Int[Tensor, " 52"]
    triangles: Int[Tensor, "T 3"]
    sides: Float[Tensor, "L 1 3"]

    @staticmethod
    def of(head: HeadModel, device: torch.device) -> "_Mirror":
        mirror = head.topology.mirror
        assert mirror is not None
        sides = torch.tensor([[[1.0, 1, 1]], [[-1.0, 1, 1]]]).repeat(LOOKS // 2, 1, 1)
        parts = (mirror, torch.tensor(OTHER_SIDE), head.topology.triangles, sides)
        return _Mirror(*(part.to(device) for part in parts))


def _mean_of_looks(
    network: Registration,
    mirror: _Mirror,
    to_head: Float[Tensor, "1 13"],
    vertices: Float[Tensor, "V 3"],
    *cloud: Tensor,
) -> tuple[Tensor, ...]:
    """The mean of `LOOKS` answers as parts of a `ScanFit`; and the samples, in the head frame, with
    whether each is on the head. Those that no look was given are at infinity.

    Each look is given other points, so far as there are any, every other one mirrored.
    """
    start, sides = Similarity.unpacked(to_head), mirror.sides
    near = start.apply(cloud[0][None])
    normals = cloud[1] @ start.rotation[0].T
    normals = _outward(near[0], normals, cloud[2], vertices, mirror.triangles)
    placed, looks = near * sides, len(sides)
    one = Similarity(
        placed.new_ones(looks),
        torch.eye(3, device=placed.device).expand(looks, 3, 3),
        placed.new_zeros(looks, 3),
    )
    valid = cloud[2].expand(looks, -1)
    result = register_points(network, placed, normals * sides, valid, one, 1, apart=True)
    found = result.found
    vertices = torch.cat([found.vertices[::2], (found.vertices * sides)[1::2, mirror.vertices]])
    log_sigma = torch.cat([found.log_sigma[::2], found.log_sigma[1::2, mirror.vertices]])
    actions = torch.cat([found.coefficients[::2], found.coefficients[1::2, mirror.actions]])
    back = start.inverse()
    seen = torch.zeros_like(valid).scatter(1, result.chosen, True).any(0) & cloud[2]
    on_head = near.new_zeros(valid.shape).scatter(1, result.chosen, found.inlier).sum(0) > 0
    return (
        back.apply(vertices.mean(0, keepdim=True))[0],
        log_sigma.mean(0).exp() / 1e3 / start.scale,
        _matrix(back),
        actions.mean(0).clamp(0, 1),
        near[0].masked_fill(~seen[:, None], torch.inf),
        on_head,
    )


def _around(to_head: Similarity, points: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
    return in_head(to_head.apply(points[None])[0], 1.3)


def _share_around(to_head: Float[Tensor, "1 13"], points: Float[Tensor, "N 3"]) -> float:
    return float(_around(Similarity.unpacked(to_head), points).float().mean())


def _matrix(similarity: Similarity) -> Float[Tensor, "4 4"]:
    matrix = torch.eye(4, device=similarity.scale.device)
    matrix[:3, :3] = similarity.scale[0] * similarity.rotation[0]
    matrix[:3, 3] = similarity.shift[0]
    return matrix


def _outward(
    placed: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    valid: Bool[Tensor, " N"],
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "T 3"],
) -> Float[Tensor, "N 3"]:
    """Normals that point out of a head: flipped all together or one by one, head frame.

    What is out is read off the nearest vertex of the registered head.
    """
    index = PointTree(vertices).query(placed)[1][:, 0]
    agree = (normals * vertex_normals(vertices, triangles)[index]).sum(1)
    clear = (agree.abs() > 0.5) & in_head(placed, 1.0) & valid
    count = clear.sum()
    share = torch.where(count > 0, (clear & (agree > 0)).sum() / count, 1.0)
    each = (share < TURNED[1]) & (agree < 0)
    return torch.where((share < TURNED[0]) | each[:, None], -normals, normals)


def _inliers(
    all_asked: bool,
    to_head: Float[Tensor, "1 13"],
    points: Float[Tensor, "N 3"],
    chosen: Float[Tensor, "M 3"],
    on_head: Bool[Tensor, " M"],
) -> tuple[Bool[Tensor, " N"]]:
    """What the nearest chosen point is, cell by cell; none far from the head.

    Each cell's first point speaks for it, alone or asked once for each of them.
    """
    placed = Similarity.unpacked(to_head).apply(points[None])[0]
    near = in_head(placed, 1.3)
    x, y, z = (placed.double() / CELL).floor().long().unbind(1)
    cells = (x + (y << 20) + (z << 40)).masked_fill(~near, torch.iinfo(torch.int64).max)
    cells, order = cells.sort(stable=True)
    first = torch.cat([torch.ones_like(near[:1]), cells[1:] != cells[:-1]])
    place = torch.arange(len(cells), device=cells.device)
    if all_asked:
        speakers, number = order[torch.where(first, place, 0).cummax(0).values], place
    else:
        speakers, number = order[first], first.cumsum(0) - 1
    index = PointTree(chosen.double()).query(placed[speakers].double())[1][:, 0]
    return (near & torch.empty_like(near).scatter(0, order, on_head[index][number]),)
