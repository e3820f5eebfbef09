"""A scan of any size, unit and orientation through the registration network.

The pose stage judges all quarter turns. The likely ones are registered in turn until the network is
sure of one; else the one that it is surest of wins. Where it sees no head in the whole scan it
looks at parts of it: a bust is mostly shoulders. Points are chosen evenly from the whole scan
first, then from around the head that was found.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import ARKIT_52, HeadModel, Scan, ScanFit
from topohead.geometry.meshes import vertex_normals
from topohead.geometry.point_tree import PointTree
from topohead.models.learned_icp import Registered
from topohead.models.registration import (
    Registration,
    Registrations,
    Similarity,
    in_head,
    judge,
    register_points,
    settled,
    umeyama,
)
from topohead.models.scan_pose import quarter_turns
from topohead.solvers.scan_triangles import skin_normals

SAMPLES = 24_576
"""Points drawn from a scan, from which the network chooses."""

CROWDED = 4
"""Times as many points of a bare cloud are drawn before crowded ones are left out."""

MOST = 6
"""Hypotheses that are registered at most."""

LIKELY = 10.0
"""Guesses whose logit is further below the best one's are not registered."""

SURE = 1.3e-3
"""Below this σ (geometric mean on the face, metres) no other hypothesis is tried. On tuning scans
with faults right ones have 0.5 to 1.5 mm, wrong ones 2.5 mm and more."""

UNSEEN = 2e-3
"""Above this σ there is no head in the scan as a whole: its parts are looked at."""

PART, PARTS, ASKED = 0.3, 10, 3
"""Radius of a part in the scan's longest sides; how many there are, and how many of those that the
pose stage likes best are registered."""

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


@dataclass(frozen=True)
class _Samples:
    """Even samples of a scan in random order; normals are zero where unknown."""

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]


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
    samples = _sampled(scan, None, generator, device)
    found = _hypotheses(samples, network, head)
    if found[0].hypothesis.sigma > UNSEEN:
        found = sorted([*found, *_in_parts(samples, network, head)], key=_sigma)
    start = found[0].similarity
    if float(_around(start, samples.points).float().mean()) < CROPPED:
        near = _around(start, points).cpu().numpy()
        samples = _sampled(scan, near, generator, device)
    samples = _outward(samples, found[0], head)
    known, chosen = _registered_twice(network, samples, start, head)
    fit = ScanFit(
        start.inverse().apply(known.vertices)[0],
        known.log_sigma[0].exp() / 1e3 / start.scale,
        _matrix(start.inverse()),
        known.coefficients[0].clamp(0, 1),
        _inliers(
            start.apply(points[None])[0],
            start.apply(samples.points[chosen][None])[0],
            known.inlier[0] > 0,
        ),
    )
    there = scan.points.device
    fit = ScanFit(*(getattr(fit, entry.name).to(there) for entry in fields(fit)))
    return fit, [each.hypothesis for each in found]


class _Found(NamedTuple):
    """A hypothesis, the similarity (batch of one) to the head frame, vertices in that frame."""

    hypothesis: Hypothesis
    similarity: Similarity
    vertices: Float[Tensor, "V 3"]


def _hypotheses(samples: _Samples, network: Registration, head: HeadModel) -> list[_Found]:
    """Those that the pose stage finds likely, registered until one is sure, the surest first."""
    count = network.size.pose.points
    turns = quarter_turns().to(samples.points)
    looked = _batch(samples, count, len(turns))
    similarity, score = judge(network.pose, *looked, turns)
    likely = _different(similarity, score)
    looked = _batch(samples, count, len(likely))
    similarity, score = settled(network.pose, *looked, _rows(similarity, likely))
    found: list[_Found] = []
    face = shown_face(head)
    for number in _different(similarity, score):
        start = _rows(similarity, [number])
        result = _registered(network, samples, start, 1)
        fix = umeyama(result.found.vertices, network.icp.template[None])
        closer = start.then(fix)
        vertices = fix.apply(result.found.vertices)[0]
        pose = _matrix(closer.inverse()).to("cpu")
        sigma = float(result.found.log_sigma[0, face].mean().exp()) / 1e3
        hypothesis = Hypothesis(pose, float(score[number]), sigma)
        found.append(_Found(hypothesis, closer, vertices))
        if sigma < SURE:
            break
    return sorted(found, key=_sigma)


def _sigma(found: _Found) -> float:
    return found.hypothesis.sigma


def _in_parts(samples: _Samples, network: Registration, head: HeadModel) -> list[_Found]:
    """The surest hypothesis of those parts of a scan that look most like a head."""
    count = network.size.pose.points
    turns = quarter_turns().to(samples.points)
    parts = [part for part in _parts(samples) if len(part.points) >= count]
    scores = [judge(network.pose, *_batch(part, count, len(turns)), turns)[1] for part in parts]
    order = sorted(range(len(parts)), key=lambda k: -float(scores[k].max()))
    found = [_hypotheses(parts[k], network, head)[0] for k in order[:ASKED]]
    return sorted(found, key=_sigma)[:1]


def _parts(samples: _Samples) -> list[_Samples]:
    """What lies within `PART` of places as far from each other as can be, strays left out."""
    points = samples.points
    low, high = (points.sort(0).values[k] for k in (len(points) // 100, -1 - len(points) // 100))
    radius = PART * float((high - low).max())
    place = points[((points - low).clamp(max=0) + (high - points).clamp(max=0)).sum(1) == 0]
    far = (place - place.mean(0)).norm(dim=1)
    parts = []
    for _ in range(PARTS if len(place) else 0):
        center = place[far.argmax()]
        far = torch.minimum(far, (place - center).norm(dim=1))
        near = (points - center).norm(dim=1) < radius
        parts.append(_Samples(points[near], samples.normals[near]))
    return parts


def shown_face(head: HeadModel) -> Int[Tensor, " N"]:
    """Vertices of the face that a scanner sees."""
    regions = head.topology.regions
    inner = head.topology.region_mask(*(name for name in INNER if name in regions))
    return (head.topology.region_mask("face") & ~inner).nonzero()[:, 0]


def _different(similarity: Similarity, score: Float[Tensor, " B"]) -> list[int]:
    """Numbers of the likely similarities, best first, without what another one says too."""
    similarity, score = Similarity(*(part.cpu() for part in similarity)), score.cpu()
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


def _registered(
    network: Registration, samples: _Samples, start: Similarity, passes: int
) -> Registrations:
    return register_points(network, *_batch(samples, None, 1), start, passes)


def _registered_twice(
    network: Registration, samples: _Samples, start: Similarity, head: HeadModel
) -> tuple[Registered, Int[Tensor, " M"]]:
    """The mean of two answers, to the scan and to its mirror image, and the points looked at.

    Vertices are in the head frame. The mean of both is closer than either: 4 % on clean tuning
    scans, more on others.
    """
    mirror = head.topology.mirror
    assert mirror is not None
    mirror = mirror.to(samples.points.device)
    sides = samples.points.new_tensor([[[1.0, 1, 1]], [[-1.0, 1, 1]]])
    placed = start.apply(samples.points[None]) * sides
    normals = (samples.normals @ start.rotation[0].T) * sides
    one = Similarity(
        placed.new_ones(2), torch.eye(3).to(placed).expand(2, 3, 3), placed.new_zeros(2, 3)
    )
    everything = placed.new_ones(placed.shape[:2], dtype=torch.bool)
    # both images of a point are chosen or neither: chances are the same on both sides
    result = register_points(network, placed, normals, everything, one, 1)
    found = result.found
    both = Registered(
        found.rounds[:, :1],
        torch.stack([found.vertices[0], (found.vertices[1] * sides[1])[mirror]]),
        torch.stack([found.log_sigma[0], found.log_sigma[1, mirror]]),
        found.inlier,
        torch.stack([found.coefficients[0], found.coefficients[1, OTHER_SIDE]]),
    )
    means = (part.mean(0, keepdim=True) for part in both[1:])
    return Registered(both.rounds, *means), result.chosen[0]


def _batch(samples: _Samples, count: int | None, times: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and that all are valid, as the network takes them."""
    points, normals = (part[None, :count].expand(times, -1, -1)
                       for part in (samples.points, samples.normals))  # fmt: skip
    return points, normals, points.new_ones(points.shape[:2], dtype=torch.bool)


def _rows(similarity: Similarity, rows: list[int]) -> Similarity:
    return Similarity(*(part[rows] for part in similarity))


def _around(to_head: Similarity, points: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
    return in_head(to_head.apply(points[None])[0], 1.3)


def _matrix(similarity: Similarity) -> Float[Tensor, "4 4"]:
    matrix = torch.eye(4, device=similarity.scale.device)
    matrix[:3, :3] = similarity.scale[0] * similarity.rotation[0]
    matrix[:3, 3] = similarity.shift[0]
    return matrix


# Points of a scan


def _sampled(
    scan: Scan, kept: Bool[np.ndarray, " N"] | None, random: np.random.Generator, device
) -> _Samples:
    """Even samples of triangles by area, or of points by cells; `kept` points alone."""
    points = scan.points.detach().cpu().double().numpy()
    triangles = scan.triangles.cpu().numpy()
    if kept is not None and len(triangles):
        triangles = triangles[kept[triangles].all(1)]
    if len(triangles):
        chosen, normals = _on_triangles(points, triangles, random)
    else:
        numbers = _spread(points, kept, random)
        chosen, normals = points[numbers], np.zeros((len(numbers), 3))
        if scan.normals is not None:
            normals = scan.normals.detach().cpu().double().numpy()[numbers]
            normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return _Samples(*(torch.from_numpy(part).float().to(device) for part in (chosen, normals)))


def _on_triangles(
    points: Float[np.ndarray, "N 3"], triangles: Int[np.ndarray, "F 3"], random: np.random.Generator
) -> tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "M 3"]]:
    """Stratified points by area, and normals of the skin there (`scan_triangles`)."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    total = area.cumsum()
    place = (random.permutation(SAMPLES) + random.random(SAMPLES)) / SAMPLES * total[-1]
    face = np.minimum(np.searchsorted(total, place, side="right"), len(triangles) - 1)
    u, v = random.random((2, SAMPLES, 1))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    chosen = a[face] + u * (b[face] - a[face]) + v * (c[face] - a[face])
    vertices, corners, chosen_face, weights = (
        torch.from_numpy(part)
        for part in (points, triangles, face, np.concatenate([1 - u - v, u, v], 1))
    )
    spacing = math.sqrt(total[-1] / 2 / SAMPLES)
    normals = skin_normals(vertices, corners, chosen_face, weights, spacing)
    return chosen, normals.numpy()


def _spread(
    points: Float[np.ndarray, "N 3"], kept: Bool[np.ndarray, " N"] | None, random
) -> Int[np.ndarray, " M"]:
    """Numbers of at most `SAMPLES` points; of crowded ones, one in a cell."""
    numbers = np.arange(len(points)) if kept is None else np.flatnonzero(kept)
    numbers = random.permutation(numbers)[: CROWDED * SAMPLES]
    if len(numbers) <= SAMPLES // 2:
        return numbers
    here = points[numbers] - np.median(points[numbers], axis=0)
    # so that a sphere of the median radius meets about as many cells as samples are wanted
    side = np.median(np.linalg.norm(here, axis=1)) * math.sqrt(6 * math.pi / SAMPLES)
    cells = np.floor(here / max(side, 1e-30)).astype(np.int64)
    _, first = np.unique(cells @ np.array([1, 1 << 20, 1 << 40]), return_index=True)
    return numbers[np.sort(first)[:SAMPLES]]


def _outward(samples: _Samples, found: _Found, head: HeadModel) -> _Samples:
    """Samples with normals that point out of the head: estimated, flipped or turned one by one.

    What is out is read off the nearest vertex of the registered head.
    """
    points, normals = samples.points, samples.normals
    if not float(normals.abs().max()) > 0:
        normals = _estimated(points)
    placed = found.similarity.apply(points[None])[0]
    index = PointTree(found.vertices).query(placed)[1][:, 0]
    outwards = vertex_normals(found.vertices, head.topology.triangles.to(points.device))[index]
    agree = ((normals @ found.similarity.rotation[0].T) * outwards).sum(1)
    clear = (agree.abs() > 0.5) & in_head(placed, 1.0)
    share = float((agree[clear] > 0).float().mean()) if bool(clear.any()) else 1.0
    if share < TURNED[0]:
        normals = -normals
    elif share < TURNED[1]:
        normals = normals * torch.where(agree < 0, -1.0, 1.0)[:, None]
    return _Samples(points, normals)


def _estimated(points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Normals of either sign: the direction in which a point's neighbours vary least."""
    _, near = PointTree(points.double()).query(points.double(), min(10, len(points)))
    around = points.double()[near].cpu().numpy()
    arms = around - around.mean(1, keepdims=True)
    axes = np.linalg.eigh(arms.transpose(0, 2, 1) @ arms)[1]
    return torch.from_numpy(axes[:, :, 0].copy()).to(points)


def _inliers(
    points: Float[Tensor, "N 3"], chosen: Float[Tensor, "M 3"], on_head: Bool[Tensor, " M"]
) -> Bool[Tensor, " N"]:
    """What the nearest chosen point is, cell by cell; none far from the head (head frame)."""
    near = in_head(points, 1.3)
    there = points[near].double()
    x, y, z = (there / CELL).floor().long().unbind(1)
    cells, cell = torch.unique(x + (y << 20) + (z << 40), return_inverse=True)
    # each cell's first point speaks for it
    first = torch.full_like(cells, len(there)).scatter_reduce(
        0, cell, torch.arange(len(there), device=cell.device), "amin"
    )
    index = PointTree(chosen.double()).query(there[first])[1][:, 0]
    inliers = torch.zeros_like(near)
    inliers[near] = on_head[index][cell]
    return inliers
