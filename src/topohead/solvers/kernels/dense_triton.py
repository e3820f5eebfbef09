"""Small dense systems on a CUDA device, solved where they were made."""

# inside kernels, Triton's own types stand for values that pyright takes for Python's
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportMissingImports=false

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


@triton.jit
def _sweep_kernel(system, solution, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Sweeps (A b; bᵀ 0) over the rows of A, which leaves A⁻¹b in its last column."""
    row, column = tl.arange(0, PADDED)[:, None], tl.arange(0, PADDED)[None, :]
    # the upper triangle speaks for both
    low, high = tl.minimum(row, column), tl.maximum(row, column)
    table = tl.load(system + low * (SIZE + 1) + high, mask=(low < SIZE) & (high <= SIZE), other=0.0)
    at = tl.arange(0, PADDED)
    for k in range(SIZE):
        pivotal = tl.sum(tl.where(column == k, table, 0.0), axis=1)
        pivot = tl.sum(tl.where(at == k, pivotal, 0.0), axis=0)
        scaled = pivotal / pivot
        swept = table - pivotal[:, None] * scaled[None, :]
        swept = tl.where(column == k, scaled[:, None], swept)
        swept = tl.where(row == k, scaled[None, :], swept)
        table = tl.where((row == k) & (column == k), -1 / pivot, swept)
    answer = tl.sum(tl.where(column == SIZE, table, 0.0), axis=1)
    tl.store(solution + at, answer, mask=at < SIZE)


def solve_symmetric(system: Float[Tensor, "P P+1"]) -> Float[Tensor, " P"]:
    """x of A x = b for a symmetric positive definite A; `system` (float64) is A with b behind it.

    Gauss–Jordan elimination in the form that keeps the table symmetric (the sweep operator,
    Goodnight 1979). One program holds the table, so P is at most some 120.
    """
    count = len(system)
    solution = system.new_empty(count)
    _sweep_kernel[(1,)](
        system.contiguous(), solution, SIZE=count, PADDED=triton.next_power_of_2(count + 1),
        num_warps=8,
    )  # fmt: skip
    return solution
