"""A fit may move heads and cameras."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from posed_person import around, painted, painted_picture, sitting
from topohead.geometry.avatars import Avatar
from topohead.rendering.avatars import render_avatar
from topohead.solvers import pose_changes
from topohead.solvers.pose_changes import Doubt, PoseChanges
from topohead.workflows.avatar import FitConfig
from topohead.workflows.avatars import fitting
from topohead.workflows.avatars.start import starting_gaussians

EDGE = 64
PLANTED = (
    (-0.04, -0.05, 0.03, 0.001, 0.002, -0.001),
    (0.0, 0.05, 0.0, 0.002, -0.003, 0.001),
    (0.04, 0.0, -0.03, -0.003, 0.001, 0.000),
)
"""Turns (radians) and shifts (metres) by which each instant's head is told to be elsewhere;
what all have in common nobody could see."""


@pytest.fixture(scope="module")
def person():
    return sitting(EDGE)


@pytest.fixture(scope="module")
def start(person):
    return starting_gaussians(person, 4000)


def misplaced(person):
    """The sitting with its heads moved, its pictures as they were."""
    heads, poses = [], []
    for vertices, pose, planted in zip(
        person.posed.vertices, person.posed.poses, PLANTED, strict=True
    ):
        motion = torch.eye(4, dtype=torch.float64)
        x, y, z = planted[:3]
        motion[:3, :3] = torch.linalg.matrix_exp(
            torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]]).double()
        )
        motion[:3, 3] = torch.tensor(planted[3:]).double()
        heads.append((vertices.double() @ motion[:3, :3].T + motion[:3, 3]).float())
        poses.append(motion @ pose)
    posed = replace(person.posed, vertices=torch.stack(heads), poses=torch.stack(poses))
    return replace(person, posed=posed)


def test_planted_pose_errors_are_taken_back(
    person, start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads come nearer to where they are, and pictures from a new side are sharper for it."""
    told, kept = misplaced(person), {}
    monkeypatch.setattr(fitting, "starting_gaussians", lambda *_: start)

    def keeping(*given, make=PoseChanges):
        kept["changes"] = make(*given)
        return kept["changes"]

    monkeypatch.setattr(fitting, "PoseChanges", keeping)
    cameras = around(person.rig.neutral, (10.0,), EDGE)
    quality = {}
    for refine in (False, True):
        config = FitConfig(
            Path("none"), tmp_path, gaussians=4000, steps=90, device="cpu", height=EDGE,
            refine="yes" if refine else "no",
        )  # fmt: skip
        avatar, facts = fitting.fitted(told, fitting.resolved(config))
        quality[refine] = inside_psnr(avatar, person, cameras)
    assert quality[True] > quality[False] + 1
    changes, turns = kept["changes"], told.posed.poses[:, :3, :3].float().mT
    with torch.no_grad():
        found = torch.stack(
            [changes.head(v, turns[t], t) for t, v in enumerate(told.posed.vertices)]
        )

    def off(vertices: torch.Tensor) -> float:
        return float((vertices - person.posed.vertices).norm(dim=2).mean())

    assert off(found) < 0.7 * off(told.posed.vertices)
    assert facts["refined"]["head_turn"] > 0.2


def inside_psnr(avatar: Avatar, person, cameras) -> float:
    """dB inside the resting head from a side that the fit did not see."""

    truth = painted_picture(
        person.rig.neutral, person.rig.topology, painted(person.rig.neutral),
        cameras.world_to_camera[0], cameras.intrinsics[0], (EDGE, EDGE),
    )  # fmt: skip
    image, _ = render_avatar(
        avatar, torch.zeros(52), torch.zeros(2, 2), torch.eye(4),
        cameras.world_to_camera.float(), cameras.intrinsics.float(), (EDGE, EDGE),
    )  # fmt: skip
    inside = truth[..., 3] > 0.99
    return float(-10 * (image[0] - truth[..., :3])[inside].square().mean().log10())


def test_changes_stay_within_their_bounds_and_begin_at_nothing() -> None:
    shapes = torch.randn(52, 10, 3, generator=torch.Generator().manual_seed(0)) * 1e-3
    changes = PoseChanges(shapes, 2, 3, Doubt())
    vertices, pose = torch.randn(10, 3), torch.eye(4).repeat(2, 1, 1)
    numbers = torch.tensor([2, 0])
    assert torch.allclose(changes.head(vertices, torch.eye(3), 1), vertices, atol=1e-6)
    assert torch.allclose(changes.cameras(pose, numbers), pose)
    assert float(changes.restraint().detach()) == 0
    with torch.no_grad():
        for value in changes.parameters():
            value.fill_(100.0)
    assert torch.allclose(changes.cameras(pose, numbers), pose), "all cameras together stay"
    with torch.no_grad():
        for value in changes.parameters():
            value[-1] = -100.0
    most = pose_changes.BOUND * Doubt().camera_shift
    moved = changes.cameras(pose, numbers).detach()
    assert float((moved[0, :3, 3] - moved[1, :3, 3]).abs().max()) == pytest.approx(2 * most)
    assert torch.allclose(moved[:, :3, :3] @ moved[:, :3, :3].mT, torch.eye(3), atol=1e-6)
    still = PoseChanges(shapes, 2, 3, Doubt(camera_turn=0, camera_shift=0))
    with torch.no_grad():
        still.camera_shifts[0] += 1
    assert torch.equal(still.cameras(pose, numbers), pose)
