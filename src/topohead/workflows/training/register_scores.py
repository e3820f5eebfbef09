"""How well a registration network registers scans that it never saw."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from topohead.core import HeadModel
from topohead.core.shapes import ExpressionSource, ShapeSource
from topohead.models.registration import Registration, Similarity, register_points
from topohead.solvers.linear_registration import fit_linear, linear_surface
from topohead.synthesis.datasets import Faults, PosedPeople, ScanBatch, ScanSource, sample_indices
from topohead.synthesis.scans import INNER, ScanSurface
from topohead.synthesis.splits import SEEDS, Split

CHUNK = 32
"""Scans registered at once."""

FAILED_DEGREES, FAILED_SIZE, FAILED_MM = 10.0, 0.05, 5.0
"""A scan whose pose, size or mean error on the face is off by more has failed."""

KINDS: Mapping[str, Faults] = {"clean": "none", "corrupted": "all"}

Registrar = Callable[[ScanBatch], tuple[Float[Tensor, "B V 3"], Similarity]]
"""Scans to vertices in a head frame of the method's own, and where the scan went."""


@dataclass(frozen=True)
class Errors:
    """Distances to the true vertices in mm, and whether each scan failed."""

    distance: Float[Tensor, "B V"]
    failed: Bool[Tensor, " B"]


class Scorer:
    """Measures registration on validation and test scans of a seed."""

    def __init__(
        self,
        head: HeadModel,
        shapes: ShapeSource,
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
        self.regions = {
            "face": (head.topology.region_mask("face") & ~inner).nonzero()[:, 0].to(device),
            "skin": (head.topology.region_mask("skin") & ~inner).nonzero()[:, 0].to(device),
        }
        self.sources = {
            split: _source(shapes, expressions, surface, split, seed, points)
            for split in ("validation", "test")
        }

    def validate(self, network: nn.Module, count: int) -> dict[str, float]:
        """Median error on the face, mm, of validation scans with faults, the whole way and from
        the true pose."""
        rows = {}
        for name, method in self._ways(network).items():
            errors = self._errors(method, "validation", "all", count)
            rows[f"validation {name}"] = round(float(errors.distance.median()), 4)
        return rows

    def evaluate(self, network: nn.Module, count: int) -> dict[str, Any]:
        """A table by faults and method on test scans."""
        methods = {"template": self._template, "linear": self._linear, **self._ways(network)}
        return {
            kind: {
                name: summary(self._errors(method, "test", faults, count))
                for name, method in methods.items()
            }
            for kind, faults in KINDS.items()
        }

    def _ways(self, network: nn.Module) -> dict[str, Registrar]:
        assert isinstance(network, Registration)
        return {
            "network, true pose": lambda scans: self._registered(network, scans, _true_pose(scans)),
            "network": lambda scans: self._registered(network, scans, None),
        }

    def _registered(
        self, network: Registration, scans: ScanBatch, start: Similarity | None
    ) -> tuple[Tensor, Similarity]:
        cloud = scans.cloud
        # stratified points come in the order of faces: the pose stage wants any of them
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(cloud.points.shape[1], generator=generator).to(cloud.points.device)
        points, normals, valid = (v[:, order] for v in (cloud.points, cloud.normals, cloud.valid))
        result = register_points(network, points, normals, valid, start)
        return result.found.vertices, result.to_head

    def _template(self, scans: ScanBatch) -> tuple[Tensor, Similarity]:
        return self.template.expand_as(scans.vertices), _true_pose(scans)

    def _linear(self, scans: ScanBatch) -> tuple[Tensor, Similarity]:
        start, cloud = _true_pose(scans), scans.cloud
        vertices = fit_linear(self.linear, start.apply(cloud.points), cloud.valid)
        return vertices, start

    def _scans(self, split: Split, faults: Faults, count: int) -> Iterator[ScanBatch]:
        source = replace(self.sources[split], faults=faults)
        for part in sample_indices(0, count, device=self.device).split(CHUNK):
            yield source.at(part)

    def _errors(self, method: Registrar, split: Split, faults: Faults, count: int) -> Errors:
        parts = [measured(*method(scans), scans, self.regions["face"])
                 for scans in self._scans(split, faults, count)]  # fmt: skip
        distance = torch.cat([part.distance for part in parts])
        return Errors(distance, torch.cat([part.failed for part in parts]))


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


def measured(
    vertices: Float[Tensor, "B V 3"],
    to_head: Similarity,
    scans: ScanBatch,
    region: Int[Tensor, " N"],
) -> Errors:
    """Errors in the scan's true head frame and unit, without any new alignment."""
    in_scan = to_head.inverse().apply(vertices)
    there = scans.pose.inverse(in_scan)
    distance = (there - scans.vertices)[:, region].norm(dim=-1) * 1e3
    both = _true_pose(scans).inverse().then(to_head)
    cosine = (both.rotation.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    turned = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    failed = (turned > FAILED_DEGREES) | ((both.scale - 1).abs() > FAILED_SIZE)
    return Errors(distance, failed | (distance.mean(1) > FAILED_MM))


def summary(errors: Errors) -> dict[str, float]:
    """Mean, median and 95th percentile in mm over all scans, the share of scans that failed, and
    the mean and the worst scan's mean without those.
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
    return values


def _true_pose(scans: ScanBatch) -> Similarity:
    pose = scans.pose
    return Similarity(pose.scale, pose.rotation, pose.translation).inverse()
