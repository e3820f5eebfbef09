import math

import pytest
import torch

from reference.splats_ref import render_ref
from topohead.core import InputError
from topohead.rendering import splats

SIZE = (37, 29)


def scene(count: int, seed: int, opacity: tuple[float, float] = (0.1, 1.0)):
    """Gaussians of many shapes before a turned camera with an off-centre principal point."""
    g = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)

    means = uniform(-0.5, 0.5, count, 3) * torch.tensor([1.0, 0.8, 0.6], dtype=torch.float64)
    quats = torch.randn(count, 4, generator=g, dtype=torch.float64) * 1.7
    scales = uniform(0.01, 0.12, count, 3)
    opacities = uniform(*opacity, count)
    colors = uniform(0, 1, count, 3)
    angle = 0.3
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 0] = pose[2, 2] = math.cos(angle)
    pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    pose[:3, 3] = torch.tensor([0.05, -0.03, 1.6], dtype=torch.float64)
    lens = torch.tensor([[45.0, 0, 20.3], [0, 47.0, 13.1], [0, 0, 1]], dtype=torch.float64)
    background = torch.tensor([0.2, 0.9, 0.4], dtype=torch.float64)
    return [means, quats, scales, opacities, colors], pose, lens, background


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(
    ("count", "opacity"), [(3, (0.3, 0.9)), (60, (0.1, 1.0)), (400, (0.9, 1.0))]
)
def test_picture_and_all_gradients_match_float64_autograd(count, opacity):
    parameters, pose, lens, background = scene(count, seed=count, opacity=opacity)
    exact = [p.clone().requires_grad_() for p in (*parameters, background)]
    quick = [p.float().requires_grad_() for p in (*parameters, background)]
    image, alpha = splats.render(*quick[:5], pose, lens, SIZE, quick[5])
    image_ref, alpha_ref = render_ref(*exact[:5], pose, lens, SIZE, exact[5])
    torch.testing.assert_close(image.double(), image_ref, atol=2e-5, rtol=0)
    torch.testing.assert_close(alpha.double(), alpha_ref, atol=2e-5, rtol=0)

    g = torch.Generator().manual_seed(1)
    by_image = torch.randn(image.shape, generator=g, dtype=torch.float64)
    by_alpha = torch.randn(alpha.shape, generator=g, dtype=torch.float64)
    ((image * by_image).sum() + (alpha * by_alpha).sum()).backward()
    ((image_ref * by_image).sum() + (alpha_ref * by_alpha).sum()).backward()
    names = ("means", "quats", "scales", "opacities", "colors", "background")
    for name, a, b in zip(names, quick, exact, strict=True):
        assert relative(a.grad.double(), b.grad) < 1e-4, name


def test_one_gaussian_in_closed_form():
    """α = o exp(-d² / 2(s² f²/z² + 0.3)) at every pixel, for a round Gaussian on the axis."""
    lens = torch.tensor([[50.0, 0, 16.0], [0, 50.0, 16.0], [0, 0, 1]])
    mean = torch.tensor([[0.0, 0, 2.0]])
    quat, scale = torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.1)
    color = torch.tensor([[1.0, 0.5, 0.25]])
    image, alpha = splats.render(
        mean, quat, scale, torch.tensor([0.7]), color, torch.eye(4), lens, (32, 32)
    )
    offset = torch.arange(32) + 0.5 - 16
    square = offset[:, None] ** 2 + offset**2
    expected = 0.7 * torch.exp(-0.5 * square / ((0.1 * 50 / 2) ** 2 + 0.3))
    expected[expected < 1 / 255] = 0
    torch.testing.assert_close(alpha, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(image, expected[..., None] * color[0], atol=1e-5, rtol=0)


def test_nothing_in_view_shows_the_background():
    parameters, pose, lens, background = scene(20, seed=0)
    behind = pose.clone()
    behind[2, 3] = -5.0
    image, alpha = splats.render(*parameters, behind, lens, SIZE, background)
    assert alpha.abs().max() == 0
    torch.testing.assert_close(image.double(), background.expand(29, 37, 3))


def test_nearest_comes_first():
    """Of two opaque sheets the near one hides the far one, in either order of the arrays."""
    means = torch.tensor([[0.0, 0, 2.0], [0, 0, 1.0]])
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1)
    colors = torch.eye(3)[:2]
    lens = torch.tensor([[20.0, 0, 4], [0, 20.0, 4], [0, 0, 1]])
    for order in ([0, 1], [1, 0]):
        image, _ = splats.render(
            means[order], quats, torch.full((2, 3), 0.5), torch.ones(2), colors[order],
            torch.eye(4), lens, (8, 8),
        )  # fmt: skip
        assert image[3:5, 3:5, 1].min() > 0.95


def test_result_does_not_depend_on_threads():
    import numba

    def gradients():
        parameters, pose, lens, background = scene(300, seed=5)
        leaves = [p.float().requires_grad_() for p in parameters]
        image, _ = splats.render(*leaves, pose, lens, SIZE, background)
        image.square().sum().backward()
        return [image, *(leaf.grad for leaf in leaves)]

    many = gradients()
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = gradients()
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(many, one, strict=True))


def test_skew_is_refused():
    parameters, pose, lens, background = scene(2, seed=0)
    lens[0, 1] = 0.5
    with pytest.raises(InputError, match="without skew"):
        splats.render(*parameters, pose, lens, SIZE, background)
