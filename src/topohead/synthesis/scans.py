"""Scans of heads as scanners, photogrammetry and depth cameras leave them: points with faults.

Every function takes its random numbers from `Draws`, so a scan is a pure function of its sample.
Distances inside are metres in the head frame; `placed` moves a cloud to where the scanner had it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.geometry.subdivision import refine
from topohead.models.registration import face_density
from topohead.synthesis.constants import constant
from topohead.synthesis.device_draws import Draws
from topohead.synthesis.scan_poses import Pose
from topohead.synthesis.scan_surface import (
    ScanSurface,
    blended,
    blunted,
    coarsened,
)

OPEN = 0.8
"""Cosine to the front within which globes are seen between the lids of whatever face."""

MOST_HOLES = 0.4
"""Largest share of the surface that holes take."""

MILD_NOISE = 4e-4
"""The most of scans by good scanners, rms along each axis, metres."""

FEWEST = 0.5
"""Share of the views before a surface that must see it for the worst of scans to show it."""

WAVES, LENGTHS, SLOPE = 12, (2e-3, 1e-2), 0.2
"""Plane waves that bumps are made of, their lengths in metres, and the rms slope of the worst."""

CELL = 0.006
"""Side of a cell of the depth view's z-buffer, metres."""


@dataclass(frozen=True)
class Cloud:
    """Points of a batch of scans. What is not `valid` is padding.

    `normals` are zero where a scan has none; `inlier` says that a point lies on the head.
    """

    points: Float[Tensor, "B N 3"]
    normals: Float[Tensor, "B N 3"]
    valid: Bool[Tensor, "B N"]
    inlier: Bool[Tensor, "B N"]


def clean_cloud(
    surface: ScanSurface,
    vertices: Float[Tensor, "B V 3"],
    random: Draws,
    count: int,
    focused: bool = False,
) -> Cloud:
    """Even samples of the outer surface with exact normals, all of them inliers.

    `focused` ones are as dense as `models.registration.face_density` says.
    """
    points, normals, _ = _sampled(surface, vertices, random, count, focused)
    present = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    return Cloud(points, normals, present, present)


def mild_cloud(
    surface: ScanSurface,
    vertices: Float[Tensor, "B V 3"],
    random: Draws,
    count: int,
    focused: bool = False,
    seen: Float[Tensor, "B T"] | None = None,
) -> Cloud:
    """What a good scanner leaves: the outer surface, little noise, bumps on half of them. Three of
    five are blended in space, nine of twenty are of few triangles, half have the blended normals of
    their vertices, the others those of their triangles; 17 of 20 lack what is little `seen`.
    """
    points, normals, _ = _sampled(surface, vertices, random, count, focused, mild=True, seen=seen)
    points, normals = bumpy(points, normals, random)
    strength = random.uniform("mild noise", 1, 1).square()
    points = points + MILD_NOISE * strength * random.normal("noise of points", count, 3)
    rough = 0.2 * random.uniform("mild normals", 1, 1) * random.normal("normal shake", count, 3)
    normals = torch.nn.functional.normalize(normals + rough, dim=-1)
    present = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    return Cloud(points, normals, present, present)


def faulty_cloud(
    surface: ScanSurface,
    vertices: Float[Tensor, "B V 3"],
    random: Draws,
    count: int,
    focused: bool = False,
    seen: Float[Tensor, "B T"] | None = None,
) -> Cloud:
    """Uneven samples of a surface that may be blunted, with holes, crops, one-view gaps, hair,
    shoulders, clutter, noise, and normals that are rough, flipped or absent; at most `count` points
    a scan, an eighth of that in the sparsest. What is little `seen` is missing as in mild ones.
    """
    points, normals, scalp = _sampled(
        surface, vertices, random, 2 * count, focused, faulty=True, seen=seen
    )
    gone = _holes(points, random) | _cropped(points, vertices, random)
    gone |= _hidden(points, normals, random)
    points, hair = _haired(points, normals, scalp, random)
    # faults go with points, of which some are kept: one more or less leaves the others as they are
    points = points + _noise(random, 2 * count)
    points, foreign = _among_others(points, vertices, random)
    points = _quantised(points, random)
    normals = _rough_normals(normals, foreign, random)
    score = random.uniform("keep", 2 * count) + 2 * gone
    chosen = score.topk(count, largest=False).indices
    sparse = random.uniform("density", 1) * random.chance("sparse", 1 / 3, 1)
    dense = (count * 8 ** (-sparse)).clamp(min=min(count, 500))
    valid = ~gone.gather(1, chosen) & (torch.arange(count, device=gone.device) < dense)
    inlier = ~(hair | foreign).gather(1, chosen) & valid
    return Cloud(_rows(points, chosen), _rows(normals, chosen), valid, inlier)


def bumpy(
    points: Float[Tensor, "B N 3"], normals: Float[Tensor, "B N 3"], random: Draws
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N 3"]]:
    """Points moved along their normals by low bumps, normals tilted with them, in half of scans:
    matching windows and cells of a grid leave neighbours off alike, as no noise of points does.
    """
    shortest, longest = LENGTHS
    length = shortest * (longest / shortest) ** random.uniform("bump length", 1, 1)
    turns = 2 * math.pi / length * torch.exp(0.3 * random.normal("bump lengths", WAVES, 1))
    waves = turns * torch.nn.functional.normalize(random.normal("bump waves", WAVES, 3), dim=-1)
    slope = SLOPE * random.uniform("bump slope", 1, 1) * random.chance("bumps", 0.5, 1, 1)
    # a third of each wave runs across the skin, and sines are 1/√2 in the mean
    height = slope * math.sqrt(3 / WAVES) / turns
    phase = 2 * math.pi * random.uniform("bump phase", 1, WAVES)
    angle = points @ waves.mT + phase
    rise = torch.sin(angle) @ height
    tilt = torch.cos(angle) @ (height * waves)
    tilt = tilt - (tilt * normals).sum(-1, keepdim=True) * normals
    return points + rise * normals, torch.nn.functional.normalize(normals - tilt, dim=-1)


def placed(cloud: Cloud, pose: Pose) -> Cloud:
    """The cloud where the scanner had it; normals turn with it."""
    normals = cloud.normals @ pose.rotation.transpose(1, 2)
    return Cloud(pose.apply(cloud.points), normals, cloud.valid, cloud.inlier)


def _sampled(
    surface: ScanSurface,
    vertices: Float[Tensor, "B V 3"],
    random: Draws,
    count: int,
    focused: bool,
    faulty: bool = False,
    mild: bool = False,
    seen: Float[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B M 3"], Float[Tensor, "B M 3"], Bool[Tensor, "B M"]]:
    """Stratified points on the refined surface, their normals, and whether they are on the scalp.

    The k-th point lies at share (k + u)/count of the surface's area, counted face by face. In
    faulty scans density waves by a factor of about four, every third is blunted, and every fifth
    shows some inner parts. Of `surface.triangles` those little `seen` are missing in most.
    """
    fine = refine(surface.refinement, vertices)
    there = ~surface.inner.expand(len(fine), -1)
    ahead: Tensor | float = OPEN
    if seen is not None:
        there, ahead = _shown(surface, seen, random)
    if faulty:
        fine = blunted(surface, fine, random)
    if mild:
        fine, smooth = blended(surface, fine, there, random)
        fine, smooth, kept = coarsened(surface, fine, smooth, random)
        there = there & kept
    corner, second, third = (_rows(fine, ends.expand(len(fine), -1))
                             for ends in surface.triangles.unbind(1))  # fmt: skip
    facing = torch.linalg.cross(second - corner, third - corner)
    weight = facing.norm(dim=-1)
    weight = weight * (~surface.globes | (facing[..., 2] > ahead * weight))
    if focused:
        weight = weight * face_density(corner)
    if faulty:
        shown = 0.3 * random.chance("inner", 0.2, 1)
        shown = torch.where(surface.inner & ~there, shown, there)
        weight = weight * shown * _density(corner, random)
    else:
        weight = weight * there
    total = weight.double().cumsum(1)
    position = (torch.arange(count, device=weight.device) + random.uniform("along", count)) / count
    position = position.double().clamp(max=1 - 1e-9) * total[:, -1:]
    face = torch.searchsorted(total, position, right=True).clamp(max=len(surface.triangles) - 1)
    corners = surface.triangles[face]
    a, b, c = (_rows(fine, corners[..., k]) for k in range(3))
    u, v = random.uniform("within", 2, count, 1).unbind(1)
    over = u + v > 1
    u, v = torch.where(over, 1 - u, u), torch.where(over, 1 - v, v)
    normals = torch.linalg.cross(b - a, c - a)
    normals = torch.nn.functional.normalize(normals, dim=-1, eps=1e-20)
    if mild:
        at_a, at_b, at_c = (_rows(smooth, corners[..., k]) for k in range(3))
        mean = at_a + u * (at_b - at_a) + v * (at_c - at_a)
        # the triangle's own decides where those around cancel out
        mean = torch.nn.functional.normalize(mean + 1e-3 * normals, dim=-1)
        normals = torch.where(random.chance("normals of vertices", 0.5, 1, 1), mean, normals)
    return a + u * (b - a) + v * (c - a), normals, surface.scalp[face]


def _shown(
    surface: ScanSurface, seen: Float[Tensor, "B T"], random: Draws
) -> tuple[Bool[Tensor, "B T"], Float[Tensor, "B 1"]]:
    """Which triangles scans show, and the cosine to the front above which they show globes.

    In 17 of 20 what enough views have `seen`, in the others all that is outside. Averaged depth
    loses what few views see: the edges of lids. Globes show up to the lids, in half of scans a
    triangle farther, in some little more than the iris, as scanners lose what shines.
    """
    enough = FEWEST * random.uniform("views", 1).square()
    seen = seen.float()
    corners = surface.triangles.flatten().expand(len(seen), -1)
    best = seen.new_zeros(len(seen), surface.refinement.shape[0])
    best = best.scatter_reduce(1, corners, seen.repeat_interleave(3, 1), "amax")
    behind = surface.globes & random.chance("behind lids", 0.5, 1)
    seen = torch.where(behind, best[:, surface.triangles].amax(2), seen)
    closed = ~random.chance("closed", 0.85, 1)
    ahead = torch.where(closed, OPEN, random.between("eyes", -1, OPEN, 1))
    return torch.where(closed, ~surface.inner, seen > enough), ahead


def _density(place: Float[Tensor, "B T 3"], random: Draws) -> Float[Tensor, "B T"]:
    waves = random.normal("density waves", 4, 3) / 0.06
    phase = 2 * math.pi * random.uniform("density phase", 1, 4)
    strength = 0.5 * random.uniform("density strength", 1)
    return torch.exp(strength * torch.sin(place @ waves.transpose(1, 2) + phase).sum(-1))


def _holes(points: Float[Tensor, "B M 3"], random: Draws) -> Bool[Tensor, "B M"]:
    """Up to three round holes, together at most `MOST_HOLES` of the points; half of scans whole."""
    count = points.shape[1]
    total = MOST_HOLES * random.uniform("holes", 1) * random.chance("holed", 0.5, 1)
    split = random.uniform("hole split", 3) + 0.05
    shares = total * split / split.sum(1, keepdim=True)
    gone = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    for hole in range(3):
        middle = (random.uniform(f"hole {hole}", 1, 1) * count).long().expand(-1, -1, 3)
        distance = (points - points.gather(1, middle)).square().sum(-1)
        ordered = distance.sort(1).values
        last = (shares[:, hole : hole + 1] * count).long()
        gone |= distance < ordered.gather(1, last)
    return gone


def _cropped(
    points: Float[Tensor, "B M 3"], vertices: Float[Tensor, "B V 3"], random: Draws
) -> Bool[Tensor, "B M"]:
    """Cut by tilted planes: the neck in half of scans, crown and back in a quarter."""
    low, high = vertices[..., 1].amin(1, keepdim=True), vertices[..., 1].amax(1, keepdim=True)
    tilt = 0.4 * random.between("neck tilt", -1, 1, 2)
    height = points[..., 1] + tilt[:, :1] * points[..., 0] + tilt[:, 1:] * points[..., 2]
    neck = (height < low + 0.09 * random.uniform("neck cut", 1)) & random.chance("neck", 0.5, 1)
    lean = random.between("scalp lean", 0.2, 1.3, 1)
    up = torch.cos(lean) * points[..., 1] - torch.sin(lean) * points[..., 2]
    start = torch.cos(lean) * high * random.between("scalp cut", 0.5, 0.9, 1)
    scalp = (up > start + 0.03 * torch.sin(lean)) & random.chance("scalp", 0.25, 1)
    return neck | scalp


def _hidden(
    points: Float[Tensor, "B M 3"], normals: Float[Tensor, "B M 3"], random: Draws
) -> Bool[Tensor, "B M"]:
    """What one depth camera from the front does not see, in a third of scans.

    Points that face away or lie behind the nearest one in a cell of a z-buffer; how far behind
    they may lie grows with the slope of the surface within a cell.
    """
    towards = random.normal("view", 3) * constant((0.5, 0.25, 0.2), points.device)
    towards = torch.nn.functional.normalize(towards + constant((0, 0, 1), points.device), dim=-1)
    up = constant(((0, 1, 0),), points.device).expand_as(towards)
    right = torch.linalg.cross(up, towards)
    right = torch.nn.functional.normalize(right, dim=-1)
    camera = torch.stack([right, torch.linalg.cross(towards, right), towards], 2)
    seen = points @ camera
    cells = 64
    column, row = ((seen[..., k] / CELL).floor().long() + cells // 2 for k in range(2))
    cell = row.clamp(0, cells - 1) * cells + column.clamp(0, cells - 1)
    depth = -seen[..., 2]
    nearest = depth.new_full((len(points), cells * cells), 1e3)
    nearest = nearest.scatter_reduce(1, cell, depth, "amin").gather(1, cell)
    cosine = (normals @ towards[..., None])[..., 0]
    slope = torch.sqrt((1 - cosine.square()).clamp(min=0)) / cosine.clamp(min=0.1)
    covered = depth > nearest + CELL * (1 + 1.5 * slope)
    return ((cosine < 0.1) | covered) & random.chance("one view", 0.33, 1)


def _haired(
    points: Float[Tensor, "B M 3"],
    normals: Float[Tensor, "B M 3"],
    scalp: Bool[Tensor, "B M"],
    random: Draws,
) -> tuple[Float[Tensor, "B M 3"], Bool[Tensor, "B M"]]:
    """Scalp pushed out to a bumpy shell of 4 to 45 mm in two scans of five, some of it hanging.

    Returns the points and which of them are hair.
    """
    waves = random.normal("hair waves", 3, 3) / 0.03
    phase = 2 * math.pi * random.uniform("hair phase", 1, 3)
    bumps = torch.sin(points @ waves.transpose(1, 2) + phase).mean(-1)
    thick = 4e-3 + 0.04 * random.uniform("hair", 1).square()
    height = thick * (1 + 0.4 * bumps) * random.between("hair depth", 0.6, 1, points.shape[1])
    fall = 0.15 * random.uniform("hang", 1) * random.chance("long", 0.4, 1)
    behind = (points[..., 2] < -0.02) * random.uniform("strand", points.shape[1])
    moved = points + height[..., None] * normals
    moved[..., 1] = moved[..., 1] - fall * behind
    hair = scalp & random.chance("haired", 0.4, 1)
    return torch.where(hair[..., None], moved, points), hair


def _among_others(
    points: Float[Tensor, "B N 3"], vertices: Float[Tensor, "B V 3"], random: Draws
) -> tuple[Float[Tensor, "B N 3"], Bool[Tensor, "B N"]]:
    """Some points replaced by shoulders below the neck or by clutter; and which ones."""
    count = points.shape[1]
    share = 0.25 * random.uniform("shoulders", 1) * random.chance("shouldered", 0.35, 1)
    shoulders = random.uniform("shoulder", count) < share
    low = vertices[..., 1].amin(1)
    ball = torch.nn.functional.normalize(random.normal("shoulder place", count, 3), dim=-1)
    ball[..., 1] = ball[..., 1].abs()
    size = constant((0.2, 0.08, 0.11), points.device) * random.between(
        "shoulder size", 0.8, 1.2, 1, 3
    )
    body = ball * size
    body[..., 1] += (low - 0.06)[:, None]
    body[..., 2] -= 0.09
    points = torch.where(shoulders[..., None], body, points)
    share = 0.06 * random.uniform("clutter", 1) * random.chance("cluttered", 0.4, 1)
    clutter = random.uniform("stray", count) < share
    points = torch.where(clutter[..., None], 0.11 * random.normal("stray place", count, 3), points)
    return points, shoulders | clutter


def _noise(random: Draws, count: int) -> Float[Tensor, "B N 3"]:
    """Isotropic, 0 to 1.5 mm rms along each axis."""
    return 1.5e-3 * random.uniform("noise", 1, 1) * random.normal("noise of points", count, 3)


def _quantised(points: Float[Tensor, "B N 3"], random: Draws) -> Float[Tensor, "B N 3"]:
    """A fifth of scans on a grid of 0.2 to 2 mm."""
    step = 2e-4 * 10 ** random.uniform("grid", 1, 1)
    return torch.where(random.chance("gridded", 0.2, 1, 1), (points / step).round() * step, points)


def _rough_normals(
    normals: Float[Tensor, "B N 3"], foreign: Bool[Tensor, "B N"], random: Draws
) -> Float[Tensor, "B N 3"]:
    """Shaken by up to 20°; absent in 30 % of scans, all flipped in 5 %, of random sign in 5 %."""
    count = normals.shape[1]
    shake = random.normal("normal shake", count, 3)
    wild = 0.35 * random.uniform("normal noise", 1, 1)
    wild = torch.where(foreign[..., None], 10.0, wild)
    normals = torch.nn.functional.normalize(normals + wild * shake, dim=-1)
    kind = random.uniform("normals", 1, 1)
    sign = torch.where(random.chance("sign", 0.5, count, 1), 1.0, -1.0)
    normals = torch.where((kind >= 0.3) & (kind < 0.35), -normals, normals)
    normals = torch.where((kind >= 0.35) & (kind < 0.4), normals * sign, normals)
    return torch.where(kind < 0.3, 0.0, normals)


def _rows(values: Float[Tensor, "B V K"], index: Int[Tensor, "B N"]) -> Float[Tensor, "B N K"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
