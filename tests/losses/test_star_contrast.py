"""Contrast of stars and MTF50 against closed forms."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from topohead.losses.sharpness import mtf50, pixel_mtf50, star_contrast, star_offset

SPOKES = 24
RINGS = torch.tensor([[r / 1.06, r] for r in (90 * 1.06**-k for k in range(38))]).double()


def _star(size: int = 201, contrast: float = 0.5, at: tuple[float, float] = (0.0, 0.0)):
    """A sine star with its centre `at` off the middle, and where its pixels are."""
    axis = torch.arange(size).double() - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    wave = torch.cos(SPOKES * torch.atan2(y - at[1], x - at[0]))
    return 0.4 * (1 + contrast * wave), torch.stack([x.reshape(-1), y.reshape(-1)], 1)


def test_contrast_is_found_under_shading_and_unknown_elsewhere() -> None:
    star, places = _star()
    shaded = star.reshape(-1) * (1 + 0.002 * places[:, 0])
    rings = torch.cat([RINGS[:8], torch.tensor([[300.0, 310.0]]).double()])
    found = star_contrast(shaded, places, SPOKES, rings)
    assert torch.allclose(found[:8], torch.tensor(0.5).double(), atol=0.01)
    assert found[8].isnan()


@pytest.mark.parametrize("sigma", [0.7, 1.2, 2.5])
def test_mtf50_of_a_gaussian_blur(sigma: float) -> None:
    star, places = _star()
    sharp = star_contrast(star.reshape(-1), places, SPOKES, RINGS)
    blurred = torch.from_numpy(gaussian_filter(star.numpy(), sigma)).reshape(-1)
    transfer = star_contrast(blurred, places, SPOKES, RINGS) / sharp
    frequency = SPOKES / (2 * math.pi * RINGS.mean(1))
    found, bound = mtf50(frequency.tolist(), transfer.tolist())
    assert bound == "at"
    # exp(−2π²σ²f²) = ½
    assert found == pytest.approx(math.sqrt(math.log(2) / 2) / (math.pi * sigma), rel=0.02)


def test_a_star_out_of_place_is_found() -> None:
    star, places = _star(at=(1.7, -1.1))
    blurred = torch.from_numpy(gaussian_filter(star.numpy(), 1.2)).reshape(-1)
    found = star_offset(blurred, places, SPOKES, RINGS, reach=4.0)
    assert torch.allclose(found, torch.tensor([1.7, -1.1]).double(), atol=0.1)


def test_mtf50_tells_bounds() -> None:
    assert mtf50([1.0, 2.0], [0.9, 0.8]) == (2.0, "at least")
    assert mtf50([1.0, 2.0], [0.4, 0.1]) == (1.0, "at most")
    assert mtf50([1.0, 2.0], [0.75, 0.25]) == (1.5, "at")


def test_a_pixels_own_mtf50() -> None:
    aperture = pixel_mtf50(0.0)
    assert math.sin(math.pi * aperture) / (math.pi * aperture) == pytest.approx(0.5)
    wide = pixel_mtf50(20.0)  # the blur alone
    assert wide == pytest.approx(math.sqrt(math.log(2) / 2) / (math.pi * 20), rel=1e-3)
