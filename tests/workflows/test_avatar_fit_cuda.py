"""`topohead avatar fit` on a CUDA device."""

from pathlib import Path

import pytest
import torch

from posed_person import around, sitting
from topohead.rendering.avatars import render_avatar
from topohead.workflows.avatar import FitConfig
from topohead.workflows.avatars import fitting


@pytest.mark.gpu
def test_a_fit_on_the_device_comes_as_near_as_one_on_the_cpu(tmp_path: Path) -> None:
    person = sitting(64)
    found = {}
    for device in ("cpu", "cuda"):
        config = FitConfig(
            Path("none"), tmp_path / device, gaussians=4000, steps=40, device=device, height=64,
            refine="yes",
        )  # fmt: skip
        avatar, facts = fitting.fitted(person, fitting.resolved(config))
        cameras = around(avatar.rig.neutral, (20.0,), 64)
        image, _ = render_avatar(
            avatar, torch.zeros(52), torch.zeros(2, 2), torch.eye(4),
            cameras.world_to_camera.float(), cameras.intrinsics.float(), (64, 64),
        )  # fmt: skip
        found[device] = facts["psnr"], image
    # eight pictures a step there, one here
    assert found["cuda"][0] > found["cpu"][0] - 1
    assert float((found["cuda"][1] - found["cpu"][1]).abs().mean()) < 0.02
