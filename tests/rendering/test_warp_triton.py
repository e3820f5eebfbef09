"""The device's Lanczos warp against OpenCV's: interpreted without a CUDA device, on it with one."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from egg_head import ring
from topohead.core import Capture, Distortion, Rig
from topohead.io.undistortion import undistorted_views
from topohead.rendering.warp_triton import remapped

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_warp_takes_opencvs_taps():
    random = np.random.default_rng(3)
    picture = random.random((23, 31, 3), np.float32)
    across, down = np.meshgrid(np.arange(29, dtype=np.float32), np.arange(19, dtype=np.float32))
    grid = np.stack([1.07 * across - 2.6, 1.3 * down - 1.9])
    grid += random.normal(0, 0.4, grid.shape).astype(np.float32)
    grid[:, 3, 4:8] = [[-1e6, 1e6, -8.3, 39.2], [5, -1e6, 1e6, -9.5]]
    grid[:, 4] = np.round(32 * grid[:, 4]) / 32 + 1 / 64  # halfway between two positions
    grid = grid.astype(np.float32)
    expected = cv2.remap(picture, *grid, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    assert expected.max() > 1 and expected.min() < 0
    found = remapped(torch.from_numpy(picture).to(DEVICE), torch.from_numpy(grid).to(DEVICE))
    assert np.abs(found.cpu().numpy() - expected.clip(0, 1)).max() < 2e-6


@pytest.mark.gpu
def test_pictures_on_the_device_are_those_of_the_cpu():
    cameras = ring(4, (173, 128))
    lens = Distortion("brown", (0.05, -0.1, 0.02, 0.0, 0.001, -0.002))
    straight = Distortion("none", ())
    rig = Rig(cameras, (lens, straight, lens, lens))
    random = torch.Generator().manual_seed(6)
    stored = {name: torch.rand(128, 173, 3, generator=random) for name in cameras.names}
    stored["cam02"] = torch.rand(256, 346, 3, generator=random)  # larger than the calibration says
    masks = {name: (p.mean(2) > 0.4).float() for name, p in stored.items()}
    capture = Capture(rig, ("1",), lambda _, name: stored[name], lambda _, name: masks[name])
    for height in (None, 100, 60):
        expected = undistorted_views(capture, "1", None, height)
        found = undistorted_views(capture, "1", None, height, 3, "cuda")
        assert all(image.is_cuda for image in found.images)
        for own, other in zip(found.images, expected.images, strict=True):
            assert (own.cpu() - other).abs().max() < 2e-6
        for own, other in zip(found.masks, expected.masks, strict=True):
            # some OpenCV round positions to 32nds of a pixel: a 64th along each axis, and a mask
            # rises by one a pixel at most
            assert (own.cpu() - other).abs().max() < 1 / 32 + 1e-3
            assert torch.equal(own.cpu() > 0, other > 0)
