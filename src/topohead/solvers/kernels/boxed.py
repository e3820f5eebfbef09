"""Quadratic minima within bounds, one unknown after the other."""

import numpy as np
from numba import njit


@njit(cache=True)
def boxed_minimum(system, slope, low, high, sweeps, settled):
    """argmin ½xᵀHx + gᵀx with low ≤ x ≤ high by coordinate descent from near zero, float64 [K].

    Ends when no unknown moves by more than `settled` in a sweep.
    """
    x = np.minimum(np.maximum(np.zeros(len(slope)), low), high)
    for _ in range(sweeps):
        most = 0.0
        for k in range(len(x)):
            total = slope[k]
            for j in range(len(x)):
                total += system[k, j] * x[j]
            moved = min(max(x[k] - total / system[k, k], low[k]), high[k])
            most = max(most, abs(moved - x[k]))
            x[k] = moved
        if most < settled:
            break
    return x
