"""Wrinkle maps: how skin brightens and darkens with expression, as log2 ratios over a base.

A frame's colour is base · 2^(Σ_k w_k m_k), per channel in linear light: shading and blood both act
on light by factors, so sums of logarithms mix them rightly. A map is kept as 8-bit codes, of which
128 is no change: m = (code − 128) / 127 · scale. Any engine can play that in one line of shader.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

ZERO_CODE = 128
CODE_RANGE = 127

STRIP = 256
"""Rows worked on at a time, so that an 8K texture needs no second one beside it."""

_LINEAR = np.arange(256, dtype=np.float64) / 255
_LINEAR = np.where(_LINEAR <= 0.04045, _LINEAR / 12.92, ((_LINEAR + 0.055) / 1.055) ** 2.4)
LINEAR_OF_CODE: Float[np.ndarray, "256"] = _LINEAR.astype(np.float32)
"""Linear light of each 8-bit srgb code (IEC 61966-2-1)."""


def encode_map(log_ratio: Float[np.ndarray, "*S"], scale: float) -> UInt8[np.ndarray, "*S"]:
    """Codes of a log2 ratio map; what exceeds ±`scale` is cut off."""
    codes = np.rint(np.clip(log_ratio / np.float32(scale), -1, 1) * CODE_RANGE)
    return (codes + ZERO_CODE).astype(np.uint8)


def decode_map(codes: UInt8[np.ndarray, "*S"], scale: float) -> Float[np.ndarray, "*S"]:
    """The log2 ratio that codes stand for, to within `scale` / 254; no change exactly at 128."""
    table = (np.arange(256, dtype=np.float32) - ZERO_CODE) * np.float32(scale / CODE_RANGE)
    return table[codes]


def play_maps(
    base: UInt8[np.ndarray, "H W 3"],
    maps: Iterable[tuple[UInt8[np.ndarray, "H W 3"], float, float]],
) -> Float[np.ndarray, "H W 3"]:
    """The base (srgb codes) under wrinkle maps (codes, scale, weight each), srgb float32 in [0, 1].

    Maps are taken one by one, so they need not be in memory together.
    """
    colors = np.zeros(base.shape, np.float32)
    for codes, scale, weight in maps:
        for rows in strips(len(base)):
            colors[rows] += decode_map(codes[rows], scale * weight)
    for rows in strips(len(base)):
        linear = LINEAR_OF_CODE[base[rows]] * np.exp2(colors[rows])
        colors[rows] = srgb_of_linear(linear)
    return colors


def srgb_of_linear(linear: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """IEC 61966-2-1 encoding of linear light, cut off at black and white."""
    linear = np.clip(linear, 0, 1)
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055
    ).astype(np.float32)


def strips(height: int, step: int = STRIP) -> Iterator[slice]:
    """Consecutive rows of a picture, `step` at a time."""
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))
