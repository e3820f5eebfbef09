"""Staged motion starts neutral, stays in range, and does not depend on how long the take is."""

import math
from pathlib import Path

import pytest
import torch

from topohead.core import ARKIT_52, InputError
from topohead.io.expressions import Performance, read_live_link
from topohead.synthesis.performances import euler, recorded, scripted, with_head_motion

PIVOT = torch.tensor([0.0, -0.1, -0.02])


def test_script_starts_neutral_moves_and_stays_in_range() -> None:
    motion = scripted(90, 30.0, seed=4)
    assert motion.coefficients[0].abs().max() == 0
    assert torch.equal(motion.poses[0], torch.eye(4).double())
    assert motion.coefficients.min() >= 0 and motion.coefficients.max() <= 1
    jaw = motion.coefficients[:, ARKIT_52.index("jawOpen")]
    assert jaw[:12].max() > 0.4  # the jaw opens in the first third of a second
    assert (motion.coefficients.amax(0) > 0.2).sum() > 15


def test_longer_takes_begin_like_shorter_ones() -> None:
    short = with_head_motion(scripted(5, 24.0, 1), PIVOT, 1)
    long = with_head_motion(scripted(50, 24.0, 1), PIVOT, 1)
    assert torch.equal(short.coefficients, long.coefficients[:5])
    assert torch.equal(short.poses, long.poses[:5])


@pytest.mark.parametrize(("wanted", "fps"), [(1.0, 60.0), (5.0, 30.0), (6.0, 10.0)])
def test_head_travels_as_asked_and_rigidly(wanted: float, fps: float) -> None:
    motion = with_head_motion(scripted(13, fps, 2), PIVOT, 2, wanted)
    assert torch.allclose(motion.poses[0], torch.eye(4).double(), atol=1e-12)
    face = PIVOT.double() + torch.tensor([0.0, 0.15, 0.08])
    path = (motion.poses[:, :3, :3] @ face + motion.poses[:, :3, 3]).diff(dim=0).norm(dim=-1)
    assert float(path.mean()) * 1000 == pytest.approx(wanted, rel=0.25)
    rotation = motion.poses[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).double(), atol=1e-12)
    angle = torch.acos(((rotation.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    assert math.degrees(float(angle.max())) < 45


def test_yaw_turns_to_the_left_pitch_down() -> None:
    forward = torch.tensor([0.0, 0.0, 1.0]).double()
    assert (euler(torch.tensor([0.3, 0.0, 0.0]).double()) @ forward)[0] > 0.2
    assert (euler(torch.tensor([0.0, 0.3, 0.0]).double()) @ forward)[1] < -0.2


def _recording() -> Performance:
    """A face that is busy, except in the third second; rows with a gap."""
    times = torch.tensor([i / 30 for i in range(150) if i not in (40, 41)]).double()
    busy = ((times < 2) | (times > 3)).double()
    rows = torch.zeros(len(times), 52).double()
    rows[:, ARKIT_52.index("jawOpen")] = 0.6 * busy
    rows[:, ARKIT_52.index("mouthSmileLeft")] = times / 5
    zero = torch.zeros(len(times), 3).double()
    return Performance(times, rows, zero, torch.zeros(len(times), 2, 3).double())


def test_recording_starts_at_its_calmest_moment_from_neutral() -> None:
    motion = recorded(_recording(), 12, 30.0)
    start = float(motion.source.split()[2])
    assert 2.0 <= start <= 3.0
    assert motion.coefficients[0].abs().max() == 0


def test_recording_is_resampled_by_time_across_gaps() -> None:
    motion = recorded(_recording(), 60, 30.0, start=1.0)
    smile = motion.coefficients[:, ARKIT_52.index("mouthSmileLeft")]
    times = 1.0 + torch.arange(60) / 30
    assert torch.allclose(smile[5:], (times / 5)[5:].double(), atol=1e-6)


def test_takes_outside_the_recording_are_refused() -> None:
    with pytest.raises(InputError, match="performance only"):
        recorded(_recording(), 400, 30.0)
    with pytest.raises(InputError, match="choose a start"):
        recorded(_recording(), 60, 30.0, start=4.0)


def test_an_instant_between_frames_is_rigid_and_between() -> None:
    motion = with_head_motion(scripted(4, 10.0, 3), PIVOT, 3, 8.0)
    middle = motion.at(1.5)
    expected = (motion.coefficients[1] + motion.coefficients[2]) / 2
    assert torch.allclose(middle.coefficients[0], expected)
    rotation = middle.poses[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3).double(), atol=1e-9)
    assert torch.equal(motion.at(-1.0).coefficients[0], motion.coefficients[0])


def test_real_recording_gives_a_lively_take(shared_data: Path) -> None:
    path = shared_data / "performances" / "alex_rom_3.csv"
    if not path.exists():
        pytest.skip("no recorded performance")
    motion = recorded(read_live_link(path), 12, 30.0)
    assert motion.coefficients[0].abs().max() == 0
    assert motion.coefficients.diff(dim=0).abs().sum(1).max() > 0.5
