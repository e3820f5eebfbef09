"""The reference head in pictures that show the same unknown points of it, tracked by others.

Nothing is known of the points but where they are in each picture and how the head moved. So they
are triangulated in the head's own frame; the head model is fitted to that cloud, which tells the
place of each point on the model; and then every instant's expression and pose are fitted to the
pixels of its points. What the model cannot be is closed by a smooth offset of its vertices.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topohead.core import HeadModel, SurfacePoints
from topohead.geometry.alignment import rigid
from topohead.geometry.correspondence import TriangleTree, interpolate
from topohead.solvers.expressions import solve_expressions
from topohead.solvers.track_fields import Smoothness, offset_field

IDENTITY_RIDGE, EXPRESSION_RIDGE = 2e-3, 5e-4
"""Metres that a unit of identity and of expression cost, against the rms of all points."""

PASSES, ROUNDS, ROUNDS_AGAIN = 3, 10, 3
"""Of cloud, person and expressions in turn; of closest points in the first and in later passes."""

NEAR = 0.006
"""Metres between a point and the model beyond which the point is not of it."""

HUBER = 3.0
"""Deviations beyond which a pixel counts less."""

CLOUD_FLOOR = 0.001
"""Metres that a point of the cloud is off at least: trackers err alike on neighbours."""

PERSONAL = Smoothness(offset=0.1, bend=0.0003)
"""What a person may have beyond the model."""


@dataclass(frozen=True)
class TracksFit:
    """A person at rest in the head frame, and T instants of it; `poses` head to world, metres.

    `residual` is the median distance of pixels in each instant.
    """

    rest: Float[Tensor, "V 3"]
    weights: Float[Tensor, "T 52"]
    poses: Float[Tensor, "T 4 4"]
    residual: Float[Tensor, " T"]


def fit_tracks(
    head: HeadModel,
    pixels: Float[Tensor, "C T P 2"],
    sigma: Float[Tensor, "C T P"],
    projections: Float[Tensor, "C 3 4"],
    poses: Float[Tensor, "T 4 4"],
    valid: Bool[Tensor, "C T"],
    known: Float[Tensor, "P 3"] | None = None,
) -> TracksFit:
    """The person and what the face does. `poses` are the trackers': its own frame to the world.

    Two seen directions at least; all float64. The head turns with y up in both frames. `known` are
    the points of the face at rest where they need not be found; one direction is enough then.
    """
    basis, triangles = head.expression_basis.double(), head.topology.triangles
    weights = torch.zeros(len(poses), len(basis), dtype=torch.float64)
    residual = torch.zeros(len(poses), dtype=torch.float64)
    moved, neutral = poses, pixels
    place, rest = torch.eye(4, dtype=torch.float64), head.template.double()
    model = rest
    for number in range(PASSES if known is None else 1):
        cloud = known
        if cloud is None:
            cloud = triangulated(neutral, sigma, projections, poses, valid)
        first = number == 0
        place, model, points, near = _identity(head, cloud, None if first else (place, model))
        rest = model
        if PERSONAL is not None:
            certain = deviations(cloud, sigma, projections, poses, valid)
            rest = model + _personal(head, cloud, certain, place, model, points, near)
        base = interpolate(points, triangles, rest)
        shown = torch.stack([interpolate(points, triangles, row) for row in basis])
        found = []
        for t, pose in enumerate(poses @ place):
            seen = valid[:, t]
            given = pixels[seen, t][:, near], sigma[seen, t][:, near], projections[seen]
            better, weights[t], residual[t] = _instant(base[near], shown[:, near], pose, *given)
            found.append(better)
        moved = torch.stack(found)
        # what the points would show of a face at rest: their next cloud knows no expression
        played = base + torch.einsum("tk,kpc->tpc", weights, shown)
        neutral = pixels - _drawn(played, moved, projections)
        neutral = neutral + _drawn(base.expand_as(played), moved, projections)
    return TracksFit(rest.float(), weights.float(), moved, residual)


def fit_faces(
    head: HeadModel, neutral: Float[Tensor, "P 3"], faces: Float[Tensor, "T P 3"]
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "T 52"]]:
    """Where our head stands in the frame of known points, and its weights for what they do.

    `faces` are the points under T expressions, without the head's own motion; all float64.
    """
    place, rest, points, near = _identity(head, neutral, None)
    triangles = head.topology.triangles
    base = interpolate(points, triangles, rest)[near]
    basis = head.expression_basis.double()
    shown = torch.stack([interpolate(points, triangles, row)[near] for row in basis])
    moved = base + (faces - neutral)[:, near] @ place[:3, :3]
    track = solve_expressions(moved.float(), base.float(), shown.float(), torch.ones(len(base)))
    return place, track.weights


def _drawn(
    points: Float[Tensor, "T P 3"],
    poses: Float[Tensor, "T 4 4"],
    projections: Float[Tensor, "C 3 4"],
) -> Float[Tensor, "C T P 2"]:
    """Pixels of posed points in all cameras."""
    world = points @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    flat = torch.einsum("cij,tpj->ctpi", projections[:, :, :3], world)
    flat = flat + projections[:, None, None, :, 3]
    return flat[..., :2] / flat[..., 2:]


def triangulated(
    pixels: Float[Tensor, "C T P 2"],
    sigma: Float[Tensor, "C T P"],
    projections: Float[Tensor, "C 3 4"],
    poses: Float[Tensor, "T 4 4"],
    valid: Bool[Tensor, "C T"],
) -> Float[Tensor, "P 3"]:
    """Points in the head's frame by linear least squares over all pictures (Hartley 1997)."""
    matrices = (projections[:, None] @ poses)[..., None, :, :]
    rows = pixels[..., None] * matrices[..., 2:, :] - matrices[..., :2, :]
    depth = matrices[..., 2, 3].abs().clamp(min=1e-6)
    weight = valid[..., None] / (sigma.clamp(min=0.1) * depth)
    rows = rows * weight[..., None, None]
    a, b = rows[..., :3], -rows[..., 3]
    square = torch.einsum("ctpki,ctpkj->pij", a, a)
    right = torch.einsum("ctpki,ctpk->pi", a, b)
    return torch.linalg.solve(square, right)


def deviations(
    cloud: Float[Tensor, "P 3"],
    sigma: Float[Tensor, "C T P"],
    projections: Float[Tensor, "C 3 4"],
    poses: Float[Tensor, "T 4 4"],
    valid: Bool[Tensor, "C T"],
) -> Float[Tensor, " P"]:
    """Metres that each point of the cloud may be off, by what its pictures say of themselves."""
    world = cloud @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    depth = torch.einsum("ci,tpi->ctp", projections[:, 2, :3], world)
    depth = depth + projections[:, 2, 3][:, None, None]
    # pixels of a metre across, at that depth
    metre = projections[:, 0, :3].norm(dim=1)[:, None, None] / depth.abs().clamp(min=1e-6)
    sure = valid[..., None] * (metre / sigma.clamp(min=0.5)).square()
    return sure.sum((0, 1)).clamp(min=1e-9).rsqrt().clamp(min=CLOUD_FLOOR)


def _personal(
    head: HeadModel,
    cloud: Float[Tensor, "P 3"],
    certain: Float[Tensor, " P"],
    place: Float[Tensor, "4 4"],
    rest: Float[Tensor, "V 3"],
    points: SurfacePoints,
    near: Bool[Tensor, " P"],
) -> Float[Tensor, "V 3"]:
    """What the person has beyond the model: the cloud's smooth distance from it, head frame."""
    local = (cloud - place[:3, 3]) @ place[:3, :3]
    gaps = local - interpolate(points, head.topology.triangles, rest)
    some = SurfacePoints(points.triangles[near], points.barycentrics[near])
    slopes = torch.eye(3, dtype=torch.float64) / certain[near, None, None]
    gaps = gaps[near] / certain[near, None]
    return offset_field(head.topology, rest, some, slopes, gaps, PERSONAL)


def _identity(
    head: HeadModel,
    cloud: Float[Tensor, "P 3"],
    known: tuple[Float[Tensor, "4 4"], Float[Tensor, "V 3"]] | None,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "V 3"], SurfacePoints, Bool[Tensor, " P"]]:
    """Where the head frame is in the cloud's, the person, and each point's place on the mesh.

    Iterated closest points with the identities' linear basis, from a `known` place and person; else
    from the mean one, nose tips (farthest along +z in both frames) laid on each other.
    """
    triangles = head.topology.triangles
    template, basis = head.template.double(), head.identity_basis.double()
    if known is None:
        place, rest, rounds = torch.eye(4, dtype=torch.float64), template, ROUNDS
        place[:3, 3] = cloud[cloud[:, 2].argmax()] - template[template[:, 2].argmax()]
    else:
        (place, rest), rounds = known, ROUNDS_AGAIN
    near = torch.ones(len(cloud), dtype=torch.bool)
    points = SurfacePoints(torch.zeros(len(cloud)).long(), torch.zeros(len(cloud), 3))
    for number in range(rounds):
        local = (cloud - place[:3, 3]) @ place[:3, :3]
        found = TriangleTree(rest[triangles].numpy()).closest(local.numpy())
        nearest, shares, distance = (torch.from_numpy(part) for part in found)
        points = SurfacePoints(nearest, shares)
        reach = NEAR * (max(1.0, 4.0 - number) if known is None else 1.0)
        near = distance < reach
        feet = interpolate(points, triangles, rest)
        step = rigid(feet[near], cloud[near])
        place = step
        local = (cloud - place[:3, 3]) @ place[:3, :3]
        shown = torch.stack([interpolate(points, triangles, b)[near] for b in basis]).flatten(1)
        base = interpolate(points, triangles, template)[near]
        gap = (local[near] - base).flatten()
        square = shown @ shown.T + len(gap) * IDENTITY_RIDGE**2 * torch.eye(len(basis)).double()
        weights = torch.linalg.solve(square, shown @ gap)
        rest = template + torch.tensordot(weights, basis, 1)
    return place, rest, points, near


def _instant(
    base: Float[Tensor, "P 3"],
    basis: Float[Tensor, "52 P 3"],
    pose: Float[Tensor, "4 4"],
    pixels: Float[Tensor, "C P 2"],
    sigma: Float[Tensor, "C P"],
    projections: Float[Tensor, "C 3 4"],
    rounds: int = 10,
) -> tuple[Float[Tensor, "4 4"], Float[Tensor, " 52"], float]:
    """Gauss–Newton of one instant's pose and expression on its pixels; weights in [0, 1]."""
    weights = torch.zeros(52, dtype=torch.float64)
    residual = float("nan")
    for _ in range(rounds):
        local = base + torch.tensordot(weights, basis, 1)
        world = local @ pose[:3, :3].T + pose[:3, 3]
        rows, gaps, scales = [], [], []
        for matrix, seen, spread in zip(projections, pixels, sigma, strict=True):
            flat = world @ matrix[:, :3].T + matrix[:, 3]
            drawn = flat[:, :2] / flat[:, 2:]
            slope = (matrix[:2, :3] - drawn[..., None] * matrix[2, :3]) / flat[:, 2, None, None]
            arms = world - pose[:3, 3]
            turn = torch.linalg.cross(
                torch.eye(3).double().expand(len(arms), 3, 3), arms[:, None].expand(-1, 3, 3)
            )
            moves = torch.cat(
                [turn, torch.eye(3).double().expand(len(arms), 3, 3),
                 (basis @ pose[:3, :3].T).transpose(0, 1)], 1,
            )  # fmt: skip
            gap = seen - drawn
            deviation = gap.norm(dim=1) / spread.clamp(min=0.5)
            weight = (HUBER / deviation.clamp(min=HUBER)) / spread.clamp(min=0.5).square()
            rows.append(torch.einsum("pij,pkj->pik", slope, moves))
            gaps.append(gap)
            scales.append(weight)
        jacobian, gap, weight = torch.cat(rows), torch.cat(gaps), torch.cat(scales)
        residual = float(gap.norm(dim=1).median())
        square = torch.einsum("p,pik,pil->kl", weight, jacobian, jacobian)
        right = torch.einsum("p,pik,pi->k", weight, jacobian, gap)
        # metres of ridge in pixels, by what a metre across is in the picture
        metre = jacobian[:, 0, 3].square().mean()
        ridge = weight.sum() * metre * EXPRESSION_RIDGE**2
        square[6:, 6:] += ridge * torch.eye(52).double()
        right[6:] -= ridge * weights
        square[:6, :6] += 1e-9 * square.diagonal()[:6].diag()
        step = torch.linalg.solve(square, right)
        weights = (weights + step[6:]).clamp(0, 1)
        pose = pose.clone()
        pose[:3, :3] = torch.linalg.matrix_exp(_cross(step[:3])) @ pose[:3, :3]
        pose[:3, 3] = pose[:3, 3] + step[3:6]
    return pose, weights, residual


def _cross(axis: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    x, y, z = axis.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
