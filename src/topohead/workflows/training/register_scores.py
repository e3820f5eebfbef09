"""How well a registration network registers scans that it never saw."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from topohead.core import HeadModel
from topohead.core.shapes import ExpressionSource, ShapeSource
from topohead.losses.registration import landmark_places, loss_surface
from topohead.models.learned_icp import Registered
from topohead.models.registration import Registration, Similarity, register_points, umeyama
from topohead.solvers.linear_registration import fit_linear, linear_surface
from topohead.synthesis.datasets import Faults, PosedPeople, ScanBatch, ScanSource, sample_indices
from topohead.synthesis.scan_surface import INNER, ScanSurface
from topohead.synthesis.scans import Cloud
from topohead.synthesis.splits import SEEDS, Split

CHUNK = 32
"""Scans registered at once."""

FAILED_DEGREES, FAILED_SIZE, FAILED_MM = 10.0, 0.05, 5.0
"""A scan whose pose, size or mean error on the face is off by more has failed."""

CHI_SQUARE = ("50", 2.366), ("90", 6.251)
"""Shares in per cent, and below what a sum of three squared normals lies in so many cases."""

KINDS: Mapping[str, Faults] = {"clean": "none", "corrupted": "all"}


class Result(NamedTuple):
    """Heads in a frame of the method's own, where the scans went, and what else it found."""

    vertices: Float[Tensor, "B V 3"]
    to_head: Similarity
    found: Registered | None = None
    chosen: Int[Tensor, "B M"] | None = None


Registrar = Callable[[ScanBatch], Result]


@dataclass(frozen=True)
class Errors:
    """Distances to the true vertices of the face in mm, whether each scan failed, other scores.

    `scores` are means over each scan, by name.
    """

    distance: Float[Tensor, "B N"]
    failed: Bool[Tensor, " B"]
    scores: Mapping[str, Float[Tensor, " B"]]


class Scorer:
    """Measures registration on validation and test scans of a seed.

    And on test scans of `strangers`, whose kind of heads training has not seen.
    """

    def __init__(
        self,
        head: HeadModel,
        shapes: ShapeSource,
        strangers: ShapeSource | None,
        expressions: ExpressionSource,
        surface: ScanSurface,
        seed: int,
        points: int,
        device: torch.device,
    ) -> None:
        self.template = head.template.to(device)
        self.linear = linear_surface(head, device)
        self.device = device
        regions = head.topology.regions
        inner = head.topology.region_mask(*(name for name in INNER if name in regions))
        shown = {name: head.topology.region_mask(name) & ~inner for name in ("face", "skin")}
        self.face, self.skin = (mask.nonzero()[:, 0].to(device) for mask in shown.values())
        self.knows = loss_surface(head.topology, head.topology.landmarks["ibug68"]).to(device)
        self.sources = {
            split: _source(shapes, expressions, surface, split, seed, points)
            for split in ("validation", "test")
        }
        self.strangers = None
        if strangers is not None:
            self.strangers = _source(strangers, expressions, surface, "test", seed, points)

    def validate(self, network: nn.Module, count: int) -> dict[str, float]:
        """Median error on the face, mm, of validation scans with faults, the whole way and from
        the true pose."""
        rows = {}
        for name, method in self._ways(network).items():
            errors = self._errors(method, self.sources["validation"], "all", count)
            rows[f"validation {name}"] = round(float(errors.distance.median()), 4)
        return rows

    def evaluate(self, network: nn.Module, count: int) -> dict[str, Any]:
        """A table by faults and method on test scans, σ calibrated on validation scans before."""
        self.calibrate(network, min(64, count))
        methods = {"template": self._template, "linear": self._linear, **self._ways(network)}
        sources = {"": self.sources["test"]}
        if self.strangers is not None:
            sources[" strangers"] = self.strangers
        return {
            kind + who: {
                name: summary(self._errors(method, source, faults, count))
                for name, method in methods.items()
            }
            for who, source in sources.items()
            for kind, faults in KINDS.items()
        }

    def calibrate(self, network: nn.Module, count: int) -> None:
        """One factor for all σ, so that half of the errors lie in the region that says so.

        The factor goes into the bias of the network's logarithm of σ.
        """
        assert isinstance(network, Registration)
        ratios = []
        for scans in self._scans(self.sources["validation"], "all", count):
            result = self._registered(network, scans, None)
            assert result.found is not None
            error = self._error(result, scans)
            kept = ~_failed(error / 1e3 + scans.vertices, scans.vertices)
            ratios.append(_ratio(error, result.found, self.face)[kept].flatten())
        ratio = torch.cat(ratios)
        if len(ratio):
            with torch.no_grad():
                network.icp.sigma.bias.add_(0.5 * (ratio.median() / CHI_SQUARE[0][1]).log())

    def _ways(self, network: nn.Module) -> dict[str, Registrar]:
        assert isinstance(network, Registration)
        return {
            "network, true pose": lambda scans: self._registered(network, scans, _true_pose(scans)),
            "network": lambda scans: self._registered(network, scans, None),
        }

    def _registered(
        self, network: Registration, scans: ScanBatch, start: Similarity | None
    ) -> Result:
        cloud = scans.cloud
        result = register_points(network, cloud.points, cloud.normals, cloud.valid, start)
        return Result(result.found.vertices, result.to_head, result.found, result.chosen)

    def _template(self, scans: ScanBatch) -> Result:
        return Result(self.template.expand_as(scans.vertices), _true_pose(scans))

    def _linear(self, scans: ScanBatch) -> Result:
        start, cloud = _true_pose(scans), scans.cloud
        return Result(fit_linear(self.linear, start.apply(cloud.points), cloud.valid), start)

    def _scans(self, source: ScanSource, faults: Faults, count: int) -> Iterator[ScanBatch]:
        source = replace(source, faults=faults)
        for part in sample_indices(0, count, device=self.device).split(CHUNK):
            yield shuffled(source.at(part))

    def _errors(self, method: Registrar, source: ScanSource, faults: Faults, count: int) -> Errors:
        scans = self._scans(source, faults, count)
        parts = [self.measured(method(batch), batch) for batch in scans]
        scores = {
            name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores
        }
        distance = torch.cat([part.distance for part in parts])
        return Errors(distance, torch.cat([part.failed for part in parts]), scores)

    def measured(self, result: Result, scans: ScanBatch) -> Errors:
        """Errors in the scan's true head frame and unit, without any new alignment."""
        error = self._error(result, scans)
        there = scans.vertices + error / 1e3
        distance = error.norm(dim=-1)
        face = distance[:, self.face]
        scores = {"skin_mm": distance[:, self.skin].mean(1)}
        scores["landmarks_mm"] = landmark_places(error, self.knows).norm(dim=-1).mean(1)
        if result.found is not None:
            scores |= self._told(result, error, scans)
        return Errors(face, _failed(there, scans.vertices) | (face.mean(1) > FAILED_MM), scores)

    def _error(self, result: Result, scans: ScanBatch) -> Float[Tensor, "B V 3"]:
        """Millimetres along each axis of the head frame."""
        there = scans.pose.inverse(result.to_head.inverse().apply(result.vertices))
        return (there - scans.vertices) * 1e3

    def _told(
        self, result: Result, error: Float[Tensor, "B V 3"], scans: ScanBatch
    ) -> dict[str, Float[Tensor, " B"]]:
        """How true is what the network says beside the shape.

        `within_50` and `within_90` are the shares of the face's vertices inside the regions that σ
        says hold half and nine tenths of them; `inliers` is the share of points told rightly.
        """
        found = result.found
        assert found is not None and result.chosen is not None
        ratio = _ratio(error, found, self.face)
        shares = {f"within_{name}": (ratio < limit).float().mean(1) for name, limit in CHI_SQUARE}
        inlier, valid = (part.gather(1, result.chosen) for part in (scans.cloud.inlier,
                                                                    scans.cloud.valid))  # fmt: skip
        right = (found.inlier > 0) == inlier
        shares["inliers"] = (right & valid).sum(1) / valid.sum(1).clamp(min=1)
        shares["expression"] = (found.coefficients - scans.coefficients).abs().mean(1)
        return shares


def shuffled(scans: ScanBatch) -> ScanBatch:
    """The scans with their points in another order: sampled face by face, they have one."""
    count = scans.cloud.points.shape[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    order = order.to(scans.cloud.points.device)
    parts = (getattr(scans.cloud, entry.name)[:, order] for entry in fields(scans.cloud))
    return replace(scans, cloud=Cloud(*parts))


def _ratio(
    error: Float[Tensor, "B V 3"], found: Registered, face: Int[Tensor, " N"]
) -> Float[Tensor, "B N"]:
    """Squared errors (mm) in units of the variance that σ promised."""
    return error[:, face].square().sum(-1) * (-2 * found.log_sigma[:, face]).exp()


def _failed(found: Float[Tensor, "B V 3"], truth: Float[Tensor, "B V 3"]) -> Bool[Tensor, " B"]:
    """Heads that are turned or sized wrongly as a whole."""
    fix = umeyama(found, truth)
    cosine = (fix.rotation.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    turned = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    return (turned > FAILED_DEGREES) | ((fix.scale - 1).abs() > FAILED_SIZE)


def _source(
    shapes: ShapeSource,
    expressions: ExpressionSource,
    surface: ScanSurface,
    split: Split,
    seed: int,
    points: int,
) -> ScanSource:
    """Scans of a split; every training seed has a seed of its own in the others."""
    seeds = SEEDS[split]
    own = seeds[seed % len(seeds)]
    return ScanSource(PosedPeople(shapes, expressions, own), surface, own, points)


def summary(errors: Errors) -> dict[str, float]:
    """Mean, median and 95th percentile in mm over all scans, the share of scans that failed, the
    mean and the worst scan's mean without those, and the means of other scores over all.
    """
    ordered = errors.distance.flatten().sort().values
    last = len(ordered) - 1
    values = {
        "mean_mm": float(errors.distance.mean()),
        "median_mm": float(ordered[last // 2]),
        "p95_mm": float(ordered[int(0.95 * last)]),
        "failed": float(errors.failed.float().mean()),
    }
    kept = errors.distance[~errors.failed].mean(1)
    if len(kept):
        values |= {"kept_mean_mm": float(kept.mean()), "kept_worst_mm": float(kept.max())}
    return values | {name: float(score.mean()) for name, score in errors.scores.items()}


def _true_pose(scans: ScanBatch) -> Similarity:
    pose = scans.pose
    return Similarity(pose.scale, pose.rotation, pose.translation).inverse()
