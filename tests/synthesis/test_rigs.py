"""Staged rigs: every camera sees the head, and the handed-over calibration errs as stated."""

from dataclasses import replace

import pytest
import torch

from topohead.core import InputError
from topohead.geometry.cameras import project_through_lens
from topohead.synthesis.rigs import RigSettings, build_rig

TARGET = torch.tensor([0.01, 0.02, -0.03]).double()


def test_cameras_surround_the_head_and_see_it() -> None:
    rig = build_rig(RigSettings(cameras=24, width=512, height=375), TARGET, 0.24, seed=1)
    cameras = rig.exact.cameras
    pixels, depth = project_through_lens(rig.exact, TARGET[None])
    sizes = cameras.sizes.double()
    assert (depth > 0.9).all()
    # the target is near the middle, not in it: principal points are off, mounts are loose
    offset = (pixels[:, 0] - sizes / 2).norm(dim=1)
    assert (offset < 0.08 * sizes[:, 0]).all() and offset.mean() > 2
    towards = torch.nn.functional.normalize(cameras.centers - TARGET, dim=1)
    azimuth = torch.rad2deg(torch.atan2(towards[:, 0], towards[:, 2]))
    assert azimuth.min() < -85 and azimuth.max() > 85
    assert set(rig.turns) == {-1, 0, 1}
    up = cameras.world_to_camera[:, :3, :3] @ torch.tensor([0.0, 1.0, 0.0]).double()
    for turn, direction in zip(rig.turns, up, strict=True):
        # picture up is −y; a quarter turn puts the head's up along ±x
        assert (direction[1] < -0.7) == (turn == 0)


def test_handed_over_calibration_errs_by_a_tenth_of_a_pixel() -> None:
    settings = RigSettings(cameras=60, width=4096, height=3000)
    rig = build_rig(settings, TARGET, 0.24, seed=2)
    generator = torch.Generator().manual_seed(0)
    points = TARGET + 0.07 * torch.randn(300, 3, generator=generator).double()
    exact, _ = project_through_lens(rig.exact, points)
    given, _ = project_through_lens(rig.handed_over, points)
    rms = float((exact - given).square().sum(-1).nanmean().sqrt())
    assert 0.07 < rms < 0.14
    clean = build_rig(replace(settings, calibration_error_px=0.0), TARGET, 0.24, seed=2)
    same, _ = project_through_lens(clean.handed_over, points)
    assert torch.allclose(same, project_through_lens(clean.exact, points)[0], equal_nan=True)


def test_names_and_seeds() -> None:
    settings = RigSettings(cameras=10, held_out=2)
    rig = build_rig(settings, TARGET, 0.24, seed=3)
    names = rig.exact.cameras.names
    assert sum(name.startswith("hold") for name in names) == 2
    assert not names[0].startswith("hold") and not names[-1].startswith("hold")
    again = build_rig(settings, TARGET, 0.24, seed=3)
    other = build_rig(settings, TARGET, 0.24, seed=4)
    assert torch.equal(again.exact.cameras.intrinsics, rig.exact.cameras.intrinsics)
    assert not torch.equal(other.exact.cameras.intrinsics, rig.exact.cameras.intrinsics)


@pytest.mark.parametrize("count", [2, 61])
def test_camera_counts_are_limited(count: int) -> None:
    with pytest.raises(InputError, match="3 to 60 cameras"):
        build_rig(RigSettings(cameras=count), TARGET, 0.24, seed=0)
