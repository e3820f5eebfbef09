"""Wrinkle maps against their formula, in float64."""

import numpy as np
import pytest

from topohead.rendering.wrinkle_maps import (
    LINEAR_OF_CODE,
    ZERO_CODE,
    decode_map,
    encode_map,
    play_maps,
)


def test_codes_are_as_exact_as_they_can_be_and_zero_is_exact() -> None:
    values = np.linspace(-0.7, 0.7, 1001, dtype=np.float32)
    off = np.abs(decode_map(encode_map(values, 0.7), 0.7) - values)
    assert off.max() <= 0.7 / 254 * 1.001
    assert encode_map(np.zeros(1, np.float32), 0.7)[0] == ZERO_CODE
    assert decode_map(np.array([ZERO_CODE], np.uint8), 0.7)[0] == 0
    assert decode_map(encode_map(np.array([5.0], np.float32), 0.7), 0.7)[0] == pytest.approx(0.7)


def test_played_as_the_formula_says() -> None:
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (300, 7, 3), np.uint8)
    maps = [random.integers(0, 256, base.shape, np.uint8) for _ in range(3)]
    scales, weights = [0.3, 0.5, 0.1], [1.0, -0.4, 0.7]
    exponent = sum(
        w * s * (m.astype(float) - 128) / 127 for m, s, w in zip(maps, scales, weights, strict=True)
    )
    c = base / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) * 2.0**exponent
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    played = play_maps(base, zip(maps, scales, weights, strict=True))
    assert np.abs(played - srgb).max() < 1e-5
    assert np.abs(play_maps(base, []) * 255 - base).max() < 1e-3
    assert np.all(np.diff(LINEAR_OF_CODE) > 0)
