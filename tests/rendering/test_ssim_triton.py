"""The Triton loss against the CPU's and conv2d; without a GPU the kernels are interpreted."""

import os

import numpy as np
import pytest
import torch

from reference.photometric_ref import l1_dssim_ref
from topohead.losses.photometric import DeviceTarget, Target, l1_dssim

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton needs a GPU or its interpreter",
)


def pictures(*size, seed=0):
    """Two pictures [* H W 3] that look alike."""
    g = torch.Generator().manual_seed(seed)
    target, noise = (torch.rand(*size, 3, generator=g) for _ in range(2))
    return 0.7 * target + 0.3 * noise, target


def masked(size, seed=9):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return torch.where(mask < 0.3, 0.0, mask)


# the second crosses tiles of 8 rows and 128 places
@pytest.mark.parametrize("size", [(1, 3), (10, 45)])
@pytest.mark.parametrize(("weight", "has_mask"), [(0.2, True), (1.0, False), (0.0, True)])
def test_value_and_gradient_match_the_cpu_and_float64_autograd(size, weight, has_mask):
    image, target = pictures(*size)
    mask = masked(size) if has_mask else None
    goal = DeviceTarget.of(target.to(DEVICE), mask if mask is None else mask.to(DEVICE))
    value, gradient = goal.compare(image.to(DEVICE), weight)
    exact = image.double().requires_grad_()
    expected = l1_dssim_ref(exact, target.double(), weight, mask if mask is None else mask.double())
    expected.backward()
    scale = exact.grad.abs().max()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient.cpu() - exact.grad).abs().max() < 1e-4 * scale

    host = Target.of(target.numpy(), mask if mask is None else mask.numpy())
    value_cpu, gradient_cpu = host.compare(image.numpy(), weight)
    assert value.item() == pytest.approx(value_cpu, rel=1e-5)
    assert np.abs(gradient.cpu().numpy() - gradient_cpu).max() < 1e-4 * scale


def test_gradient_is_the_slope_of_the_value():
    """Central differences along random directions, where no pixel's |a - b| turns."""
    size = (6, 7)
    image, target = (p.to(DEVICE) for p in pictures(*size, seed=4))
    goal = DeviceTarget.of(target, masked(size).to(DEVICE))
    _, gradient = goal.compare(image, 0.7)
    step = 0.2 * (image - target).abs()
    g = torch.Generator().manual_seed(1)
    for _ in range(2):
        way = (torch.rand(image.shape, generator=g).to(DEVICE) - 0.5) * step
        rise = goal.compare(image + way, 0.7)[0] - goal.compare(image - way, 0.7)[0]
        assert rise.item() == pytest.approx(2 * (gradient * way).sum().item(), rel=2e-2, abs=2e-7)


def test_equal_pictures_cost_nothing():
    image, _ = pictures(5, 6)
    value, gradient = DeviceTarget.of(image.to(DEVICE)).compare(image.to(DEVICE), 0.2)
    assert abs(value.item()) < 1e-6 and gradient.abs().max() < 1e-6


def test_pictures_of_a_batch_are_alone():
    """Windows do not reach into the next picture; the value is the mean."""
    from topohead.rendering import ssim_triton

    images, targets = (p.to(DEVICE).reshape(2, 9, -1) for p in pictures(2, 9, 8))
    weights = ssim_triton.window(images.device)

    def both(a, b):
        return ssim_triton.l1_dssim(a, b, ssim_triton.statistics(b, weights), weights, 0.2)

    value, gradient = both(images, targets)
    single = [both(images[k : k + 1], targets[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(value, (single[0][0] + single[1][0]) / 2)
    torch.testing.assert_close(2 * gradient, torch.cat([single[0][1], single[1][1]]))


@pytest.mark.gpu
def test_real_size_matches_the_cpu():
    """24 views of 512×375, each against the CPU; and the interface with autograd."""
    images, targets = pictures(24, 375, 512)
    mask = masked((375, 512))
    for image, target in zip(images, targets, strict=True):
        leaves = [image.clone().requires_grad_(), image.cuda().requires_grad_()]
        values = [
            l1_dssim(leaf, target.to(leaf.device), 0.2, mask.to(leaf.device)) for leaf in leaves
        ]
        for value in values:
            (3 * value).backward()
        assert values[1].item() == pytest.approx(values[0].item(), rel=1e-5)
        difference = (leaves[0].grad - leaves[1].grad.cpu()).abs().max()
        assert difference < 1e-4 * leaves[0].grad.abs().max()


@pytest.mark.gpu
def test_a_step_is_quick():
    """A 12-megapixel picture within 20 ms: far under what drawing seven million Gaussians takes."""
    image, target = (p.cuda() for p in pictures(3000, 4096))
    goal = DeviceTarget.of(target)
    goal.compare(image, 0.2)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(5):
        goal.compare(image, 0.2)
    end.record()
    torch.cuda.synchronize()
    assert start.elapsed_time(end) / 5 < 20
