"""Planted performances on the reference head: weights, poses and a person's own shapes return."""

import pytest
import torch

from topohead.core import ARKIT_52
from topohead.geometry.skinning import posed
from topohead.io.assets import reference_head
from topohead.models.linear import LinearHead
from topohead.solvers.blendshapes import personal_blendshapes, residuals
from topohead.solvers.expressions import (
    LARGEST,
    opposing_actions,
    solve_expressions,
    vertex_importance,
)
from topohead.synthesis.noise import Noise
from topohead.synthesis.performances import Motion, scripted, with_head_motion

NOISE = 1e-4
UNSEEN = ("tongueOut",)


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return reference_head(0)


@pytest.fixture(scope="module")
def rest(head: LinearHead) -> torch.Tensor:
    identity = torch.randn(len(head.identity_basis), generator=torch.Generator().manual_seed(4))
    return head.template + torch.tensordot(0.8 * identity, head.identity_basis, 1)


def range_of_motion(frames: int) -> Motion:
    return with_head_motion(scripted(frames, 15.0, 3), torch.tensor([0.0, -0.07, -0.02]), 1)


def noisy(vertices: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return vertices + NOISE * torch.randn(vertices.shape, generator=generator)


@pytest.mark.parametrize("kind", ["scripted", "random"])
def test_planted_weights_and_poses_return(head: LinearHead, rest: torch.Tensor, kind: str) -> None:
    motion = range_of_motion(40)
    weights = motion.coefficients
    if kind == "random":  # six actions at once, among them none that nobody sees
        generator = torch.Generator().manual_seed(5)
        strength = torch.rand(40, 52, generator=generator, dtype=torch.float64)
        chosen = torch.rand(40, 52, generator=generator).argsort(1) < 6
        weights = strength * chosen
        weights[:, [ARKIT_52.index(name) for name in UNSEEN]] = 0
    tracked = noisy(posed(rest, head.expression_basis, weights, motion.poses))
    importance = vertex_importance(head.topology, rest)
    track = solve_expressions(tracked, rest, head.expression_basis, importance)
    visible = torch.tensor([name not in UNSEEN for name in ARKIT_52])
    error = (track.weights - weights)[:, visible].abs()
    assert error.mean() < (0.01 if kind == "scripted" else 0.03)
    turned = track.poses[:, :3, :3].transpose(1, 2) @ motion.poses[:, :3, :3]
    cosine = (turned.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    assert torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).max() < 0.1
    made = posed(rest, head.expression_basis, track.weights, track.poses)
    assert residuals(tracked, rest, head.expression_basis, track, importance).max() < 4 * NOISE
    face = head.topology.regions["face"]
    assert (made - tracked)[:, face].norm(dim=-1).median() < 2 * NOISE
    assert track.weights.min() >= 0 and track.weights.max() <= LARGEST + 1e-9


def test_what_is_not_seen_stays_zero(head: LinearHead, rest: torch.Tensor) -> None:
    track = solve_expressions(
        noisy(rest.repeat(3, 1, 1)),
        rest,
        head.expression_basis,
        vertex_importance(head.topology, rest),
    )
    assert (track.weights[:, [ARKIT_52.index(name) for name in UNSEEN]] == 0).all()
    assert track.weights.max() < 0.02
    assert (track.poses - torch.eye(4)).abs().max() < 1e-3


def test_one_frame_and_any_place_in_the_world(head: LinearHead, rest: torch.Tensor) -> None:
    weights = head.expressions(jawOpen=0.6, eyeBlinkLeft=0.8, mouthSmileRight=0.5)[None]
    motion = range_of_motion(12)
    pose = motion.poses[-1:].clone()
    pose[:, :3, 3] += torch.tensor([1.5, -0.7, 2.0])
    tracked = noisy(posed(rest, head.expression_basis, weights, pose))
    importance = vertex_importance(head.topology, rest)
    track = solve_expressions(tracked, rest, head.expression_basis, importance)
    assert (track.weights - weights).abs().max() < 0.06
    assert (track.poses - pose).abs().max() < 1e-3


def test_antagonists_are_known_actions() -> None:
    pairs = opposing_actions()
    assert len(set(pairs)) == len(pairs)
    names = {(ARKIT_52[a], ARKIT_52[b]) for a, b in pairs}
    assert ("jawLeft", "jawRight") in names and ("eyeBlinkRight", "eyeWideRight") in names


def own_ways(head: LinearHead) -> torch.Tensor:
    """A person's actions: the model's, locally a quarter stronger, weaker and aside."""
    noise, shapes = Noise(5), []
    for name, delta in zip(ARKIT_52, head.expression_basis, strict=True):
        field = noise.smooth(head.template, 0.06, name, 3)
        field = 0.25 * field / field.norm(dim=1).square().mean().sqrt()
        aside = delta.norm(dim=1, keepdim=True) * field[:, [1, 2, 0]]
        shapes.append(delta * (1 + field[:, :1]) + aside)
    return torch.stack(shapes).float()


def test_a_persons_own_blendshapes_return(head: LinearHead, rest: torch.Tensor) -> None:
    """Learned on three of four frames, they explain the others too; the unplayed stay put."""
    true, motion = own_ways(head), range_of_motion(60)
    tracked = noisy(posed(rest, true, motion.coefficients, motion.poses))
    importance = vertex_importance(head.topology, rest)
    held_out = torch.arange(60) % 4 == 3
    seen, unseen = tracked[~held_out], tracked[held_out]
    model = head.expression_basis
    found = personal_blendshapes(seen, rest, model, head.topology, importance)
    assert found.after.mean() < 0.5 * found.before.mean()

    def error(shapes: torch.Tensor) -> float:
        track = solve_expressions(unseen, rest, shapes, importance)
        return float(residuals(unseen, rest, shapes, track, importance).mean())

    assert error(found.blendshapes) < 0.6 * error(model)
    played = motion.coefficients[~held_out].square().sum(0)
    often = (played > 1.5) & (model.norm(dim=-1).amax(1) > 0.002)
    face = head.topology.regions["face"]
    gap = [
        (shapes - true)[often][:, face].norm(dim=-1).mean() for shapes in (found.blendshapes, model)
    ]
    assert gap[0] < 0.8 * gap[1]
    never = found.track.weights.amax(0) < 1e-3
    assert never.any()
    assert (found.blendshapes - model)[never].norm(dim=-1).max() < 1e-4
