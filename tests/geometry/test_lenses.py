"""Lens models against OpenCV, and undistortion as their exact inverse."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topohead.core import Distortion
from topohead.geometry.lenses import distort, fold_radius, undistort

BROWN = Distortion("brown", (-0.2, 0.19, 0.01, -0.01, 0.005, 0.002))
NO_K4 = Distortion("brown", (-0.2, 0.1, 0.05, 0.0, 0.01, -0.01))
RATIONAL = Distortion("rational", (-0.2, 0.1, 0.002, -0.001, 0.01, 0.1, 0.02, 0.001))
FISHEYE = Distortion("fisheye", (0.02, -0.01, 0.003, -0.0005))


def plane(count: int = 500, spread: float = 0.35) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, 2, generator=random, dtype=torch.float64) * spread


@pytest.mark.parametrize("lens", [RATIONAL, NO_K4])
def test_distortion_is_opencvs(lens: Distortion) -> None:
    numbers = list(lens.coefficients)
    if lens.model == "brown":
        k1, k2, k3, _, p1, p2 = numbers
        numbers = [k1, k2, p1, p2, k3]
    points = plane().numpy()
    solid = np.concatenate([points, np.ones((len(points), 1))], 1)
    theirs = cv2.projectPoints(solid, np.zeros(3), np.zeros(3), np.eye(3), np.array(numbers))[0]
    assert np.abs(distort(plane(), lens).numpy() - theirs[:, 0]).max() < 1e-12


def test_fisheye_is_opencvs() -> None:
    points = plane().numpy()
    solid = np.concatenate([points, np.ones((len(points), 1))], 1)[:, None]
    theirs = cv2.fisheye.projectPoints(
        solid, np.zeros(3), np.zeros(3), np.eye(3), np.array(FISHEYE.coefficients)
    )[0]
    assert np.abs(distort(plane(), FISHEYE).numpy() - theirs[:, 0]).max() < 1e-12


def test_fourth_radial_term() -> None:
    """A point at r = ½ on the x axis moves to r (1 + k4 r⁸)."""
    point = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    moved = distort(point, Distortion("brown", (0.0, 0.0, 0.0, 0.7, 0.0, 0.0)))
    assert moved[0, 0] == pytest.approx(0.5 * (1 + 0.7 * 0.5**8), abs=1e-15)


@pytest.mark.parametrize("lens", [BROWN, RATIONAL, FISHEYE])
def test_undistort_inverts_distort(lens: Distortion) -> None:
    points = plane()
    points[0] = 0  # the axis itself
    assert (undistort(distort(points, lens), lens) - points).abs().max() < 1e-10


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(-0.4, 0.4), st.floats(-0.3, 0.3), st.floats(-0.1, 0.1)),
    st.tuples(st.floats(-0.01, 0.01), st.floats(-0.01, 0.01)),
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)
def test_undistort_inverts_any_lens_inside_its_fold(
    radial: tuple, tangential: tuple, point: tuple
) -> None:
    lens = Distortion("brown", (*radial, 0.0, *tangential))
    at = torch.tensor([point], dtype=torch.float64)
    if at.norm() < 0.9 * fold_radius(lens):
        assert (undistort(distort(at, lens), lens) - at).abs().max() < 1e-9


def test_no_ray_reaches_beyond_the_fold() -> None:
    """r (1 − 0.6 r²) peaks at r = 1/√1.8, at height ⅔ of that; further out there is nothing."""
    lens = Distortion("brown", (-0.6, 0.0, 0.0, 0.0, 0.0, 0.0))
    fold = 1 / 1.8**0.5
    assert fold_radius(lens) == pytest.approx(fold, rel=0.01)
    outside = torch.tensor([[fold * 2 / 3 + 0.01, 0.0]], dtype=torch.float64)
    assert torch.isnan(undistort(outside, lens)).all()


def test_a_fisheye_with_zeros_still_bends() -> None:
    lens = Distortion("fisheye", (0.0,) * 4)
    assert not lens.is_identity
    moved = distort(torch.tensor([[1.0, 0.0]], dtype=torch.float64), lens)
    assert moved[0, 0] == pytest.approx(np.pi / 4, abs=1e-15)


@pytest.mark.parametrize("lens", [BROWN, RATIONAL, FISHEYE])
def test_distort_gradient(lens: Distortion) -> None:
    points = plane(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: distort(p, lens), (points,))
