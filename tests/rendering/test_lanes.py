import numpy as np
from numba import njit

from topohead.rendering.lanes import (
    both,
    load,
    maximum,
    minimum,
    ramp,
    spread,
    store,
    total,
    where,
)


@njit(fastmath=True)
def mixed(a, b, scale):
    x, y = load(a, 0), load(b, np.int32(1))
    z = x * y + scale * ramp() - np.float32(2) / (x + np.float32(3))
    z = where(both(z > np.float32(1), z < np.float32(20)), z, np.float32(-1))
    store(b, 0, minimum(z, maximum(x, spread(scale))))
    return total(z)


def test_lanes_compute_as_numpy_does():
    a, b = np.arange(16, dtype=np.float32), np.arange(16, dtype=np.float32) * np.float32(0.5)
    x, y, ramp8 = a[:8], b[1:9], np.arange(8)
    z = x * y + 2 * ramp8 - 2 / (x + 3)
    z = np.where((z > 1) & (z < 20), z, -1)
    expected, untouched = np.minimum(z, np.maximum(x, 2)), b[8:].copy()
    assert abs(mixed(a, b, np.float32(2)) - z.sum()) < 1e-5
    np.testing.assert_allclose(b[:8], expected, rtol=1e-6)
    np.testing.assert_array_equal(b[8:], untouched)
