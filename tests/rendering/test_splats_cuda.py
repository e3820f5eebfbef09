"""gsplat against the CPU's splats; without a GPU only what needs none."""

import pytest
import torch

from rendering.test_splats import SIZE, scene
from topohead.core import InputError
from topohead.rendering import splats, splats_cuda

NAMES = ("means", "quats", "scales", "opacities", "colors", "background")


def rig(pose, lens, count=3):
    """The camera of `scene` and some beside it."""
    poses = pose.repeat(count, 1, 1)
    poses[:, 0, 3] += 0.05 * torch.arange(count)
    lenses = lens.repeat(count, 1, 1)
    lenses[:, 1, 2] += torch.arange(count)
    return poses, lenses


def test_views_on_the_cpu_are_single_pictures():
    parameters, pose, lens, background = scene(30, seed=2)
    leaves = [p.float().requires_grad_() for p in parameters]
    poses, lenses = rig(pose, lens)
    images, alphas = splats.render_views(*leaves, poses, lenses, SIZE, background.float())
    assert images.shape == (3, SIZE[1], SIZE[0], 3) and alphas.shape == images.shape[:3]
    for k in range(3):
        image, alpha = splats.render(*leaves, poses[k], lenses[k], SIZE, background.float())
        assert torch.equal(image, images[k]) and torch.equal(alpha, alphas[k])
    images.sum().backward()
    assert all(leaf.grad.abs().max() > 0 for leaf in leaves)


def test_missing_gsplat_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(splats_cuda, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install gsplat==1\.5\.3"):
        splats_cuda.require_gsplat()


def test_skew_of_any_view_is_refused():
    parameters, pose, lens, _ = scene(2, seed=0)
    poses, lenses = rig(pose, lens)
    lenses[1, 0, 1] = -0.5
    with pytest.raises(InputError, match="without skew"):
        splats.render_views(*parameters, poses, lenses, SIZE)


@pytest.mark.gpu
@pytest.mark.parametrize(("count", "opacity"), [(3, (0.3, 0.9)), (60, (0.1, 0.98))])
def test_pictures_and_gradients_are_those_of_the_cpu(count, opacity):
    """Opacities to 0.98, where α is not clamped on either side."""
    parameters, pose, lens, background = scene(count, seed=count, opacity=opacity)
    poses, lenses = rig(pose, lens)
    here = [p.float().requires_grad_() for p in (*parameters, background)]
    there = [p.float().cuda().requires_grad_() for p in (*parameters, background)]
    g = torch.Generator().manual_seed(1)
    by_image = torch.randn(3, SIZE[1], SIZE[0], 3, generator=g)
    by_alpha = torch.randn(3, SIZE[1], SIZE[0], generator=g)
    found = []
    for leaves in (here, there):
        image, alpha = splats.render_views(*leaves[:5], poses, lenses, SIZE, leaves[5])
        loss = (image * by_image.to(image)).sum() + (alpha * by_alpha.to(image)).sum()
        loss.backward()
        found.append((image.detach().cpu(), alpha.detach().cpu()))
    # a Gaussian may enter a pixel (α = 1/255) on one side only
    torch.testing.assert_close(found[0], found[1], atol=5e-3, rtol=0)
    assert (found[0][0] - found[1][0]).abs().mean() < 1e-5
    for name, a, b in zip(NAMES, here, there, strict=True):
        assert (a.grad - b.grad.cpu()).norm() < 1e-2 * a.grad.norm(), name


@pytest.mark.gpu
def test_opaque_gaussians_differ_where_pixels_close():
    """A tenth at most, by the larger α (see `splats_cuda`); hardly anything on average."""
    parameters, pose, lens, _ = scene(400, seed=4, opacity=(1.0, 1.0))
    here, _ = splats.render(*[p.float() for p in parameters], pose, lens, SIZE)
    there, _ = splats.render(*[p.float().cuda() for p in parameters], pose, lens, SIZE)
    assert (here - there.cpu()).abs().max() < 0.1
    assert (here - there.cpu()).abs().mean() < 5e-4


@pytest.mark.gpu
def test_one_gaussian_has_its_centre_where_the_camera_sees_it():
    """Half-integer pixel centres: seen from the axis, four pixels around (16, 16) are equal."""
    lens = torch.tensor([[50.0, 0, 16.0], [0, 50.0, 16.0], [0, 0, 1]])
    _, alpha = splats.render(
        torch.tensor([[0.0, 0, 2.0]]).cuda(), torch.tensor([[1.0, 0, 0, 0]]).cuda(),
        torch.full((1, 3), 0.1).cuda(), torch.tensor([0.7]).cuda(), torch.ones(1, 3).cuda(),
        torch.eye(4), lens, (32, 32),
    )  # fmt: skip
    offset = torch.arange(32) + 0.5 - 16
    square = offset[:, None] ** 2 + offset**2
    expected = 0.7 * torch.exp(-0.5 * square / ((0.1 * 50 / 2) ** 2 + 0.3))
    expected[expected < 1 / 255] = 0
    torch.testing.assert_close(alpha.cpu(), expected, atol=1e-4, rtol=0)
