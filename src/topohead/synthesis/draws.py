"""Random numbers that are a function of (seed, index, name, slot) alone: no state, any order.

Integer hashing on the CPU in float64, so that every device sees the same numbers.
"""

import zlib

import numpy as np
from jaxtyping import Float, UInt64
from scipy.special import gammaincinv, ndtri

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, indices: np.ndarray, name: str, count: int) -> Float[np.ndarray, "B K"]:
    """Even in the open interval (0, 1); `name` keeps uses of one sample apart."""
    base = _mixed(np.array([seed], dtype=np.int64).astype(np.uint64))
    base = _mixed(base + np.uint64(zlib.crc32(name.encode())))
    rows = _mixed(base + np.asarray(indices, dtype=np.int64).astype(np.uint64) * GOLDEN)
    slots = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    bits = _mixed(rows[:, None] + slots[None])
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def normals(seed: int, indices: np.ndarray, name: str, count: int) -> Float[np.ndarray, "B K"]:
    """Standard normal."""
    return ndtri(uniforms(seed, indices, name, count))


def dirichlet(
    seed: int, indices: np.ndarray, name: str, concentration: float, count: int
) -> Float[np.ndarray, "B K"]:
    """Shares that sum to one; symmetric Dirichlet by gamma variates."""
    parts = gammaincinv(concentration, uniforms(seed, indices, name, count))
    return parts / parts.sum(1, keepdims=True)


def _mixed(bits: UInt64[np.ndarray, "*S"]) -> UInt64[np.ndarray, "*S"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), twice: neighbours share nothing."""
    for _ in range(2):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
        bits = bits + GOLDEN
    return bits
