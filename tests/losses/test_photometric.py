import pytest
import torch

from reference.photometric_ref import l1_dssim_ref
from topohead.losses.photometric import Target, l1_dssim


def pictures(height, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(height, width, 3, generator=g, dtype=torch.float64)
    noise = torch.rand(height, width, 3, generator=g, dtype=torch.float64)
    return (0.7 * target + 0.3 * noise).float().double(), target.float().double()


@pytest.mark.parametrize("size", [(24, 33), (7, 9), (1, 3)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_value_and_gradient_match_conv2d(size, masked, weight):
    image, target = pictures(*size)
    g = torch.Generator().manual_seed(9)
    mask = torch.rand(size, generator=g, dtype=torch.float64).float().double() if masked else None
    exact = image.clone().requires_grad_()
    quick = image.float().requires_grad_()
    expected = l1_dssim_ref(exact, target, weight, mask)
    value = l1_dssim(quick, target.float(), weight, None if mask is None else mask.float())
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (3 * expected).backward()
    (3 * value).backward()
    scale = exact.grad.abs().max()
    assert (quick.grad.double() - exact.grad).abs().max() < 1e-4 * scale


def test_equal_pictures_cost_nothing():
    image, _ = pictures(20, 20)
    leaf = image.float().requires_grad_()
    loss = l1_dssim(leaf, image.float())
    loss.backward()
    assert abs(loss.item()) < 1e-6 and leaf.grad.abs().max() < 1e-6


def test_masked_pixels_do_not_matter():
    image, target = (picture.float() for picture in pictures(20, 24))
    mask = torch.ones(20, 24)
    mask[5:9, 6:12] = 0
    changed = image.clone()
    changed[5:9, 6:12] = 0.123
    leaf = changed.requires_grad_()
    loss = l1_dssim(leaf, target, mask=mask)
    torch.testing.assert_close(loss, l1_dssim(image, target, mask=mask))
    loss.backward()
    assert leaf.grad[5:9, 6:12].abs().max() == 0


def test_only_the_neighbourhood_of_the_mask_is_looked_at():
    image, target = pictures(60, 50)
    mask = torch.zeros(60, 50, dtype=torch.float64)
    mask[20:31, 8:15] = 1
    goal = Target.of(target.numpy(), mask.numpy())
    assert goal.picture.shape == (21, 3 * 17)
    exact = image.clone().requires_grad_()
    expected = l1_dssim_ref(exact, target, 0.2, mask)
    expected.backward()
    value, gradient = goal.compare(image.float().numpy(), 0.2)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert abs(gradient - exact.grad.numpy()).max() < 1e-4 * exact.grad.abs().max()
    assert Target.of(target.numpy(), 0 * mask.numpy()).compare(image.float().numpy(), 0.2)[0] == 0


def test_a_batch_costs_the_mean_of_its_pictures():
    generator = torch.Generator().manual_seed(3)
    pictures, targets = torch.rand(2, 3, 20, 17, 3, generator=generator).unbind(0)
    masks = (torch.rand(3, 20, 17, generator=generator) > 0.3).float()
    together, one_by_one = (pictures.clone().requires_grad_() for _ in range(2))
    batch = l1_dssim(together, targets, 0.3, masks)
    rows = [l1_dssim(one_by_one[k], targets[k], 0.3, masks[k]) for k in range(3)]
    single = torch.stack(rows).mean()
    assert float((batch - single).detach().abs()) < 1e-6
    for value in (batch, single):
        value.backward()
    assert torch.allclose(together.grad, one_by_one.grad, atol=1e-9)


@pytest.mark.gpu
def test_batches_cost_the_same_on_the_device():
    generator = torch.Generator().manual_seed(3)
    pictures, targets = torch.rand(2, 3, 40, 37, 3, generator=generator).unbind(0)
    masks = (torch.rand(3, 40, 37, generator=generator) > 0.3).float()
    here = pictures.clone().requires_grad_()
    there = pictures.cuda().requires_grad_()
    expected = l1_dssim(here, targets, 0.3, masks)
    found = l1_dssim(there, targets.cuda(), 0.3, masks.cuda())
    assert float((found.cpu() - expected).detach().abs()) < 1e-5
    for value in (expected, found):
        value.backward()
    assert float((there.grad.cpu() - here.grad).norm() / here.grad.norm()) < 1e-3
