"""The scores of registration are zero for the truth and tell what is planted."""

import math

import pytest
import torch

from topohead.geometry.metrics import MILLIMETRES
from topohead.models.learned_icp import Registered
from topohead.models.registration import Similarity
from topohead.solvers.linear_registration import fit_linear, linear_surface
from topohead.synthesis.datasets import ScanBatch
from topohead.synthesis.scan_surface import scan_surface
from topohead.workflows.training.register import population
from topohead.workflows.training.register_scores import (
    Errors,
    Result,
    Scorer,
    _failed,
    shuffled,
    summary,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    head, shapes, expressions = population(CPU)
    return Scorer(
        head, shapes, None, expressions, scan_surface(head.topology, head.template), 0, 2048, CPU
    )


@pytest.fixture(scope="module")
def scans(scorer: Scorer) -> ScanBatch:
    return shuffled(scorer.sources["test"].at(torch.arange(4)))


def true_pose(scans: ScanBatch) -> Similarity:
    return Similarity(scans.pose.scale, scans.pose.rotation, scans.pose.translation).inverse()


def turned(degrees: float) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).expand(4, 3, 3)


def test_the_truth_scores_zero_in_any_frame(scorer: Scorer, scans: ScanBatch) -> None:
    errors = scorer.measured(Result(scans.vertices, true_pose(scans)), scans)
    assert float(errors.distance.max()) < 0.01
    assert float(errors.scores["landmarks_mm"].max()) < 0.01
    assert not errors.failed.any()
    # a method's own frame does not matter, only where its head lies in the scan
    other = Similarity(torch.full((4,), 1.2), turned(30), torch.full((4, 3), 0.004))
    result = Result(other.apply(scans.vertices), true_pose(scans).then(other))
    moved = scorer.measured(result, scans)
    assert float(moved.distance.max()) < 0.01
    assert not moved.failed.any()


def test_planted_errors_are_told(scorer: Scorer, scans: ScanBatch) -> None:
    start = true_pose(scans)
    nearer = scans.vertices + torch.tensor([0, 0, 0.003])
    shifted = scorer.measured(Result(nearer, start), scans)
    assert float((shifted.distance - 3).abs().max()) < 0.01
    assert float((shifted.scores["landmarks_mm"] - 3).abs().max()) < 0.01
    assert not shifted.failed.any()
    assert scorer.measured(Result(scans.vertices + 0.004, start), scans).failed.all()
    for degrees, fails in ((8.0, False), (12.0, True)):
        center = scans.vertices[:, scorer.face].mean(1, keepdim=True)
        wrong = center + (scans.vertices - center) @ turned(degrees).transpose(1, 2)
        assert bool(_failed(wrong, scans.vertices).all()) == fails
    assert _failed(1.06 * scans.vertices, scans.vertices).all()
    told = summary(
        Errors(torch.tensor([[1.0, 3.0], [10.0, 20.0]]), torch.tensor([False, True]), {})
    )
    assert told["mean_mm"] == 8.5
    assert told["failed"] == 0.5
    assert told["kept_mean_mm"] == 2.0


def test_uncertainty_that_is_right_covers_what_it_says(scorer: Scorer, scans: ScanBatch) -> None:
    generator = torch.Generator().manual_seed(1)
    sigma = 0.5 + 2 * torch.rand(4, 4706, generator=generator)
    noise = sigma[..., None] * torch.randn(4, 4706, 3, generator=generator) / 1e3
    logits = torch.where(scans.cloud.inlier, 2.0, -2.0)
    found = Registered(torch.zeros(1, 4, 1, 3), scans.vertices + noise, sigma.log(), logits,
                       scans.coefficients)  # fmt: skip
    everything = torch.arange(2048).expand(4, -1)
    result = Result(found.vertices, true_pose(scans), found, everything)
    scores = scorer.measured(result, scans).scores
    assert torch.allclose(scores["within_50"], torch.full((4,), 0.5), atol=0.05)
    assert torch.allclose(scores["within_90"], torch.full((4,), 0.9), atol=0.03)
    assert torch.equal(scores["inliers"], torch.ones(4))
    assert float(scores["expression"].max()) == 0


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
