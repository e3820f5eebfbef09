"""The scores of registration are zero for the truth and tell what is planted."""

import math

import pytest
import torch

from topohead.geometry.metrics import MILLIMETRES
from topohead.models.registration import Similarity
from topohead.solvers.linear_registration import fit_linear, linear_surface
from topohead.synthesis.datasets import PosedPeople, ScanBatch, ScanSource
from topohead.synthesis.scans import scan_surface
from topohead.workflows.training.register import population
from topohead.workflows.training.register_scores import Errors, measured, summary

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scans() -> ScanBatch:
    head, shapes, expressions = population(CPU)
    people = PosedPeople(shapes, expressions, 700)
    return ScanSource(people, scan_surface(head.topology), 700, 2048, "none").at(torch.arange(4))


def true_pose(scans: ScanBatch) -> Similarity:
    return Similarity(scans.pose.scale, scans.pose.rotation, scans.pose.translation).inverse()


def test_the_truth_scores_zero_in_any_frame(scans: ScanBatch) -> None:
    region = torch.arange(0, 4706, 7)
    errors = measured(scans.vertices, true_pose(scans), scans, region)
    assert float(errors.distance.max()) < 0.01
    assert not errors.failed.any()
    # a method's own frame does not matter, only where its head lies in the scan
    turn = math.radians(5)
    rotation = torch.tensor([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0],
                             [-math.sin(turn), 0, math.cos(turn)]]).expand(4, 3, 3)  # fmt: skip
    other = Similarity(torch.full((4,), 1.02), rotation, torch.full((4, 3), 0.004))
    moved = measured(other.apply(scans.vertices), true_pose(scans).then(other), scans, region)
    assert float(moved.distance.max()) < 0.01


def test_planted_errors_are_told(scans: ScanBatch) -> None:
    region = torch.arange(4706)
    shifted = measured(
        scans.vertices + torch.tensor([0, 0, 0.003]), true_pose(scans), scans, region
    )
    assert float((shifted.distance - 3).abs().max()) < 0.01
    assert not shifted.failed.any()
    assert measured(scans.vertices + 0.004, true_pose(scans), scans, region).failed.all()
    told = summary(Errors(torch.tensor([[1.0, 3.0], [10.0, 20.0]]), torch.tensor([False, True])))
    assert told["mean_mm"] == 8.5
    assert told["failed"] == 0.5
    assert told["kept_mean_mm"] == 2.0


def test_the_linear_model_finds_its_own_heads() -> None:
    """Heads inside the span, clean and posed: the classical row is not a straw man."""
    head, _, _ = population(CPU)
    generator = torch.Generator().manual_seed(3)
    identity = 0.8 * torch.randn(2, len(head.identity_basis), generator=generator)
    vertices = head.vertices(identity, torch.zeros(2, 52))
    cloud = vertices[:, head.topology.regions["skin"]]
    valid = torch.ones(cloud.shape[:2], dtype=torch.bool)
    found = fit_linear(linear_surface(head, CPU), cloud, valid)
    face = head.topology.regions["face"]
    before = (head.template - vertices)[:, face].norm(dim=-1).mean() * MILLIMETRES
    after = (found - vertices)[:, face].norm(dim=-1).mean() * MILLIMETRES
    assert float(before) > 2.5
    assert float(after) < 0.9
