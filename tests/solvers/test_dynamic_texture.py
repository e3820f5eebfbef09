"""Planted wrinkle maps, what drives them, and what a frame did not see."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from planted_run import ellipsoid_topology
from topohead.rendering.uv import TexelMap
from topohead.rendering.wrinkle_maps import LINEAR_OF_CODE, srgb_of_linear
from topohead.solvers.dynamic_texture import (
    FADE,
    FLOOR,
    completed_codes,
    explained_share,
    factor,
    fit_drivers,
    gram_matrix,
    localised,
    log_ratios,
    mixed,
    shrunk_log_ratios,
)

SIDE, FRAMES = 48, 40


def spots() -> np.ndarray:
    """Three maps [3 S S 3], each a coloured spot of its own place."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    tints = np.array([[0.6, 0.3, 0.3], [-0.4, -0.5, -0.3], [0.2, 0.3, 0.5]])
    places = [(0.25, 0.3), (0.3, 0.75), (0.75, 0.5)]
    shapes = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.01) for a, b in places]
    return np.stack([s[..., None] * t for s, t in zip(shapes, tints, strict=True)])


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Driver values [T 8], weights of the three maps that follow from them, and noise."""
    random = np.random.default_rng(seed)
    knots = random.uniform(0, 1, (9, 8))
    times = np.linspace(0, 8, FRAMES)
    drivers = np.stack([np.interp(times, range(9), column) for column in knots.T], 1)
    matrix = np.zeros((8, 3))
    matrix[0, 0], matrix[1, 1], matrix[2:4, 2] = 1.0, 0.8, (0.5, 0.6)
    return drivers, drivers @ matrix, random.normal(0, 0.01, (FRAMES, SIDE, SIDE, 3))


def test_planted_maps_weights_and_drivers_are_found() -> None:
    drivers, weights, noise = planted(1)
    ratios = (np.tensordot(weights, spots(), 1) + noise).astype(np.float16)
    counts = np.ones((SIDE, SIDE), bool)
    counts[:4] = False
    gram = gram_matrix(list(ratios), counts)
    flat = ratios[:, counts].reshape(FRAMES, -1).astype(float)
    assert np.allclose(gram, flat @ flat.T, rtol=1e-4)

    found = factor(gram)
    assert found.weights.shape == (FRAMES, 3), "noise is not worth a map"
    maps = mixed(found.mixture, ratios)
    found = localised(found, maps.reshape(3, -1))
    maps = mixed(found.mixture, ratios)
    assert np.abs(found.weights).max(0) == pytest.approx([1, 1, 1])
    assert np.allclose(found.weights.max(0), 1)
    # up to order and sign each planted map is one found map, not a mixture
    likeness = np.corrcoef(maps.reshape(3, -1), spots().reshape(3, -1))[:3, 3:]
    assert (np.sort(np.abs(likeness).max(0)) > 0.97).all()
    assert sorted(np.abs(likeness).argmax(0).tolist()) == [0, 1, 2]
    # weights up to the linear map between the two sets
    fit, *_ = np.linalg.lstsq(found.weights, weights, rcond=None)
    assert np.sqrt(np.mean((found.weights @ fit - weights) ** 2)) < 0.01
    rebuilt = np.tensordot(found.weights, maps, 1)
    assert np.sqrt(np.mean((rebuilt - np.tensordot(weights, spots(), 1)) ** 2)) < 0.005

    drive = fit_drivers(drivers, found.weights)
    again = drivers @ drive.matrix + drive.intercept
    assert np.sqrt(np.mean((again - found.weights) ** 2)) < 0.02
    assert np.sqrt(np.mean((drive.predicted - found.weights) ** 2)) < 0.05
    assert explained_share(gram, found.mixture, drive.predicted) > 0.9
    assert explained_share(gram, found.mixture, np.zeros_like(found.weights)) == pytest.approx(0)


def test_what_no_driver_predicts_is_left_alone() -> None:
    """A light that goes on for a while and off again, whatever the face does."""
    random = np.random.default_rng(4)
    drivers = random.uniform(0, 1, (FRAMES, 52))
    weights = np.stack([random.normal(0, 1, FRAMES), drivers[:, 7]], 1)
    drive = fit_drivers(drivers, weights)
    assert np.isinf(drive.ridge[0]) and (drive.matrix[:, 0] == 0).all()
    assert drive.intercept[0] == pytest.approx(weights[:, 0].mean())
    assert np.isfinite(drive.ridge[1])
    assert abs(drive.matrix[7, 1]) > 3 * np.abs(np.delete(drive.matrix[:, 1], 7)).max()


def test_nothing_changes_in_a_still_take() -> None:
    still = [np.zeros((8, 8, 3), np.float16)] * 3
    found = factor(gram_matrix(still, np.ones((8, 8), bool)))
    assert found.weights.shape == (3, 0)
    maps = mixed(found.mixture, still)
    assert maps.shape == (0, 8, 8, 3)
    assert localised(found, maps.reshape(0, 192)).weights.shape == (3, 0)
    assert fit_drivers(np.zeros((3, 5)), found.weights).matrix.shape == (5, 0)


def test_one_frame_has_no_drivers() -> None:
    drive = fit_drivers(np.ones((1, 5)), np.ones((1, 2)))
    assert (drive.matrix == 0).all() and (drive.intercept == 1).all()


def test_the_base_stands_in_for_what_a_frame_did_not_see() -> None:
    """One island from column 20 to 79, of which the frame saw 40 and more."""
    triangle = np.full((96, 96), -1, np.int32)
    triangle[:, 20:80] = 0
    texels = TexelMap(ellipsoid_topology(), 96, triangle, np.zeros((1, 3, 2), np.float32))
    base = np.full((96, 96, 3), 100, np.uint8)
    frame = np.full((96, 96, 3), 200, np.uint8)
    seen = np.zeros((96, 96), bool)
    seen[:, 40:80] = True
    with ThreadPoolExecutor(2) as workers:
        codes = completed_codes(frame, seen, texels, base, workers)
    assert (codes[:, 40:] == 200).all(), "all that was seen, and beyond its border"
    assert (codes[:, : 40 - FADE] == 100).all()
    ramp = codes[30, 40 - FADE : 40, 0].astype(int)
    assert (np.diff(ramp) >= 0).all() and ramp[0] < 110 and 180 < ramp[-1] < 200


def test_log_ratios_are_those_of_light() -> None:
    base = np.full((64, 64, 3), 140, np.uint8)
    halved = srgb_of_linear(LINEAR_OF_CODE[base] / 2) * 255
    ratio = log_ratios(np.rint(halved).astype(np.uint8), base)
    assert ratio.mean() == pytest.approx(-1, abs=0.03)
    dark = log_ratios(np.full((1,), 1, np.uint8), np.zeros((1,), np.uint8))
    assert dark[0] == pytest.approx(np.log2((1 / 255 / 12.92 + FLOOR) / FLOOR), rel=1e-4)
    frame = np.random.default_rng(0).integers(100, 180, (64, 64, 3), np.uint8)
    blocks = log_ratios(frame, base).reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.allclose(shrunk_log_ratios(frame, base, 16), blocks, atol=1e-5)
    assert shrunk_log_ratios(frame, base, 24).shape == (24, 24, 3)
    assert np.array_equal(shrunk_log_ratios(frame, base, 100), log_ratios(frame, base))
