"""Whether a registered head is to be believed, and in plain words why not."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from topohead.core import HeadModel, Scan, ScanFit
from topohead.core.derived import derived
from topohead.geometry.anthropometry import SURVEY, Callipers
from topohead.geometry.meshes import face_normals, vertex_areas, vertex_normals
from topohead.geometry.point_tree import PointTree
from topohead.geometry.triangle_feet import nearest_triangles
from topohead.solvers.headfit import HeadArrays
from topohead.solvers.recording import done, filled, fixed
from topohead.solvers.scan_followers import Followers
from topohead.solvers.scan_head import ScanHead
from topohead.solvers.scan_matching import MatchConfig, match_all
from topohead.solvers.scan_modes import explained
from topohead.solvers.scan_samples import ScanSamples, outward_sign, sample_scan
from topohead.solvers.scan_search import find_head, skull_of

SAMPLES = 12_000
MEASURED = 4_000
"""Samples, if all were inliers, whose exact distance from the surface is taken."""
SEEN_M, SEEN_AGREEMENT = 0.004, 0.7
"""A place of the head is seen when the scan lies so near, metres, with such a cosine of normals."""
SEEN_SPACINGS, SEEN_NOISES, ROUGH, ROUGH_AGREEMENT = 2.0, 3.0, 1e-3, 0.3
"""In sparse and in noisy scans, so many spacings or deviations of the noise; normals of scans with
noise beyond `ROUGH`, metres, say little."""
MODEL_NOISE = 0.001
"""What the head model's identity modes are fitted with to tell the remainder, metres."""
WORST_MM, MOST_FLIPPED = 1.5, 20
"""A fit that is farther from the scan (median) or folds more triangles has no head under it."""
IMPOSSIBLE, HAIRY, UNUSUAL = 5.0, 8.0, 4.0
"""Deviations from a survey's mean size beyond which there is no head, or a strange one; the second
is for sizes that hair adds to. What is no head (ball, cube, ring, hills, body of capsules) draws a
head to sizes beyond them. Short hair alone made a real head's breadth 3.2 deviations too great."""
UNDER_HAIR = ("head length", "head breadth")
LEAST_SEEN, LITTLE_SEEN = 0.15, 0.25
AWAY_M, AWAY_SHARE, ALIKE = 0.05, 0.2, 1.35
"""Another head is looked for when this share of the scan lies so far from the first, metres; its
size differs by no more than this factor, else it is a trunk."""
SEVERAL = "there seem to be several heads in the scan: crop it to one"


@dataclass(frozen=True)
class Distances:
    """Of points to a surface, millimetres; NaN where there was no point."""

    median_mm: float
    mean_mm: float
    p95_mm: float

    @staticmethod
    def of(metres: Float[Tensor, " N"]) -> "Distances":
        """Their summary."""
        if not len(metres):
            return Distances(float("nan"), float("nan"), float("nan"))
        mm = 1000 * metres.cpu().numpy()
        return Distances(float(np.median(mm)), float(mm.mean()), float(np.quantile(mm, 0.95)))


Reason = Literal["no head", "several heads", "mirrored", "face unseen", "size"]


@dataclass(frozen=True)
class ScanQuality:
    """How well a head lies on its scan.

    Distances from the scan's inliers to the fitted surface, on the face and everywhere, and from
    all that is seen of it to the scan. `face_seen` and `inliers` are shares. `flipped` counts
    triangles that face the wrong way, `lips_mm` and `lids_mm` say how deep these overlap beyond
    the template's. `sizes_mm` are those of `geometry.anthropometry`. `remainder_mm` is how far the
    face is from anything that the head model can be (rms).
    `failures` and `warnings` are sentences for a person, by reason; without failures believe it.
    """

    face: Distances
    whole: Distances
    whole_to_scan: Distances
    face_seen: float
    inliers: float
    flipped: int
    lips_mm: float
    lids_mm: float
    sizes_mm: dict[str, float]
    remainder_mm: float
    failures: dict[Reason, str]
    warnings: dict[Reason, str]


def judge(scan: Scan, fit: ScanFit, head: HeadModel, seed: int = 0) -> ScanQuality:
    """Measures a fit against its scan, whatever method made it.

    `failures` are what a caller should refuse; `warnings` what it should pass on.
    """
    device = scan.points.device
    there, fit = fit.to(device), fit.to("cpu")
    surface, arrays = ScanHead.of(head.topology, device), derived(head, HeadArrays)
    vertices = there.vertices.double()
    samples = sample_scan(scan, SAMPLES, seed)
    inlier = there.inliers[samples.source]
    spacing, noise = torch.stack([samples.spacing, samples.noise]).tolist()
    reach = max(SEEN_M, SEEN_SPACINGS * spacing, SEEN_NOISES * noise)
    config = MatchConfig(reach, SEEN_AGREEMENT if noise < ROUGH else ROUGH_AGREEMENT)
    recorded = surface.recordings if reach == SEEN_M else done
    padded, inlier = samples.padded(SAMPLES), filled(inlier, SAMPLES)
    work = partial(_looked, surface, _Folds.of(head, device), config)
    told = recorded(("judged", config), work, vertices, inlier, *padded.parts)
    crossing = Followers.of(head, device).crossing(vertices, fit.pose.double().numpy())
    # the host measures while the device does
    sizes, remainder = _sizes(head, fit), _remainder(arrays, fit)
    *found, gap = (part.cpu() for part in told)
    (away, sign, face_seen, trusted, flipped), distance, on_face = found
    lips, lids = crossing.tolist()
    asked = ~distance.isnan()
    measured = ScanQuality(
        Distances.of(distance[asked & on_face]),
        Distances.of(distance[asked]),
        Distances.of(gap[~gap.isnan()]),
        float(face_seen),
        float(trusted),
        int(flipped),
        1000 * lips,
        1000 * lids,
        sizes,
        remainder,
        {},
        {},
    )
    samples = replace(samples, normals=samples.normals * float(sign))
    failures, warnings = _failures(measured), _warnings(measured, scan, samples)
    several = not failures and float(away) >= AWAY_SHARE
    if several and _another_head(samples, surface, surface.surface(vertices), arrays, seed):
        if measured.face.median_mm > WORST_MM:  # neither is one
            failures["no head"] = (
                f"no head was found: the best fit's face lies {measured.face.median_mm:.1f} mm "
                "from the scan (median), and so might others; check what the scan shows, or crop it"
            )
        else:
            failures["several heads"] = SEVERAL
    return replace(measured, failures=failures, warnings=warnings)


class _Folds(NamedTuple):
    """Triangles of smooth skin that are not folded on the template.

    Lids, lips, nostrils and ears are folded by nature and do not count.
    """

    triangles: Int[Tensor, "T 3"]
    counts: Bool[Tensor, " T"]

    @staticmethod
    def of(head: HeadModel, device: torch.device) -> "_Folds":
        """Made once for each head and device."""
        known = derived(head, _Folds._made)
        name = str(device)
        if name not in known:
            known[name] = _Folds(*(part.to(device) for part in known["cpu"]))
        return known[name]

    @staticmethod
    def _made(head: HeadModel) -> "dict[str, _Folds]":
        triangles = head.topology.triangles
        smooth = head.topology.region_mask("skin")
        smooth &= ~head.topology.region_mask("eyelids", "lips", "nose", "ears")
        skin = smooth[triangles].all(1)
        return {"cpu": _Folds(triangles, skin & ~_opposed(head.template.double(), triangles))}


def _opposed(vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "T 3"]) -> Bool[Tensor, " T"]:
    """Which triangles oppose the vertices around them."""
    around = vertex_normals(vertices, triangles)[triangles].mean(1)
    return (face_normals(vertices, triangles) * around).sum(1) < 0


def _looked(
    surface: ScanHead,
    folds: _Folds,
    config: MatchConfig,
    vertices: Float[Tensor, "V 3"],
    inlier: Bool[Tensor, " N"],
    *parts: Tensor,
) -> tuple[Tensor, ...]:
    """Shares of the scan that are away from the head and on it, which way its normals point, the
    share of the face that is seen, folded triangles; samples' distances, NaN where not asked, and
    whether on the face; the seen surface's distances, NaN where not seen."""
    samples = ScanSamples(*parts)
    points = surface.surface(vertices)
    normals = surface.normals(points)
    there = samples.points.isfinite().all(1)
    away, near = (part[:, 0] for part in PointTree(points).query(samples.points))
    sign = outward_sign(samples, away, normals[near])
    samples = replace(samples, normals=samples.normals * sign)
    trusted = inlier & there
    asked = trusted & ((trusted.cumsum(0) - 1) % (SAMPLES // MEASURED) == 0)
    places = samples.points
    if not fixed(places):
        places, asked = places[asked], asked[asked]
    triangle, distance = nearest_triangles(
        places, points, surface.triangles, surface.fan, *surface.outside
    )
    found = match_all(points, normals, surface.skin_rows, samples, config)
    seen = (found.belief >= 0.5) & (found.gap.abs() < config.reach)
    area, face = vertex_areas(points, surface.triangles), surface.face & surface.skin
    numbers = [
        (~(away < AWAY_M) & there).double().sum() / there.sum(),
        sign,
        (area * face)[found.rows].masked_fill(~seen, 0).sum() / (area * face).sum(),
        trusted.double().sum() / there.sum(),
        (_opposed(vertices, folds.triangles) & folds.counts).sum(),
    ]
    return (
        torch.stack([number.double() for number in numbers]),
        distance.masked_fill(~asked, torch.nan),
        surface.face_triangles[triangle],
        found.gap.abs().masked_fill(~seen, torch.nan),
    )


def _failures(measured: ScanQuality) -> dict[Reason, str]:
    """What a caller should refuse."""
    found: dict[Reason, str] = {}
    distance = measured.whole_to_scan.median_mm
    if not distance <= WORST_MM or measured.flipped > MOST_FLIPPED:
        found["no head"] = (
            f"no head was found: the best fit lies {distance:.1f} mm from the scan (median) with "
            f"{measured.flipped} folded triangles; check what the scan shows, its unit, or crop it"
        )
    odd = _odd_sizes(measured.sizes_mm, IMPOSSIBLE, HAIRY)
    if odd:
        found["size"] = (
            f"no human head has such a size ({odd}); check the scan's unit, or whether it is a head"
        )
    if measured.face_seen < LEAST_SEEN:
        found["face unseen"] = (
            f"{measured.face_seen:.0%} of the face is in the scan; {LEAST_SEEN:.0%} are needed"
        )
    return found


def _warnings(measured: ScanQuality, scan: Scan, samples: ScanSamples) -> dict[Reason, str]:
    """What a caller should pass on."""
    found: dict[Reason, str] = {}
    if len(scan.triangles) and _inside_out(scan, samples):
        found["mirrored"] = (
            "faces are wound clockwise seen from outside: turned over, or the scan is mirrored"
        )
    odd = _odd_sizes(measured.sizes_mm, UNUSUAL, UNUSUAL)
    if odd:
        found["size"] = f"unusual for an adult: {odd}"
    if LEAST_SEEN <= measured.face_seen < LITTLE_SEEN:
        found["face unseen"] = (
            f"{measured.face_seen:.0%} of the face is in the scan: the rest is guessed"
        )
    return found


def _odd_sizes(sizes: dict[str, float], bare: float, hairy: float) -> str:
    """Sizes more than so many deviations from the survey's mean, in words; `hairy` is for sizes
    that hair may have made greater."""
    beyond = {name: (sizes[name] - p.mean) / p.deviation for name, p in SURVEY.items()}
    far = {
        name: sizes[name]
        for name, z in beyond.items()
        if not -bare <= z <= (hairy if name in UNDER_HAIR else bare)
    }
    return ", ".join(f"{name} {size:.0f} mm" for name, size in far.items())


def _inside_out(scan: Scan, outward: ScanSamples) -> bool:
    """Whether the triangles' own normals oppose those found to point out of the head."""
    own = vertex_normals(scan.points.double(), scan.triangles)[outward.source]
    return bool((own * outward.normals).sum() < 0)


def _another_head(
    samples: ScanSamples,
    surface: ScanHead,
    points: Float[Tensor, "S 3"],
    arrays: HeadArrays,
    seed: int,
) -> bool:
    """Whether what lies away from the fitted head holds one as good."""
    # what is not found is away
    away = PointTree(points).query(samples.points, 1, AWAY_M)[0][:, 0].isinf()
    skull = skull_of(ScanHead.of(surface.topology), arrays)
    placed = [find_head(samples.subset(keep), *skull, seed) for keep in (away, ~away)]
    other, own = (float(found.misfit[0]) for found in placed)
    larger = abs(np.log(placed[0].size[0] / placed[1].size[0]))
    return bool(larger < np.log(ALIKE)) and other < max(own + 0.05, 0.3)


def _sizes(head: HeadModel, fit: ScanFit) -> dict[str, float]:
    """Of the fitted head with its expression, in millimetres of the scan."""
    pose = fit.pose.double()
    turn = pose[:3, :3] / torch.linalg.det(pose[:3, :3]) ** (1 / 3)
    upright = (fit.vertices.double() - pose[:3, 3]) @ turn
    callipers = derived(head, _callipers)
    sizes = callipers(upright[callipers.vertices][None].numpy())
    return {name: float(value[0]) for name, value in sizes.items()}


def _callipers(head: HeadModel) -> Callipers:
    return Callipers.of(head.topology, head.template)


def _remainder(arrays: HeadArrays, fit: ScanFit) -> float:
    """Root mean square of what the head model cannot explain on the face, millimetres."""
    rows = np.flatnonzero(arrays.topology.region_mask("face").numpy())
    modes = explained(
        arrays,
        fit.vertices.double().numpy(),
        fit.pose.double().numpy(),
        fit.expression.double().numpy(),
        MODEL_NOISE,
    )
    return 1000 * float(np.sqrt((modes.remainder[rows] ** 2).sum(1).mean()))
